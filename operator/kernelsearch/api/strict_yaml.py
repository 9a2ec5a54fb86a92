"""YAML as kubectl reads it, and nothing that is silently lost.

Three differences to `yaml.safe_load`. A key that stands twice in a mapping is an error, with its line, instead of the
last one winning. A key that is not a string is one, too: kubectl turns the dimension `N` into "false" without a word.
And scalars resolve as in Kubernetes' own parser: `1e-2` is a number (so a decimal string needs quotes here, as it does
there) and `y` is true, while dates and `1:30` stay strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml


class YamlError(ValueError):
    """The text is not YAML, or a key stands twice. The message names the line."""


@dataclass(frozen=True)
class YamlDocument:
    """One document of a stream; `number` counts from 1."""

    number: int
    line: int
    content: Any


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own class attribute
        letter: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag not in ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        ]
        for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise YamlError(
                    f"line {key_node.start_mark.line + 1}: the key {key_node.value} is read as"
                    f' {json.dumps(key, default=str)}; write "{key_node.value}"'
                )
            if key in seen:
                raise YamlError(f'line {key_node.start_mark.line + 1}: "{key}" stands twice; remove one of them')
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _construct_bool(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> bool:
    return str(node.value).lower() in ("y", "yes", "true", "on")


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(node.value).replace("_", "")
    sign, digits = (-1 if text.startswith("-") else 1), text.lstrip("+-")
    if re.fullmatch(r"0[0-7]+", digits):
        return sign * int(digits, 8)
    return sign * int(digits, 0)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+0123456789."),
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^[yYnN]$"), list("yYnN"))
_Loader.add_constructor("tag:yaml.org,2002:bool", _construct_bool)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_documents(text: str) -> Iterator[YamlDocument]:
    """The documents of a stream, empty ones left out. Raise YamlError."""
    loader = _Loader(text)
    number = 0
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None
            number += 1
            content = loader.construct_document(node)
            if content is not None:
                yield YamlDocument(number, node.start_mark.line + 1, content)
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise YamlError(f"{where}{error.problem or 'not valid YAML'}") from error
    except yaml.YAMLError as error:
        raise YamlError(f"not valid YAML: {error}") from error
    finally:
        loader.dispose()
