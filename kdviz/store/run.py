"""The public class `Run` and the two functions that make it."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd
import xarray as xr
import zarr

from kdviz import schema
from kdviz.arguments import whole_number
from kdviz.errors import StoreError
from kdviz.files import beside, exclusive, file_errors, lock_beside
from kdviz.schema import VARIABLES, Attribute
from kdviz.store import layout
from kdviz.store.contents import Contents, dump_contents, join_contents
from kdviz.store.damage import every_chunk_written, inspect_layer, read_array, read_flags
from kdviz.store.files import (
    storable,
    write_zarr,
)
from kdviz.store.reading import StoredRun
from kdviz.store.replacing import PARTIAL, replace_folder, sweep
from kdviz.store.sealing import SealedStore


def create_run(
    path: str | os.PathLike[str],
    *,
    samples: xr.Dataset,
    attrs: Mapping[str, Attribute] | None = None,
    contents: Contents | None = None,
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
    contents
        What the run is to hold, as for `Run.expect`, where that is known beforehand.

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
                zarr.open_group(SealedStore(partial), mode="w", zarr_format=3)
                write_zarr(prepared.assign_attrs(contents=dump_contents(contents or {})), partial, "points")
                partial.rename(path)
    run = open_run(path)
    if difference := layout.difference_of_samples(run.samples, prepared):
        raise StoreError(f"{path} already holds a run with other samples: {difference}; choose another path")
    if contents:
        run.expect(contents)
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


def as_run(store: "Store") -> "Run":
    """Take a run as it is, or open the one at a path, as `open_run`."""
    return store if isinstance(store, Run) else open_run(store)


class Run(StoredRun):
    """One run on disk; made by `create_run` and `open_run`.

    Reading opens the files anew each time and loads what is asked for, so that a run can be read while it is
    being measured. Writing needs a run directory and locks it against other processes.
    """

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

    def expect(self, contents: Contents) -> None:
        """List what the run is to hold before it is there, so that what is missing is known to be.

        Parameters
        ----------
        contents
            As `contents`; added to what is listed already.

        Raises
        ------
        StoreError
            As `writing`.
        """
        listed = self.contents
        joined = join_contents(listed, contents)
        if joined != listed or "contents" not in self._groups("", 1)["points"]:
            with self.writing(), file_errors(f"cannot write {self.path}"):
                node = zarr.open_group(SealedStore(self.path), path="points", mode="r+")
                node.attrs["contents"] = dump_contents(joined)

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
            self.expect({f"points/{network}/{layer}": {}})
            zarr.open_group(SealedStore(self.path), path=f"points/{network}", mode="a")
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

    def mend(self, network: str, layer: str) -> list[str]:
        """Take the flags of damaged blocks, and remove damaged variables that are not measured.

        What is left out is then `missing`, or said by `gaps`; what a layer was made with is not mended, but
        `create_group` makes such a layer anew.

        Returns
        -------
        list of str
            What is damaged, none of a layer that is not there.
        """
        if (network, layer) not in self.catalogue():
            return []
        with self.writing(), file_errors(f"cannot write {self.path}"):
            folder = self._folder(network, layer)
            done, damage, lost = inspect_layer(folder)
            if damage and not lost:
                zarr.open_array(SealedStore(folder / "done"), mode="r+")[...] = done
                for name in {one.name for one in damage} - {*schema.MEASURED}:
                    shutil.rmtree(folder / name)
            return [one.what for one in damage]

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
            arrays, done = zarr.open_group(SealedStore(folder), mode="r+"), read_flags(folder)
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
                    done[epoch_index, block_index] = False
                    arrays["done"][epoch_index] = done[epoch_index]  # type: ignore[index]
                for name in names:
                    old = folder / name / "c" / str(epoch_index) / str(block_index)
                    shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)  # it may be damaged
                    values = measured[name].values.astype(VARIABLES[name].dtype)
                    arrays[name][epoch_index : epoch_index + 1, rows] = values  # type: ignore[index]
                done[epoch_index, block_index] = True
                arrays["done"][epoch_index] = done[epoch_index]  # type: ignore[index]

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
            older = None
            with suppress(StoreError):  # one that is damaged is written anew
                older = self.variable(network, layer, name)
            variable = layout.fill_epochs(variable, older, expected["epoch"])
            for dim in map(str, variable.dims):
                if dim not in expected or not variable.get_index(dim).equals(expected[dim]):
                    raise ValueError(f"{name} has another {dim!r} than {network}/{layer}")
            ds = variable.to_dataset(name=name)
            schema.validate(ds)
            self.expect({f"points/{network}/{layer}": {"variables": [name]}})
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
            self.expect({name: {}})
            write_zarr(storable(ds), self._pending)
            replace_folder(self._pending, self.path.joinpath(*parts))
            if len(parts) > 1:  # last, so that every group without others in it is a result
                zarr.open_group(SealedStore(self.path), path="/".join(parts[:-1]), mode="a")

    def _find_epochs(
        self, asked: Mapping[str, Attribute], epochs: Sequence[int], variables: Sequence[str]
    ) -> list[int]:
        """Return the epochs of a layer as asked for; others are refused once a block is written."""
        network, layer = str(asked["network"]), str(asked["layer"])
        stored = self.catalogue().get((network, layer))
        if stored is None:
            return []
        folder = self._folder(network, layer)
        done, _, lost = inspect_layer(folder)
        if lost:
            return []
        there = read_array(folder, "epoch").tolist()
        ours, theirs = (sorted(names) for names in (_measured_in(folder), variables))
        old, new = {**stored, "variables": ours}, {**asked, "variables": theirs}
        difference = layout.difference_of_groups(old, there, new, epochs)
        if difference and done.any():
            raise StoreError(
                f"{network}/{layer} in {self.path} was already measured with {difference}; "
                "use another network name or another run"
            )
        return [] if difference else there


def _measured_in(folder: Path) -> list[str]:
    return [name for name in schema.MEASURED if (folder / name).is_dir()]


Store = str | os.PathLike[str] | Run
