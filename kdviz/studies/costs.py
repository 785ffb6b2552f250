"""What a study will take, before anything of it is trained: from a few passes of untrained networks.

Data that are not there are stood in for by noise of their size: a pass takes as long.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kdviz import schema
from kdviz.errors import DataError
from kdviz.measuring.estimate import time_call
from kdviz.schema import BLOCK
from kdviz.sources import CloudSet, ImageSet, LazyArray, SampleSet, Source, TextSet
from kdviz.sources.samples import Part
from kdviz.studies.tasks import Layout, Subject, Task
from kdviz.studies.work import Workshop

_SAMPLES = 2  # of a trial: batch normalisation wants several
_CLASSES = 100  # of data that are not there
_POINTS = 1024  # of a cloud that is not there


@dataclass(frozen=True)
class Cost:
    """What some tasks will take.

    Attributes
    ----------
    passes
        Forward and backward passes of one sample, from all samples by gain to all by path.
    seconds
        Of them in one process on this machine.
    memory
        Bytes held at a time beside network and inputs, roughly: those of one sample times 16; of training it
        is not told.
    disk
        Bytes of weights or results.
    """

    passes: tuple[int, int] = (0, 0)
    seconds: tuple[float, float] = (0.0, 0.0)
    memory: int = 0
    disk: int = 0

    def __add__(self, other: "Cost") -> "Cost":
        """Take one after the other."""
        (low, high), (more, most) = self.passes, other.passes
        (least, longest), (first, last) = self.seconds, other.seconds
        return Cost(
            (low + more, high + most),
            (least + first, longest + last),
            max(self.memory, other.memory),
            self.disk + other.disk,
        )


def estimate_costs(
    study: Layout, tasks: Sequence[Task], known: dict[str, Any] | None = None
) -> dict[str, Cost]:
    """Estimate what training and measuring take.

    Parameters
    ----------
    study
        It need not be begun.
    tasks
        What is left to do.
    known
        What was timed before, and is added to: networks alike are timed once.

    Returns
    -------
    dict
        By ``"train"`` and ``"measure"``. Of training the passes of networks over all samples count, those
        that tell accuracies among them; heads on frozen features are left out.

    Raises
    ------
    DataError
        If an encoder or a tokenizer that the plan names is not there.
    """
    asked = study.plan.measurement
    few = asked.model_copy(update={"samples": _SAMPLES})
    small = replace(study, plan=study.plan.model_copy(update={"measurement": few}))
    trial, found = _Trial(small, {} if known is None else known), dict[str, Cost]()
    for task in tasks:
        if task.is_measurement:
            found["measure"] = found.get("measure", Cost()) + trial.measuring(task, asked.samples)
        elif task.action == "train":
            found["train"] = found.get("train", Cost()) + trial.training(task.subject)
    return found


class _Trial(Workshop):
    """A workshop whose networks are untrained, and whose data may be noise; a pass is of one sample."""

    max_batch = 1

    def __init__(self, study: Layout, known: dict[str, Any]) -> None:
        super().__init__(study)
        self.known = known

    def _once(self, subject: Subject, what: str, time: Callable[[], Any]) -> Any:
        """Time something once of networks of one architecture, input, layers and settings."""
        plan = self.plan.as_json()
        told = {
            "what": [what, plan["measurement"], self.device],
            "network": [self._architecture(subject.role == "teacher"), plan["networks"]["depth"]],
            "layers": self.study.modules(subject) if what == "measure" else [],
            "data": plan["data"].get("size", plan["data"]),
        }
        key = json.dumps(told, sort_keys=True)
        if key not in self.known:
            self.known[key] = time()
        return self.known[key]

    def recognise(self) -> None:
        """Leave what a study was begun with alone: nothing here is kept."""

    def _read(self, data: Source, name: str, part: Part) -> SampleSet:
        try:
            return data.load(part)
        except DataError:
            return _stand_in(data, self.plan.training.count)

    def checkpoints(self, subject: Subject) -> dict[int, Any]:
        """Return untrained weights, of one epoch for all."""
        return {0: self.build_for(subject)().state_dict()}

    def _told(self, subject: Subject, epoch: int) -> dict[str, schema.Attribute]:
        return {}

    def measuring(self, task: Task, samples: int) -> Cost:
        """Estimate a measurement of so many samples from that of few, one at a time."""
        subject, once = task.subject, task.action == "repeat" or task.subject.role == "teacher"
        epochs = 1 if once else len(self.plan.training.measured_epochs)
        told = self._once(subject, "measure", lambda: self.plan_measurement(subject).estimate())
        layers, share = len(subject.layers), samples / _SAMPLES
        tried, usual = 5 + 2 * layers, 7 + 2 * layers  # passes of a trial: one sample at a time, and several
        low, high = (epochs * (round((passes - tried) * share) + usual) for passes in told.passes)
        least, most = (
            seconds * passes / known
            for seconds, passes, known in zip(told.seconds, (low, high), told.passes, strict=True)
        )
        return Cost((low, high), (least, most), told.memory * BLOCK, round(epochs * told.disk * share))

    def training(self, subject: Subject) -> Cost:
        """Estimate a training."""
        of_teacher, asked = subject.role == "teacher", self.plan.training
        samples = len(self.teacher_set) if of_teacher else min(asked.count, len(self.training_set))
        unseen = len(self.teacher_held_out_set if of_teacher else self.held_out_set)
        epochs = getattr(self.plan.networks.teacher, "epochs", 0) if of_teacher else asked.epochs
        looks = len(asked.measured_epochs) * (samples + unseen) if subject.has_head else epochs * unseen
        there_and_back, there, size = self._once(subject, "train", lambda: self._time(subject))
        kept = 2 if of_teacher else len(asked.checkpoints) or epochs + 1
        passes = 2 * epochs * samples + looks
        seconds = epochs * samples * there_and_back + looks * there
        return Cost((passes, passes), (seconds, seconds), 0, kept * size)

    def _time(self, subject: Subject) -> tuple[float, float, int]:
        """Return seconds of a sample forward and backward, and forward alone; and bytes of weights."""
        network = self.build_for(subject)().to(self.device or "cpu")
        batch = torch.from_numpy(self.measured.inputs[:]).to(self.device or "cpu")

        def step() -> None:
            network(batch).float().square().mean().backward()

        def look() -> None:
            with torch.no_grad():
                network(batch)

        size = sum(one.nbytes for one in network.state_dict().values())
        return time_call(step) / len(batch), time_call(look) / len(batch), size


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
    text = "good " + "film " * getattr(data, "length", 0)
    return TextSet.from_sentences([text] * count, [0, 1] * (count // 2) + [0] * (count % 2))


def _draw(k: int) -> np.random.Generator:
    return np.random.default_rng(k)
