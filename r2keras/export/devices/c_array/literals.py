"""Names, numbers, arrays and comments of generated C++ code."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from r2keras._util.errors import invalid

# C++ types by NumPy's names of the types of inputs and outputs.
C_TYPES = {
    "float32": "float",
    "int8": "std::int8_t",
    "uint8": "std::uint8_t",
    "int16": "std::int16_t",
    "int32": "std::int32_t",
    "int64": "std::int64_t",
    "bool": "bool",
}
LINE = 100
IDENTIFIER = re.compile(r"[a-zA-Z][a-zA-Z0-9]*(_[a-zA-Z0-9]+)*")
# Keywords of C and C++, macros of compilers, and names at the top level of programs.
_RESERVED = """
alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t char8_t class co_await
co_return co_yield compl concept const const_cast consteval constexpr constinit continue decltype default delete do
double dynamic_cast else enum explicit export extern false float for friend goto if inline int long mutable
namespace new noexcept not not_eq nullptr operator or or_eq private protected public register reinterpret_cast
requires restrict return short signed sizeof static static_assert static_cast struct switch template this
thread_local throw true try typedef typeid typename union unsigned using virtual void volatile wchar_t while xor
xor_eq linux unix main std tflite NULL EOF
"""
RESERVED = frozenset(_RESERVED.split())


def check_name(name: str) -> str:
    """Returns a name for a namespace and files; raises ValueError if C++ does not allow it.

    Example:

    >>> check_name("keyword_spotting")
    'keyword_spotting'
    """
    if not isinstance(name, str) or not IDENTIFIER.fullmatch(name) or name in RESERVED:
        expected = "a C identifier: letters, digits and single underscores, a letter first, and not a reserved word"
        raise ValueError(invalid("name", expected, name))
    return name


def comment(text: str) -> str:
    r"""Returns text that is safe in a `//` comment: printable ASCII, without backslashes and trigraphs of them.

    Example:

    >>> comment("a\\\nb??/")
    'a__b__/'
    """
    return "".join(c if " " <= c <= "~" and c not in "\\?" else "_" for c in text)


def literal(value: np.generic | float) -> str:
    """Returns one number as C++ code.

    Example:

    >>> literal(np.float32(0.1)), literal(np.int8(-128)), literal(np.bool_(True)), literal(np.float32(2))
    ('0.1f', '-128', 'true', '2.0f')
    """
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (int, np.integer)):
        # The smallest integers have no literal: C++ negates a larger one, which overflows.
        smallest = isinstance(value, (np.int32, np.int64)) and value == np.iinfo(value.dtype).min
        suffix = "LL" if isinstance(value, np.int64) else ""
        return f"({int(value) + 1}{suffix} - 1)" if smallest else f"{int(value)}{suffix}"
    text = str(np.float32(value))
    return f"{text}f" if re.search("[.e]", text) else f"{text}.0f"


def rows(values: np.ndarray) -> Iterator[str]:
    """Yields the lines between the braces of an array."""
    line = ""
    for value in values.ravel():
        word = f"{literal(value)},"
        if line and len(line) + len(word) >= LINE:
            yield line
            line = ""
        line += f" {word}" if line else f"    {word}"
    if line:
        yield line


def byte_rows(data: bytes) -> Iterator[str]:
    """Yields the lines between the braces of an array of bytes, 16 bytes in a line.

    Example:

    >>> list(byte_rows(b"TFL3"))
    ['    0x54, 0x46, 0x4c, 0x33,']
    """
    for start in range(0, len(data), 16):
        yield "    " + " ".join(f"0x{byte:02x}," for byte in data[start : start + 16])
