"""One writer at a time: a file lock beside the run, and a note that tells others who holds it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from kdviz.errors import StoreError
from kdviz.store.files import beside, file_errors


def run_lock(path: Path) -> FileLock:
    """Lock of the run at `path`; shared by the threads of a process, nested by counting."""
    return FileLock(beside(path, ".lock"), thread_local=False)


@contextmanager
def exclusive(lock: FileLock, path: Path) -> Iterator[None]:
    """Hold the lock, with a note beside it that tells others who does."""
    note = beside(path, ".lock.json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{path} is being written by {_holder(note)}; wait for it or stop it") from None
    except OSError as error:
        raise StoreError(f"cannot lock {path} for writing: {error}") from error
    try:
        if lock.lock_counter == 1:
            # The system frees the lock of a dead process; its note stays and is overwritten here.
            started = datetime.now(UTC).isoformat(timespec="seconds")
            with file_errors(f"cannot write {note}"):
                note.write_text(
                    json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started})
                )
        yield
    finally:
        if lock.lock_counter == 1:
            note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['pid']} on {holder['host']} since {holder['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
