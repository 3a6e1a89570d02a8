"""Parsing of a recipe's file: JSON, or the part of YAML that a recipe needs, both bounded."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from r2keras._util.errors import invalid, missing
from r2keras._util.files import one_line, read_bounded
from r2keras._util.json_text import decoded, parse_json
from r2keras._util.shown import cut, shown

if TYPE_CHECKING:
    from yaml import Node

SUFFIXES = (".yaml", ".yml", ".json")
# A rule takes about a hundred bytes and twenty values.
LONGEST = 2**20
MOST_VALUES = 20_000
# Keys and values that stand within one another; a recipe has six.
DEEPEST = 50
# Characters of a number.
_LONGEST_NUMBER = 64
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
_SCALARS = ("tag:yaml.org,2002:null", "tag:yaml.org,2002:bool", "tag:yaml.org,2002:str", *_NUMBERS)
_CONTAINERS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


def suffix_of(path: str | os.PathLike) -> str:
    """Returns the suffix of a recipe's file, or raises ValueError."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(invalid("path", "a path", path))
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(invalid("path", "a file name ending in .yaml, .yml or .json", str(path)))
    return suffix


def read_config(path: str | os.PathLike) -> Any:
    """Returns what a recipe's file holds, as plain values.

    Raises:
        ValueError: another suffix, or a file that is not JSON or YAML, or that is too large for a recipe.
        OSError: the file cannot be read.
    """
    parse = parse_json if suffix_of(path) == ".json" else parse_yaml
    data = read_bounded(path, "a recipe", LONGEST)
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"{path} is not a recipe. {error}") from error


def parse_yaml(data: bytes) -> Any:
    r"""Returns the value of a YAML text of null, booleans, numbers, texts, lists and mappings.

    Aliases count as often as they are used, because a few of them can stand for gigabytes.

    Raises:
        ValueError: the text is not YAML, has other types, repeats a key, is nested too deeply or has too many values.

    Example:

    >>> parse_yaml(b"a: &same [1, x]\nb: *same")
    {'a': [1, 'x'], 'b': [1, 'x']}
    """
    yaml, loader = yaml_module(), _loader()
    try:
        return yaml.load(decoded(data), loader)
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"It is not valid YAML ({cut(one_line(error), 400)}).") from error


def yaml_module():
    """Imports PyYAML, or raises ImportError with the command that installs it."""
    try:
        import yaml
    except ImportError as error:
        raise ImportError(missing("pyyaml", "A recipe in YAML")) from error
    return yaml


@functools.cache
def _loader() -> type:
    """Returns the class that reads YAML, a bounded part of `yaml.SafeLoader`."""
    yaml = yaml_module()

    def error(text: str, node: Node) -> Exception:
        return yaml.constructor.ConstructorError(None, None, text, node.start_mark)

    base: Any = yaml.SafeLoader

    class Loader(base):
        """Reads one document; bounds depth and number of its nodes before any value is created."""

        def __init__(self, stream: str):
            super().__init__(stream)
            self._depth = self._num_nodes = 0
            # Nodes and depth of each node that is composed, aliases included.
            self._extents: dict[Node, tuple[int, int]] = {}

        def compose_node(self, parent: Node | None, index: Any) -> Node:
            is_alias = self.check_event(yaml.events.AliasEvent)
            event = self.peek_event()
            self._depth += 1
            self._num_nodes += 1
            if self._depth > DEEPEST or self._num_nodes > MOST_VALUES:
                what = f"values nested {DEEPEST} deep" if self._depth > DEEPEST else f"{MOST_VALUES:,} values"
                raise error(f"more than {what}", event)
            node = super().compose_node(parent, index)
            self._depth -= 1
            if not is_alias:
                self._extents[node] = self._measured(node)
            elif node not in self._extents:
                raise error("an alias within the value that it stands for", event)
            return node

        def _measured(self, node: Node) -> tuple[int, int]:
            """Returns how many nodes a node stands for and how deep they are nested, or raises."""
            is_mapping = isinstance(node, yaml.MappingNode)
            pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
            parts = [part for pair in pairs for part in pair] if is_mapping else pairs
            extents = [self._extents[part] for part in parts]
            count = 1 + sum(count for count, _ in extents)
            depth = 1 + max((depth for _, depth in extents), default=0)
            if count > MOST_VALUES or depth > DEEPEST:
                limit = f"more than {MOST_VALUES:,} values, or values nested {DEEPEST} deep"
                raise error(f"aliases that stand for {limit}", node)
            return count, depth

        def construct_mapping(self, node: Node, deep: bool = False) -> dict:
            if isinstance(node, yaml.MappingNode):
                keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
                # `<<` merges mappings, whose keys may repeat those of the mapping itself.
                if "<<" not in keys and len(set(keys)) < len(keys):
                    repeated = next(key for key in keys if keys.count(key) > 1)
                    raise error(f"the key {shown(repeated)} is given twice", node)
            return super().construct_mapping(node, deep)

    def construct_scalar(loader: Loader, node: Node) -> Any:
        if node.tag in _NUMBERS and len(node.value) > _LONGEST_NUMBER:
            raise error("a number that is too long", node)
        try:
            return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as reason:
            kind = node.tag.rpartition(":")[2]
            raise error(f"{shown(node.value)} is not of the type {kind}", node) from reason

    def refuse(loader: Loader, node: Node) -> None:
        kind = cut(node.tag.rpartition(":")[2], 80)
        raise error(f"a value of the type {kind}, which a recipe does not have; write text in quotes", node)

    Loader.yaml_constructors = {
        **dict.fromkeys(_SCALARS, construct_scalar),
        **{tag: yaml.SafeLoader.yaml_constructors[tag] for tag in _CONTAINERS},
        None: refuse,
    }
    return Loader
