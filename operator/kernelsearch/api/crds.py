"""Write what is generated from the models: `python -m kernelsearch.api.crds [--check] [DIR]` or `kernelsearch crds`.

One source, two places: `crds/` for `kubectl apply -f`, and `helm/kernelsearch-crds/templates/` for Helm, where the CRDs
carry `helm.sh/resource-policy: keep`, because uninstalling a chart must not delete everyone's searches. The packaged
profiles are copied for the chart as well, which can only read files of its own folder.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

from kernelsearch.api.base import GROUP, VERSION
from kernelsearch.api.profiles import profile_texts
from kernelsearch.api.resources import KINDS, AcceleratorProfile, KernelSearch, Kind
from kernelsearch.api.schema import Schema, object_schema

HEADER = "# Generated from operator/kernelsearch/api by `kernelsearch crds`; do not edit.\n"
PROFILE_HEADER = "# Copied from operator/kernelsearch/api/profiles by `kernelsearch crds`; do not edit.\n"
CRD_FOLDERS = ("crds", "helm/kernelsearch-crds/templates")
PROFILE_FOLDER = "helm/kernelsearch/profiles"
FOLDERS = (*CRD_FOLDERS, PROFILE_FOLDER)


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


def generated_files() -> dict[str, str]:
    """Path from the repository's root -> content of every generated file."""
    crds = {f"{folder}/{name}": text for folder in CRD_FOLDERS for name, text in generate_crds().items()}
    profiles = {f"{PROFILE_FOLDER}/{name}": PROFILE_HEADER + text for name, text in profile_texts().items()}
    return crds | profiles


def stale_files(root: Path) -> list[Path]:
    """The generated files under `root` that are missing, differ from the models, or have no source any more."""
    expected = generated_files()
    stale = [
        root / name
        for name, text in expected.items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != text
    ]
    left_over = [
        path
        for folder in FOLDERS
        for path in sorted((root / folder).glob("*.yaml"))
        if f"{folder}/{path.name}" not in expected
    ]
    return stale + left_over


def write_files(root: Path) -> list[Path]:
    """Bring every generated file under `root` up to date; return those that changed or were removed."""
    expected = generated_files()
    changed = stale_files(root)
    for path in changed:
        name = path.relative_to(root).as_posix()
        if name in expected:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(expected[name], encoding="utf-8")
        else:
            path.unlink()
    return changed


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 when `--check` finds a difference."""
    parser = argparse.ArgumentParser(prog="kernelsearch crds", description="Write the files generated from the models.")
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 when a file differs")
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help="repository root (default: .)")
    options = parser.parse_args(arguments)
    paths = stale_files(options.directory) if options.check else write_files(options.directory)
    for path in paths:
        print(f"{path}: differs from the models; run `kernelsearch crds`" if options.check else f"{path}: updated")
    return 1 if options.check and paths else 0


if __name__ == "__main__":
    sys.exit(main())
