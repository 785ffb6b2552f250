"""Ask what every student has beside the baseline of its seed, and what it dropped."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from kdviz import unicam
from kdviz.arguments import name_some
from kdviz.attribution import find_map_layer
from kdviz.errors import naming
from kdviz.networks.hashing import fingerprint, fingerprint_checkpoint
from kdviz.sources import ImageSet
from kdviz.store import Run
from kdviz.studies.cast import Cast, place_evenly, read_before
from kdviz.studies.tasks import Subject
from kdviz.units import Grid

_VERSION = 2  # raised when the same question gets another answer: what is kept is then asked again
_SAMPLES = 300
_STAGES = 6  # epochs over which scores are followed
_PARTS = 50  # left out one after the other, for intervals
_BATCH = 128  # of a map: the larger, the less it depends on what samples come together
_KEPT = 0.5  # share of the pixels that perturbed images keep, as in the published script

_Weights = dict[Subject, tuple[int, Path]]
"""Networks, at which epoch, and the file that holds them."""


def explain(cast: Cast, samples: int | None) -> Run:
    """Map and score what students have beside baselines, on samples to ask about; keep all in the run.

    Scores of another number of samples are replaced; by default it is that of before.

    Raises
    ------
    ValueError
        If a student has no baseline of its training seed, or there is no student.
    """
    if samples is None:
        before = read_before(cast.run, "unicam-scores/")
        samples = _SAMPLES if before is None else int(before.attrs["samples"])
    asker = _Asker(cast, samples)
    pairs = [asker.pair(subject) for subject in asker.subjects if subject.role == "student"]
    if not pairs:
        raise ValueError(f"kdviz unicam is about students, and {cast.run.path} has no network of that role")
    if asker.teacher is not None:
        for layer in dict.fromkeys(layer for student, _ in pairs for layer in cast.compared(student)):
            cast.in_teacher(layer)  # before anything is begun
    cast.run.expect({f"{room}/{student.name}": {} for student, _ in pairs for room in asker.rooms})
    for student, base in pairs:
        with naming(student.name):
            asker.keep(student, base)
    return cast.run


class _Asker:
    """Samples to ask about, and what is asked of a student, its baseline and the teacher, if there is one."""

    def __init__(self, cast: Cast, samples: int) -> None:
        self.cast, self.subjects = cast, cast.subjects
        teachers = [one for one in self.subjects if one.role == "teacher"]
        if len(teachers) > 1:
            raise ValueError(
                f"kdviz unicam compares with one teacher; {cast.run.path} has "
                f"{name_some(one.name for one in teachers)}"
            )
        self.teacher = teachers[0] if teachers else None
        self.images = isinstance(cast.measured_set, ImageSet)
        self.rooms = (*(["unicam"] if self.images else []), "unicam-scores", "unicam-progress")
        self.asked = cast.ask(samples)
        self.identity = fingerprint(
            repr((_VERSION, _STAGES, _PARTS, _BATCH, _KEPT)),
            self.asked.fingerprint,
            cast.measured_set.fingerprint,
        )

    def pair(self, student: Subject) -> tuple[Subject, Subject]:
        """Return a student and the baseline of its seed."""
        for one in self.subjects:
            if one.role == "baseline" and one.seed == student.seed:
                return student, one
        raise ValueError(
            f"there is no baseline of training seed {student.seed} beside {student.name}: measure one first, "
            f"with --role baseline --seed {student.seed}"
        )

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """What is scored, as networks take it."""
        return self.cast.as_tensors(self.asked)

    def keep(self, student: Subject, base: Subject) -> None:
        """Write every answer about a student that the run does not hold yet."""
        taught = () if self.teacher is None else (self.teacher,)
        ends = {one: self.cast.finished(one) for one in (student, base, *taught)}
        steps, kept = self._list_steps(student, base), _KEPT if self.images else None
        if self.images:
            self._keep("unicam", student, [ends], lambda: self._map(student, base, ends))
        self._keep("unicam-scores", student, [ends], lambda: self._score(student, base, ends, kept))
        self._keep("unicam-progress", student, steps, lambda: self._follow(student, base, steps))

    def _keep(
        self, room: str, student: Subject, asked: list[_Weights], ask: Callable[[], xr.Dataset]
    ) -> None:
        run, name = self.cast.run, f"{room}/{student.name}"
        weights = [(epoch, fingerprint_checkpoint(path)) for step in asked for epoch, path in step.values()]
        identity = fingerprint(self.identity, repr((self.cast.compared(student), weights)))
        if run.find_result(name, identity) is None:
            run.write_result(name, ask().assign_attrs(identity=identity), overwrite=True)

    def _list_steps(self, student: Subject, base: Subject) -> list[_Weights]:
        """List the networks at some of the epochs of both; the teacher is the finished one at each."""
        ours, theirs = (self.cast.checkpoints(one) for one in (student, base))
        both = [epoch for epoch in ours if epoch in theirs]
        if not both:
            raise ValueError(
                f"{student.name} and {base.name} were measured at no epoch in common, {name_some(ours)} and "
                f"{name_some(theirs)}; measure both at the same"
            )
        taught = {} if self.teacher is None else {self.teacher: self.cast.finished(self.teacher)}
        return [
            {student: (epoch, ours[epoch]), base: (epoch, theirs[epoch]), **taught}
            for epoch in np.array(both)[place_evenly(len(both), _STAGES)].tolist()
        ]

    def _load(self, weights: _Weights) -> dict[str, nn.Module]:
        networks = {}
        for subject, (_, path) in weights.items():
            network = networks[subject.name] = self.cast.build_for(subject)()
            self.cast.load(subject, network, path)
        return networks

    def _map(self, student: Subject, base: Subject, weights: _Weights) -> xr.Dataset:
        """Map the measured samples, among the others, because a map depends on the batch."""
        cast, networks = self.cast, self._load(weights)
        measured, units = cast.measured_set, cast.measured.units
        assert isinstance(units, Grid)
        known = set(measured.sample_ids)
        others = np.array([name not in known for name in self.asked.sample_ids])
        inputs, labels = (
            torch.cat([ours, theirs[torch.from_numpy(others)]])
            for ours, theirs in zip(cast.as_tensors(measured), self.data, strict=True)
        )
        own = networks[student.name]
        whole = cast.is_taught_whole(student)
        layer = find_map_layer(own, inputs[:1]) if whole else cast.compared(student)[0]
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
            device=cast.device,
            progress=cast.progress,
        )
        shown = ds.isel(sample=slice(len(measured)))
        samples = cast.run.samples
        sides = {name: samples[name] for name in ("foreground", "void") if name in samples}
        return shown.assign(sides).assign_attrs(student=student.name, base=base.name)

    def _score(
        self, student: Subject, base: Subject, weights: _Weights, perturb: float | None = None
    ) -> xr.Dataset:
        inputs, labels = self.data
        teacher = self.teacher
        layers = [
            (one, one) if teacher is None else (one, one, self.cast.in_teacher(one))
            for one in self.cast.compared(student)
        ]
        ds = unicam.score(
            self._load(weights),
            inputs,
            labels.numpy(),
            student=student.name,
            base=base.name,
            teacher=None if teacher is None else teacher.name,
            layers=layers,
            perturb=perturb,
            resamples=_PARTS,
            sample_ids=self.asked.sample_ids,
            epoch=weights[student][0],
            device=self.cast.device,
            progress=self.cast.progress,
        )
        return ds if teacher is None else ds.assign_attrs(teacher_epoch=weights[teacher][0])

    def _follow(self, student: Subject, base: Subject, steps: list[_Weights]) -> xr.Dataset:
        return xr.concat(
            [self._score(student, base, step) for step in steps],
            "epoch",
            data_vars="minimal",
            coords="minimal",
            compat="override",
            combine_attrs="drop_conflicts",
        )
