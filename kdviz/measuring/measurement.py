"""One measurement as a value: independent tasks that any process can do, and what is made of their results.

Symbols: ``B`` samples, ``U`` units.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product, starmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import nn

from kdviz import schema
from kdviz.arguments import whole_number
from kdviz.errors import KdvizWarning, StoreError
from kdviz.measuring.blocks import Arrays, measure_block, measure_noise_unit
from kdviz.measuring.estimate import Estimate, Pace, estimate, time_passes
from kdviz.measuring.features import identify_feature, name_feature
from kdviz.measuring.pictures import check_pictures, draw_inputs
from kdviz.measuring.settings import Settings
from kdviz.measuring.trial import is_same_response, try_network
from kdviz.networks.checkpoints import load_weights, read_checkpoint
from kdviz.networks.features import FeatureReader, frozen, resolve_layers, same_random_state, to_device
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.networks.inputs import Inputs
from kdviz.networks.preparing import device_of, is_out_of_memory, memory_advice, prepare_network
from kdviz.networks.saved import Checkpoint
from kdviz.store import Run, create_run
from kdviz.store.layout import checked_name
from kdviz.store.run import Store, as_run


class Task(NamedTuple):
    """One block of samples at one epoch."""

    epoch: int
    block: int


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
    responses
        One number of every layer by which changed code is told, of :func:`kdviz.measuring.trial.respond`.
    weights
        Fingerprint of the weights that were loaded.
    device
        Where it was computed.
    """

    task: Task
    layers: dict[str, Arrays]
    noise_unit: float | None
    responses: dict[str, float]
    weights: str
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
        ``{epoch: path or state dict}``; ``{epoch: None}`` for weights as they are made.
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
    part
        Which of several networks in one checkpoint, as in :func:`kdviz.networks.load_weights`.

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
    part: str | None = None

    def __post_init__(self) -> None:
        """Refuse epochs that are none, and untrained weights among others, which would take their place."""
        if not isinstance(self.checkpoints, Mapping) or not self.checkpoints:
            raise TypeError(f"checkpoints must map epochs to weights, got {self.checkpoints!r}")
        for epoch in self.checkpoints:
            whole_number("epoch", epoch)
        if len(self.checkpoints) > 1 and any(weights is None for weights in self.checkpoints.values()):
            raise TypeError("a checkpoint must be a path or a state dict, got None among several")

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
        return [range(start, min(start + schema.BLOCK, count)) for start in range(0, count, schema.BLOCK)]

    def attrs(self, layer: str, weights: str | None = None, **more: Any) -> dict[str, schema.Attribute]:
        """Return the attributes stored with a layer, and some more; of the weights, those at the start."""
        values = self.settings.as_attrs(self.inputs.units, self.inputs.main) | {
            **self.details,
            "network": self.network,
            "network_role": self.role,
            "layer": layer,
            "feature": self._features[layer],
            "unit_gain": self.settings.unit_gain if "unit_size" in self.inputs.samples else None,
            "torch_version": torch.__version__,
            "weights_fingerprint": weights or self._weights_fingerprint,
            "input_fingerprint": self.inputs.fingerprint,
        }
        return schema.make_attrs(**(values | more))

    def tasks(self, store: Store | None = None) -> list[Task]:
        """List what is to be done, or what of it the store lacks or holds damaged; writes nothing.

        Builds no network, but where a store is there and the feature is a callable, or some of this network
        is stored: it is tried at one stored epoch, so that none whose code was changed is continued.

        Raises
        ------
        StoreError
            If the store was measured with other settings, samples, masks, labels or pixels, or the network
            with other code.
        ValueError, TypeError, LayerError, DataError
            As `do`, if the network is tried.
        """
        every, run = list(starmap(Task, product(self.epochs, range(len(self.blocks))))), _find_run(store)
        if run is None:
            if store is not None:
                self._check_names()
            return every
        self._check_samples(run)
        missing = {task for name in self.names for task in self._lacks(run, name, every)}
        self._check_code(run)
        return [task for task in every if task in missing]

    def estimate(self, store: Store | None = None) -> Estimate | None:
        """Estimate what is left to do, from a few passes on this machine; writes nothing.

        Parameters
        ----------
        store
            As in `tasks`.

        Returns
        -------
        Estimate or None
            None where nothing is left. It can be printed.

        Raises
        ------
        StoreError, ValueError, TypeError, LayerError, DataError
            As `tasks` and `do`.
        """
        left = [(task.epoch, self.blocks[task.block]) for task in self.tasks(store)]
        if not left:
            return None
        with self.reading(left[0][0]) as reader, memory_advice(self._work.together, *self._save_memory()):
            return estimate(reader, self.inputs, left, self.settings)

    def pace(self) -> Pace:
        """Time passes of one sample, the longest; the network is taken as it is made, and not tried."""
        reader, one = self._work.reader, replace(self.settings, micro_batch=1)
        row = max(range(len(self.inputs.ids)), key=lambda row: self.inputs.units.length(row) or 0)
        with same_random_state(reader.network), frozen(reader.network):
            return time_passes(reader, self.inputs, range(row, row + 1), one)

    def do(self, task: Task) -> Block:
        """Measure one block of samples at one epoch, as good as alone: the order of tasks changes no bit.

        Where memory does not suffice for so many samples in a pass, half as many are taken from there on.

        Raises
        ------
        ValueError, TypeError, LayerError, DataError
            As :func:`kdviz.measure_checkpoints`.
        MemoryError
            If it does not suffice for one; the message says what to lower.

        Warns
        -----
        KdvizWarning
            If fewer samples are taken into a pass.
        """
        with self.reading(task.epoch) as reader, memory_advice(1, *self._save_memory()):
            while (layers := self._try_block(reader, task.block)) is None:
                torch.cuda.empty_cache()  # of what was left over; does nothing where there is no GPU
        unit, work = reader.noise_unit if self.settings.relative else None, self._work
        return Block(task, layers, unit, work.responses, work.weights, str(device_of(reader.network)))

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
        if store is None:
            if thumbnails is not None:
                check_pictures(thumbnails, len(self.inputs.ids))
            by_task = {block.task: block for block in blocks}
            return self._stack({name: self._join(name, by_task) for name in self.names})
        with self.keeping(store, thumbnails=thumbnails) as keep:
            for block in blocks:
                keep(block)
        return self.read(store)

    @contextmanager
    def keeping(
        self, store: Store, *, thumbnails: ArrayLike | None = None
    ) -> Iterator[Callable[[Block], None]]:
        """Hold a store against other writers, and hand out what writes the result of a task into it.

        Parameters and errors are those of `collect`. Nothing is made in the store before the first block.
        """
        pictures = None if thumbnails is None else check_pictures(thumbnails, len(self.inputs.ids))
        run, begun = _find_run(store), False
        with ExitStack() as held:
            if run is not None:
                held.enter_context(run.writing())
                self._mend(run)

            def keep(block: Block) -> None:
                nonlocal run, begun
                if run is None:
                    self._check_names()
                    run = self._make_run(store, pictures)
                    held.enter_context(run.writing())
                if not begun:
                    self._check_samples(run)
                    for layer in self.names:
                        attrs = self.attrs(layer, device=block.device)
                        run.create_group(
                            str(self.network), layer, epochs=self.epochs, attrs=attrs, block=schema.BLOCK
                        )
                    begun = True
                self._write(run, block)

            yield keep

    def read(self, store: Store) -> xr.Dataset:
        """Read what was collected.

        Raises
        ------
        ValueError
            If there is no store.
        StoreError
            If blocks are missing in it.
        """
        run = _find_run(store)
        if run is None:
            raise ValueError("blocks is empty, and there is no store that holds them already")
        return self._stack({name: self._read(run, name) for name in self.names})

    @contextmanager
    def reading(self, epoch: int) -> Iterator[FeatureReader]:
        """Hold the network at an epoch, tried and ready to be read; it is left as it was found."""
        advice = tuple(self._save_memory())
        with memory_advice(None, *advice):
            work = self._work
        reader, weights = work.reader, self.checkpoints[epoch]
        with same_random_state(reader.network), frozen(reader.network):
            if work.epoch != epoch:
                work.epoch = None
                with memory_advice(None, *advice):
                    loaded = reader.network.state_dict()
                    if weights is not None:
                        loaded = load_weights(reader.network, weights, self.part)
                    work.weights = fingerprint_tensors(loaded)
                    if self.settings.relative:
                        reader.noise_unit = measure_noise_unit(reader, self.inputs)
                    work.responses = try_network(reader, self.inputs, self.settings, epoch)
                work.epoch = epoch
            yield reader

    def _try_block(self, reader: FeatureReader, block: int) -> dict[str, Arrays] | None:
        """Measure a block, or say None and halve the batch where memory does not suffice."""
        work, settings = self._work, replace(self.settings, micro_batch=self._work.together)
        try:
            return measure_block(reader, self.inputs, self.blocks[block], settings)
        except (RuntimeError, MemoryError) as error:
            if work.together == 1 or not is_out_of_memory(error):
                raise
        work.together //= 2
        warnings.warn(
            f"out of memory with max_batch={settings.micro_batch}; going on with {work.together}, which "
            "changes entropies by no more than rounding",
            KdvizWarning,
            stacklevel=4,
        )
        return None

    def _save_memory(self) -> Iterator[str]:
        """List what takes less memory than this measurement with one sample in a pass."""
        if len(self.names) > 1:
            yield f"measure fewer layers at once than {len(self.names)}"
        if self.settings.probes >= 8:  # as many backward passes are kept; fewer give larger errors
            yield f"pass probes={self.settings.probes // 4}"
        yield f"take {schema.VOCABULARIES[self.inputs.units.modality].less}"

    @cached_property
    def _work(self) -> "_Work":
        network, entry = prepare_network(self.make_network(), self.device), self.settings.entry
        names = resolve_layers(network, self.names)
        if entry is None:
            self.inputs.check_precision(network)
        else:
            (entry,) = resolve_layers(network, [entry])
        main = self.inputs.main if entry is None else None
        reader = FeatureReader(network, names, self.settings.feature, entry, main)
        return _Work(reader, self.settings.micro_batch)

    @cached_property
    def _features(self) -> dict[str, str]:
        """What is read of every layer; a callable is told by the shapes that the longest sample has."""
        feature, units = self.settings.feature, self.inputs.units
        if not callable(feature):
            return dict.fromkeys(self.names, feature)
        row = max(range(len(self.inputs.ids)), key=lambda row: units.length(row) or 0)
        reader = self._work.reader
        with same_random_state(reader.network), frozen(reader.network):
            sample = to_device(self.inputs.alone(row), device_of(reader.network))
            return {layer: identify_feature(reader, layer, feature, sample) for layer in self.names}

    @cached_property
    def _weights_fingerprint(self) -> str:
        """One fingerprint an epoch, so that others can be added."""
        if [*self.checkpoints.values()] == [None]:
            return fingerprint_tensors(self._work.reader.network.state_dict())
        weights: list[Any] = [self.checkpoints[epoch] for epoch in self.epochs]
        return " ".join(fingerprint_tensors(read_checkpoint(one, self.part)) for one in weights)

    # -- datasets

    def _label(self, arrays: Arrays, epochs: Sequence[int], rows: range, **attrs: Any) -> xr.Dataset:
        """Label arrays ``(epoch, sample, ...)`` as the contract says."""
        values = {name: array.astype(schema.VARIABLES[name].dtype) for name, array in arrays.items()}
        coordinates = {"epoch": list(epochs), "quartile": np.arange(1, schema.QUARTILES + 1)}
        samples = self.inputs.samples.isel(sample=slice(rows.start, rows.stop))
        return schema.build(
            values | dict(samples.data_vars), coords=coordinates | dict(samples.coords), attrs=attrs
        )

    def _join(self, layer: str, blocks: Mapping[Task, Block]) -> xr.Dataset:
        """Put the blocks of a layer together."""
        places = [[Task(epoch, block) for block in range(len(self.blocks))] for epoch in self.epochs]
        if missing := [place for row in places for place in row if place not in blocks]:
            epoch, block = missing[0]
            raise ValueError(f"{len(missing)} blocks are missing, first block {block} of epoch {epoch}")
        for row in places:
            for place in row:
                _check_weights(blocks[place], blocks[row[0]].weights)
        parts = [[blocks[place].layers[layer] for place in row] for row in places]
        arrays = {
            name: np.stack([np.concatenate([part[name] for part in row]) for row in parts])
            for name in parts[0][0]
        }
        if self.settings.relative:
            arrays["noise_unit"] = np.array([blocks[row[0]].noise_unit for row in places])
        arrays["clean_response"] = np.array([blocks[row[0]].responses[layer] for row in places])
        weights = " ".join(blocks[row[0]].weights for row in places)
        attrs = self.attrs(layer, weights, device=blocks[places[0][0]].device)
        ds = self._label(arrays, self.epochs, range(len(self.inputs.ids)), **attrs)
        schema.validate(ds)
        return ds

    def _stack(self, results: Mapping[str, xr.Dataset]) -> xr.Dataset:
        """Put several layers side by side, with the variables that all of them have."""
        if isinstance(self.layers, str):
            return results[self.layers]
        first, *others = results.values()
        names = [name for name in first.data_vars if all(name in ds for ds in others)]
        return xr.concat(
            [ds[names] for ds in results.values()],
            pd.Index(self.layers, name="layer"),
            data_vars=[name for name in names if "epoch" in first[name].dims and name != "noise_unit"],
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        ).assign_attrs(feature=name_feature(self.settings.feature))

    # -- the store

    def _lacks(self, run: Run, layer: str, every: Sequence[Task]) -> list[Task]:
        """List the tasks whose block is not there yet."""
        network, attrs = str(self.network), self.attrs(layer)
        epochs = run.find_epochs(network, layer, epochs=self.epochs, attrs=attrs, block=schema.BLOCK)
        missing = run.missing(network, layer) if epochs else []
        left = {Task(epochs[at], block) for at, block in missing}
        return [task for task in every if task.epoch not in epochs or task in left]

    def _check_code(self, run: Run) -> None:
        """Refuse a network that gives other features than it did, at one of the epochs that are stored."""
        for layer in self.names:
            known = self._known_responses(run, layer)
            if epochs := [epoch for epoch in self.epochs if epoch in known]:
                with self.reading(epochs[-1]):
                    _check_response(layer, epochs[-1], self._work.responses[layer], known[epochs[-1]])

    def _known_responses(self, run: Run, layer: str) -> dict[int, float]:
        """Return the responses of a layer that are stored, by epoch; none of older runs and lost layers."""
        known = None
        with suppress(StoreError):
            known = run.variable(str(self.network), layer, "clean_response")
        return {} if known is None else {int(one["epoch"]): float(one) for one in known.dropna("epoch")}

    def _mend(self, run: Run) -> None:
        """Take out of a layer what is damaged, so that it is measured again."""
        for layer in self.names:
            for text in run.mend(str(self.network), layer):
                what = f"{self.network}/{layer} of {run.path} is damaged: {text}; that is measured again"
                warnings.warn(what, KdvizWarning, stacklevel=5)

    def _read(self, run: Run, layer: str) -> xr.Dataset:
        """Read the epochs that were asked for, of those that there are."""
        unfinished = self._lacks(run, layer, self.tasks())
        ds = run.dataset(str(self.network), layer, partial=not unfinished)
        return ds.sel(epoch=self.epochs).assign_attrs(weights_fingerprint=self._weights_fingerprint)

    def _check_names(self) -> None:
        """Refuse names and attributes that no store takes, before anything is made."""
        for kind, name in (("network", str(self.network)), *(("layer", name) for name in self.names)):
            checked_name(kind, name)
        self.attrs(self.names[0])

    def _check_samples(self, run: Run) -> None:
        """Refuse a run that was made from anything but these inputs."""
        asked = self.inputs.samples
        others = [
            str(name)
            for name, array in asked.variables.items()
            if (name in run.samples or name in ("foreground", "void", "label", "unit_size"))
            and not np.array_equal(run.samples.get(name, np.nan), array)
        ]
        if "foreground" in asked and "void" in run.samples and "void" not in asked:
            others.append("void")
        stored = {attrs.get("input_fingerprint") for attrs in run.catalogue().values()}
        if stored - {None, self.inputs.fingerprint}:
            others.append("input_fingerprint")
        if others and not {*others} & {*run.samples.variables, "input_fingerprint"}:
            raise StoreError(
                f"the run at {run.path} has no {', '.join(others)}: leave them out, or use another run"
            )
        if others:
            raise StoreError(
                f"the run at {run.path} was made with other samples: {', '.join(others)} differ from what is "
                "passed here; use another run"
            )

    def _make_run(self, path: Any, pictures: NDArray[np.uint8] | None) -> Run:
        """Make the run, with pictures where the inputs are images or the user has some."""
        pictures = draw_inputs(self.inputs) if pictures is None else pictures
        samples = self.inputs.samples
        if pictures is not None:
            samples = samples.assign(thumbnail=(schema.VARIABLES["thumbnail"].dims, pictures))
        return create_run(path, samples=samples)

    def _write(self, run: Run, block: Block) -> None:
        (epoch, at), network = block.task, str(self.network)
        _check_weights(block, self._weights_fingerprint.split()[self.epochs.index(epoch)])
        for layer, arrays in block.layers.items():
            response = block.responses[layer]
            numbers = {"clean_response": response, "noise_unit": block.noise_unit}
            if (known := self._known_responses(run, layer).get(epoch)) is not None:
                _check_response(layer, epoch, response, known)
                del numbers["clean_response"]
            for name, number in numbers.items():  # first: a finished epoch has them
                if number is not None:
                    values = xr.DataArray([number], {"epoch": [epoch]}, "epoch", name=name)
                    run.write_variable(network, layer, values)
            by_epoch = {name: values[None] for name, values in arrays.items()}
            ds = self._label(by_epoch, [epoch], self.blocks[at])
            run.write_block(network, layer, run.epochs(network, layer).index(epoch), at, ds)


@dataclass
class _Work:
    """A network at work: its reader, and the epoch whose weights it has and at which it was tried.

    `together` is the number of samples in a pass for which memory has sufficed so far.
    """

    reader: FeatureReader
    together: int
    epoch: int | None = None
    weights: str = ""
    responses: dict[str, float] = field(default_factory=dict)


def _check_weights(block: Block, expected: str) -> None:
    """Refuse a block of other weights than the measurement began with."""
    if block.weights != expected:
        raise StoreError(
            f"the checkpoint of epoch {block.task.epoch} was changed while it was measured: weights "
            f"{block.weights} were loaded, at first they were {expected}; put them back, or measure these "
            "under another network name"
        )


def _check_response(layer: str, epoch: int, ours: float, stored: float) -> None:
    """Refuse a network that gives another feature with the same weights."""
    if not is_same_response(ours, stored):
        raise StoreError(
            f"layer {layer!r} gives other features than when epoch {epoch} was measured with these weights: "
            "the code of the network has changed; use that of then, another network name, or another run"
        )


def _find_run(store: Store | None) -> Run | None:
    """Open the store if there is one yet."""
    if store is None or not (isinstance(store, Run) or Path(store).exists()):
        return None
    return as_run(store)
