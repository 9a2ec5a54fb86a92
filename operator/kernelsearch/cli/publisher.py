"""Publishes into a folder: the local twin of the ConfigMap that a cluster gets."""

from __future__ import annotations

import asyncio
from pathlib import Path

from kernelsearch.engine import Publication, SearchInputs
from kernelsearch.engine.bundling import bundle_of
from kernelsearch.publish.folder import write_folder
from kernelsearch.search.state import State
from kernelsearch.store.base import Store


class FolderPublisher:
    """A `Publisher`: the same winners again leave the folder as it is."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store, self._folder = store, folder

    async def publish(self, inputs: SearchInputs, state: State) -> Publication:
        bundle = await bundle_of(inputs, state, self._store)
        await asyncio.to_thread(write_folder, bundle, self._folder)
        return Publication(bundle.digest, str(self._folder))
