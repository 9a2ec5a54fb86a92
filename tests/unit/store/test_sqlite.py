"""The SQLite store: journal order, fencing, blobs, deletion, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from kernelsearch.search.journal import (
    BatchDone,
    CandidateProposed,
    LlmSettled,
    Operator,
    Resumed,
    SearchStarted,
)
from kernelsearch.store.base import EpochFenced, Store, StoreError
from kernelsearch.store.sqlite import SqliteStore, references
from pydantic_core import PydanticSerializationError

UID = "0f2a3f9e-1111-4222-8333-abcdefabcdef"


def started(name: str = "demo") -> SearchStarted:
    return SearchStarted(at_ns=1, uid=UID, name=name, problem_digest="d", seed=7)


def settled(number: int) -> LlmSettled:
    return LlmSettled(
        at_ns=number, call_id=f"call-{number}", outcome="ok", input_tokens=1, output_tokens=2, cost_micros=3
    )


def proposed(ref: str) -> CandidateProposed:
    return CandidateProposed(
        at_ns=2, id="c1-cpu", ask_no=1, target="cpu", operator=Operator.DRAFT, lane="c1-cpu", source_ref=ref
    )


@contextlib.asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SqliteStore]:
    store = await SqliteStore.open(path)
    try:
        yield store
    finally:
        await store.close()


async def test_what_was_appended_is_read_back_in_order_by_the_next_process(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opened(path) as store:
        kept: Store = store  # the contract holds, for mypy too
        epoch = await kept.begin(UID)
        assert await store.append(UID, epoch, [started(), settled(1)]) == 2
        assert await store.append(UID, epoch, [settled(2)]) == 3
    async with opened(path) as store:
        assert await store.read(UID) == [started(), settled(1), settled(2)]
        assert await store.searches() == [UID]
        assert await store.read("unknown") == []


async def test_concurrent_appends_leave_no_gap_and_no_double(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as store:
        epoch = await store.begin(UID)
        counts = await asyncio.gather(*(store.append(UID, epoch, [settled(n), settled(-n)]) for n in range(50)))
        assert sorted(counts) == list(range(2, 101, 2))
        events = await store.read(UID)
    assert len(events) == 100
    pairs = list(zip(events[::2], events[1::2], strict=True))
    assert all(first.at_ns == -second.at_ns for first, second in pairs), "two batches were mixed"


async def test_a_fenced_epoch_writes_nothing(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as store:
        old = await store.begin(UID)
        await store.append(UID, old, [started()])
        new = await store.begin(UID)
        assert new == old + 1
        with pytest.raises(EpochFenced, match="another process took over"):
            await store.append(UID, old, [settled(1)])
        await store.append(UID, new, [Resumed(at_ns=3, epoch=new)])
        assert await store.read(UID) == [started(), Resumed(at_ns=3, epoch=new)]


async def test_epochs_go_on_after_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2, 3):
        async with opened(tmp_path / "journal.db") as store:
            assert await store.begin(UID) == expected


async def test_an_event_that_cannot_be_written_takes_its_batch_with_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as store:
        epoch = await store.begin(UID)
        lone_surrogate = started("\ud800")  # JSON cannot carry it: the second event fails to serialise
        with pytest.raises(PydanticSerializationError, match="surrogates"):
            await store.append(UID, epoch, [settled(1), lone_surrogate])
        assert await store.read(UID) == []
        assert await store.append(UID, epoch, [settled(2)]) == 1


async def test_append_before_begin_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as store:
        with pytest.raises(StoreError, match="never begun"):
            await store.append(UID, 1, [started()])


async def test_a_blob_has_the_hash_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    content = b"int main() {}\n" * 1000
    async with opened(path) as store:
        ref = await store.put_blob(content)
        assert ref == hashlib.sha256(content).hexdigest()
        assert await store.put_blob(content) == ref
        assert await store.get_blob(ref) == content
        assert await store.get_blob(await store.put_blob(b"")) == b""
        with pytest.raises(KeyError):
            await store.get_blob("0" * 64)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE blobs SET packed = substr(packed, 1, 20) WHERE ref = ?", (ref,))
    async with opened(path) as store:
        with pytest.raises(StoreError, match="does not have its hash"):
            await store.get_blob(ref)


async def test_delete_forgets_the_journal_and_the_blobs_that_nobody_else_uses(tmp_path: Path) -> None:
    async with opened(tmp_path / "journal.db") as store:
        mine, shared, log = [await store.put_blob(text) for text in (b"mine", b"shared", b"log")]
        first, second = await store.begin("first"), await store.begin("second")
        await store.append("first", first, [proposed(mine), proposed(shared)])
        await store.append("first", first, [BatchDone(at_ns=1, id="b", results=(), artifact_refs={"c1": log})])
        await store.append("second", second, [proposed(shared)])
        put_but_not_yet_used = await store.put_blob(b"mine")

        await store.delete("first")
        await store.delete("first")
        await store.delete("unknown")

        assert await store.searches() == ["second"]
        assert await store.read("first") == []
        assert await store.get_blob(shared) == b"shared"
        assert await store.get_blob(put_but_not_yet_used) == b"mine"
        with pytest.raises(KeyError):
            await store.get_blob(log)
        with pytest.raises(EpochFenced, match="deleted"):
            await store.append("first", first, [settled(1)])
        assert await store.begin("first") > first, "a writer from before the deletion would not be fenced"


def test_the_references_of_an_event_are_its_hashes() -> None:
    one, two = "a" * 64, "b" * 64
    done = BatchDone(at_ns=1, id="b", results=(), log_ref=one, artifact_refs={"c1-cpu": two, "c2-cpu": ""})
    assert sorted(references(done)) == [one, two]
    assert list(references(proposed(""))) == []


async def test_a_second_process_on_the_same_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    script = (
        "import asyncio, pathlib, sys\n"
        "from kernelsearch.store.sqlite import SqliteStore\n"
        "asyncio.run(SqliteStore.open(pathlib.Path(sys.argv[1])))\n"
    )
    async with opened(path) as store:
        other = await asyncio.to_thread(
            subprocess.run, [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
        )
        assert other.returncode == 1
        assert "is in use by another kernelsearch (process " in other.stderr
        with pytest.raises(StoreError, match="in use by another kernelsearch"):
            await SqliteStore.open(path)
        assert await store.begin(UID) == 1, "the holder is not disturbed"
    async with opened(path) as store:
        assert await store.begin(UID) == 2


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="closed"):
        await store.read(UID)


async def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opened(path):
        pass
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(StoreError, match=r"schema 99.*use the newer version"):
        await SqliteStore.open(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT version FROM schema_version").fetchone() == (99,)


async def test_an_event_of_another_version_is_named(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    async with opened(path) as store:
        await store.append(UID, await store.begin(UID), [started()])
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO events (uid, seq, body) VALUES (?, 1, ?)", (UID, '{"type": "from_the_future"}'))
    async with opened(path) as store:
        with pytest.raises(StoreError, match=r"event 1 of search .* another version"):
            await store.read(UID)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: path.write_bytes(b"not a database, but long enough to be one" * 100), "not a SQLite database"),
        (lambda path: path.mkdir(), "cannot be opened"),
        (lambda path: sqlite3.connect(path).execute("CREATE TABLE other (x)").close(), "database of something else"),
    ],
)
async def test_a_file_that_is_no_store_is_refused(tmp_path: Path, prepare, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "journal.db"
    prepare(path)
    with pytest.raises(StoreError, match=message):
        await SqliteStore.open(path)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"folder .*absent does not exist"):
        await SqliteStore.open(tmp_path / "absent" / "journal.db")


@pytest.mark.parametrize("replaced", [False, True])
async def test_a_database_lost_while_in_use_is_noticed_before_the_next_write(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "journal.db"
    async with opened(path) as store:
        epoch = await store.begin(UID)
        await store.append(UID, epoch, [started()])
        if replaced:
            shutil.copy(path, tmp_path / "copy")
            (tmp_path / "copy").rename(path)
        else:
            path.unlink()
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.append(UID, epoch, [settled(1)])
