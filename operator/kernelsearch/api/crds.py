"""From models to CustomResourceDefinitions: `python -m kernelsearch.api.crds [--check] [DIR]`.

One source, two places: `crds/` for `kubectl apply -f`, and `helm/kernelsearch-crds/templates/` for Helm, which is why
the CRDs carry `helm.sh/resource-policy: keep`: uninstalling a chart must not delete everyone's searches.

`object_schema` is the structural schema that `validation.py` reads as well, so a file is checked locally by exactly
what the API server is given. It is pydantic's own JSON schema with what structural schemas forbid taken out:
references, titles, null, and defaults that only Python needs.
"""

from __future__ import annotations

import argparse
import copy
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from kernelsearch.api.base import GROUP, VALIDATIONS, VERSION
from kernelsearch.api.resources import KINDS, AcceleratorProfile, KernelSearch, Kind

Schema = dict[str, Any]
HEADER = "# Generated from operator/kernelsearch/api by `kernelsearch crds`; do not edit.\n"
_FIRST = ("type", "description", "default", "required")
FOLDERS = ("crds", "helm/kernelsearch-crds/templates")


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


def crd(model: type[KernelSearch] | type[AcceleratorProfile]) -> Schema:
    """The CustomResourceDefinition of one kind."""
    kind: Kind = model.resource
    schema = object_schema(model)
    schema["properties"]["metadata"] = {"type": "object"}
    schema["properties"]["apiVersion"] = schema["properties"]["kind"] = {"type": "string"}
    schema["required"] = ["spec"]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": kind.crd_name, "annotations": {"helm.sh/resource-policy": "keep"}},
        "spec": {
            "group": GROUP,
            "scope": kind.scope,
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": ["kernels"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": [
                        {
                            "name": column.name,
                            "type": column.type,
                            "jsonPath": column.json_path,
                            **({"description": column.description} if column.description else {}),
                            **({"priority": column.priority} if column.priority else {}),
                        }
                        for column in kind.columns
                    ],
                    "schema": {"openAPIV3Schema": schema},
                }
            ],
        },
    }


class _Dumper(yaml.SafeDumper):
    """Writes every value out: anchors and aliases help nobody who reads a CRD."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def generate_crds() -> dict[str, str]:
    """File name -> YAML text of every CRD."""
    return {
        f"{model.resource.crd_name}.yaml": HEADER
        + yaml.dump(crd(model), Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)
        for model in KINDS
    }


def write_crds(root: Path) -> list[Path]:
    """Write all CRDs under both folders of `root`; return the files whose content changed."""
    changed = stale_crds(root)
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(generate_crds()[path.name])
    return changed


def stale_crds(root: Path) -> list[Path]:
    """The files that are missing or differ from the models."""
    return [
        path
        for folder in FOLDERS
        for name, text in generate_crds().items()
        if not (path := root / folder / name).is_file() or path.read_text() != text
    ]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="kernelsearch crds", description="Write the CRDs from the models.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when a file differs")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help="repository root (default: .)")
    options = parser.parse_args(arguments)
    files = stale_crds(options.directory) if options.check else write_crds(options.directory)
    for path in files:
        print(f"{path} {'differs from the models; run `kernelsearch crds`' if options.check else 'written'}")
    return 1 if options.check and files else 0


if __name__ == "__main__":
    sys.exit(main())
