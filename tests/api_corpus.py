"""Reads tests/data/api/corpus.yaml: objects with the verdict that every validator of the API must give.

Kept outside unit/ and cluster/ because both judge the same objects, one by kernelsearch.api, one by a real API server.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PATH = Path(__file__).parent / "data" / "api" / "corpus.yaml"


@dataclass(frozen=True)
class CorpusCase:
    kind: str
    name: str
    object: dict[str, Any]
    before: dict[str, Any] | None = None
    """Set when the case is an update of this object."""
    rejects: list[tuple[str, str | None]] = field(default_factory=list)
    """(field, part of the message or None); empty: it must be accepted."""

    @property
    def id(self) -> str:
        return f"{self.kind}: {self.name}"


def read_corpus() -> list[CorpusCase]:
    document = yaml.safe_load(PATH.read_text())
    bases = document.pop("base")
    return [_case(kind, bases[kind], item) for kind, items in document.items() for item in items]


def _case(kind: str, base: dict[str, Any], item: dict[str, Any]) -> CorpusCase:
    before = _changed(base, item["from"]) if "from" in item else None
    return CorpusCase(
        kind=kind,
        name=item["name"],
        object=_changed(base, item.get("set", {})),
        before=before,
        rejects=[(path, message) for path, message in item.get("rejects", [])],
    )


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for path, value in changes.items():
        keys = [int(key) if key.isdigit() else key for key in re.split(r"[.\[\]]+", path) if key]
        here: Any = result
        for key in keys[:-1]:
            here = here.setdefault(key, {}) if isinstance(here, dict) else here[key]
        if value is None:
            del here[keys[-1]]
        else:
            here[keys[-1]] = _expanded(value)
    return result


def _expanded(value: Any) -> Any:
    """{repeat: [text, n]}, {numbered: [item with '#', n]} and {literal: x} stand for what is tedious or null."""
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if not isinstance(value, dict):
        return value
    match value:
        case {"repeat": [text, count]}:
            return text * count
        case {"numbered": [item, count]}:
            return [_numbered(item, number) for number in range(count)]
        case {"literal": literal}:
            return literal
        case _:
            return {key: _expanded(item) for key, item in value.items()}


def _numbered(item: Any, number: int) -> Any:
    if isinstance(item, dict):
        return {key: _numbered(each, number) for key, each in item.items()}
    return item.replace("#", str(number)) if isinstance(item, str) else item
