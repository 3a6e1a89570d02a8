"""Hook of MkDocs: files of the repository that pages link to become files of the site, under `repository/`."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# The target of a Markdown link, without its anchor.
LINK = re.compile(r"(?<=\]\()((?:\.\./)+[^)\s#]+)(?=[)\s#])")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def outside(link: str, page: str) -> str | None:
    """Returns the path in the repository that a link of a page leads to, or None for a link within the site."""
    target = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return None if target.startswith("docs/") else target


def on_files(files: Any, *, config: Any) -> Any:
    """Adds every file outside `docs/` that a page links to.

    Raises:
        PluginError: a link leads to nothing, to a folder, or out of the repository.
    """
    for page in list(files.documentation_pages()):
        if not page.src_uri.endswith(".md"):
            continue
        for link in LINK.findall(FENCE.sub("", page.content_string)):
            target = outside(link, page.src_uri)
            if target is None or files.get_file_from_path(f"repository/{target}"):
                continue
            if target.startswith("..") or not (ROOT / target).is_file():
                raise PluginError(f"{page.src_uri} links to {link}, which is not a file of the repository.")
            files.append(File.generated(config, f"repository/{target}", abs_src_path=os.fspath(ROOT / target)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Points links that leave `docs/` to the files under `repository/`."""

    def moved(match: re.Match) -> str:
        target = outside(match[1], page.file.src_uri)
        if target is None:
            return match[1]
        return posixpath.relpath(f"repository/{target}", posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)
