"""Find the checkpoints of a training in a folder, by the epoch or step in their names. Reads no weights."""

import re
from collections.abc import Sequence
from pathlib import Path

from kdviz.arguments import name_some
from kdviz.errors import DataError
from kdviz.files import find_weights

_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors", ".bin", ".pt.tar", ".pth.tar")
_STARTS = (b"PK\x03\x04", b"\x80\x02")  # of what torch writes, now and formerly
_BESIDE = re.compile("(optimi[sz]er|scheduler|scaler|rng_state|random_states|training_args)")  # no network
_MILESTONE = re.compile("(?<![a-z])(best|last|latest|final)(?![a-z])", re.IGNORECASE)  # names no epoch
_PLACEHOLDER = "{epoch}"


def find_checkpoints(folder: str | Path, *, pattern: str | None = None) -> dict[int, Path]:
    """List the checkpoints in a folder as ``{epoch: path}``, ready for :func:`kdviz.measure_checkpoints`.

    Parameters
    ----------
    folder
        Folder with one file per epoch, ending in ``.pt``, ``.pth``, ``.ckpt``, ``.bin``, ``.safetensors``,
        ``.pth.tar`` or nothing, if it begins as such a file does; or with a folder each, as
        ``checkpoint-500`` of Hugging Face's `Trainer`. Hidden files, states of optimisers and what names no
        epoch (``vgg8_best.pth``) are passed over.
    pattern
        Name with ``{epoch}`` where the whole number stands and ``*`` for anything else, such as
        ``"student-s0-*-{epoch}.pt"``; files that do not fit are passed over. By default the number after the
        word *epoch* or, where no name has that, *step*; else the last number, if those before it are the same
        in all names.

    Returns
    -------
    dict
        Sorted by epoch.

    Raises
    ------
    ValueError
        If `pattern` does not hold ``{epoch}`` exactly once.
    DataError
        If `folder` is missing or holds no such file, the number in a name is not clear, or two files are of
        one epoch.
    """
    folder = Path(folder)
    if pattern is not None and pattern.count(_PLACEHOLDER) != 1:
        raise ValueError(f"pattern must hold {_PLACEHOLDER} once, got {pattern!r}")
    if not folder.is_dir():
        raise DataError(f"there is no folder of checkpoints at {folder}")
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if pattern is None:
        epochs = _read_epochs([path for path in paths if _holds_network(path)])
    else:
        epochs = {path: epoch for path in paths if (epoch := _match_epoch(path, pattern)) is not None}
    found: dict[int, Path] = {}
    for path, epoch in epochs.items():
        if epoch in found:
            both = f"{found[epoch].name} and {path.name}"
            raise DataError(f"{folder} holds two checkpoints of epoch {epoch}: {both}; pass pattern")
        found[epoch] = path
    if not found:
        what = f"fits {pattern!r}" if pattern else "has an epoch in its name"
        there = f"; it holds {name_some((path.name for path in paths), 3)}" if paths else ", or anything"
        raise DataError(f"{folder} holds no checkpoint ({', '.join(_SUFFIXES)}) that {what}{there}")
    return dict(sorted(found.items()))


def _holds_network(path: Path) -> bool:
    """Tell whether a file or folder is a checkpoint: by its name, or without a suffix by its start."""
    if path.is_dir():
        return bool(find_weights(path))
    if not path.is_file() or _BESIDE.match(path.name):
        return False
    if not re.fullmatch(r"(\.\d*)?", path.suffix):  # 0.25 ends in none
        return path.name.endswith(_SUFFIXES)
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(_STARTS) or start[8:] == b"{"  # the latter: safetensors


def _read_epochs(paths: Sequence[Path]) -> dict[Path, int]:
    """Read the epochs that names state: after *epoch*, else after *step*, else as their last number."""
    for word in ("epoch", "step"):
        named = {path: re.findall(rf"{word}\D?(\d+)", path.name, re.IGNORECASE) for path in paths}
        if any(named.values()):
            return {path: _only(path, numbers) for path, numbers in named.items() if numbers}
    told = {path: re.findall(r"\d+", path.name) for path in paths if not _MILESTONE.search(path.name)}
    told = {path: numbers for path, numbers in told.items() if numbers}
    if len(told) > 1 and len({tuple(numbers[:-1]) for numbers in told.values()}) == 1:
        told = {path: numbers[-1:] for path, numbers in told.items()}  # what is before is the same in all
    return {path: _only(path, numbers) for path, numbers in told.items()}


def _only(path: Path, numbers: Sequence[str]) -> int:
    if len(numbers) > 1:
        raise DataError(f"which number in {path.name} is the epoch? pass pattern, with {_PLACEHOLDER} for it")
    return int(numbers[0])


def _match_epoch(path: Path, pattern: str) -> int | None:
    whole_number = r"(?<!\d)(\d+)(?!\d)"  # else a "*" beside it would take all digits but one
    expression = re.escape(pattern).replace(r"\*", ".*").replace(re.escape(_PLACEHOLDER), whole_number)
    match = re.fullmatch(expression, path.name)
    return int(match[1]) if match else None
