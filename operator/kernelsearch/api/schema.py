"""From models to structural schemas: what the API server is given, and what `validation.py` reads.

It is pydantic's own JSON schema with what structural schemas forbid taken out: references, titles, null, and defaults
that only Python needs. CEL rules and list types come through as the models carry them.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

from kernelsearch.api.base import VALIDATIONS
from kernelsearch.api.resources import AcceleratorProfile, KernelSearch

Schema = dict[str, Any]
_FIRST = ("type", "description", "default", "required")


@cache
def _schemas(model: type[KernelSearch] | type[AcceleratorProfile]) -> Schema:
    whole = model.model_json_schema(by_alias=True, mode="validation")
    return _structural({key: value for key, value in whole.items() if key != "$defs"}, whole.get("$defs", {}))


def object_schema(model: type[KernelSearch] | type[AcceleratorProfile]) -> Schema:
    """The structural schema of a kind, metadata included as far as a person may write it."""
    return copy.deepcopy(_schemas(model))


def _structural(schema: Schema, definitions: Schema) -> Schema:
    """Resolve references and null, drop titles; what stands beside a reference adds to what it refers to."""
    schema = dict(schema)
    schema.pop("title", None)
    if "default" in schema and schema["default"] in (None, []):
        del schema["default"]
    base: Schema = {}
    if reference := schema.pop("$ref", None):
        base = _structural(definitions[reference.rsplit("/", 1)[1]], definitions)
    options = schema.get("anyOf", [])
    if {"type": "null"} in options:
        (option,) = [option for option in options if option != {"type": "null"}]
        del schema["anyOf"]
        base = _structural(option, definitions)
    if isinstance(schema.get("properties"), dict):
        schema["properties"] = {name: _structural(value, definitions) for name, value in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _structural(schema[key], definitions)
        elif schema.get(key) is True:
            del schema[key]
            schema["x-kubernetes-preserve-unknown-fields"] = True
    if isinstance(schema.get("description"), str):
        schema["description"] = " ".join(schema["description"].split())
    merged = {**base, **schema}
    if VALIDATIONS in base and VALIDATIONS in schema:
        merged[VALIDATIONS] = [*base[VALIDATIONS], *schema[VALIDATIONS]]
    order = [*_FIRST, *(key for key in merged if key not in _FIRST and key != "properties"), "properties"]
    return {key: merged[key] for key in order if key in merged}
