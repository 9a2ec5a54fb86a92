"""A bundle as a ConfigMap: text as data, the library as binaryData. A pure function, so that a test can read it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from kernelsearch.publish.bundle import Bundle, BundleError

MAX_BYTES = 900_000
"""Of the content; the API server takes 1 MiB with everything around it."""
DIGEST_ANNOTATION = "kernelsearch.dev/bundle-digest"
DIGEST_IN_NAME = 8


def config_map(
    bundle: Bundle,
    *,
    name: str,
    namespace: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str] | None = None,
    immutable: bool = False,
) -> dict[str, Any]:
    """The manifest. Immutable ones are called name-<digest8>, because they can only be replaced, never changed.

    Raise BundleError when the content is larger than MAX_BYTES.
    """
    data: dict[str, str] = {}
    binary: dict[str, str] = {}
    for file, content in bundle.files.items():
        try:
            data[file] = content.decode()
        except UnicodeDecodeError:
            binary[file] = base64.b64encode(content).decode()
    size = sum(len(file) + len(text.encode()) for file, text in {**data, **binary}.items())
    if size > MAX_BYTES:
        raise BundleError(
            f"the bundle has {size} bytes, a ConfigMap holds {MAX_BYTES}; publish it as an OCI image (spec.output.oci)"
        )
    manifest: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{name}-{bundle.digest[:DIGEST_IN_NAME]}" if immutable else name,
            "namespace": namespace,
            "labels": dict(labels),
            "annotations": {**(annotations or {}), DIGEST_ANNOTATION: bundle.digest},
        },
        "data": data,
        "binaryData": binary,
    }
    if immutable:
        manifest["immutable"] = True
    return manifest
