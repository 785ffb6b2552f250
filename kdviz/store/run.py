"""The public class `Run` and the two functions that make it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
import zarr

from kdviz import schema
from kdviz.arguments import suggest, whole_number
from kdviz.errors import SchemaError, StoreError, UnfinishedError
from kdviz.files import beside, exclusive, file_errors, is_changed, lock_beside
from kdviz.schema import VARIABLES, Attribute
from kdviz.store import layout
from kdviz.store.damage import every_chunk_written, read_array
from kdviz.store.files import (
    list_groups,
    plain,
    read_group,
    storable,
    write_netcdf,
    write_zarr,
)
from kdviz.store.migrations import migrate
from kdviz.store.replacing import PARTIAL, find_folder, replace_folder, sweep


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
        ``token``, ``x``, ``y``, ``z``, ``valid``, ``foreground``, ``void``, ``thumbnail``. Without ``valid``
        every unit is valid.
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
    prepared = layout.prepare_samples(samples, attrs or {})
    if path.is_file():
        raise StoreError(f"cannot make a run at {path}: it is a file")
    with file_errors(f"cannot make a run at {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(lock_beside(path), path):
            if not path.exists():
                partial = beside(path, PARTIAL)
                zarr.open_group(partial, mode="w", zarr_format=3)
                write_zarr(prepared, partial, "points")
                partial.rename(path)
    run = open_run(path)
    if difference := layout.difference_of_samples(run.samples, prepared):
        raise StoreError(f"{path} already holds a run with other samples: {difference}; choose another path")
    return run


def open_run(path: str | os.PathLike[str]) -> "Run":
    """Open the run at `path`: a run directory, an exported netCDF file, or the folder of a study with one.

    Raises
    ------
    StoreError
        If there is no run at `path`, or it is damaged.
    SchemaError
        If it was written with a schema version this kdviz does not know.
    """
    inside = Path(path) / "run.zarr"
    return Run(inside if inside.is_dir() else path)


class Run:
    """One run on disk; made by `create_run` and `open_run`.

    Reading opens the files anew each time and loads what is asked for, so that a run can be read while it is
    being measured. Writing needs a run directory and locks it against other processes.
    """

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
        self.attrs: dict[str, Attribute] = dict(self.samples.attrs)
        if self.attrs.get("schema") != "kdviz":
            kind = self.attrs.get("schema")
            raise SchemaError(f"{self.path} is not a kdviz run: its attribute 'schema' is {kind!r}")
        schema.validate(self.samples, require=("sample", "unit", "valid"))

    # -- reading

    @property
    def networks(self) -> list[str]:
        """Names of the measured networks."""
        return [name.removeprefix("points/") for name in self._groups("points", 1)]

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
        >>> tree = kdviz.open_run(sources.find_data("runs/finetuning.nc")).to_datatree()
        >>> list(tree["points"].children)
        ['finetuned-s0', 'scratch-s0']
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

    # -- writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the run against other writers and clear what a killed one left; may be nested.

        Every writing method does this by itself. Hold it around a series of writes.

        Raises
        ------
        StoreError
            If another process writes the run (the message names host, process and start), if the run is an
            exported file, or if the folder cannot be written.
        """
        self._check_directory()
        nested = self._lock.is_locked
        with exclusive(self._lock, self.path):
            if not nested:
                sweep(self.path)
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
        """Make the empty arrays of one layer, or add epochs to those that exist with the same settings.

        Arrays of other settings are replaced as long as no block of them is written. What was written of a
        layer stays as it is, at its epochs; a variable of `write_variable` by epoch is NaN at new ones where
        the contract allows that, and left out otherwise, to be written again.

        Parameters
        ----------
        network, layer
            Letters, digits and ``_ . + -``; at most 100.
        epochs
            Completed training epochs of the checkpoints, increasing; in any relation to those that are there.
        attrs
            From `schema.make_attrs`: role, fingerprints, seed, ``config`` with every further setting. Of the
            weights, one fingerprint an epoch, with spaces between.
        block
            Number of samples written at once.
        variables
            Measured variables that every block will hold.

        Raises
        ------
        ValueError, SchemaError
            If a name, `epochs`, `block`, `variables` or `attrs` is not usable.
        StoreError
            If the layer was already measured with other settings, or other weights at one of `epochs`; the
            message names the first that differs.
        """
        asked = layout.group_attrs(self.samples, network, layer, epochs, attrs, block, variables)
        with self.writing(), file_errors(f"cannot write {self.path}"):
            there = self._find_epochs(asked, epochs, variables)
            if there and {*epochs} <= {*there}:
                return
            zarr.open_group(self.path, path=f"points/{network}", mode="a")
            if there:
                ds, folder = self._group(network, layer), self._folder(network, layer)
                layout.extend_group(folder, self._pending, self.samples, ds, asked, epochs, block, variables)
            else:
                layout.make_arrays(self._pending, self.samples, epochs, asked, block, variables)
            replace_folder(self._pending, self.path / "points" / network / layer)

    def find_epochs(
        self,
        network: str,
        layer: str,
        *,
        epochs: Sequence[int],
        attrs: Mapping[str, Attribute],
        block: int,
        variables: Sequence[str] = schema.MEASURED,
    ) -> list[int]:
        """Return the epochs for which a layer has arrays of these settings, those of `missing`; or none.

        Arguments and errors are those of `create_group`.
        """
        asked = layout.group_attrs(self.samples, network, layer, epochs, attrs, block, variables)
        return self._find_epochs(asked, epochs, variables)

    def missing(self, network: str, layer: str) -> list[tuple[int, int]]:
        """Return (epoch index, block index) of every block not yet written, epoch by epoch."""
        self._check_directory()
        done = self._group(network, layer, only=("done",))["done"].values
        return [(int(epoch), int(block)) for epoch, block in np.argwhere(~done)]

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
            What `measure` returns for this one epoch and the block's samples: every variable of the group.
            The samples' own variables (masks, labels) are in the run already and left out.

        Raises
        ------
        SchemaError
            If `measured` breaks the contract or lacks a variable.
        ValueError
            If its epoch, samples, units or masks are not those of the block, or it holds a measured
            variable the group does not.
        """
        with self.writing():
            folder = self._folder(network, layer)
            arrays, done = zarr.open_group(folder, mode="r+"), read_array(folder, "done")
            whole_number("epoch_index", epoch_index, 0, len(done) - 1)
            whole_number("block_index", block_index, 0, done.shape[1] - 1)
            size, names = int(arrays.attrs["block"]), _measured_in(folder)  # type: ignore[arg-type]
            first = block_index * size
            rows = slice(first, min(first + size, self.samples.sizes["sample"]))
            masks = [name for name in ("valid", "foreground", "void") if name in self.samples]
            expected = self.samples.reset_coords()[masks].isel(sample=rows)
            expected = expected.assign_coords(epoch=read_array(folder, "epoch")[[epoch_index]])
            layout.check_block(measured, expected, names)
            with file_errors(f"cannot write {self.path}"), every_chunk_written():
                if done[epoch_index, block_index]:  # half replaced is not done
                    arrays["done"][epoch_index, block_index] = False  # type: ignore[index]
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
            Named; dims out of (epoch, sample, unit) with the coordinates of the group. What may be unknown by
            the contract, such as ``accuracy``, may have some of the epochs only: the others stay as they are.

        Raises
        ------
        SchemaError
            If the variable breaks the contract.
        ValueError
            If it has no name, is a measured variable, or its coordinates are not those of the group.
        """
        if variable.name is None or variable.name in {*schema.MEASURED, *schema.SAMPLES, "done"}:
            raise ValueError(f"variable is named {variable.name!r}; name it as a derived variable")
        name = layout.checked_name("variable", str(variable.name))
        with self.writing(), file_errors(f"cannot write {self.path}"):
            expected = {dim: self.samples.get_index(dim) for dim in ("sample", "unit")}
            expected["epoch"] = pd.Index(read_array(self._folder(network, layer), "epoch"))
            older = self._group(network, layer, only=(name, "done")).get(name)
            variable = layout.fill_epochs(variable, older, expected["epoch"])
            for dim in map(str, variable.dims):
                if dim not in expected or not variable.get_index(dim).equals(expected[dim]):
                    raise ValueError(f"{name} has another {dim!r} than {network}/{layer}")
            ds = variable.to_dataset(name=name)
            schema.validate(ds)
            layout.write_array(self._pending, storable(ds)[name])
            replace_folder(self._pending, self.path / "points" / network / layer / name)

    def write_result(self, name: str, ds: xr.Dataset, *, overwrite: bool = False) -> None:
        """Write a whole dataset with samples of its own, such as attribution maps, under a group name.

        Parameters
        ----------
        name
            For example ``attribution/student``, where the app finds the maps of that network: parts as in
            `create_group`, the first not ``points``.
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
        parts = [layout.checked_name("result", part) for part in name.split("/")]
        if parts[0] == "points":
            raise ValueError(f"result is named {name!r}; the group 'points' is for measured layers")
        schema.validate(ds)
        with self.writing(), file_errors(f"cannot write {self.path}"):
            taken = [known for known in self.results if f"{known}/".startswith(f"{name}/")]
            taken += [known for known in self.results if name.startswith(f"{known}/")]
            if taken and not (overwrite and taken == [name]):
                raise StoreError(f"{self.path} already holds the result {taken[0]!r}")
            write_zarr(storable(ds), self._pending)
            replace_folder(self._pending, self.path.joinpath(*parts))
            if len(parts) > 1:  # last, so that every group without others in it is a result
                zarr.open_group(self.path, path="/".join(parts[:-1]), mode="a")

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

        def contents() -> Iterator[tuple[str, xr.Dataset]]:
            for group in groups:
                ds = read_group(self.path, group).isel(sample=np.isin(known, wanted), missing_dims="ignore")
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

    def _check_known(self, kind: str, name: str, known: list[str]) -> None:
        if name not in known:
            raise StoreError(f"{self.path} has no {kind} {name!r}; {suggest(name, known)}")

    def _folder(self, network: str, layer: str) -> Path:
        """Return where a layer of a run directory lies."""
        self._check_directory()
        self._check_known("layer", layer, self.layers(network))
        return find_folder(self.path / "points" / network / layer)

    def _find_epochs(
        self, asked: Mapping[str, Attribute], epochs: Sequence[int], variables: Sequence[str]
    ) -> list[int]:
        """Return the epochs of a layer as asked for; others are refused once a block is written."""
        network, layer = str(asked["network"]), str(asked["layer"])
        stored = self.catalogue().get((network, layer))
        if stored is None:
            return []
        folder = self._folder(network, layer)
        there = read_array(folder, "epoch").tolist()
        ours, theirs = (sorted(names) for names in (_measured_in(folder), variables))
        old, new = {**stored, "variables": ours}, {**asked, "variables": theirs}
        difference = layout.difference_of_groups(old, there, new, epochs)
        if difference and read_array(folder, "done").any():
            raise StoreError(
                f"{network}/{layer} in {self.path} was already measured with {difference}; "
                "use another network name or another run"
            )
        return [] if difference else there

    def _check_directory(self) -> None:
        if not self._is_directory:
            raise StoreError(f"{self.path} is an exported file and cannot be written; use the run directory")


def _measured_in(folder: Path) -> list[str]:
    return [name for name in schema.MEASURED if (folder / name).is_dir()]
