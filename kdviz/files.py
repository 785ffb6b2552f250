"""Files that are whole or absent: atomic writes, JSON, checksums, one lock, one hash of a file.

JSON holds the checksum of its contents as the entry ``sha256``. Other files end in a seal, the SHA-256 of
what comes before, where HDF5 and zip do not look and other writers cut it off. Older files have neither and
are read as they are.
"""

import functools
import hashlib
import json
import mmap
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from kdviz import stopping
from kdviz.errors import LockedError, StoreError

_DEEPEST = 50  # levels of lists and names in YAML
_SUM = "sha256"
_SEAL = b"kdviz sha256 "
_SEAL_SIZE = len(_SEAL) + hashlib.sha256().digest_size


def shipped_folders(name: str) -> list[Path]:
    """List where a folder of kdviz's own may lie: beside the package in a checkout, else in it."""
    package = Path(__file__).resolve().parent
    return [package.parent / name, package / name]


def link_tree(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Let a new folder hold the files of another, which nobody changes; copied where links cannot be.

    What is there under the new name is whole. Hidden files, locks among them, stay where they are, and so
    does what is named in `without`.
    """
    made = make_folder(target.parent) / f".{target.name}"
    shutil.rmtree(made, ignore_errors=True)

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    with file_errors(f"write {target}"):
        shutil.copytree(source, made, copy_function=link, ignore=shutil.ignore_patterns(".*", *without))
        made.rename(target)


def beside(path: Path, suffix: str) -> Path:
    """Path with something appended to its name."""
    return path.with_name(path.name + suffix)


@contextmanager
def file_errors(action: str) -> Iterator[None]:
    """Turn what goes wrong with files into a StoreError that says what was being done.

    Before it begins is a safe place to stop.
    """
    stopping.check()
    try:
        yield
    except StoreError:
        raise
    except (OSError, RuntimeError) as error:  # the latter is how the netCDF library reports a full disk
        raise StoreError(f"{action}: {error}") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Make a folder and those above it.

    Raises
    ------
    StoreError
        If it cannot be made.
    """
    folder = Path(path)
    with file_errors(f"cannot write into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_replaceable(path: Path) -> None:
    """Refuse to put a file in the place of anything else, such as a folder, a device or a pipe."""
    if path.exists() and not path.is_file():
        raise StoreError(f"cannot write {path}: what lies there is no regular file; name another")


def write_bytes(path: Path, contents: bytes | memoryview) -> None:
    """Replace a file whole: after a kill or on a full disk, it holds the old contents or the new.

    Raises
    ------
    StoreError
        If it cannot be written, or something lies there that is no regular file.
    """
    stopping.check()
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StoreError(f"cannot write {path}: {error}") from error


def find_weights(folder: Path) -> list[Path]:
    """List the files that hold a network's weights in a folder as Hugging Face writes it; indices first."""
    for pattern in ("*.safetensors.index.json", "*.safetensors", "*.bin.index.json", "*model*.bin"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def read_json(path: Path, *, remove: Path | None = None) -> dict[str, Any]:
    """Read what `write_json` wrote, or any JSON of names and values.

    Parameters
    ----------
    path
        The file.
    remove
        What to remove so that it is made again; for the message.

    Raises
    ------
    StoreError
        If it is missing or damaged.
    """
    advice = "" if remove is None else f"; put a backup of it back, or remove {remove} to make it anew"
    try:
        contents = json.loads(path.read_bytes())
        if not isinstance(contents, dict):
            raise StoreError(f"{path} is damaged: it holds no names and values{advice}")
        checksum = contents.pop(_SUM, None)
        if checksum is not None and checksum != _checksum(contents):
            raise StoreError(f"{path} is damaged: it is not what was written{advice}")
    except StoreError:
        raise
    except RecursionError:
        raise StoreError(f"cannot read {path}: it is nested too deep{advice}") from None
    except (OSError, ValueError) as error:
        raise StoreError(f"cannot read {path}: {error}{advice}") from error
    return contents


def write_json(path: Path, contents: Mapping[str, Any]) -> None:
    """Write sorted JSON with its checksum through `write_bytes`."""
    plain = json.loads(json.dumps(contents))
    write_bytes(path, _as_json(plain | {_SUM: _checksum(plain)}))


def _as_json(contents: Mapping[str, Any]) -> bytes:
    return (json.dumps(contents, sort_keys=True, indent=1) + "\n").encode()


def _checksum(contents: Mapping[str, Any]) -> str:
    return hashlib.sha256(_as_json(contents)).hexdigest()


class _TreeLoader(yaml.SafeLoader):
    """Reads trees of plain values: no aliases, by which a few lines hold billions, and no great depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it holds an alias (*name); write the value itself there")
        if self.depth == _DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {_DEEPEST} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(text: str) -> Any:
    """Read YAML, or JSON, of plain values, in a time that grows with its length.

    Raises
    ------
    ValueError
        If it is none, has aliases, or is nested deeper than 50 levels; in one sentence.
    """
    try:
        return yaml.load(text, _TreeLoader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error


def sealed(contents: bytes) -> bytes:
    """End contents in the SHA-256 of them."""
    return contents + _SEAL + hashlib.sha256(contents).digest()


def seal(path: Path) -> None:
    """End a file in the SHA-256 of what comes before."""
    with path.open("rb+") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(_SEAL + digest)


def is_changed(path: Path) -> bool:
    """Whether a sealed file is no longer what was sealed; one without seal is not known to be changed."""
    size = path.stat().st_size
    if size <= _SEAL_SIZE:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content[size - _SEAL_SIZE :]
        with memoryview(content) as view, view[: size - _SEAL_SIZE] as before:
            return end.startswith(_SEAL) and hashlib.sha256(before).digest() != end[len(_SEAL) :]


def list_differences(stored: Mapping[str, Any], asked: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Say in what one description differs from another: dotted names, and short values before and now."""
    found: list[str] = []
    for name in sorted({*stored, *asked}):
        old, new = stored.get(name), asked.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += list_differences(old, new, f"{prefix}{name}.")
        elif old != new:
            values = f" {old}, now {new}"
            found.append(f"{prefix}{name}{values if len(values) < 100 else ''}")
    return found


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits; read once per process unless the file changes."""
    state = path.stat()
    return _hash_file(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hash_file(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock_beside(path: Path) -> FileLock:
    """Lock of what lies at `path`, by links or not; shared by threads of a process, nested by counting.

    Its file, ``<path>.lock``, is empty and stays: who removes one may remove what another process has just
    opened and then locks, while a third makes and locks a new one.
    """
    return FileLock(beside(path.resolve(), ".lock"), thread_local=False)


@contextmanager
def exclusive(lock: FileLock, path: Path) -> Iterator[None]:
    """Hold the lock of `path`, with a note beside it that tells others who does.

    Raises
    ------
    LockedError
        If another process holds it.
    StoreError
        If it cannot be made.
    """
    note = Path(f"{lock.lock_file}.json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise LockedError(f"{path} is being written by {_holder(note)}; wait for it or stop it") from None
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
