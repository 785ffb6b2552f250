"""Groups as datasets in both formats, and replacing files so that a killed writer leaves no half of one."""

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from kdviz import schema, stopping
from kdviz.errors import StoreError
from kdviz.files import beside, check_replaceable, seal
from kdviz.schema import VARIABLES
from kdviz.store.contents import how_to_continue
from kdviz.store.damage import (
    CHECKSUMMED,
    MADE_WITH,
    Damage,
    ExcessError,
    every_chunk_written,
    list_damage,
    read_flags,
    refuse_excess,
)
from kdviz.store.migrations import migrate
from kdviz.store.replacing import PARTIAL, find_folder, list_folders, read_unchanged
from kdviz.store.sealing import SealedStore, read_sealed

_LAYER = re.compile("points/[^/]+/[^/]+")


def read_group(path: Path, group: str, only: tuple[str, ...] | None = None) -> xr.Dataset:
    """Load a group, or only some data variables of it, as it was before it was written.

    What is replaced while it is read, such as a layer that gets more epochs, is read again.
    """
    return read_unchanged(path / group, lambda: _read_once(path, group, only))


def _read_once(path: Path, group: str, only: tuple[str, ...] | None) -> xr.Dataset:
    exact: dict[str, Any] = {"decode_times": False, "decode_timedelta": False, "mask_and_scale": False}
    in_folder = path.is_dir()
    if in_folder:
        exact |= {"engine": "zarr", "zarr_format": 3, "consolidated": False, "chunks": None}
    else:
        exact |= {"engine": "netcdf4"}
    done, wanted = None, []
    folder = find_folder(path / group)
    try:
        if in_folder:
            if _LAYER.fullmatch(group) and (folder / "done").exists():
                # first: what is flagged now was written before the data are read
                done = read_flags(folder)
        place: Any = SealedStore(path, read_only=True) if in_folder else path
        with xr.open_dataset(place, group=folder.relative_to(path).as_posix(), **exact) as ds:
            if in_folder:
                half = {child.name: name for name, child in list_folders(folder).items()}
                ds = ds.rename({name: half[name] for name in map(str, ds.variables) if name in half})
            replaced = [name for name in ds.data_vars if str(name).endswith(PARTIAL)]
            unwanted = replaced if only is None else [name for name in ds.data_vars if name not in only]
            wanted = [str(name) for name in ds.variables if name not in unwanted and name != "done"]
            flags = None if done is None or "done" in unwanted else ds.get("done")
            if flags is not None:
                unwanted = [*unwanted, "done"]  # they are read already
            asked = ds.drop_vars(unwanted)
            refuse_excess(asked, folder if in_folder else path, done)
            loaded = _with_plain_values(asked.load().drop_encoding())
        if flags is not None:
            made = str(flags.attrs.pop(MADE_WITH, "")).split()
            wanted += [name for name in made if name not in wanted and (only is None or name == "epoch")]
            loaded["done"] = (flags.dims, done, plain(flags.attrs))
        damage = list_damage(folder, wanted, done) if in_folder else ()
        first = next(iter(damage), None)
    except ExcessError as error:
        raise StoreError(f"cannot read {group!r} of {path}: {error}") from error
    except Exception as error:  # a damaged file makes the format libraries raise nearly anything
        first = None
        with suppress(Exception):  # the closer look may meet the same fault, such as a missing permission
            first = next(list_damage(folder, wanted or _list_arrays(folder), done, decode=True), None)
        what = _describe(path, group, first) if first else error
        raise StoreError(f"cannot read {group!r} of {path}: {what}") from error
    if first:
        raise StoreError(f"cannot read {group!r} of {path}: {_describe(path, group, first)}")
    return migrate(loaded, path)


def _list_arrays(folder: Path) -> list[str]:
    nodes = {name: _read_node(child / "zarr.json") for name, child in list_folders(folder).items()}
    return [name for name, node in nodes.items() if node and node["node_type"] == "array"]


def _describe(path: Path, group: str, damage: Damage) -> str:
    return f"{damage.what}; {how_to_continue(path, group, damage.name)} mends it"


def list_groups(path: Path, top: str, depth: int = 99) -> dict[str, dict[str, Any]]:
    """Attributes of the groups below `top`, so many levels of them, by their paths, in natural order."""
    if path.is_dir():
        found = _zarr_groups(path / top, f"{top}/" if top else "", depth)
    else:
        with _netcdf_file(path) as file:
            found = dict(_netcdf_groups(file[top] if top else file, depth))
    order = sorted(found, key=lambda name: [natural_order(part) for part in name.split("/")])
    return {name: plain(found[name]) for name in order}


def _zarr_groups(folder: Path, before: str, depth: int) -> dict[str, dict[str, Any]]:
    """Look for nodes; a folder of groups that lost its own is a group still, of which nothing is said."""

    def look() -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, child in list_folders(folder).items() if folder.is_dir() else ():
            node = _read_node(child / "zarr.json")
            is_group, within = bool(node and node["node_type"] == "group"), f"{before}{name}/"
            inside = _zarr_groups(child, within, depth - 1) if not node or (is_group and depth > 1) else {}
            if is_group or inside:
                found[before + name] = (node or {}).get("attributes", {})
                found |= inside if depth > 1 else {}
        return found

    return read_unchanged(folder, look)


def _read_node(path: Path) -> dict[str, Any] | None:
    """Read what zarr says of a group or an array; nothing where there is none."""
    try:
        about = read_sealed(path.read_bytes(), path)
        _ = about["node_type"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, KeyError, TypeError) as error:
        raise StoreError(f"{path} is damaged: {error}") from error
    return about


def _netcdf_groups(parent: netCDF4.Dataset, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for group in parent.groups.values():
        yield group.path.strip("/"), {name: group.getncattr(name) for name in group.ncattrs()}
        if depth > 1:
            yield from _netcdf_groups(group, depth - 1)


def storable(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` annotated, in the contract's dtypes, with nothing left of the file it came from."""
    stored = schema.annotate(ds).drop_encoding()
    for name, array in stored.variables.items():
        spec = VARIABLES.get(str(name))
        values = array.values
        if values.dtype.kind in "UT":  # fixed-length text has no Zarr specification
            values = values.astype(object)
        elif spec and spec.dtype != "str":
            values = values.astype(spec.dtype)
        stored[name] = (array.dims, values, plain(array.attrs))
    stored.attrs = plain(stored.attrs)
    return stored


def plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes in alphabetical order, with Python's numbers in place of NumPy's."""
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in sorted(attrs.items())
    }


def write_zarr(ds: xr.Dataset, path: Path, group: str | None = None) -> None:
    """Write a storable dataset as a new group."""
    encoding: dict[Any, dict[str, Any]] = {name: {"compressors": [CHECKSUMMED]} for name in ds.variables}
    for name, array in ds.variables.items():
        if array.dtype.kind == "f":
            # Left to itself xarray marks NaN as _FillValue, an attribute when read exactly.
            encoding[name]["_FillValue"] = None
    with every_chunk_written():
        ds.to_zarr(
            SealedStore(path), group=group, mode="w", zarr_format=3, consolidated=False, encoding=encoding
        )


def write_netcdf(path: Path, groups: Iterator[tuple[str, xr.Dataset]]) -> None:
    """Write all groups to one file, which appears at `path` complete and on the disk, or not at all."""
    check_replaceable(path)
    begun = beside(path, f".{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    _remove_abandoned(path)
    try:
        mode: Any = "w"
        for group, ds in groups:
            ds = storable(ds)
            encoding = {name: _netcdf_encoding(array) for name, array in ds.variables.items()}
            # in another thread: an interrupt between two of its locks would leave one of them held for ever
            stopping.run_aside(
                partial(ds.to_netcdf, begun, mode=mode, group=group, engine="netcdf4", encoding=encoding)
            )
            stopping.check()  # a small group is written before `run_aside` looks
            mode = "a"
        seal(begun)
        with begun.open("rb+") as file:
            os.fsync(file.fileno())
        begun.replace(path)
    finally:
        begun.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove what processes of this machine that were killed in `write_netcdf` left beside `path`."""
    name = re.compile(rf"{re.escape(path.name)}\.{re.escape(socket.gethostname())}\.([0-9]+){PARTIAL}")
    for leftover in path.parent.iterdir():
        if (found := name.fullmatch(leftover.name)) and not _is_running(int(found[1])):
            leftover.unlink(missing_ok=True)


def _is_running(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 asks nothing elsewhere, it kills
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def natural_order(name: str) -> list[str | int]:
    """Sort key that puts ``features.10`` after ``features.9``."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split("([0-9]+)", name))]


@contextmanager
def _netcdf_file(path: Path) -> Iterator[netCDF4.Dataset]:
    try:
        with netCDF4.Dataset(path) as file:
            yield file
    except Exception as error:  # as in `read_group`
        raise StoreError(f"cannot read {path}: {error}") from error


def _with_plain_values(ds: xr.Dataset) -> xr.Dataset:
    """Undo what the formats do to text, to numbers in attributes and to the order of variables."""
    contract = {name: position for position, name in enumerate(VARIABLES)}
    names = sorted(map(str, ds.variables), key=lambda name: (contract.get(name, len(contract)), name))
    variables = {}
    for name in names:
        array = ds.variables[name]
        values = array.values
        if values.dtype.kind in "OT":
            values = values.astype(object).astype(str)
        variables[name] = (array.dims, values, plain(array.attrs))
    return xr.Dataset(variables, attrs=plain(ds.attrs)).set_coords(
        [name for name in names if name in ds.coords or name == "label"]  # which may have come later
    )


def _netcdf_encoding(array: xr.Variable) -> dict[str, Any]:
    if array.dtype.kind == "O":
        return {}
    chunked = array.ndim > 0
    return {"_FillValue": None, "zlib": chunked, "fletcher32": chunked, "complevel": 4, "shuffle": True}
