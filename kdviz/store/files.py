"""Groups as datasets in both formats, and replacing files so that a killed writer leaves no half of one."""

import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import xarray as xr

from kdviz import schema, stopping
from kdviz.errors import StoreError
from kdviz.files import beside
from kdviz.schema import VARIABLES
from kdviz.store.damage import CHECKSUMMED, every_chunk_written, find_damage, read_array, seal
from kdviz.store.migrations import migrate

PARTIAL = ".partial"  # what zarr appends to files being written, and we to folders and exports
_LAYER = re.compile("points/[^/]+/[^/]+")
REPLACED = f".old{PARTIAL}"  # appended to a folder that is making way for a new one


def read_group(path: Path, group: str, only: tuple[str, ...] | None = None) -> xr.Dataset:
    """Load a group, or only some data variables of it, as it was before it was written.

    One that makes way for a new one while it is read, such as a layer that gets more epochs, is read again.
    """
    while True:
        before = _identify(path / group)
        try:
            ds = _read_once(path, group, only)
        except StoreError:
            if _identify(path / group) == before:
                raise
        else:
            if _identify(path / group) == before:
                return ds


def _identify(folder: Path) -> int:
    """Return a number that another folder of this name does not have."""
    try:
        return folder.stat().st_ino
    except OSError:
        return 0  # none, or a part of a file


def _read_once(path: Path, group: str, only: tuple[str, ...] | None) -> xr.Dataset:
    exact: dict[str, Any] = {"decode_times": False, "decode_timedelta": False, "mask_and_scale": False}
    in_folder = path.is_dir()
    if in_folder:
        exact |= {"engine": "zarr", "zarr_format": 3, "consolidated": False, "chunks": None}
    else:
        exact |= {"engine": "netcdf4"}
    done, wanted = None, []
    try:
        if in_folder:
            if _LAYER.fullmatch(group) and (path / group / "done").exists():
                # first: what is flagged now was written before the data are read
                done = read_array(path / group, "done")
        with xr.open_dataset(path, group=group, **exact) as ds:
            replaced = [name for name in ds.data_vars if str(name).endswith(PARTIAL)]
            unwanted = replaced if only is None else [name for name in ds.data_vars if name not in only]
            wanted = [str(name) for name in ds.variables if name not in unwanted and name != "done"]
            loaded = _with_plain_values(ds.drop_vars(unwanted).load().drop_encoding())
        if done is not None and "done" in loaded:
            loaded["done"] = (loaded["done"].dims, done)
        damage = find_damage(path / group, wanted, done) if in_folder else ""
    except Exception as error:  # a damaged file makes the format libraries raise nearly anything
        damage = ""
        with suppress(Exception):  # the closer look may meet the same fault, such as a missing permission
            damage = find_damage(path / group, wanted, done, decode=True) if in_folder else ""
        raise StoreError(f"cannot read {group!r} of {path}: {damage or error}") from error
    if damage:
        raise StoreError(f"cannot read {group!r} of {path}: {damage}; measure it anew, or restore the file")
    return migrate(loaded, path)


def list_groups(path: Path, top: str, depth: int = 99) -> dict[str, dict[str, Any]]:
    """Attributes of the groups below `top`, so many levels of them, by their paths, in natural order."""
    if path.is_dir():
        found = dict(_zarr_groups(path, path / top, depth))
    else:
        with _netcdf_file(path) as file:
            found = dict(_netcdf_groups(file[top] if top else file, depth))
    order = sorted(found, key=lambda name: [natural_order(part) for part in name.split("/")])
    return {name: plain(found[name]) for name in order}


def _zarr_groups(path: Path, folder: Path, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for node in folder.glob("*/zarr.json"):
        if node.parent.name.endswith(PARTIAL):  # it may be gone in a moment
            continue
        try:
            about = json.loads(node.read_bytes())
            is_group = about["node_type"] == "group"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{node} is damaged: {error}") from error
        if is_group:
            yield node.parent.relative_to(path).as_posix(), about.get("attributes", {})
            if depth > 1:
                yield from _zarr_groups(path, node.parent, depth - 1)


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
        ds.to_zarr(path, group=group, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def write_netcdf(path: Path, groups: Iterator[tuple[str, xr.Dataset]]) -> None:
    """Write all groups to one file, which appears at `path` complete and on the disk, or not at all."""
    partial = beside(path, f".{socket.gethostname()}.{os.getpid()}{PARTIAL}")
    _remove_abandoned(path)
    try:
        mode: Any = "w"
        for group, ds in groups:
            stopping.check()
            ds = storable(ds)
            encoding = {name: _netcdf_encoding(array) for name, array in ds.variables.items()}
            ds.to_netcdf(partial, mode=mode, group=group, engine="netcdf4", encoding=encoding)
            mode = "a"
        seal(partial)
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


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


def replace_folder(new: Path, target: Path) -> None:
    """Move the finished folder `new` to `target`; a reader sees the old one, none or the new one."""
    old = beside(target, REPLACED)
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        target.rename(old)
    new.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def sweep(path: Path) -> None:
    """Remove what a killed writer left under temporary names; put back what it had only half replaced."""
    for old in list(path.rglob(f"*{REPLACED}")):
        target = old.with_name(old.name.removesuffix(REPLACED))
        if not target.exists():
            old.rename(target)
    for leftover in list(path.rglob(f"*{PARTIAL}")):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)  # it may have lain in a folder just removed


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
        [name for name in names if name in ds.coords]
    )


def _netcdf_encoding(array: xr.Variable) -> dict[str, Any]:
    if array.dtype.kind == "O":
        return {}
    chunked = array.ndim > 0
    return {"_FillValue": None, "zlib": chunked, "fletcher32": chunked, "complevel": 4, "shuffle": True}
