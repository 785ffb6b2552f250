"""Find the checkpoints of a training run in a folder, by the epoch in their names. Reads no weights."""

import re
from pathlib import Path

from kdviz.errors import DataError

_SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
_PLACEHOLDER = "{epoch}"


def find_checkpoints(folder: str | Path, *, pattern: str | None = None) -> dict[int, Path]:
    """List the checkpoints in a folder as ``{epoch: path}``, ready for :func:`kdviz.measure_checkpoints`.

    Parameters
    ----------
    folder
        Folder with one file per epoch, ending in ``.pt``, ``.pth``, ``.ckpt`` or ``.safetensors``. Deeper
        folders, hidden files and files without a number in their name (``best.pt``) are passed over.
    pattern
        File name with ``{epoch}`` where the whole number stands and ``*`` for anything else, such as
        ``"student-s0-*-{epoch}.pt"``; files that do not fit are passed over. By default the number after the
        word *epoch*, or the only number in the name.

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
    found: dict[int, Path] = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        epoch = _read_epoch(path) if pattern is None else _match_epoch(path, pattern)
        if epoch is None:
            continue
        if epoch in found:
            both = f"{found[epoch].name} and {path.name}"
            raise DataError(f"{folder} holds two checkpoints of epoch {epoch}: {both}; pass pattern")
        found[epoch] = path
    if not found:
        what = f"fits {pattern!r}" if pattern else "has an epoch in its name"
        raise DataError(f"{folder} holds no checkpoint ({', '.join(_SUFFIXES)}) that {what}")
    return dict(sorted(found.items()))


def _read_epoch(path: Path) -> int | None:
    """Return the epoch that the name of a checkpoint states, None where it states none."""
    if path.suffix not in _SUFFIXES:
        return None
    named = re.findall(r"epoch\D?(\d+)", path.stem, re.IGNORECASE)
    numbers = named or re.findall(r"\d+", path.stem)
    if len(numbers) > 1:
        raise DataError(f"which number in {path.name} is the epoch? pass pattern, with {_PLACEHOLDER} for it")
    return int(numbers[0]) if numbers else None


def _match_epoch(path: Path, pattern: str) -> int | None:
    whole_number = r"(?<!\d)(\d+)(?!\d)"  # else a "*" beside it would take all digits but one
    expression = re.escape(pattern).replace(r"\*", ".*").replace(re.escape(_PLACEHOLDER), whole_number)
    match = re.fullmatch(expression, path.name)
    return int(match[1]) if match else None
