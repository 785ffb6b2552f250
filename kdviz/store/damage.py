"""Make damage visible: chunks of a run directory are checksummed and looked for, exported files sealed.

Zarr reads a chunk whose file is gone as the fill value, and leaves out chunks that hold nothing else, so that
a lost file cannot be told from "False everywhere". Here nothing is left out: a file that is gone is a fault.
So is a whole array: the flags of a layer tell which ones it was made with.

The HDF5 library under netCDF may loop without end on a few flipped bits. An exported file therefore ends in
its own SHA-256, after the end that HDF5 knows, where other readers do not look and other writers cut it off.
"""

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
import zarr
from numcodecs import Zstd
from numpy.typing import NDArray
from zarr.codecs import BytesCodec, ZstdCodec

from kdviz.errors import StoreError
from kdviz.schema import MEASURED
from kdviz.store.contents import MADE
from kdviz.store.replacing import find_folder, list_folders
from kdviz.store.sealing import SealedStore

CHECKSUMMED = ZstdCodec(level=0, checksum=True)  # without, 3 of 4 flipped bits of a small chunk read as data

MADE_WITH = "variables"  # attribute of `done`: the arrays that a layer was made with

_SMALL = 2**28  # bytes that are read without a second look
_BEST_ZLIB, _BEST_ZSTD = 1_032, 100_000  # so many times smaller than what it holds may a file be


class ExcessError(StoreError):
    """Files declare more than they can hold, or than the machine can."""


def every_chunk_written() -> AbstractContextManager[object]:
    """Write chunks that hold the fill value alone, too."""
    return zarr.config.set({"array.write_empty_chunks": True})


def refuse_excess(ds: xr.Dataset, path: Path, done: NDArray[np.bool_] | None = None) -> None:
    """Refuse a dataset, not yet loaded, that declares more than its files can hold, or the machine.

    Parameters
    ----------
    ds
        As opened.
    path
        The exported file, or the folder of the group.
    done
        Flags of a layer's blocks; of those not done there is nothing on the disk.

    Raises
    ------
    ExcessError
        Saying so.
    """
    size = sum(array.nbytes for array in ds.variables.values())
    if size <= _SMALL:
        return
    open_share = 0.0 if done is None else 1 - float(done.mean())
    awaited = open_share * sum(ds[name].nbytes for name in MEASURED if name in ds)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    stored = sum(file.stat().st_size for file in files)
    most = _SMALL + awaited + stored * (_BEST_ZLIB if path.is_file() else _BEST_ZSTD)
    here = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if os.name == "posix" else math.inf
    if size <= min(most, here):
        return
    than = f"{stored / 2**20:.1f} MiB on the disk can hold" if size > most else "this machine has memory for"
    raise ExcessError(f"it declares {size / 2**30:.1f} GiB, more than {than}")


def read_array(group: Path, name: str) -> NDArray[Any]:
    """Read one array of a run directory alone, such as the flags ``done`` (epoch, block) of a layer."""
    try:
        return np.asarray(_open_small(group, name)[...])
    except StoreError:
        raise
    except Exception as error:  # damaged metadata make zarr raise nearly anything
        raise StoreError(f"{group} is damaged: it has no readable {name!r}: {error}") from error


def read_flags(group: Path) -> NDArray[np.bool_]:
    """Read the flags ``done`` (epoch, block) of a layer; where they are lost or damaged, nothing is done."""
    flags = _open_small(group, "done")
    done = np.zeros(flags.shape, bool)
    for epoch in range(len(done)):
        with suppress(Exception):
            done[epoch] = flags[epoch]
    return done


def list_made(group: Path) -> list[str]:
    """Name the arrays that a layer was made with; none of one from before that was kept."""
    return str(_open_small(group, "done").attrs.get(MADE_WITH, "")).split()


def _open_small(group: Path, name: str) -> zarr.Array:
    """Open an array that is read whole, before memory is asked for."""
    fault = f"{group} is damaged: it has no readable {name!r}"
    try:
        array = zarr.open_array(
            SealedStore(find_folder(group / name), read_only=True), mode="r", zarr_format=3
        )
    except Exception as error:  # damaged metadata make zarr raise nearly anything
        raise StoreError(f"{fault}: {error}") from error
    if array.nbytes > _SMALL:
        raise ExcessError(f"{fault}: it declares {array.nbytes / 2**30:.1f} GiB")
    return array


class Damage(NamedTuple):
    """A damaged array, or one chunk of it."""

    name: str
    chunk: tuple[int, ...] | None
    what: str


def list_damage(
    group: Path, names: Iterable[str], done: NDArray[np.bool_] | None, *, decode: bool = False
) -> Iterator[Damage]:
    """Yield every file of the named arrays that is missing or, with `decode`, cannot be decoded.

    Chunks of measured variables need not be there for blocks that are not `done`, nor those of arrays from
    before there were checksums, when chunks were left out.
    """
    for folder in group.iterdir():
        if (folder / "c").exists() and not (folder / "zarr.json").is_file():
            yield Damage(folder.name, None, f"{folder.name}/zarr.json is missing")
    for name in names:
        folder = find_folder(group / name)
        if not folder.exists():
            yield Damage(name, None, f"{name} is missing")
            continue
        try:
            array = zarr.open_array(SealedStore(folder, read_only=True), mode="r", zarr_format=3)
        except Exception as error:  # damaged metadata make zarr raise nearly anything
            yield Damage(name, None, f"{name}/zarr.json is damaged: {error}")
            continue
        flags = done if name in MEASURED else None  # the others are written whole, in chunks of their own
        if flags is not None and array.cdata_shape[:2] != flags.shape:
            text = f"{name}/zarr.json is damaged: its chunks are not the blocks of the layer"
            yield Damage(name, None, text)
            continue
        for index in _expected_chunks(array, flags):
            chunk = array.metadata.encode_chunk_key(index)
            if not (folder / chunk).is_file():
                yield Damage(name, index, f"chunk {name}/{chunk} is missing")
            elif decode:
                try:
                    _decode(array, index, folder / chunk)
                except Exception as error:
                    yield Damage(name, index, f"chunk {name}/{chunk} is damaged: {error}")


def inspect_layer(group: Path) -> tuple[NDArray[np.bool_], list[Damage], bool]:
    """Read every chunk of a layer.

    Returns
    -------
    done, damage, lost
        Which blocks (epoch, block) are done and whole; what is damaged; and whether something is that was
        made with the layer, such as its epochs, so that no block is whole.
    """
    done = read_flags(group)
    names = [name for name, folder in list_folders(group).items() if (folder / "zarr.json").is_file()]
    names = [*dict.fromkeys([*list_made(group), *names])]
    found = list(list_damage(group, [name for name in names if name != "done"], done, decode=True))
    lost = False
    for name, index, _ in found:
        if name in MEASURED and index is not None:
            done[index[:2]] = False
        elif name in (*MADE, *MEASURED):
            lost = True
    return done & (not lost), found, lost


def _decode(array: zarr.Array, index: tuple[int, ...], file: Path) -> None:
    """Decompress a chunk, which checks its sum; zarr's own way to one takes ten times as long."""
    kinds = [type(codec) for codec in (*array.filters, array.serializer, *array.compressors)]
    if array.dtype.hasobject or kinds != [BytesCodec, ZstdCodec]:
        array.get_block_selection(index)
        return
    found, wanted = len(Zstd().decode(file.read_bytes())), math.prod(array.chunks) * array.dtype.itemsize
    if found != wanted:
        raise ValueError(f"it holds {found} bytes, not {wanted}")


def _expected_chunks(array: zarr.Array, done: NDArray[np.bool_] | None) -> Iterator[tuple[int, ...]]:
    if not any(isinstance(codec, ZstdCodec) and codec.checksum for codec in array.compressors):
        return
    for index in np.ndindex(*array.cdata_shape):
        if done is None or done[index[:2]]:
            yield index
