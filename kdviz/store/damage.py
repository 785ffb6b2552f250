"""Make damage to a run directory visible: every chunk is written, carries a checksum, and is looked for.

Zarr reads a chunk whose file is gone as the fill value, and leaves out chunks that hold nothing else, so that
a lost file cannot be told from "False everywhere". Here nothing is left out: a file that is gone is a fault.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

CHECKSUMMED = ZstdCodec(level=0, checksum=True)  # without, 3 of 4 flipped bits of a small chunk read as data


def every_chunk_written() -> AbstractContextManager[object]:
    """Write chunks that hold the fill value alone, too."""
    return zarr.config.set({"array.write_empty_chunks": True})


def read_done(group: Path) -> NDArray[np.bool_] | None:
    """Read the flags ``(epoch, block)`` of a measured layer; None for any other group."""
    if not (group / "done" / "zarr.json").is_file():
        return None
    return np.asarray(zarr.open_array(group / "done", mode="r", zarr_format=3)[...])


def find_damage(
    group: Path, names: Iterable[str], done: NDArray[np.bool_] | None, *, decode: bool = False
) -> str:
    """Say which file of the named arrays is missing or, with `decode`, cannot be decoded; or nothing.

    Chunks of blocks that are not `done` need not be there, nor those of arrays from before there were
    checksums, when chunks were left out.
    """
    for folder in group.iterdir():
        if (folder / "c").exists() and not (folder / "zarr.json").is_file():
            return f"{folder.name}/zarr.json is missing"
    for name in names:
        try:
            array = zarr.open_array(group / name, mode="r", zarr_format=3)
        except Exception as error:  # damaged metadata make zarr raise nearly anything
            return f"{name}/zarr.json is damaged: {error}"
        for index in _expected_chunks(array, done):
            key = f"{name}/{array.metadata.encode_chunk_key(index)}"
            if not (group / key).is_file():
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
    in_blocks = (getattr(array.metadata, "dimension_names", None) or ())[:2] == ("epoch", "sample")
    for index in np.ndindex(*array.cdata_shape):
        if done is None or not in_blocks or done[index[:2]]:
            yield index
