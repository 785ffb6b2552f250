"""Make damage visible: chunks of a run directory are checksummed and looked for, exported files sealed.

Zarr reads a chunk whose file is gone as the fill value, and leaves out chunks that hold nothing else, so that
a lost file cannot be told from "False everywhere". Here nothing is left out: a file that is gone is a fault.

The HDF5 library under netCDF may loop without end on a few flipped bits. An exported file therefore ends in
its own SHA-256, after the end that HDF5 knows, where other readers do not look and other writers cut it off.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from kdviz.errors import StoreError
from kdviz.schema import MEASURED
from kdviz.store.replacing import find_folder

CHECKSUMMED = ZstdCodec(level=0, checksum=True)  # without, 3 of 4 flipped bits of a small chunk read as data

_SMALL = 2**28  # bytes that are read without a second look
_BEST_ZLIB, _BEST_ZSTD = 1_032, 100_000  # so many times smaller than what it holds may a file be


def every_chunk_written() -> AbstractContextManager[object]:
    """Write chunks that hold the fill value alone, too."""
    return zarr.config.set({"array.write_empty_chunks": True})


def find_excess(ds: xr.Dataset, path: Path, done: NDArray[np.bool_] | None = None) -> str:
    """Say that a dataset, not yet loaded, declares more than its files can hold, or the machine; or nothing.

    Parameters
    ----------
    ds
        As opened.
    path
        The exported file, or the folder of the group.
    done
        Flags of a layer's blocks; of those not done there is nothing on the disk.
    """
    size = sum(array.nbytes for array in ds.variables.values())
    if size <= _SMALL:
        return ""
    open_share = 0.0 if done is None else 1 - float(done.mean())
    awaited = open_share * sum(ds[name].nbytes for name in MEASURED if name in ds)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files)
    most = _SMALL + awaited + stored * (_BEST_ZLIB if path.is_file() else _BEST_ZSTD)
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else math.inf
    if size <= min(most, here):
        return ""
    than = f"{stored / 2**20:.1f} MiB on the disk can hold" if size > most else "this machine has memory for"
    return f"it declares {size / 2**30:.1f} GiB, more than {than}"


def read_array(group: Path, name: str) -> NDArray[Any]:
    """Read one array of a run directory alone, such as the flags ``done`` (epoch, block) of a layer."""
    try:
        array = zarr.open_array(find_folder(group / name), mode="r", zarr_format=3)
        if array.nbytes > _SMALL:
            raise ValueError(f"it declares {array.nbytes / 2**30:.1f} GiB")
        return np.asarray(array[...])
    except Exception as error:  # damaged metadata make zarr raise nearly anything
        raise StoreError(f"{group} is damaged: it has no readable {name!r}: {error}") from error


def find_damage(
    group: Path, names: Iterable[str], done: NDArray[np.bool_] | None, *, decode: bool = False
) -> str:
    """Say which file of the named arrays is missing or, with `decode`, cannot be decoded; or nothing.

    Chunks of measured variables need not be there for blocks that are not `done`, nor those of arrays from
    before there were checksums, when chunks were left out.
    """
    for folder in group.iterdir():
        if (folder / "c").exists() and not (folder / "zarr.json").is_file():
            return f"{folder.name}/zarr.json is missing"
    for name in names:
        try:
            array = zarr.open_array(find_folder(group / name), mode="r", zarr_format=3)
        except Exception as error:  # damaged metadata make zarr raise nearly anything
            return f"{name}/zarr.json is damaged: {error}"
        flags = done if name in MEASURED else None  # the others are written whole, in chunks of their own
        if flags is not None and array.cdata_shape[:2] != flags.shape:
            return f"{name}/zarr.json is damaged: its chunks are not the blocks of the layer"
        for index in _expected_chunks(array, flags):
            chunk = array.metadata.encode_chunk_key(index)
            key = f"{name}/{chunk}"
            if not (find_folder(group / name) / chunk).is_file():
                return f"chunk {key} is missing"
            if decode:
                try:
                    array.get_block_selection(index)
                except Exception as error:
                    return f"chunk {key} is damaged: {error}"
    return ""


def _expected_chunks(array: zarr.Array, done: NDArray[np.bool_] | None) -> Iterator[tuple[int, ...]]:
    if not any(isinstance(codec, ZstdCodec) and codec.checksum for codec in array.compressors):
        return
    for index in np.ndindex(*array.cdata_shape):
        if done is None or done[index[:2]]:
            yield index
