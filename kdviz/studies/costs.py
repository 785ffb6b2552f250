"""What a study will take, before anything of it is trained: from a few passes of untrained networks.

Data that are not there are stood in for by noise of their size: a pass takes as long.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from kdviz import schema
from kdviz.errors import DataError
from kdviz.measuring.estimate import time_call
from kdviz.sources import CloudSet, ImageSet, LazyArray, SampleSet, Source, TextSet
from kdviz.sources.samples import Part
from kdviz.studies.tasks import Subject, Task
from kdviz.studies.work import Workshop

_BATCH = 8  # samples of a trial
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
        Bytes held at a time beside network and inputs; of training it is not told.
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


def estimate_costs(workshop: Workshop, tasks: Sequence[Task]) -> dict[str, Cost]:
    """Estimate what training and measuring take.

    Parameters
    ----------
    workshop
        Of the study.
    tasks
        What is left to do.

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
    trial, found = _Trial(workshop.study), dict[str, Cost]()
    known: dict[tuple[str, Subject], Cost] = {}
    for task in tasks:
        if task.action == "accuracy":
            continue
        alike = task.action, replace(task.subject, name="", seed=task.subject.seed and 0)
        if alike not in known:
            known[alike] = trial.measuring(task) if task.is_measurement else trial.training(task.subject)
        kind = "measure" if task.is_measurement else "train"
        found[kind] = found.get(kind, Cost()) + known[alike]
    return found


class _Trial(Workshop):
    """A workshop whose networks are untrained, and whose data may be noise."""

    def recognise(self) -> None:
        """Leave what a study was begun with alone: nothing here is kept."""

    def _load(self, part: Part) -> SampleSet:
        try:
            return self.plan.data.load(part)
        except DataError:
            return _stand_in(self.plan.data, self.plan.training.count)

    def checkpoints(self, subject: Subject) -> dict[int, Any]:
        """Return untrained weights at every epoch that is measured."""
        weights = self.build_for(subject)().state_dict()
        last = self.plan.training.epochs
        return dict.fromkeys(
            (last,) if subject.role == "teacher" else self.plan.training.measured_epochs, weights
        )

    def _told(self, subject: Subject, epoch: int) -> dict[str, schema.Attribute]:
        return {}

    def measuring(self, task: Task) -> Cost:
        """Estimate a measurement."""
        told = self.plan_measurement(task.subject, task.action == "repeat").estimate()
        assert told is not None
        return Cost(told.passes, told.seconds, told.memory, told.disk)

    def training(self, subject: Subject) -> Cost:
        """Estimate a training."""
        of_teacher, asked = subject.role == "teacher", self.plan.training
        samples = len(self.teacher_set) if of_teacher else min(asked.count, len(self.training_set))
        unseen = len(self.teacher_held_out_set if of_teacher else self.held_out_set)
        epochs = getattr(self.plan.networks.teacher, "epochs", 0) if of_teacher else asked.epochs
        looks = len(asked.measured_epochs) * (samples + unseen) if subject.has_head else epochs * unseen
        network = self.build_for(subject)().to(self.device or "cpu")
        batch = torch.from_numpy(self.measured.inputs[:_BATCH]).to(self.device or "cpu")

        def step() -> None:
            network(batch).float().square().mean().backward()

        def look() -> None:
            with torch.no_grad():
                network(batch)

        there_and_back, there = (time_call(one) / len(batch) for one in (step, look))
        kept = 2 if of_teacher else len(asked.checkpoints) or epochs + 1
        size = sum(one.nbytes for one in network.state_dict().values())
        passes = 2 * epochs * samples + looks
        seconds = epochs * samples * there_and_back + looks * there
        return Cost((passes, passes), (seconds, seconds), 0, kept * size)


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
