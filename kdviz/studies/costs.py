"""What studies will take, before anything of them is trained: from a few passes of one sample each.

Networks are untrained, and data that are not there are stood in for by noise of their size: a pass takes as
long. A network is tried once, at all layers of all arms at which it is measured; what of it an arm needs is
counted.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm.auto import tqdm

from kdviz import schema
from kdviz.errors import DataError
from kdviz.measuring import Settings
from kdviz.measuring.estimate import Pace, now, scale
from kdviz.sources import CloudSet, ImageSet, LazyArray, SampleSet, Source, TextSet
from kdviz.sources.samples import Part
from kdviz.studies.tasks import Layout, Subject, Task
from kdviz.studies.work import Workshop

_CLASSES = 100  # of data that are not there
_POINTS = 1024  # of a cloud that is not there
_BATCH, _PATIENCE = 8, 2.0  # samples of a step of training that is timed, and about its seconds, at most
_Of = TypeVar("_Of", int, float)


@dataclass(frozen=True)
class Cost:
    """What some tasks will take.

    Attributes
    ----------
    networks
        That are trained or measured; measured once more, they count twice.
    passes
        Forward and backward passes of one sample, from all samples by gain to all by path.
    seconds
        Of them in one process on this machine, of few samples at a time: of large networks whole batches
        take less.
    flops
        Their floating-point operations, as of :class:`kdviz.measuring.Estimate`: of matrix products,
        convolutions and attention, and of no norms, activations, losses and optimisers.
    memory
        Bytes held at a time beside network and inputs; of training it is not told.
    disk
        Bytes of weights or results.
    """

    networks: int = 0
    passes: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (0.0, 0.0)
    flops: tuple[int, int] = (0, 0)
    memory: int = 0
    disk: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Take one after the other."""
        return Cost(
            self.networks + other.networks,
            _add(self.passes, other.passes),
            _add(self.seconds, other.seconds),
            _add(self.flops, other.flops),
            max(self.memory, other.memory),
            self.disk + other.disk,
        )


def _add(one: tuple[_Of, _Of], other: tuple[_Of, _Of]) -> tuple[_Of, _Of]:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True)
class Item:
    """One task, and what it will take.

    Attributes
    ----------
    task
        A training or a measurement.
    cost
        Of it.
    shared
        Whether it is done for another arm already, so that it is taken over and costs nothing.
    """

    task: Task
    cost: Cost
    shared: bool

    @property
    def kind(self) -> str:
        """``"train"`` or ``"measure"``."""
        return "measure" if self.task.is_measurement else "train"


@dataclass(frozen=True)
class ArmCosts:
    """What is left of one study, and what it will take.

    Attributes
    ----------
    items
        Task by task.
    missing
        Why nothing is estimated: an encoder or a tokenizer that is not there has no stand-in.
    """

    items: Sequence[Item] = ()
    missing: str = ""


@dataclass(frozen=True)
class _TrainingPace:
    """What a step of training takes: seconds and operations there, and there and back; bytes of weights."""

    seconds: tuple[float, float]
    flops: tuple[int, int]
    size: int


@dataclass(frozen=True)
class Trials:
    """What was tried already.

    Attributes
    ----------
    layers
        At which a network is measured, by what decides how long its passes take.
    samples
        By where they come from, and whether they are noise.
    paces
        Of networks, measured (None where it is not) and trained.
    """

    layers: dict[str, dict[str, None]] = field(default_factory=dict)
    samples: dict[str, tuple[SampleSet, bool]] = field(default_factory=dict)
    paces: dict[str, tuple[Pace | None, _TrainingPace]] = field(default_factory=dict)


def estimate_costs(
    parts: Sequence[tuple[Layout, Sequence[Task]]], known: Trials | None = None, *, progress: bool = False
) -> list[ArmCosts]:
    """Estimate what training and measuring take.

    Parameters
    ----------
    parts
        Studies, which need not be begun, each with what is left to do of it.
    known
        From an earlier call, if there was one: no network is tried again, but at layers that are new.
    progress
        Show a bar of studies.

    Returns
    -------
    list of ArmCosts
        Of every study. Of training the passes of networks over all samples count, those that tell accuracies
        among them; heads on frozen features, and passes of the teacher beside its student, are left out.
    """
    known, seen = known or Trials(), set[str]()
    trials = [_Trial(study, tasks, known) for study, tasks in parts]
    for trial in trials:
        seen.update(trial.expect())
    shown = tqdm(trials, desc="estimating", unit="arm", disable=not progress)
    return [trial.estimate_all(seen) for trial in shown]


def sum_costs(items: Iterable[Item], kind: str = "") -> Cost:
    """Add up what tasks, of one kind if it is named, cost where they are not shared."""
    costs = [item.cost for item in items if not item.shared and kind in ("", item.kind)]
    return sum(costs, Cost())


class _Trial(Workshop):
    """A workshop whose networks are untrained, and whose data may be noise."""

    def __init__(self, study: Layout, tasks: Iterable[Task], known: Trials) -> None:
        super().__init__(study)
        self.tasks = [task for task in tasks if task.action != "accuracy"]
        self.known = known

    def expect(self) -> Iterator[str]:
        """Note at which layers networks are tried, and name the results that are there."""
        left = {task.key for task in self.tasks}
        trained = [task for task in self.study.tasks("train") if task.key not in left and task.is_done()]
        yield from map(self.name_result, trained)
        with suppress(DataError):  # told once it is tried
            for task in filter(lambda task: task.is_measurement, self.tasks):
                layers = self.known.layers.setdefault(self.name_network(task.subject), {})
                layers |= dict.fromkeys(self.study.modules(task.subject))

    def estimate_all(self, seen: set[str]) -> ArmCosts:
        """Estimate every task, and add its result to those that others share."""
        try:
            items = [Item(task, self._estimate(task), self.name_result(task) in seen) for task in self.tasks]
        except DataError as error:
            return ArmCosts(missing=str(error))
        seen.update(map(self.name_result, self.tasks))
        return ArmCosts(items)

    def _estimate(self, task: Task) -> Cost:
        return self.measuring(task) if task.is_measurement else self.training(task.subject)

    def recognise(self) -> None:
        """Leave what a study was begun with alone: nothing here is kept."""

    # -- samples: of those that are not there no more are made up than are measured

    def _read(self, data: Source, name: str, part: Part) -> SampleSet:
        return self._find(data, part)[0]

    def _find(self, data: Source, part: Part) -> tuple[SampleSet, bool]:
        name = f"{part} {data!r} {self.plan.measurement.samples}"
        if name not in self.known.samples:
            try:
                self.known.samples[name] = data.load(part), False
            except DataError:
                self.known.samples[name] = _stand_in(data, self.plan.measurement.samples), True
        return self.known.samples[name]

    def _count(self, data: Source, part: Part) -> int:
        samples, invented = self._find(data, part)
        return self.plan.training.count if invented else len(samples)

    # -- networks

    def checkpoints(self, subject: Subject) -> dict[int, Any]:
        """Return the network as it is made."""
        return {0: None}

    def _told(self, subject: Subject, epoch: int) -> dict[str, schema.Attribute]:
        return {}

    def name_network(self, subject: Subject) -> str:
        """Name what decides how long passes take."""
        teacher, asked, units = subject.role == "teacher", self.plan.networks, self.measured.units
        longest = max(units.length(row) or 0 for row in range(len(self.measured_set)))
        told = dict(self.plan.data)
        data = {name: told[name] for name in ("length", "tokenizer") if name in told}
        shape = np.shape(self.measured.inputs)[1:]
        depth, encoder = None if teacher else asked.depth, getattr(asked.teacher, "encoder", None)
        made = self._architecture(teacher), depth, encoder, self.count_classes(teacher)
        return repr((*made, shape, units.modality, longest, data, self.device))

    def name_result(self, task: Task) -> str:
        """Name what comes out of a task: what arms train alike is trained once."""
        subject = task.subject
        if task.is_measurement or (subject.loss and self._make_loss(subject).begins_as_teacher):
            return f"{self.study.folder} {task.action} {subject.name}"
        origin = json.dumps(self.study.origin(subject), sort_keys=True, default=str)
        return f"{subject.name} {origin} {self.followed(subject)}"

    def _pace(self, subject: Subject) -> tuple[Pace | None, _TrainingPace]:
        name = self.name_network(subject)
        pace, layers = None, tuple(self.known.layers.get(name, ()))
        tried, _ = self.known.paces.get(name, (None, None))
        if name not in self.known.paces or (layers and (tried is None or {*layers} - {*tried.layers})):
            network = self.build_for(subject)()
            if layers:
                measurement = self.plan_measurement(subject)
                pace = replace(measurement, make_network=lambda: network, layers=layers).pace()
            self.known.paces[name] = pace, _time_training(network, self.measured.inputs, self.device or "cpu")
        return self.known.paces[name]

    def measuring(self, task: Task) -> Cost:
        """Estimate a measurement."""
        pace, _ = self._pace(task.subject)
        assert pace is not None
        units, samples = self.measured.units, len(self.measured_set)
        once = task.action == "repeat" or task.subject.role == "teacher"
        epochs = 1 if once else len(self.plan.training.measured_epochs)
        told = scale(
            pace,
            self.study.modules(task.subject),
            units,
            Settings.for_units(units, **self.options_of(task.subject)),
            samples=samples * epochs,
            epochs=epochs,
            block=min(samples, schema.BLOCK),
        )
        return Cost(1, told.passes, told.seconds, told.flops, told.memory, told.disk)

    def training(self, subject: Subject) -> Cost:
        """Estimate a training."""
        if not self.study.training_folders(subject):  # a teacher that is there
            return Cost()
        of_teacher, asked = subject.role == "teacher", self.plan.training
        data = (of_teacher and getattr(self.plan.networks.teacher, "data", None)) or self.plan.data
        samples, unseen = self._count(data, "train"), self._count(data, "held-out")
        samples = samples if of_teacher else min(asked.count, samples)
        epochs = getattr(self.plan.networks.teacher, "epochs", 0) if of_teacher else asked.epochs
        looks = len(asked.measured_epochs) * (samples + unseen) if subject.has_head else epochs * unseen
        _, pace = self._pace(subject)
        kept = 2 if of_teacher else len(asked.checkpoints) or epochs + 1
        steps = epochs * samples
        passes = 2 * steps + looks
        seconds = looks * pace.seconds[0] + steps * pace.seconds[1]
        flops = looks * pace.flops[0] + steps * pace.flops[1]
        return Cost(1, (passes,) * 2, (seconds,) * 2, (flops,) * 2, 0, kept * pace.size)


def _time_training(network: nn.Module, inputs: Any, device: str) -> _TrainingPace:
    """Time a step: first with one sample, or two where batch norm cannot do with one, then with several."""
    network = network.to(device).train().requires_grad_(True)
    count = 2 if any(isinstance(module, nn.BatchNorm1d) for module in network.modules()) else 1
    counter = FlopCounterMode(display=False)
    with counter:
        seconds, there = _step(network, inputs, count, device, counter)
    several = min(_BATCH, len(inputs), int(count * _PATIENCE / seconds[1]))
    if several < count:
        several = count
    else:
        seconds, _ = _step(network, inputs, several, device, counter)
    size = sum(one.nbytes for one in network.state_dict().values())
    return _TrainingPace(
        (seconds[0] / several, seconds[1] / several),
        (there // count, counter.get_total_flops() // count),
        size,
    )


def _step(
    network: nn.Module, inputs: Any, count: int, device: str, counter: FlopCounterMode
) -> tuple[tuple[float, float], int]:
    """Return seconds there, and there and back, and what was counted on the way there."""
    batch = torch.from_numpy(np.ascontiguousarray(inputs[np.arange(count)])).to(device)
    start = now()
    output = network(batch)
    half, flops = now(), counter.get_total_flops()
    output.float().square().mean().backward()
    return (half - start, now() - start), flops


def _stand_in(data: Source, count: int) -> SampleSet:
    """Make noise of the size of data that are not there."""
    about: dict[str, Any] = {
        "labels": np.arange(count) % _CLASSES,
        "sample_ids": tuple(map(str, range(count))),
        "classes": tuple(map(str, range(_CLASSES))),
        "split": np.full(count, "train"),
        "source": "noise",
    }
    if data.modality == "image":
        shape = (getattr(data, "size", 0),) * 2
        return ImageSet(
            images=LazyArray(lambda k: _draw(k).integers(0, 256, (*shape, 3)), count, (*shape, 3), np.uint8),
            masks=LazyArray(lambda k: np.arange(shape[0]) < shape[0] // 2, count, shape, np.bool_),
            **about,
        )
    if data.modality == "cloud":
        half = np.arange(_POINTS) < _POINTS // 2
        return CloudSet(
            clouds=LazyArray(
                lambda k: _draw(k).uniform(-0.5, 0.5, (_POINTS, 3)), count, (_POINTS, 3), np.float32
            ),
            masks=LazyArray(lambda k: half, count, (_POINTS,), np.bool_),
            **about,
        )
    text = "good " + "film " * max(1, getattr(data, "length", 0) - 4)  # and the ends
    return TextSet.from_sentences([text] * count, [0, 1] * (count // 2) + [0] * (count % 2))


def _draw(k: int) -> np.random.Generator:
    return np.random.default_rng(k)
