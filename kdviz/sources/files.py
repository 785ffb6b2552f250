"""Find the project's data files and check that they are intact. The only place that knows where they lie.

What a reader is given is the file that belongs to this version, so readers check nothing again.
"""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdviz.errors import DataError
from kdviz.files import hash_file, read_json, shipped_folders


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
    DataError
        If the file is missing, not listed in ``checksums.json``, or not the file listed there.
    StoreError
        If ``checksums.json`` is missing or damaged.
    """
    chosen = os.environ.get("KDVIZ_DATA")
    folders = [*([Path(chosen)] if chosen else []), *shipped_folders("data")]
    folder = next((folder for folder in folders if (folder / name).is_file()), None)
    if folder is None:
        searched = " or ".join(str(folder) for folder in folders)
        raise DataError(
            f"data file {name!r} is not in {searched}; "
            "set KDVIZ_DATA to the data folder of a checkout of kdviz"
        )
    expected = read_json(folder / "checksums.json").get(name)
    if expected is None:
        raise DataError(f"{folder / 'checksums.json'} does not list {name!r}; run data/make_checksums.py")
    path = folder / name
    found = hash_file(path)
    if found != expected:
        raise DataError(
            f"{path} is damaged: SHA-256 {found[:12]}..., expected {expected[:12]}...; "
            "restore it from the repository or make it anew as data/README.md says"
        )
    return path


def read_arrays(name: str, *arrays: str) -> list[NDArray]:
    """Read arrays of a NumPy archive among the data files."""
    with np.load(find_data(name)) as archive:
        return [archive[array] for array in arrays]
