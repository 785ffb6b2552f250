"""Ask what every student of a study has beside the baseline of its seed, and what it dropped."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from kdviz import unicam
from kdviz.attribution import find_map_layer
from kdviz.files import hash_file
from kdviz.networks import load_weights
from kdviz.networks.hashing import fingerprint
from kdviz.store import Run
from kdviz.studies.tasks import Subject
from kdviz.studies.work import Workshop
from kdviz.units import Grid

_VERSION = 1  # raised when the same question gets another answer: what is kept is then asked again
_STAGES = 6  # epochs over which scores are followed
_PARTS = 50  # left out one after the other, for intervals
_BATCH = 128  # of a map: the larger, the less it depends on what samples come together
_KEPT = 0.5  # share of the pixels that perturbed images keep, as in the published script

_Weights = dict[Subject, tuple[int, Path]]
"""Networks, at which epoch, and the file that holds them."""


def explain(workshop: Workshop, samples: int) -> Run:
    """Map and score what students have beside baselines, on held-out samples; keep all in the run."""
    asker = _Asker(workshop, samples)
    students = [subject for subject in asker.subjects if subject.role == "student"]
    workshop.run.expect({f"{room}/{student.name}": {} for student in students for room in asker.rooms})
    for student in students:
        asker.keep(student)
    return workshop.run


class _Asker:
    """Held-out samples, and what is asked about them of a student, its baseline and the teacher."""

    def __init__(self, workshop: Workshop, samples: int) -> None:
        self.workshop, self.subjects = workshop, list(workshop.study.subjects())
        self.teacher = next(one for one in self.subjects if one.role == "teacher")
        self.images = workshop.plan.data.modality == "image"
        self.rooms = (*(["unicam"] if self.images else []), "unicam-scores", "unicam-progress")
        held_out = workshop.held_out_set
        self.asked = held_out.select(np.arange(min(samples, len(held_out))))
        self.identity = fingerprint(
            repr((_VERSION, _STAGES, _PARTS, _BATCH, _KEPT)),
            self.asked.fingerprint,
            workshop.measured_set.fingerprint,
        )

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """What is scored, as networks take it."""
        return self.workshop.as_tensors(self.asked)

    def keep(self, student: Subject) -> None:
        """Write every answer about a student that the run does not hold yet."""
        base = next(one for one in self.subjects if one.role == "baseline" and one.seed == student.seed)
        ends = {one: self.workshop.finished(one) for one in (student, base, self.teacher)}
        steps, kept = self._list_steps(student, base), _KEPT if self.images else None
        if self.images:
            self._keep("unicam", student, [ends], lambda: self._map(student, base, ends))
        self._keep("unicam-scores", student, [ends], lambda: self._score(student, base, ends, kept))
        self._keep("unicam-progress", student, steps, lambda: self._follow(student, base, steps))

    def _keep(
        self, room: str, student: Subject, asked: list[_Weights], ask: Callable[[], xr.Dataset]
    ) -> None:
        run, name = self.workshop.run, f"{room}/{student.name}"
        weights = [(epoch, hash_file(path)) for step in asked for epoch, path in step.values()]
        identity = fingerprint(self.identity, repr((self._list_layers(student), weights)))
        if run.find_result(name, identity) is None:
            run.write_result(name, ask().assign_attrs(identity=identity), overwrite=True)

    def _list_steps(self, student: Subject, base: Subject) -> list[_Weights]:
        """List the networks at some of the measured epochs; the teacher is the finished one at each."""
        ours, theirs = (self.workshop.checkpoints(one) for one in (student, base))
        chosen = np.linspace(0, len(ours) - 1, min(_STAGES, len(ours))).round().astype(int)
        epochs = np.array(list(ours))[chosen].tolist()
        teacher = self.workshop.teacher_checkpoint
        return [
            {student: (epoch, ours[epoch]), base: (epoch, theirs[epoch]), self.teacher: teacher}
            for epoch in epochs
        ]

    def _below(self, student: Subject) -> bool:
        """Tell whether the preset's first layer, and the map's, come before the layer that is distilled.

        A student whose head is trained by itself is none of the teacher's above it.
        """
        return not student.has_head or student.distilled in self.workshop.preset.layers

    def _list_layers(self, student: Subject) -> list[str]:
        first = list(self.workshop.preset.layers.values())[:1] if self._below(student) else []
        return list(dict.fromkeys([*first, *self.workshop.study.modules(student)]))

    def _load(self, weights: _Weights) -> dict[str, nn.Module]:
        networks = {}
        for subject, (_, path) in weights.items():
            network = networks[subject.name] = self.workshop.build_for(subject)()
            load_weights(network, path)
        return networks

    def _map(self, student: Subject, base: Subject, weights: _Weights) -> xr.Dataset:
        """Map the measured samples, among the others, because a map depends on the batch."""
        workshop, networks = self.workshop, self._load(weights)
        measured, units = workshop.measured_set, workshop.measured.units
        assert isinstance(units, Grid)
        known = set(measured.sample_ids)
        others = np.array([name not in known for name in self.asked.sample_ids])
        inputs, labels = (
            torch.cat([ours, theirs[torch.from_numpy(others)]])
            for ours, theirs in zip(workshop.as_tensors(measured), self.data, strict=True)
        )
        own = networks[student.name]
        layer = find_map_layer(own, inputs[:1]) if self._below(student) else self._list_layers(student)[0]
        ds = unicam.explain(
            own,
            networks[base.name],
            inputs,
            labels.numpy(),
            layers=[layer],
            units=units,
            sample_ids=[*measured.sample_ids, *np.array(self.asked.sample_ids)[others]],
            epoch=weights[student][0],
            batch_size=_BATCH,
            device=workshop.device,
            progress=workshop.study.progress,
        )
        shown = ds.isel(sample=slice(len(measured)))
        samples = workshop.run.samples
        sides = {name: samples[name] for name in ("foreground", "void") if name in samples}
        return shown.assign(sides).assign_attrs(student=student.name, base=base.name)

    def _score(
        self, student: Subject, base: Subject, weights: _Weights, perturb: float | None = None
    ) -> xr.Dataset:
        inputs, labels = self.data
        layers = [(one, one, self.workshop.in_teacher(one)) for one in self._list_layers(student)]
        ds = unicam.score(
            self._load(weights),
            inputs,
            labels.numpy(),
            student=student.name,
            base=base.name,
            teacher=self.teacher.name,
            layers=layers,
            perturb=perturb,
            resamples=_PARTS,
            sample_ids=self.asked.sample_ids,
            epoch=weights[student][0],
            device=self.workshop.device,
            progress=self.workshop.study.progress,
        )
        return ds.assign_attrs(teacher_epoch=weights[self.teacher][0])

    def _follow(self, student: Subject, base: Subject, steps: list[_Weights]) -> xr.Dataset:
        return xr.concat(
            [self._score(student, base, step) for step in steps],
            "epoch",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
