"""The files of LiteRT.js that a page needs, from a folder of npm packages."""

from __future__ import annotations

import shutil
from pathlib import Path

from r2keras._util.errors import invalid_part
from r2keras._util.files import read_bounded, replacing
from r2keras._util.json_text import member, parse_json

NAME = "@litertjs/core"
TESTED = "2.5.3"
INSTALL = f"npm install --prefix FOLDER {NAME}@{TESTED}"
# LiteRT.js loads the first pair of binaries, or the second where the browser lacks relaxed SIMD.
NEEDED = (
    "core/package.json",
    "core/dist/index.js",
    "core/wasm/litert_wasm_internal.js",
    "core/wasm/litert_wasm_internal.wasm",
    "core/wasm/litert_wasm_compat_internal.js",
    "core/wasm/litert_wasm_compat_internal.wasm",
    "wasm-utils/package.json",
    "wasm-utils/dist/index.js",
)


def add_runtime(source: Path, folder: Path) -> None:
    """Copies LiteRT.js into the folder of a page, where `npm install --prefix` would put it.

    Args:
        source: the folder in which npm ran; its `node_modules`; or the package in it.
        folder: the folder of the page.

    Raises:
        FileNotFoundError: the package, or a file of it, does not exist.
        ValueError: the package has another major version.
    """
    packages = _packages(source)
    missing = [name for name in NEEDED if not (packages / name).is_file()]
    if missing:
        received = f"{source}, which lacks {packages / missing[0]}"
        raise FileNotFoundError(invalid_part("litert_js", f"a folder with {NAME}", received, f"Run `{INSTALL}`"))
    _check_version(packages)
    for name in NEEDED:
        with replacing(folder / "node_modules" / "@litertjs" / name) as temporary:
            shutil.copyfile(packages / name, temporary)


def _packages(source: Path) -> Path:
    """Returns the folder that has `core` and `wasm-utils`, whichever folder around or in it was named."""
    if source.name == "core":
        return source.parent
    candidates = (source / "node_modules" / "@litertjs", source / "@litertjs", source)
    return next((path for path in candidates if (path / "core").is_dir()), candidates[0])


def _check_version(packages: Path) -> None:
    """Raises ValueError if the package's interface may be another one."""
    path = packages / NEEDED[0]
    version = member(parse_json(read_bounded(path, "a package.json", 2**20)), "version", str, str(path))
    if version.partition(".")[0] != TESTED.partition(".")[0]:
        expected = f"{NAME} of version {TESTED.partition('.')[0]}, tested with {TESTED}"
        raise ValueError(
            invalid_part("litert_js", expected, f"{packages}, which has version {version}", f"Run `{INSTALL}`")
        )
