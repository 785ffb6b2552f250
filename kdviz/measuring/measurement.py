"""One measurement as a value: independent tasks that any process can do, and what is made of their results.

Symbols: ``B`` samples, ``U`` units.
"""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import nn

from kdviz import schema
from kdviz.errors import KdvizWarning, StoreError
from kdviz.measuring.blocks import Arrays, measure_block, measure_noise_unit
from kdviz.measuring.pictures import check_pictures, draw_inputs
from kdviz.measuring.settings import BLOCK, Settings
from kdviz.measuring.trial import try_network
from kdviz.networks.checkpoints import Checkpoint, load_weights, read_checkpoint
from kdviz.networks.features import FeatureReader, frozen, resolve_layers, same_random_state
from kdviz.networks.hashing import fingerprint, fingerprint_tensors
from kdviz.networks.inputs import Inputs
from kdviz.networks.preparing import device_of, prepare_network
from kdviz.store import Run, create_run, open_run

Store = str | os.PathLike[str] | Run


class Task(NamedTuple):
    """One block of samples at one epoch, and how many of them share a pass."""

    epoch: int
    block: int
    micro_batch: int


@dataclass(frozen=True)
class Block:
    """What one task gives: for every layer the measured variables, without the epoch axis.

    Attributes
    ----------
    task
        Which.
    layers
        ``{layer: {variable: array}}``, by the names of :mod:`kdviz.schema`, samples first.
    noise_unit
        Size of one unit of noise at this epoch, where it is relative.
    device
        Where it was computed.
    """

    task: Task
    layers: dict[str, Arrays]
    noise_unit: float | None
    device: str


@dataclass(frozen=True)
class Measurement:
    """Everything that one measurement is; it can be pickled, so that other processes do its tasks.

    Attributes
    ----------
    make_network
        Builds the network; called once in every process that does a task, and not at all where none is left.
        A function that can be imported, if the measurement is to be pickled.
    checkpoints
        ``{epoch: path or state dict}``; None for weights as they are made.
    inputs
        From :func:`kdviz.networks.prepare_inputs`.
    layers
        One name, or a tuple of several, which share forward passes.
    settings
        From :meth:`Settings.for_units`.
    network, role, details
        Free name and role of the network, and its further attributes, as in
        :func:`kdviz.measure_checkpoints`.
    device
        Where to compute; by default where the network is.

    Examples
    --------
    >>> from kdviz import measuring, networks, testing, units
    >>> grid = units.grid(4)
    >>> measurement = measuring.Measurement(
    ...     testing.small_cnn, {0: None}, networks.prepare_inputs(testing.random_images(20), grid),
    ...     layers="fc1", settings=measuring.Settings.for_units(grid, probes=4, draws=2))
    >>> blocks = [measurement.do(task) for task in reversed(measurement.tasks())]  # anywhere, in any order
    >>> dict(measurement.collect(blocks).gain.sizes)
    {'epoch': 1, 'sample': 20, 'unit': 16}
    """

    make_network: Callable[[], nn.Module]
    checkpoints: Mapping[int, Checkpoint | None]
    inputs: Inputs
    layers: str | tuple[str, ...]
    settings: Settings
    network: str | None = None
    role: str | None = None
    details: Mapping[str, schema.Attribute] = field(default_factory=dict)
    device: str | torch.device | None = None

    def __post_init__(self) -> None:
        """Refuse epochs that are none."""
        if not isinstance(self.checkpoints, Mapping):
            raise TypeError(f"checkpoints must map epochs to weights, got {type(self.checkpoints).__name__}")
        if not self.checkpoints or not all(_is_epoch(epoch) for epoch in self.checkpoints):
            raise ValueError(
                "checkpoints must map epochs (integers of 0 or more) to weights, got epochs "
                f"{list(self.checkpoints)}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the network at work."""
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @property
    def epochs(self) -> list[int]:
        """Epochs in order."""
        return sorted(map(int, self.checkpoints))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the layers."""
        return (self.layers,) if isinstance(self.layers, str) else self.layers

    @property
    def blocks(self) -> list[range]:
        """Positions of the samples of every block."""
        count = len(self.inputs.ids)
        return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]

    def attrs(self, layer: str, micro_batch: int | None = None, **more: Any) -> dict[str, schema.Attribute]:
        """Return the attributes stored with a layer, perhaps of other samples in a pass, and some more."""
        batch = self.settings.micro_batch if micro_batch is None else micro_batch
        values = replace(self.settings, micro_batch=batch).as_attrs(self.inputs.units) | {
            **self.details,
            "network": self.network,
            "network_role": self.role,
            "layer": layer,
            "torch_version": torch.__version__,
            "weights_fingerprint": self._weights_fingerprint,
            "input_fingerprint": self.inputs.fingerprint,
        }
        return schema.make_attrs(**(values | more))

    def tasks(self, store: Store | None = None) -> list[Task]:
        """List what is to be done, or what the store lacks of it; builds no network and writes nothing.

        Where the store holds a part of it, the tasks go on with the samples in a pass that it was begun with,
        or with fewer if the settings say so.

        Raises
        ------
        StoreError
            If the store was measured with other settings, samples, masks, labels or pixels.

        Warns
        -----
        KdvizWarning
            If what is left would be measured with fewer samples in a pass.
        """
        pairs = [(at, block) for at in range(len(self.epochs)) for block in range(len(self.blocks))]
        batch, missing = self.settings.micro_batch, set(pairs)
        if (run := _find_run(store)) is not None:
            self._check_samples(run)
            lacks = {name: self._lacks(run, name) for name in self.names}
            missing = {place for places in lacks.values() for place in (pairs if places is None else places)}
            begun = {
                name: _begun_with(run, str(self.network), name)
                for name, places in lacks.items()
                if places is not None
            }
            _warn_of_smaller_batches({name: size for name, size in begun.items() if lacks[name]}, batch)
            batch = min(batch, *(size for size in begun.values() if size), BLOCK)
        return [Task(self.epochs[at], block, batch) for at, block in pairs if (at, block) in missing]

    def do(self, task: Task) -> Block:
        """Measure one block of samples at one epoch, as good as alone: the order of tasks changes no bit.

        Raises
        ------
        ValueError, TypeError, LayerError, DataError
            As :func:`kdviz.measure_checkpoints`.
        """
        settings = replace(self.settings, micro_batch=task.micro_batch)
        with self.reading(task.epoch) as reader:
            layers = measure_block(reader, self.inputs, self.blocks[task.block], settings)
        unit = reader.noise_unit if settings.relative else None
        return Block(task, layers, unit, str(device_of(reader.network)))

    def collect(
        self, blocks: Iterable[Block], store: Store | None = None, *, thumbnails: ArrayLike | None = None
    ) -> xr.Dataset:
        """Put the results of tasks together, in any order; into a store one by one, as they come.

        Parameters
        ----------
        blocks
            What `do` gave for all `tasks`, or for those that the store lacked.
        store, thumbnails
            As in :func:`kdviz.measure_checkpoints`. Nothing is made there before the first block has come.

        Returns
        -------
        Dataset
            As :func:`kdviz.measure`, with all epochs.

        Raises
        ------
        ValueError
            If blocks are missing, and there is no store, or thumbnails are of another shape.
        StoreError
            As `tasks`; also if another process writes the store, or blocks are missing in it.
        """
        pictures = None if thumbnails is None else check_pictures(thumbnails, len(self.inputs.ids))
        if store is None:
            by_place = {(block.task.epoch, block.task.block): block for block in blocks}
            return self._stack({name: self._join(name, by_place) for name in self.names})
        with ExitStack() as held:
            run, begun, units = _find_run(store), False, dict[int, float]()
            if run is not None:
                held.enter_context(run.writing())
            for block in blocks:
                if run is None:
                    assert not isinstance(store, Run)
                    run = self._make_run(store, pictures)
                    held.enter_context(run.writing())
                if not begun:
                    self._begin(run, block)
                    begun = True
                self._write(run, block)
                if block.noise_unit is not None:
                    units[block.task.epoch] = block.noise_unit
            if run is None:
                raise ValueError("blocks is empty, and there is no store that holds them already")
            network = str(self.network)
            if self.settings.relative:
                self._write_noise_units(run, units)
            return self._stack({name: run.dataset(network, name) for name in self.names})

    @contextmanager
    def reading(self, epoch: int) -> Iterator[FeatureReader]:
        """Hold the network at an epoch, tried and ready to be read; it is left as it was found."""
        work = self._work
        with same_random_state(work.network), frozen(work.network):
            self._load(epoch)
            if work.tried != epoch:
                together = self.settings.micro_batch
                try_network(work.reader, self.inputs, self.settings.base_noise, together, epoch)
                work.tried = epoch
            yield work.reader

    # -- the network

    @cached_property
    def _work(self) -> "_Work":
        network = prepare_network(self.make_network(), self.device)
        entry = self.settings.entry
        names = resolve_layers(network, self.names)
        if entry is None:
            self.inputs.check_precision(network)
        else:
            resolve_layers(network, [entry])
        return _Work(network, FeatureReader(network, names, self.settings.feature, entry))

    def _load(self, epoch: int) -> None:
        """Give the network at work the weights of an epoch, and its reader the unit of noise."""
        work = self._work
        if work.epoch == epoch:
            return
        work.epoch, work.tried = None, None
        checkpoint = self.checkpoints[epoch]
        if checkpoint is not None:
            load_weights(work.network, checkpoint)
        if self.settings.relative:
            work.reader.noise_unit = measure_noise_unit(work.reader, self.inputs)
        work.epoch = epoch

    def _noise_unit(self, epoch: int) -> float:
        work = self._work
        with same_random_state(work.network), frozen(work.network):
            self._load(epoch)
            return work.reader.noise_unit

    def _own_weights(self) -> dict[str, Any]:
        return self._work.network.state_dict()

    @cached_property
    def _weights_fingerprint(self) -> str:
        made = [
            fingerprint_tensors(self._own_weights() if weights is None else read_checkpoint(weights))
            for weights in (self.checkpoints[epoch] for epoch in self.epochs)
        ]
        return made[0] if None in self.checkpoints.values() else fingerprint("".join(made))

    # -- datasets

    def _label(self, arrays: Arrays, epochs: Sequence[int], rows: range) -> xr.Dataset:
        """Give arrays ``(epoch, sample, ...)`` the contract's dimensions and dtypes."""
        variables = {
            name: (spec.dims, arrays[name].astype(spec.dtype))
            for name, spec in schema.VARIABLES.items()
            if name in arrays
        }
        coordinates = {"epoch": list(epochs), "quartile": np.arange(1, schema.QUARTILES + 1)}
        samples = self.inputs.samples.isel(sample=slice(rows.start, rows.stop))
        return xr.Dataset(variables, coords=coordinates).merge(samples)

    def _join(self, layer: str, blocks: Mapping[tuple[int, int], Block]) -> xr.Dataset:
        """Put the blocks of a layer together."""
        places = [[(epoch, block) for block in range(len(self.blocks))] for epoch in self.epochs]
        if missing := [place for row in places for place in row if place not in blocks]:
            epoch, block = missing[0]
            raise ValueError(f"{len(missing)} blocks are missing, first block {block} of epoch {epoch}")
        parts = [[blocks[place].layers[layer] for place in row] for row in places]
        arrays = {
            name: np.stack([np.concatenate([part[name] for part in row]) for row in parts])
            for name in parts[0][0]
        }
        ds = self._label(arrays, self.epochs, range(len(self.inputs.ids)))
        first = blocks[places[0][0]]
        ds.attrs = self.attrs(layer, device=first.device)
        if self.settings.relative:
            units = [blocks[row[0]].noise_unit for row in places]
            ds = ds.assign(noise_unit=("epoch", np.array(units, "float32")))
        ds = schema.annotate(ds)
        schema.validate(ds)
        return ds

    def _stack(self, results: Mapping[str, xr.Dataset]) -> xr.Dataset:
        """Put several layers side by side."""
        if isinstance(self.layers, str):
            return results[self.layers]
        shared = {"noise_unit", "epoch"}
        everywhere = set.intersection(*({*map(str, ds.data_vars)} for ds in results.values()))
        own = {name for name in everywhere if "epoch" in next(iter(results.values()))[name].dims}
        ds = xr.concat(
            [ds.drop_vars({*ds.data_vars} - everywhere) for ds in results.values()],
            pd.Index(self.layers, name="layer"),
            data_vars=sorted(own - shared),
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
        schema.validate(ds)
        return ds

    # -- the store

    def _lacks(self, run: Run, layer: str) -> list[tuple[int, int]] | None:
        """List places of missing blocks; None if the layer is to be begun."""
        network = str(self.network)
        attrs = self.attrs(layer, _begun_with(run, network, layer))
        begun = run.create_group(
            network, layer, epochs=self.epochs, attrs=attrs, block=BLOCK, check_only=True
        )
        return run.missing(network, layer) if begun else None

    def _check_samples(self, run: Run) -> None:
        """Refuse a run that was made from anything but these inputs."""
        other, samples = f"the run at {run.path} was made with other", self.inputs.samples
        if run.samples["sample"].values.tolist() != self.inputs.ids:
            raise StoreError(f"{other} samples than these inputs; use another run")
        for name, array in samples.variables.items():
            given = name in ("foreground", "label")
            if (given or name in run.samples) and not np.array_equal(run.samples.get(name, np.nan), array):
                raise StoreError(
                    f"{other} samples: {name!r} differs from what is passed here; use another run"
                )
        ours = self.inputs.fingerprint
        for (network, layer), attrs in run.catalogue().items():
            if (stored := attrs.get("input_fingerprint", ours)) != ours:
                raise StoreError(
                    f"{other} inputs: {network}/{layer} has input_fingerprint {stored}, these have {ours}, "
                    "under the same sample_ids; use another run"
                )

    def _make_run(self, path: str | os.PathLike[str], pictures: NDArray[np.uint8] | None) -> Run:
        """Make the run, with pictures where the inputs are images or the user has some."""
        pictures = draw_inputs(self.inputs) if pictures is None else pictures
        samples = self.inputs.samples
        if pictures is not None:
            samples = samples.assign(thumbnail=(schema.VARIABLES["thumbnail"].dims, pictures))
        return create_run(path, samples=samples)

    def _begin(self, run: Run, first: Block) -> None:
        """Make the groups of all layers that the run has not yet."""
        self._check_samples(run)
        network = str(self.network)
        for layer in self.names:
            batch = _begun_with(run, network, layer) if self._lacks(run, layer) is not None else None
            attrs = self.attrs(layer, batch or first.task.micro_batch, device=first.device)
            run.create_group(network, layer, epochs=self.epochs, attrs=attrs, block=BLOCK)

    def _write(self, run: Run, block: Block) -> None:
        epoch, at, _ = block.task
        for layer, arrays in block.layers.items():
            by_epoch = {name: values[None] for name, values in arrays.items()}
            ds = self._label(by_epoch, [epoch], self.blocks[at])
            run.write_block(str(self.network), layer, self.epochs.index(epoch), at, ds)

    def _write_noise_units(self, run: Run, known: dict[int, float]) -> None:
        """Write the unit of noise at every epoch, found again where a writer was killed before it did."""
        network = str(self.network)
        stored = [run.dataset(network, layer).get("noise_unit") for layer in self.names]
        if not known and all(values is not None for values in stored):
            return
        units = [known[epoch] if epoch in known else self._noise_unit(epoch) for epoch in self.epochs]
        array = xr.DataArray(np.array(units, "float32"), dims="epoch", coords={"epoch": self.epochs})
        for layer in self.names:
            run.write_variable(network, layer, array.rename("noise_unit"))


@dataclass
class _Work:
    """A network at work: the epoch whose weights it has, and the one at which it was tried."""

    network: nn.Module
    reader: FeatureReader
    epoch: int | None = None
    tried: int | None = None


def _is_epoch(epoch: object) -> bool:
    return isinstance(epoch, (int, np.integer)) and not isinstance(epoch, bool) and bool(epoch >= 0)


def _find_run(store: Store | None) -> Run | None:
    """Open the store if there is one yet."""
    if store is None or isinstance(store, Run):
        return store
    return open_run(store) if Path(store).exists() else None


def _begun_with(run: Run, network: str, layer: str) -> int | None:
    """Return the samples in one pass with which a layer in the run was begun."""
    attrs = run.catalogue().get((network, layer), {})
    return json.loads(str(attrs.get("config", "{}"))).get("micro_batch")


def _warn_of_smaller_batches(begun: Mapping[str, int | None], batch: int) -> None:
    larger = {layer: size for layer, size in begun.items() if size and size > batch}
    if larger:
        warnings.warn(
            f"{', '.join(larger)}: begun with {max(larger.values())} samples in one pass, continued with "
            f"{batch}; the remaining entropies equal those of an uninterrupted measurement to rounding "
            "(about 1e-4 nat), not to the bit",
            KdvizWarning,
            stacklevel=4,
        )
