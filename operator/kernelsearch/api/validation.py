"""Check an object against a structural schema as the API server does, with errors that say what to do.

Same order, too: null is dropped and defaults are filled in, then the structure is checked (types, bounds, unknown
fields, unique list keys), and then the CEL rules, unless a type is wrong, something is missing or unknown, or a bound
is exceeded that keeps rules cheap. Transition rules (`oldSelf`) run
where an earlier value corresponds: fields by name, items of a map list by their keys.

Knows nothing of YAML or of our kinds; `documents.py` brings those.
"""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from kernelsearch.api import cel
from kernelsearch.api.base import INT_OR_STRING, LIST_KEYS, LIST_TYPE, VALIDATIONS

Schema = dict[str, Any]
PRESERVE = "x-kubernetes-preserve-unknown-fields"
RANGES = {"int32": 2**31, "int64": 2**63}
_NAMES = {
    "object": "a map",
    "array": "a list",
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
}


@dataclass(frozen=True)
class FieldError:
    """`path` is empty for the object itself, else spec.targets[0].name."""

    path: str
    message: str
    blocks_rules: bool = False
    """The object is so far from its schema that CEL rules cannot be asked."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def validate(schema: Schema, value: Any, old: Any = None) -> list[FieldError]:
    """All violations of an object whose defaults are filled in; `old` is what it replaces, defaults filled in too."""
    errors = list(_structure(schema, value, ""))
    if not any(error.blocks_rules for error in errors):
        errors += _rules(schema, value, old, "")
    return errors


def with_defaults(schema: Schema, value: Any) -> Any:
    """A copy with null fields dropped and absent fields set to their defaults, whole numbers as integers."""
    if isinstance(value, dict):
        return _object_with_defaults(schema, value)
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), item) for item in value]
    if isinstance(value, float) and value.is_integer() and schema.get("type") == "integer":
        return int(value)
    return value


def _object_with_defaults(schema: Schema, value: dict[str, Any]) -> dict[str, Any]:
    properties: Schema = schema.get("properties", {})
    others: Schema = schema.get("additionalProperties", {})
    given = {key: item for key, item in value.items() if item is not None or schema.get(PRESERVE)}
    missing = {
        key: copy.deepcopy(field["default"])
        for key, field in properties.items()
        if key not in given and "default" in field
    }
    return {key: with_defaults(properties.get(key) or others, item) for key, item in (given | missing).items()}


# -- structure --------------------------------------------------------------------------------------------------------


def _structure(schema: Schema, value: Any, path: str) -> Iterator[FieldError]:
    if schema.get(INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield FieldError(path, f"must be an integer or a string, is {_describe(value)}", blocks_rules=True)
        elif isinstance(value, str):
            yield from _string(schema, value, path)
        return
    expected = schema.get("type")
    if expected is None:
        return
    if not _has_type(value, expected):
        yield FieldError(
            path, f"must be {_NAMES[expected]}, is {_describe(value)}{_type_hint(value, expected)}", blocks_rules=True
        )
    elif expected == "object":
        yield from _object(schema, value, path)
    elif expected == "array":
        yield from _array(schema, value, path)
    elif expected == "string":
        yield from _string(schema, value, path)
    elif expected == "integer":
        yield from _integer(schema, value, path)


def _has_type(value: Any, expected: str) -> bool:
    if expected == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"object": dict, "array": list, "string": str, "boolean": bool}[expected])


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return f"the string {text}" if isinstance(value, str) else text


def _type_hint(value: Any, expected: str) -> str:
    if expected == "string" and isinstance(value, int | float):
        return "; put it into quotes"
    if expected in ("integer", "boolean") and isinstance(value, str):
        return "; remove the quotes"
    if expected == "array" and isinstance(value, dict):
        return "; start each item with '- '"
    return ""


def _object(schema: Schema, value: dict[str, Any], path: str) -> Iterator[FieldError]:
    properties: Schema = schema.get("properties", {})
    others = schema.get("additionalProperties")
    for name in schema.get("required", []):
        if name not in value:
            yield FieldError(join(path, name), f"is required{_purpose(properties[name])}", blocks_rules=True)
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield FieldError(
            path, f"has {len(value)} entries, at most {schema['maxProperties']} are allowed", blocks_rules=True
        )
    for name, item in value.items():
        if name in properties:
            yield from _structure(properties[name], item, join(path, name))
        elif isinstance(others, dict):
            yield from _structure(others, item, join(path, name))
        elif not schema.get(PRESERVE):
            yield FieldError(join(path, name), unknown_field(name, list(properties)), blocks_rules=True)


def unknown_field(name: str, known: list[str]) -> str:
    """The message for a field that does not exist: the closest known name, or all of them."""
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(str(name).lower().replace("_", ""), list(folded), n=1, cutoff=0.6)
    if close:
        return f'unknown field; did you mean "{folded[close[0]]}"?'
    return f"unknown field; remove it, or use one of: {', '.join(sorted(known))}"


def _array(schema: Schema, value: list[Any], path: str) -> Iterator[FieldError]:
    if len(value) < schema.get("minItems", 0):
        yield FieldError(path, f"has {len(value)} items, give at least {schema['minItems']}{_purpose(schema)}")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield FieldError(path, f"has {len(value)} items, at most {schema['maxItems']} are allowed", blocks_rules=True)
    for index, item in enumerate(value):
        yield from _structure(schema.get("items", {}), item, f"{path}[{index}]")
    yield from _unique(schema, value, path)


def _unique(schema: Schema, value: list[Any], path: str) -> Iterator[FieldError]:
    seen: set[str] = set()
    for index, item in enumerate(value):
        if schema.get(LIST_TYPE) == "map" and isinstance(item, dict):
            keys = schema[LIST_KEYS]
            identity = json.dumps([item.get(key) for key in keys], default=str)
            label = ", ".join(f"{key} {json.dumps(item.get(key), default=str)}" for key in keys)
        elif schema.get(LIST_TYPE) == "set":
            identity = label = json.dumps(item, default=str, sort_keys=True)
        else:
            continue
        if identity in seen:
            yield FieldError(f"{path}[{index}]", f"duplicate {label}; every item needs its own")
        seen.add(identity)


def _string(schema: Schema, value: str, path: str) -> Iterator[FieldError]:
    if len(value) < schema.get("minLength", 0):
        yield FieldError(path, f"has {len(value)} characters, give at least {schema['minLength']}{_purpose(schema)}")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield FieldError(
            path, f"has {len(value)} characters, at most {schema['maxLength']} are allowed", blocks_rules=True
        )
    if "enum" in schema and value not in schema["enum"]:
        yield FieldError(path, f"is {json.dumps(value)}, use one of: {', '.join(schema['enum'])}", blocks_rules=True)
    if "pattern" in schema and not cel.matches(schema["pattern"], value):
        shown = json.dumps(value if len(value) <= 80 else value[:77] + "...", ensure_ascii=False)
        yield FieldError(path, f"is {shown}, which does not match {schema['pattern']}{_purpose(schema)}")


def _integer(schema: Schema, value: int, path: str) -> Iterator[FieldError]:
    if "minimum" in schema and value < schema["minimum"]:
        yield FieldError(path, f"is {value}, give at least {schema['minimum']}")
    if "maximum" in schema and value > schema["maximum"]:
        yield FieldError(path, f"is {value}, give at most {schema['maximum']}")
    limit = RANGES[schema.get("format", "int64")]
    if not -limit <= value < limit:
        yield FieldError(path, f"is {value}, which does not fit an {schema.get('format', 'int64')}")


def _purpose(schema: Schema) -> str:
    return f" ({schema['description'].rstrip('.')})" if "description" in schema else ""


def join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


# -- rules ------------------------------------------------------------------------------------------------------------


def _rules(schema: Schema, value: Any, old: Any, path: str) -> Iterator[FieldError]:
    for validation in schema.get(VALIDATIONS, []):
        expression = validation["rule"]
        if cel.is_transition(expression) and old is None:
            continue
        if not cel.holds(expression, value, old):
            yield FieldError(path, validation["message"])
    if isinstance(value, dict):
        properties: Schema = schema.get("properties", {})
        others: Schema = schema.get("additionalProperties", {})
        before = old if isinstance(old, dict) else {}
        for name, item in value.items():
            yield from _rules(properties.get(name) or others, item, before.get(name), join(path, name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _rules(schema.get("items", {}), item, _counterpart(schema, item, old), f"{path}[{index}]")


def _counterpart(schema: Schema, item: Any, old: Any) -> Any:
    """The earlier item of a map list with the same keys; other lists have no identity to go by."""
    if schema.get(LIST_TYPE) != "map" or not isinstance(old, list):
        return None
    keys = schema[LIST_KEYS]
    return next((one for one in old if all(one.get(key) == item.get(key) for key in keys)), None)
