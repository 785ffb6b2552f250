"""Runs on disk: one run is one Zarr directory while it is measured, one netCDF file once exported.

Layout: ``/points`` holds what all networks share (samples, units, masks), ``/points/<network>/<layer>`` the
measured variables of one layer, any other group a result with samples of its own. Arrays have their final
size from the start. They are filled in blocks of (1 epoch, `block` samples), and the flag
``done[epoch, block]`` is set after a block's data: a run killed at any moment goes on at the first block
without flag.

Every file is written under a temporary name and renamed, so killing the writer leaves no half-written file;
nothing but `Run.export` forces data to the disk, so a power cut may cost blocks whose flag is set.

No torch here: runs are viewed where none is installed.
"""

import difflib
import itertools
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pandas as pd
import xarray as xr
import zarr
from filelock import FileLock, Timeout

from kdviz import schema
from kdviz.errors import SchemaError, StoreError
from kdviz.schema import VARIABLES, Attribute

QUARTILES = 4

_NAME = re.compile(r"(?!__)[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")  # "__" at the start is reserved by Zarr
_PARTIAL = ".partial"  # what zarr appends to files being written, and we to directories
# Differ between two sittings of one measurement without making it another measurement.
_CIRCUMSTANCES = frozenset({"created_at", "kdviz_version", "torch_version", "device"})
_BOOKKEEPING = ("done",)


def create_run(
    path: str | os.PathLike[str], *, samples: xr.Dataset, attrs: Mapping[str, Attribute] | None = None
) -> "Run":
    """Make the run directory at `path`, or reopen it if it was made with the same samples and attributes.

    Parameters
    ----------
    path
        Directory to make; folders above it are made too. A lock file appears beside it.
    samples
        Coordinates ``sample`` and ``unit``; as far as known ``label``, ``split``, ``row``, ``col``,
        ``token``, ``x``, ``y``, ``z``, ``valid``, ``foreground``, ``thumbnail``. Without ``valid`` every
        unit is valid.
    attrs
        From `schema.make_attrs`: what all networks share, such as ``dataset_id`` and ``modality``.

    Raises
    ------
    SchemaError
        If `samples` breaks the contract or has epochs.
    StoreError
        If the directory cannot be made, is being written by another process, or holds other samples.
    """
    path = Path(path)
    prepared = _prepare_samples(samples, attrs or {})
    if path.is_file():
        raise StoreError(f"cannot make a run at {path}: it is a file")
    with _file_errors(f"cannot make a run at {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(FileLock(_beside(path, ".lock")), path):
            if not path.exists():
                partial = _beside(path, _PARTIAL)
                shutil.rmtree(partial, ignore_errors=True)
                zarr.open_group(partial, mode="w", zarr_format=3)
                prepared.to_zarr(partial, group="points", mode="w-", zarr_format=3, consolidated=False)
                partial.rename(path)
    run = open_run(path)
    if difference := _difference_of_samples(run.samples, prepared):
        raise StoreError(f"{path} already holds a run with other samples: {difference}; choose another path")
    return run


def open_run(path: str | os.PathLike[str]) -> "Run":
    """Open the run at `path`: a run directory or an exported netCDF file.

    Raises
    ------
    StoreError
        If there is no run at `path`, or it is damaged.
    SchemaError
        If it was written with a schema version this kdviz does not know.
    """
    return Run(path)


class Run:
    """One run on disk; made by `create_run` and `open_run`.

    Reading opens the files anew each time and loads what is asked for, so that a run can be read while it is
    being measured. Writing needs a run directory and locks it against other processes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise StoreError(f"there is no run at {self.path}")
        self._is_directory = self.path.is_dir()
        if self._is_directory and not (self.path / "points" / "zarr.json").is_file():
            raise StoreError(f"{self.path} is a folder but not a run: it has no group 'points'")
        self._lock = FileLock(_beside(self.path, ".lock"), thread_local=False)
        self.samples = self._read("points")
        self.attrs: dict[str, Attribute] = dict(self.samples.attrs)
        _check_version(self.path, self.attrs)
        schema.validate(self.samples, require=("sample", "unit", "valid"))

    # -- reading

    @property
    def networks(self) -> list[str]:
        """Names of the measured networks."""
        return self._children("points")

    def layers(self, network: str) -> list[str]:
        """Names of the measured layers of `network`.

        Raises
        ------
        StoreError
            If the run has no such network; the message names near ones.
        """
        self._check_known("network", network, self.networks)
        return self._children(f"points/{network}")

    def dataset(self, network: str, layer: str, *, partial: bool = False) -> xr.Dataset:
        """Load everything measured on one layer, with the samples' coordinates and masks.

        Parameters
        ----------
        network, layer
            As in `networks` and `layers`.
        partial
            Accept an unfinished measurement and return the epochs that are finished for all samples.

        Returns
        -------
        xr.Dataset
            Measured variables with dims (epoch, sample, unit), ``valid`` and, if known, ``foreground``; the
            attributes of the run and of the layer. Thumbnails stay in `samples`.

        Raises
        ------
        StoreError
            If the name is unknown, the files are damaged, the measurement is unfinished and `partial` is not
            set, or no epoch is finished.
        """
        group = self._group(network, layer)
        finished = group["done"].values.all(axis=1)
        if not partial and not finished.all():
            missing = int((~group["done"].values).sum())
            raise StoreError(
                f"{network}/{layer} is unfinished: {missing} of {group['done'].size} blocks are missing; "
                "continue the measurement, or pass partial=True for the finished epochs"
            )
        if not finished.any():
            raise StoreError(f"{network}/{layer} has no finished epoch yet")
        group = group.drop_vars(_BOOKKEEPING).isel(epoch=finished)
        ds = self.samples.drop_vars("thumbnail", errors="ignore").merge(group, combine_attrs="drop")
        ds.attrs = {**self.attrs, **group.attrs}
        schema.validate(ds)
        return ds

    def group_attrs(self, network: str, layer: str) -> dict[str, Attribute]:
        """Return the attributes the layer's group was made with, ``block`` (samples a block) among them."""
        return dict(self._group(network, layer, only=()).attrs)

    def summary(self) -> pd.DataFrame:
        """Return one row per measured layer: network, role, layer, epochs, samples, share of blocks done."""
        rows = []
        for network in self.networks:
            for layer in self.layers(network):
                group = self._group(network, layer, only=("done",))
                rows.append(
                    {
                        "network": network,
                        "role": group.attrs.get("network_role", ""),
                        "layer": layer,
                        "epochs": group.sizes["epoch"],
                        "samples": self.samples.sizes["sample"],
                        "done": float(group["done"].values.mean()),
                    }
                )
        return pd.DataFrame(rows, columns=["network", "role", "layer", "epochs", "samples", "done"])

    @property
    def results(self) -> list[str]:
        """Names of the groups written by `write_result`."""
        pending = [name for name in self._children("") if name != "points"]
        found = []
        while pending:
            name = pending.pop(0)
            children = self._children(name)
            pending += [f"{name}/{child}" for child in children]
            if not children:
                found.append(name)
        return sorted(found, key=_natural)

    def result(self, name: str) -> xr.Dataset:
        """Load the dataset written under `name` by `write_result`.

        Raises
        ------
        StoreError
            If there is none; the message names near ones.
        """
        self._check_known("result", name, self.results)
        return self._read(name)

    def __repr__(self) -> str:
        """Path, sizes and networks on one line."""
        samples, units = self.samples.sizes["sample"], self.samples.sizes["unit"]
        names = ", ".join(self.networks) or "none yet"
        return f"<kdviz.Run {self.path.name}: {samples} samples, {units} units; networks: {names}>"

    # -- writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run against other writers and clear what a killed one left behind; may be nested.

        Every writing method does this by itself. Hold it around a series of writes.

        Raises
        ------
        StoreError
            If another process writes the run (the message names host, process and start), if the run is an
            exported file, or if the folder cannot be written.
        """
        if not self._is_directory:
            raise StoreError(f"{self.path} is an exported file and cannot be written; use the run directory")
        nested = self._lock.is_locked
        with _exclusive(self._lock, self.path):
            if not nested:
                _sweep(self.path)
            yield

    def create_group(
        self,
        network: str,
        layer: str,
        *,
        epochs: Sequence[int],
        attrs: Mapping[str, Attribute],
        block: int,
        variables: Sequence[str] = schema.MEASURED,
    ) -> None:
        """Make the empty arrays of one layer, or do nothing if they exist with the same settings.

        Parameters
        ----------
        network, layer
            Letters, digits and ``_ . + -``; at most 100.
        epochs
            Completed training epochs of the checkpoints, increasing.
        attrs
            From `schema.make_attrs`: role, fingerprints, seed, ``config`` with every further setting.
        block
            Number of samples written at once.
        variables
            Measured variables that every block will hold.

        Raises
        ------
        ValueError
            If a name, `epochs`, `block` or `variables` is not usable.
        SchemaError
            If `attrs` cannot be stored.
        StoreError
            If the layer was already measured with other settings; the message names the first that differs.
        """
        attrs = self._group_settings(network, layer, epochs, attrs, block, variables)
        schema.validate(xr.Dataset(attrs=attrs))
        with self.writing(), _file_errors(f"cannot write {self.path}"):
            if layer in self._children(f"points/{network}"):
                group = self._group(network, layer)
                stored = {**group.attrs, "epochs": group["epoch"].values.tolist()}
                stored["variables"] = sorted(name for name in group.variables if name in schema.MEASURED)
                asked = {**attrs, "epochs": list(epochs), "variables": sorted(variables)}
                if difference := _difference_of_settings(stored, asked):
                    raise StoreError(
                        f"{network}/{layer} in {self.path} was already measured with {difference}; "
                        "use another network name or another run"
                    )
                return
            zarr.open_group(self.path, path=f"points/{network}", mode="a")
            target = self.path / "points" / network / layer
            partial = _beside(target, _PARTIAL)
            self._make_arrays(partial, epochs, attrs, block, variables)
            partial.rename(target)

    def missing(self, network: str, layer: str) -> list[tuple[int, int]]:
        """Return (epoch index, block index) of every block not yet written, epoch by epoch."""
        done = self._group(network, layer, only=("done",))["done"].values
        return [(int(epoch), int(block)) for epoch, block in np.argwhere(~done)]

    def block_samples(self, network: str, layer: str, block_index: int) -> slice:
        """Return the positions in ``samples`` that the block holds."""
        group = self._group(network, layer, only=("done",))
        return self._block_slice(group, block_index)

    def write_block(
        self, network: str, layer: str, epoch_index: int, block_index: int, measured: xr.Dataset
    ) -> None:
        """Write one block, then flag it as done. Writing a block again replaces it.

        Parameters
        ----------
        network, layer
            As given to `create_group`.
        epoch_index, block_index
            One pair of `missing`.
        measured
            What `measure` returns for this one epoch and the samples at `block_samples`: every variable of
            the group. The samples' own variables (masks, labels) are in the run already and left out.

        Raises
        ------
        SchemaError
            If `measured` breaks the contract or lacks a variable.
        ValueError
            If its epoch, samples or units are not those of the block, or it holds a measured variable the
            group does not.
        """
        with self.writing():
            group = self._group(network, layer, only=("done",))
            rows = self._block_slice(group, block_index)
            if not 0 <= epoch_index < group.sizes["epoch"]:
                raise ValueError(f"epoch_index is {epoch_index}, allowed: 0 to {group.sizes['epoch'] - 1}")
            expected = self.samples[["sample", "unit", "valid"]].isel(sample=rows)
            expected = expected.assign_coords(epoch=group["epoch"].values[[epoch_index]])
            arrays = zarr.open_group(self.path, path=f"points/{network}/{layer}", mode="r+")
            names = [name for name in schema.MEASURED if name in arrays]
            _check_block(measured, expected, names)
            with _file_errors(f"cannot write {self.path}"):
                for name in names:
                    values = measured[name].values.astype(VARIABLES[name].dtype)
                    arrays[name][epoch_index : epoch_index + 1, rows] = values  # type: ignore[index]
                arrays["done"][epoch_index, block_index] = True  # type: ignore[index]

    def write_variable(self, network: str, layer: str, variable: xr.DataArray) -> None:
        """Write one further variable of a layer, such as ``weight_distance``, replacing an older one.

        Parameters
        ----------
        network, layer
            As given to `create_group`.
        variable
            Named; dims out of (epoch, sample, unit) with the coordinates of the group.

        Raises
        ------
        SchemaError
            If the variable breaks the contract.
        ValueError
            If it has no name, is a measured variable, or its coordinates are not those of the group.
        """
        if variable.name is None or variable.name in {*schema.MEASURED, *schema.SAMPLES, *_BOOKKEEPING}:
            raise ValueError(f"variable is named {variable.name!r}; give the name of a derived variable")
        name = _checked_name("variable", str(variable.name))
        with self.writing(), _file_errors(f"cannot write {self.path}"):
            group = self._group(network, layer, only=())
            expected = {
                "epoch": group["epoch"],
                "sample": self.samples["sample"],
                "unit": self.samples["unit"],
            }
            for dim in map(str, variable.dims):
                if dim not in expected or not variable.get_index(dim).equals(expected[dim].to_index()):
                    raise ValueError(f"{name} has another {dim!r} than {network}/{layer}")
            ds = variable.to_dataset(name=name)
            schema.validate(ds)
            array = _storable(ds)[name]
            target = self.path / "points" / network / layer / name
            partial = _beside(target, _PARTIAL)
            zarr.create_array(
                partial,
                data=array.values,
                dimension_names=[str(dim) for dim in array.dims],
                attributes=array.attrs,
                zarr_format=3,
            )
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)

    def write_result(self, name: str, ds: xr.Dataset, *, overwrite: bool = False) -> None:
        """Write a whole dataset with samples of its own, such as attribution maps, under a group name.

        Parameters
        ----------
        name
            For example ``attribution/student/features.7``: parts as in `create_group`, the first not
            ``points``.
        ds
            Any valid dataset.
        overwrite
            Replace an older result of this name.

        Raises
        ------
        SchemaError
            If `ds` breaks the contract.
        ValueError
            If `name` is not usable.
        StoreError
            If the result exists and `overwrite` is not set.
        """
        parts = [_checked_name("result", part) for part in name.split("/")]
        if parts[0] == "points":
            raise ValueError(f"result is named {name!r}; the group 'points' is for measured layers")
        schema.validate(ds)
        with self.writing(), _file_errors(f"cannot write {self.path}"):
            target = self.path.joinpath(*parts)
            taken = [known for known in self.results if f"{known}/".startswith(f"{name}/")]
            taken += [known for known in self.results if name.startswith(f"{known}/")]
            if taken and not (overwrite and taken == [name]):
                raise StoreError(f"{self.path} already holds the result {taken[0]!r}")
            partial = _beside(self.path / parts[0], _PARTIAL)
            _storable(ds).to_zarr(partial, mode="w", zarr_format=3, consolidated=False)
            for depth in range(1, len(parts)):
                zarr.open_group(self.path, path="/".join(parts[:depth]), mode="a")
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)

    def export(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the whole run to one netCDF4 file, which appears at `path` only once it is complete.

        Returns
        -------
        Path
            The file; `open_run` reads it like the run directory.

        Raises
        ------
        StoreError
            If the file exists and `overwrite` is not set, or cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise StoreError(f"{path} exists; pass overwrite=True to replace it")
        groups = ["points"]
        groups += [f"points/{network}/{layer}" for network in self.networks for layer in self.layers(network)]
        groups += self.results
        partial = _beside(path, f".{os.getpid()}{_PARTIAL}")
        with _file_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                for index, group in enumerate(groups):
                    ds = _storable(self._read(group))
                    encoding = {name: _netcdf_encoding(array) for name, array in ds.variables.items()}
                    ds.to_netcdf(
                        partial, mode="a" if index else "w", group=group, engine="netcdf4", encoding=encoding
                    )
                with partial.open("rb") as file:
                    os.fsync(file.fileno())
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
        return path

    # -- private

    def _read(self, group: str, only: tuple[str, ...] | None = None) -> xr.Dataset:
        """Load one group as it was before it was written: plain attributes, fixed-length strings."""
        exact: dict[str, Any] = {"decode_times": False, "decode_timedelta": False, "mask_and_scale": False}
        if self._is_directory:
            exact |= {"engine": "zarr", "consolidated": False, "chunks": None}
        else:
            exact |= {"engine": "netcdf4"}
        try:
            with xr.open_dataset(self.path, group=group, **exact) as ds:
                unwanted = [] if only is None else [name for name in ds.data_vars if name not in only]
                loaded = ds.drop_vars(unwanted).load().drop_encoding()
        except Exception as error:  # a damaged file makes the format libraries raise nearly anything
            raise StoreError(f"cannot read {group!r} of {self.path}: {error}") from error
        return _with_plain_values(loaded)

    def _group(self, network: str, layer: str, only: tuple[str, ...] | None = None) -> xr.Dataset:
        """Load a layer's group, or only the named variables of it."""
        self._check_known("layer", layer, self.layers(network))
        return self._read(f"points/{network}/{layer}", only)

    def _children(self, group: str) -> list[str]:
        """Names of the groups directly below `group`, numbers in numeric order."""
        if self._is_directory:
            folder = self.path / group
            found = [node.parent.name for node in folder.glob("*/zarr.json") if _is_group(node)]
        else:
            with netCDF4.Dataset(self.path) as file:
                parent = file[group] if group else file
                found = list(parent.groups)
        return sorted((name for name in found if not name.endswith(_PARTIAL)), key=_natural)

    def _check_known(self, kind: str, name: str, known: list[str]) -> None:
        if name not in known:
            near = difflib.get_close_matches(name, known)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            names = ", ".join(known) or "none"
            raise StoreError(f"{self.path} has no {kind} {name!r}{hint} (there: {names})")

    def _group_settings(
        self,
        network: str,
        layer: str,
        epochs: Sequence[int],
        attrs: Mapping[str, Attribute],
        block: int,
        variables: Sequence[str],
    ) -> dict[str, Attribute]:
        """Check the arguments of `create_group` and return the attributes of the group."""
        _checked_name("network", network)
        _checked_name("layer", layer)
        if network in self.samples.variables:
            raise ValueError(f"network is named {network!r}, which is a variable of the samples")
        if not len(epochs) or any(not isinstance(epoch, (int, np.integer)) for epoch in epochs):
            raise ValueError(f"epochs is {epochs!r}; it needs at least one integer")
        if epochs[0] < 0 or any(after <= before for before, after in itertools.pairwise(epochs)):
            raise ValueError(f"epochs is {list(epochs)}; it must be 0 or more and increase")
        if block < 1:
            raise ValueError(f"block is {block}; it must be 1 or more samples")
        if unknown := sorted(set(variables) - set(schema.MEASURED)):
            raise ValueError(f"variables holds {unknown}; allowed: {', '.join(schema.MEASURED)}")
        for name, value in (("network", network), ("layer", layer)):
            if attrs.get(name, value) != value:
                raise ValueError(f"attrs say {name} {attrs[name]!r}, the call says {value!r}")
        return {**attrs, "network": network, "layer": layer, "block": block}

    def _make_arrays(
        self,
        path: Path,
        epochs: Sequence[int],
        attrs: Mapping[str, Attribute],
        block: int,
        variables: Sequence[str],
    ) -> None:
        """Make a layer's group of full-size arrays that hold nothing but "not measured"."""
        samples = self.samples.sizes["sample"]
        sizes = {"epoch": len(epochs), "sample": samples, "unit": self.samples.sizes["unit"]}
        sizes["quartile"] = QUARTILES
        sizes["block"] = -(-samples // block)
        chunks = {**sizes, "epoch": 1, "sample": min(block, samples)}
        group = zarr.open_group(path, mode="w", zarr_format=3, attributes=_plain(attrs))
        for name, values in (
            ("epoch", np.asarray(epochs, "int64")),
            ("quartile", np.arange(1, QUARTILES + 1)),
        ):
            spec = VARIABLES[name]
            group.create_array(name, data=values, dimension_names=spec.dims, attributes=_plain(spec.attrs))
        for name in variables:
            spec = VARIABLES[name]
            group.create_array(
                name,
                shape=[sizes[dim] for dim in spec.dims],
                chunks=tuple(chunks[dim] for dim in spec.dims),
                dtype=spec.dtype,
                fill_value=spec.missing,
                dimension_names=spec.dims,
                attributes=_plain(spec.attrs),
            )
        group.create_array(
            "done",
            shape=(sizes["epoch"], sizes["block"]),
            chunks=(1, sizes["block"]),
            dtype="bool",
            fill_value=False,
            dimension_names=("epoch", "block"),
            attributes={"long_name": "block is written"},
        )

    def _block_slice(self, group: xr.Dataset, block_index: int) -> slice:
        if not 0 <= block_index < group.sizes["block"]:
            raise ValueError(f"block_index is {block_index}, allowed: 0 to {group.sizes['block'] - 1}")
        start = block_index * group.attrs["block"]
        return slice(start, min(start + group.attrs["block"], self.samples.sizes["sample"]))


def _prepare_samples(samples: xr.Dataset, attrs: Mapping[str, Attribute]) -> xr.Dataset:
    """Check the samples of a run and complete them to what is stored."""
    schema.validate(samples, require=("sample", "unit"))
    if "epoch" in samples.dims:
        raise SchemaError("samples has the dimension 'epoch'; it holds what all epochs share")
    if not samples.sizes["sample"] or not samples.sizes["unit"]:
        raise SchemaError(f"samples is empty: {dict(samples.sizes)}")
    if "valid" not in samples.variables:
        everything = np.ones((samples.sizes["sample"], samples.sizes["unit"]), bool)
        samples = samples.assign(valid=(("sample", "unit"), everything))
    prepared = _storable(samples.assign_attrs(attrs))
    schema.validate(prepared)
    return prepared


def _check_block(measured: xr.Dataset, expected: xr.Dataset, names: list[str]) -> None:
    """Refuse a block that is not exactly what its place in the group asks for."""
    schema.validate(measured, require=names)
    for dim in ("epoch", "sample", "unit"):
        got, want = measured.get_index(dim), expected.get_index(dim)
        if not got.equals(want):
            raise ValueError(f"block has {dim} {_few(got)}, its place in the run has {_few(want)}")
    extra = [
        str(name) for name, array in measured.data_vars.items() if "epoch" in array.dims and name not in names
    ]
    if extra:
        raise ValueError(f"block holds {', '.join(extra)}, the group only {', '.join(names)}")
    if "quartile" in measured.dims and measured.sizes["quartile"] != QUARTILES:
        raise ValueError(f"block has {measured.sizes['quartile']} quartiles, must be {QUARTILES}")
    schema.validate(measured[names].assign_coords(valid=expected["valid"]))


def _few(index: pd.Index) -> str:
    names = [str(name) for name in index[:4]]
    return f"[{', '.join(names)}{', ...' if len(index) > 4 else ''}] ({len(index)})"


def _storable(ds: xr.Dataset) -> xr.Dataset:
    """Return `ds` annotated, in the contract's dtypes, with nothing left of the file it came from."""
    stored = schema.annotate(ds).drop_encoding()
    for name, array in stored.variables.items():
        spec = VARIABLES.get(str(name))
        values = array.values
        if values.dtype.kind in "UT":
            values = values.astype(
                object
            )  # variable-length text; fixed-length text has no Zarr specification
        elif spec and spec.dtype != "str":
            values = values.astype(spec.dtype)
        stored[name] = (array.dims, values, _plain(array.attrs))
    stored.attrs = _plain(stored.attrs)
    return stored


def _with_plain_values(ds: xr.Dataset) -> xr.Dataset:
    """Undo what the two formats do to text and to numbers in attributes."""
    for name, array in ds.variables.items():
        values = array.values
        text = values.dtype.kind in "OT"
        ds[name] = (array.dims, values.astype(object).astype(str) if text else values, _plain(array.attrs))
    ds.attrs = _plain(ds.attrs)
    return ds


def _plain(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in attrs.items()}


def _netcdf_encoding(array: xr.Variable) -> dict[str, Any]:
    if array.dtype.kind == "O":
        return {}
    return {"_FillValue": None, "zlib": array.ndim > 0, "complevel": 4, "shuffle": True}


def _check_version(path: Path, attrs: Mapping[str, Attribute]) -> None:
    if attrs.get("schema") != "kdviz":
        raise SchemaError(f"{path} is not a kdviz run: its attribute 'schema' is {attrs.get('schema')!r}")
    version = attrs.get("schema_version")
    if isinstance(version, int) and version > schema.SCHEMA_VERSION:
        raise SchemaError(
            f"{path} has schema version {version}, this kdviz reads up to {schema.SCHEMA_VERSION}: "
            "update kdviz"
        )
    if version != schema.SCHEMA_VERSION:
        raise SchemaError(f"{path} has schema version {version!r}, this kdviz reads {schema.SCHEMA_VERSION}")


def _difference_of_samples(stored: xr.Dataset, asked: xr.Dataset) -> str:
    """Say what first differs between two sample groups, or nothing."""
    asked = _with_plain_values(asked.copy())
    for name in sorted(map(str, {*stored.variables, *asked.variables})):
        if name not in stored.variables or name not in asked.variables:
            return f"variable {name!r} is in one of them only"
        if not stored.variables[name].equals(asked.variables[name]):
            return f"variable {name!r} differs"
    return _difference_of_settings(stored.attrs, asked.attrs)


def _difference_of_settings(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """Say which setting first differs, and how, or nothing."""
    old, new = _settings(stored), _settings(asked)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name} {old.get(name, 'not set')}, now {new.get(name, 'not set')}"
    return ""


def _settings(attrs: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings as JSON, so that NaN equals itself and 1 is not 1.0; ``config`` is taken apart."""
    settings = {name: value for name, value in attrs.items() if name not in _CIRCUMSTANCES}
    config = json.loads(settings.pop("config", "{}"))
    settings |= {f"config.{name}": value for name, value in config.items()}
    plain = _plain({**settings})
    return {name: json.dumps(value, sort_keys=True) for name, value in plain.items()}


def _checked_name(kind: str, name: str) -> str:
    if not _NAME.fullmatch(name) or name.endswith(_PARTIAL) or name == "zarr.json":
        raise ValueError(
            f"{kind} is named {name!r}; allowed: up to 100 letters, digits and _ . + -, "
            f"beginning with a letter, a digit or one _, not ending in {_PARTIAL}"
        )
    return name


def _natural(name: str) -> list[str | int]:
    """Sort key that puts ``features.10`` after ``features.9``."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _is_group(node: Path) -> bool:
    try:
        return json.loads(node.read_bytes())["node_type"] == "group"
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{node} is damaged: {error}") from error


def _sweep(path: Path) -> None:
    """Remove what a killed writer left under temporary names."""
    for leftover in list(path.rglob(f"*{_PARTIAL}")):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)  # it may have lain in a folder just removed


@contextmanager
def _file_errors(action: str) -> Iterator[None]:
    """Turn the system's errors into one `StoreError` that says what was tried."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{action}: {error}") from error


@contextmanager
def _exclusive(lock: FileLock, path: Path) -> Iterator[None]:
    """Hold the lock, with a note beside it that tells others who does."""
    note = _beside(path, ".lock.json")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{path} is being written by {_holder(note)}; wait for it or stop it") from None
    except OSError as error:
        raise StoreError(f"cannot lock {path} for writing: {error}") from error
    try:
        if lock.lock_counter == 1:
            # The system frees the lock of a dead process; its note stays and is overwritten here.
            started = datetime.now(UTC).isoformat(timespec="seconds")
            with _file_errors(f"cannot write {note}"):
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
