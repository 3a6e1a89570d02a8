"""Hook of MkDocs: navigation entries of tutorials that are not written yet are left out, with a message."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.hooks.notebooks")


def on_config(config: Any) -> Any:
    """Removes entries of missing notebooks; a missing page of any other kind stays an error."""
    config.nav = present(config.nav, Path(config.docs_dir))
    return config


def present(entries: list, folder: Path) -> list:
    """Returns the entries of a navigation without those of missing notebooks."""
    kept = []
    for entry in entries:
        title, value = next(iter(entry.items())) if isinstance(entry, dict) else (None, entry)
        if isinstance(value, list):
            kept.append({title: present(value, folder)})
        elif value.endswith(".ipynb") and not (folder / value).exists():
            LOG.info("The tutorial %s does not exist yet; its entry is left out.", value)
        else:
            kept.append(entry)
    return kept
