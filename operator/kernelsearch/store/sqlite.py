"""The store in one SQLite file: what a controller keeps on its volume and `kernelsearch run` keeps in out/<name>/.

Invariants: one process at a time (an exclusive lock file beside the database); what `append` returned is on the disk
(WAL, synchronous=FULL); a batch of events is in the journal whole or not at all; a writer whose epoch was overtaken
writes nothing, because its epoch is checked inside the transaction that writes; a blob has the hash that names it or is
not handed out. All SQL runs on one thread of the store's own, so the event loop never waits for the disk.

Queries are plain SQL that PostgreSQL has too; what is SQLite's alone stands in `_connect`, `_transaction`, `_migrate`
and `_explain`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar

from pydantic import ValidationError

from kernelsearch.search.journal import Event, dump_event, load_event
from kernelsearch.store.base import EpochFenced, StoreError

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE searches (uid TEXT PRIMARY KEY, epoch INTEGER NOT NULL, deleted INTEGER NOT NULL DEFAULT 0);
CREATE TABLE events (uid TEXT NOT NULL, seq INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (uid, seq));
CREATE TABLE blobs (ref TEXT PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE blob_uses (uid TEXT NOT NULL, ref TEXT NOT NULL, PRIMARY KEY (uid, ref));
CREATE INDEX blob_uses_by_ref ON blob_uses (ref);
CREATE TABLE schema_version (version INTEGER NOT NULL);
"""

_SHA256 = re.compile(r"[0-9a-f]{64}")

T = TypeVar("T")


class SqliteStore:
    """`Store` over one SQLite file. Make it with `await SqliteStore.open(path)`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store")
        self._database: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._inode: tuple[int, int] = (0, 0)
        self._unreferenced: set[str] = set()
        """Blobs put by this process that no event refers to yet: `delete` of another search must spare them."""

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the database at `path`; its folder must exist. Raise StoreError, saying what to do."""
        store = cls(path)
        try:
            await store._on_thread(store._connect)
        except BaseException:
            await store.close()
            raise
        return store

    async def begin(self, uid: str) -> int:
        return await self._run(lambda db: self._begin(db, uid))

    async def append(self, uid: str, epoch: int, events: Sequence[Event]) -> int:
        return await self._run(lambda db: self._append(db, uid, epoch, events))

    async def read(self, uid: str) -> list[Event]:
        return await self._run(lambda db: self._read(db, uid))

    async def searches(self) -> list[str]:
        query = "SELECT uid FROM searches WHERE deleted = 0 ORDER BY uid"
        return await self._run(lambda db: [uid for (uid,) in db.execute(query)])

    async def put_blob(self, content: bytes) -> str:
        return await self._run(lambda db: self._put_blob(db, content))

    async def get_blob(self, ref: str) -> bytes:
        return await self._run(lambda db: self._get_blob(db, ref))

    async def delete(self, uid: str) -> None:
        await self._run(lambda db: self._delete(db, uid))

    async def close(self) -> None:
        """Idempotent. What was appended is on the disk already."""
        with contextlib.suppress(RuntimeError):  # a second close: the thread is gone
            await self._on_thread(self._disconnect)
        self._thread.shutdown(wait=False)

    # -- on the store's thread -----------------------------------------------------------------------------------------

    def _begin(self, db: sqlite3.Connection, uid: str) -> int:
        # A deleted search keeps its row: its epochs go on, so a writer from before the deletion stays fenced.
        upsert = (
            "INSERT INTO searches (uid, epoch) VALUES (?, 1) "
            "ON CONFLICT (uid) DO UPDATE SET epoch = searches.epoch + 1, deleted = 0 RETURNING epoch"
        )
        with _transaction(db):
            return int(db.execute(upsert, (uid,)).fetchone()[0])

    def _append(self, db: sqlite3.Connection, uid: str, epoch: int, events: Sequence[Event]) -> int:
        with _transaction(db):
            self._check_epoch(db, uid, epoch)
            last = db.execute("SELECT max(seq) FROM events WHERE uid = ?", (uid,)).fetchone()[0]
            count = 0 if last is None else int(last) + 1
            rows = [(uid, count + offset, dump_event(event)) for offset, event in enumerate(events)]
            refs = {ref for event in events for ref in references(event)}
            db.executemany("INSERT INTO events (uid, seq, body) VALUES (?, ?, ?)", rows)
            db.executemany(
                "INSERT INTO blob_uses (uid, ref) VALUES (?, ?) ON CONFLICT (uid, ref) DO NOTHING",
                [(uid, ref) for ref in sorted(refs)],
            )
        self._unreferenced -= refs
        return count + len(rows)

    def _check_epoch(self, db: sqlite3.Connection, uid: str, epoch: int) -> None:
        row = db.execute("SELECT epoch, deleted FROM searches WHERE uid = ?", (uid,)).fetchone()
        if row is None:
            raise StoreError(f"search {uid} was never begun in {self._path}: call begin first")
        if row[1]:
            raise EpochFenced(f"search {uid} was deleted: stop, and write nothing more")
        if row[0] != epoch:
            raise EpochFenced(
                f"search {uid} is at epoch {row[0]}, this writer holds {epoch}: another process took over"
            )

    def _read(self, db: sqlite3.Connection, uid: str) -> list[Event]:
        events: list[Event] = []
        for seq, body in db.execute("SELECT seq, body FROM events WHERE uid = ? ORDER BY seq", (uid,)):
            try:
                events.append(load_event(body))
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                raise StoreError(
                    f"event {seq} of search {uid} cannot be read ({first['msg']}): {self._path} was written by another "
                    "version of kernelsearch; use that version, or start the search over"
                ) from None
            if seq != len(events) - 1:
                raise StoreError(f"event {len(events) - 1} of search {uid} is missing: restore {self._path}")
        return events

    def _put_blob(self, db: sqlite3.Connection, content: bytes) -> str:
        ref = hashlib.sha256(content).hexdigest()
        self._unreferenced.add(ref)
        with _transaction(db):
            db.execute(
                "INSERT INTO blobs (ref, packed) VALUES (?, ?) ON CONFLICT (ref) DO NOTHING",
                (ref, zlib.compress(content, 6)),
            )
        return ref

    def _get_blob(self, db: sqlite3.Connection, ref: str) -> bytes:
        row = db.execute("SELECT packed FROM blobs WHERE ref = ?", (ref,)).fetchone()
        if row is None:
            raise KeyError(ref)
        try:
            content = zlib.decompress(row[0])
        except zlib.error:
            content = None
        if content is None or hashlib.sha256(content).hexdigest() != ref:
            raise StoreError(f"blob {ref} in {self._path} does not have its hash any more: restore the database")
        return content

    def _delete(self, db: sqlite3.Connection, uid: str) -> None:
        mine_alone = "SELECT ref FROM blob_uses WHERE uid = ? AND ref NOT IN (SELECT ref FROM blob_uses WHERE uid <> ?)"
        with _transaction(db):
            refs = {ref for (ref,) in db.execute(mine_alone, (uid, uid))} - self._unreferenced
            db.executemany("DELETE FROM blobs WHERE ref = ?", [(ref,) for ref in sorted(refs)])
            db.execute("DELETE FROM blob_uses WHERE uid = ?", (uid,))
            db.execute("DELETE FROM events WHERE uid = ?", (uid,))
            db.execute("UPDATE searches SET deleted = 1, epoch = epoch + 1 WHERE uid = ? AND deleted = 0", (uid,))

    # -- opening, closing, errors --------------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._lock = _take_lock(self._path)
        with self._explained():
            db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            self._database = db
            if (mode := db.execute("PRAGMA journal_mode = WAL").fetchone()[0]) != "wal":
                raise StoreError(
                    f"{self._path} cannot use a write-ahead log (mode {mode}): put it on a local or block volume, "
                    "not on a network file system"
                )
            db.execute("PRAGMA synchronous = FULL")
            _migrate(db, self._path)
        status = self._path.stat()
        self._inode = (status.st_dev, status.st_ino)

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do `work` on the store's thread. A cancelled caller does not undo it: `read` tells what was written."""
        if self._database is None:
            raise StoreError(f"the store {self._path} is closed")

        def guarded() -> T:
            with self._explained():
                self._check_present()
                if self._database is None:
                    raise StoreError(f"the store {self._path} is closed")
                return work(self._database)

        return await self._on_thread(guarded)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _check_present(self) -> None:
        """SQLite goes on writing to a file that was unlinked under it: all of that would be lost without a word."""
        try:
            status = self._path.stat()
        except FileNotFoundError:
            status = None
        if status is None or (status.st_dev, status.st_ino) != self._inode:
            raise StoreError(f"{self._path} was removed or replaced while in use: restore it, then start again")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(_explain(error, self._path)) from error


def references(event: Event) -> Iterator[str]:
    """The blobs that an event keeps alive: every field of it, or value of a dict field, that is a sha256."""
    for _, value in event:
        for text in value.values() if isinstance(value, dict) else (value,):
            if isinstance(text, str) and _SHA256.fullmatch(text):
                yield text


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; the write lock is taken at once, so what is read inside cannot change before the commit."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # some errors, a full disk among them, have rolled back by themselves
            db.execute("ROLLBACK")
        raise


def _migrate(db: sqlite3.Connection, path: Path) -> None:
    with _transaction(db):
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            for statement in filter(str.strip, _SCHEMA.split(";")):
                db.execute(statement)
            db.execute("INSERT INTO schema_version (version) VALUES (?)", (SCHEMA_VERSION,))
            return
        if "schema_version" not in tables:
            raise StoreError(f"{path} is a database of something else: name another file")
        version = db.execute("SELECT version FROM schema_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"{path} has schema {version}, this kernelsearch knows {SCHEMA_VERSION}: use the newer version that "
                "wrote it, or another file"
            )


def _take_lock(path: Path) -> int:
    """An exclusive lock that the kernel drops when this process ends, however it ends."""
    if not path.parent.is_dir():
        raise StoreError(f"folder {path.parent} does not exist: create it, or mount the volume there")
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot write in {path.parent} ({error.strerror}): make the folder or volume writable for this user"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise StoreError(
            f"{path} is in use by another kernelsearch (process {holder}): wait for it, stop it, or use another folder"
        ) from None
    with contextlib.suppress(OSError):  # a full disk; the number is for people only
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _explain(error: sqlite3.Error, path: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    advice = {
        "SQLITE_FULL": "the volume is full: make room or enlarge it; nothing of this write was kept",
        "SQLITE_READONLY": "the volume or file is read-only: make it writable for this user",
        "SQLITE_CANTOPEN": "it cannot be opened: is it a file, and may this user read and write it?",
        "SQLITE_NOTADB": "it is not a SQLite database: restore it from a copy, or name another file",
        "SQLITE_CORRUPT": "the database is damaged: restore it from a copy, or remove it to start over",
        "SQLITE_IOERR": "the volume failed: look at the node's kernel log and at the volume",
        "SQLITE_BUSY": "another program holds it open for writing: close it",
    }
    for prefix, text in advice.items():
        if name.startswith(prefix):
            return f"{path}: {text} ({error})"
    return f"{path}: {error} ({name or type(error).__name__})"
