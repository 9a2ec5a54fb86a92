"""A bundle as a folder, complete or not there at all: a reader never sees half of one."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from kernelsearch.publish.bundle import MANIFEST, Bundle


def write_folder(bundle: Bundle, folder: Path) -> None:
    """Replace the folder's content by the bundle. Idempotent: the same bundle again touches nothing."""
    manifest = folder / MANIFEST
    if manifest.is_file() and read_folder(folder) == bundle.files:
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        fresh.chmod(0o755)
        for name, content in bundle.files.items():
            (fresh / name).write_bytes(content)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            os.replace(folder, old)
            os.replace(fresh, folder)
            shutil.rmtree(old)
        else:
            os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def read_folder(folder: Path) -> dict[str, bytes]:
    """The files of a bundle's folder by name; what Python leaves behind when one is imported is none of them."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}
