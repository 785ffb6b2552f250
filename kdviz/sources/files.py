"""Find the project's data files and check that they are intact. The only place that knows where they lie."""

import json
import os
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from kdviz.errors import DataError
from kdviz.files import hash_file, shipped_folders


def find_data(name: str) -> Path:
    """Locate a data file and check its SHA-256.

    Looked for in the folder named by the environment variable ``KDVIZ_DATA``, then in ``data/`` beside
    the package, where a checkout has it, then in the one that the wheel brings. The folder's
    ``checksums.json`` must list the file; a file is hashed once per process unless it changes.

    Parameters
    ----------
    name
        Path below the data folder with forward slashes, such as ``"fashion_items.npz"``.

    Returns
    -------
    Path
        The intact file.

    Raises
    ------
    ValueError
        If `name` is absolute or leaves the data folder.
    DataError
        If the file is missing, not listed in ``checksums.json``, or not the file listed there.
    """
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or not relative.parts:
        raise ValueError(f"name must be a path below the data folder, got {name!r}")
    folders = _data_folders()
    folder = next((folder for folder in folders if (folder / relative).is_file()), None)
    if folder is None:
        searched = " or ".join(str(folder) for folder in folders)
        raise DataError(
            f"data file {name!r} is not in {searched}; "
            "set KDVIZ_DATA to the data folder of a checkout of kdviz"
        )
    expected = _read_checksums(folder).get(relative.as_posix())
    if expected is None:
        raise DataError(f"{folder / 'checksums.json'} does not list {name!r}; run data/make_checksums.py")
    path = folder / relative
    found = hash_file(path)
    if found != expected:
        raise DataError(
            f"{path} is damaged: SHA-256 {found[:12]}..., expected {expected[:12]}...; "
            "restore it from the repository or make it anew as data/README.md says"
        )
    return path


def read_arrays(path: Path, *names: str) -> list[NDArray]:
    """Read arrays of a NumPy archive.

    Raises
    ------
    DataError
        If it cannot be read or lacks one of them.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except Exception as error:  # a damaged archive makes NumPy raise nearly anything
        raise DataError(f"{path} cannot be read: {error}") from error


def _data_folders() -> list[Path]:
    chosen = os.environ.get("KDVIZ_DATA")
    return [*([Path(chosen)] if chosen else []), *shipped_folders("data")]


def _read_checksums(folder: Path) -> dict[str, str]:
    path = folder / "checksums.json"
    try:
        checksums = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} is missing; copy the whole data folder of a checkout of kdviz") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: {error}") from None
    if not isinstance(checksums, dict):
        raise DataError(f"{path} is damaged: it holds no names and checksums")
    return checksums
