"""Reading a run, and writing it to one file."""

import json
import os
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from kdviz import schema
from kdviz.arguments import suggest
from kdviz.errors import SchemaError, StoreError, UnfinishedError
from kdviz.files import file_errors, is_changed, lock_beside
from kdviz.schema import Attribute
from kdviz.store import layout
from kdviz.store.contents import describe_gaps, dump_contents
from kdviz.store.damage import inspect_layer, list_made
from kdviz.store.files import list_groups, plain, read_group, write_netcdf
from kdviz.store.migrations import migrate
from kdviz.store.replacing import PARTIAL, find_folder, list_folders, read_unchanged
from kdviz.store.sealing import NODE, read_sealed


class StoredRun:
    """What :class:`Run` reads: files are opened anew each time, so that a run can be read while it grows."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._is_directory = self.path.is_dir()
        if not self._is_directory and not self.path.is_file():
            raise StoreError(f"there is no run at {self.path}")
        if self._is_directory and not (self.path / "points" / "zarr.json").is_file():
            begun = "; kdviz measure makes it" if (self.path / "study.yaml").is_file() else ""
            raise StoreError(f"{self.path} is a folder but not a run: it has no group 'points'{begun}")
        with file_errors(f"cannot read {self.path}"):
            if not self._is_directory and is_changed(self.path):
                raise StoreError(
                    f"{self.path} is damaged: its content is not what was exported; export it anew"
                )
        groups = partial(list_groups, self.path)  # an exported file never changes, and opening it takes long
        self._groups = groups if self._is_directory else cache(groups)
        self._lock = lock_beside(self.path)
        self._pending = self.path / f"new{PARTIAL}"  # where folders grow before they move to their place
        self.samples = read_group(self.path, "points")
        self.samples.attrs.pop("contents", None)
        names = self.samples.attrs.pop("layer_names", "{}")
        told = json.loads(names).items()  # by `describe`; of one module older versions kept its name alone
        self.layer_names = {name: (one,) if isinstance(one, str) else tuple(one) for name, one in told}
        self.attrs: dict[str, Attribute] = dict(self.samples.attrs)
        if self.attrs.get("schema") != "kdviz":
            kind = self.attrs.get("schema")
            raise SchemaError(f"{self.path} is not a kdviz run: its attribute 'schema' is {kind!r}")
        schema.validate(self.samples, require=("sample", "unit", "valid"))

    @property
    def name(self) -> str:
        """What to call the run: its file or folder without suffix, or the folder of its study."""
        path = self.path.resolve()
        own = path.name.removesuffix(".zarr").removesuffix(".nc")
        return path.parent.name if (path.parent / "study.yaml").is_file() else own

    @property
    def networks(self) -> list[str]:
        """Names of the measured networks."""
        return [name.removeprefix("points/") for name in self._groups("points", 1)]

    @property
    def contents(self) -> dict[str, dict[str, Any]]:
        """What the run is to hold, by group, as :mod:`kdviz.store.contents` lists it; some may be missing."""
        stored = self._groups("", 1)["points"].get("contents")
        if stored is not None:
            return json.loads(stored)
        layers = [f"points/{network}/{layer}" for network, layer in self.catalogue()]
        return {group: {} for group in (*layers, *self.results)}

    def gaps(self) -> str:
        """Say what the run lacks of its `contents`, and how to go on; nothing if it is whole.

        Raises
        ------
        StoreError
            If the run is damaged.
        """
        return describe_gaps(
            {group: self.lacks(group, about) for group, about in self.contents.items()}, self.path
        )

    def lacks(self, group: str, about: Mapping[str, Any] | None = None) -> str:
        """Say what of one group of `contents` is missing: nothing, ``"all"`` or some of it."""
        if not group.startswith("points/"):
            return "" if group in self.results else "all"
        _, network, layer = group.split("/")
        if network not in self.networks or layer not in self.layers(network):
            return "all"
        wanted = (about or {}).get("variables", ())
        found = self._group(network, layer, only=("done", *wanted))
        if blocks := int((~found["done"].values).sum()):
            return f"{blocks} of {found['done'].size} blocks to do"
        made, there = self._list_arrays(network, layer) if self._is_directory else ([], found)
        return ", ".join(name for name in (*made, *wanted) if name not in there)

    def is_whole(self, group: str, about: Mapping[str, Any] | None = None) -> bool:
        """Whether nothing of a group of `contents` is missing or damaged; all that is there is read."""
        try:
            if not group.startswith("points/"):
                return not self.lacks(group, about) and bool(self.result(group))
            folder = find_folder(self.path / group)
            read_sealed((folder / NODE).read_bytes(), folder / NODE)
            done, damage, _ = inspect_layer(folder)
            gone = set((about or {}).get("variables", ())) - set(list_folders(folder))
            return bool(done.all()) and not damage and not gone
        except (StoreError, FileNotFoundError):
            return False

    def layers(self, network: str) -> list[str]:
        """Names of the measured layers of `network`.

        Raises
        ------
        StoreError
            If the run has no such network; the message names near ones.
        """
        self._check_known("network", network, self.networks)
        return [name.split("/")[-1] for name in self._groups(f"points/{network}", 1)]

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
            raise UnfinishedError(f"{network}/{layer} has no finished epoch yet")
        group = group.drop_vars("done").isel(epoch=finished)
        try:
            ds = self.samples.drop_vars("thumbnail", errors="ignore").merge(group, combine_attrs="override")
        except ValueError as error:
            raise StoreError(f"{network}/{layer} of {self.path} is damaged: {error}") from error
        ds.attrs = plain({**self.attrs, **group.attrs})
        schema.validate(ds)
        return ds

    def epochs(self, network: str, layer: str) -> list[int]:
        """Return the epochs of a layer's arrays, measured or not yet; an unknown name is a `StoreError`."""
        return self._group(network, layer, only=("done",))["epoch"].values.tolist()

    def catalogue(self) -> dict[tuple[str, str], dict[str, Attribute]]:
        """Return the attributes each layer's group was made with, by (network, layer), in one reading.

        ``block``, the samples of a block, is among them.
        """
        layers = {name: attrs for name, attrs in self._groups("points", 2).items() if name.count("/") == 2}
        return {
            (name.split("/")[1], name.split("/")[2]): migrate(xr.Dataset(attrs=attrs), self.path).attrs
            for name, attrs in layers.items()
        }

    def summary(self) -> pd.DataFrame:
        """Return one row per measured layer: network, role, layer, epochs, samples, share of blocks done.

        ``no_gain`` is the share of units without any gain, as max pooling leaves them; of what is done.
        """
        rows, units = [], self.samples["valid"].values.sum(1)
        for network in self.networks:
            for layer in self.layers(network):
                group = self._group(network, layer, only=("done", "zero_gain"))
                idle = group["zero_gain"].values if "zero_gain" in group else np.full(units.shape, -1)
                shares = (idle / units)[idle >= 0]
                done, samples = float(group["done"].values.mean()), self.samples.sizes["sample"]
                no_gain = float(shares.mean()) if shares.size else np.nan
                role = group.attrs.get("network_role", "")
                rows.append((network, role, layer, group.sizes["epoch"], samples, done, no_gain))
        columns = ["network", "role", "layer", "epochs", "samples", "done", "no_gain"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def results(self) -> list[str]:
        """Names of the groups written by `write_result`."""
        tops = [name for name in self._groups("", 1) if name != "points"]
        names = [name for top in tops for name in (top, *self._groups(top))]
        ends = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
        # whoever deletes the last result of a group by hand leaves the group
        return [
            name
            for name in ends
            if not self._is_directory or any(find_folder(self.path / name).glob("*/zarr.json"))
        ]

    def result(self, name: str) -> xr.Dataset:
        """Load the dataset written under `name` by `write_result`.

        Raises
        ------
        StoreError
            If there is none; the message names near ones.
        """
        self._check_known("result", name, self.results)
        return read_group(self.path, name)

    def find_result(self, name: str, identity: str) -> xr.Dataset | None:
        """Load the result `name` if its attribute ``identity`` is this; None if not, or if it is damaged."""
        with suppress(StoreError):
            ds = self.result(name)
            return ds if ds.attrs.get("identity") == identity else None
        return None

    def to_datatree(self, *, partial: bool = False) -> xr.DataTree:
        """Load the whole run as one tree, laid out as the run is: for xarray's own tools.

        Parameters
        ----------
        partial
            As in `dataset`.

        Returns
        -------
        xr.DataTree
            ``/points`` holds `samples`, ``/points/<network>/<layer>`` what `dataset` returns, every further
            group what `result` returns, under its own name.

        Raises
        ------
        StoreError
            As from `dataset`.

        Examples
        --------
        >>> import kdviz
        >>> from kdviz import sources
        >>> tree = kdviz.open_run(sources.find_data("runs/layers.nc")).to_datatree()
        >>> list(tree["points"].children)
        ['baseline-s0', 'student-kl-s0', 'teacher']
        """
        nodes = {"points": self.samples}
        for network in self.networks:
            for layer in self.layers(network):
                nodes[f"points/{network}/{layer}"] = self.dataset(network, layer, partial=partial)
        return xr.DataTree.from_dict(nodes | {name: self.result(name) for name in self.results})

    def __repr__(self) -> str:
        """Path, sizes and networks on one line."""
        samples, units = self.samples.sizes["sample"], self.samples.sizes["unit"]
        names = ", ".join(self.networks) or "none yet"
        return f"<kdviz.Run {self.path.name}: {samples} samples, {units} units; networks: {names}>"

    def missing(self, network: str, layer: str) -> list[tuple[int, int]]:
        """Return (epoch index, block index) of every block not written, or damaged, epoch by epoch.

        Every chunk of the layer is read.
        """
        done, _, _ = inspect_layer(self._folder(network, layer))
        return [(int(epoch), int(block)) for epoch, block in np.argwhere(~done)]

    def variable(self, network: str, layer: str, name: str) -> xr.DataArray | None:
        """Load one stored variable of a layer alone, measured or not yet; None if there is none."""
        return self._group(network, layer, only=("done", name)).get(name)

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        networks: Sequence[str] | None = None,
        samples: Sequence[str] | None = None,
        compact: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write the run to one netCDF4 file, which appears at `path` only once it is complete.

        Parameters
        ----------
        path
            File to write.
        networks, samples
            Names to keep; everything by default. A result named after a network,
            ``attribution/<network>/...``, is kept with it, cut to the samples kept, and left out if
            it has none of them; other results are kept whole, and left out where a selection is made.
        compact
            Leave out entropies and noise scales, which :func:`kdviz.derive_entropy` gives back, and round
            ``gain_error`` to 14 significant bits, at most 0.006 % of it.
        overwrite
            Replace an existing file.

        Returns
        -------
        Path
            The file; `open_run` reads it like the run directory.

        Raises
        ------
        ValueError
            If there is no sample to keep.
        StoreError
            If a network or a sample to keep is unknown, the file exists and `overwrite` is not set, or it
            cannot be written.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise StoreError(f"{path} exists; pass overwrite=True (--overwrite) to replace it")
        for network in networks or ():
            self._check_known("network", network, self.networks)
        known = self.samples["sample"].values.tolist()
        wanted = known if samples is None else [*samples]
        for sample in samples or ():
            self._check_known("sample", sample, known)
        if not wanted:
            raise ValueError("samples is empty; name at least one")
        kept = self.networks if networks is None else list(networks)
        groups = ["points", *(f"points/{one}/{layer}" for one in kept for layer in self.layers(one))]
        results = self.results
        if networks is not None or samples is not None:
            results = [name for name in results if "/" in name and name.split("/")[1] in kept]

        listed = self.contents
        if networks is not None or samples is not None:  # of results, those that have a sample of these
            listed = {name: listed[name] for name in listed if name.startswith("points/")}
        if networks is not None:
            listed = {name: listed[name] for name in listed if name.split("/")[1] in kept}

        def contents() -> Iterator[tuple[str, xr.Dataset]]:
            for group in groups:
                ds = read_group(self.path, group).isel(sample=np.isin(known, wanted), missing_dims="ignore")
                if group == "points":
                    ds.attrs["contents"] = dump_contents(listed)
                yield group, layout.make_compact(ds) if compact else ds
            for name in results:
                ds = read_group(self.path, name)
                if samples is not None and "sample" in ds.dims:
                    ds = ds.isel(sample=ds["sample"].isin(wanted).values)
                if ds.sizes.get("sample", 1):
                    yield name, ds

        with file_errors(f"cannot write {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_netcdf(path, contents())
        return path

    # -- private

    def _group(self, network: str, layer: str, only: tuple[str, ...] | None = None) -> xr.Dataset:
        """Load a layer's group, or only the named variables of it."""
        self._check_known("layer", layer, self.layers(network))
        group = read_group(self.path, f"points/{network}/{layer}", only)
        if "done" not in group or group["done"].dims != ("epoch", "block"):
            raise StoreError(f"{network}/{layer} of {self.path} is damaged: it has no flags 'done'")
        return group

    def _list_arrays(self, network: str, layer: str) -> tuple[list[str], Container[str]]:
        """Name the arrays that a layer of a run directory was made with, and those that are there."""

        def look() -> tuple[list[str], Container[str]]:
            folder = self._folder(network, layer)
            return list_made(folder), list_folders(folder)

        return read_unchanged(self.path / "points" / network / layer, look)

    def _check_known(self, kind: str, name: str, known: list[str]) -> None:
        if name not in known:
            raise StoreError(f"{self.path} has no {kind} {name!r}; {suggest(name, known)}")

    def _folder(self, network: str, layer: str) -> Path:
        """Return where a layer of a run directory lies."""
        self._check_directory()
        self._check_known("layer", layer, self.layers(network))
        return find_folder(self.path / "points" / network / layer)

    def _check_directory(self) -> None:
        if not self._is_directory:
            raise StoreError(f"{self.path} is an exported file and cannot be written; use the run directory")
