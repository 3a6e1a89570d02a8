"""Extension of Griffe: the examples of docstrings become code blocks."""

from __future__ import annotations

import re
from typing import Any

import griffe

# A prompt and what follows it up to a blank line: further prompts, continued lines, printed output.
EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
HEADING = re.compile(r"^Examples?:$", re.MULTILINE)
SOURCE = re.compile(r"^Sources?: ", re.MULTILINE)


def as_markdown(docstring: str) -> str:
    """Returns a docstring with fenced examples."""
    fenced = EXAMPLE.sub(lambda match: f"```pycon\n{match[0]}\n```", docstring)
    return SOURCE.sub("**Source:** ", HEADING.sub("**Example**", fenced))


class DoctestBlocks(griffe.Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
