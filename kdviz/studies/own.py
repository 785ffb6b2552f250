"""Networks that were trained elsewhere and measured from folders, and what they are asked.

A file beside the run remembers where their checkpoints and samples lie. It does not say what builds a
network: that is code, and only who types the command may name it.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from kdviz.analysis import list_networks
from kdviz.arguments import name_some, one_of
from kdviz.errors import DataError, MisfitError, StoreError, naming
from kdviz.files import read_json, write_json
from kdviz.networks import load_weights, prepare_inputs
from kdviz.networks.feeding import name_tokens, turn_clouds
from kdviz.sources import ImageFolder, LabelledTexts, ModelNet40, Prepared, SampleSet, find_checkpoints
from kdviz.sources.samples import AbsolutePath, advise
from kdviz.sources.text import TextSource
from kdviz.store import Run
from kdviz.store.contents import networks_file
from kdviz.studies.attributing import attribute, entry_of, load_measured
from kdviz.studies.auditing import check_coherency
from kdviz.studies.explaining import explain
from kdviz.studies.factories import find_factory
from kdviz.studies.parts import Part
from kdviz.studies.plans import change_values
from kdviz.studies.sharing import share
from kdviz.studies.tasks import Subject

_ORDER = ("teacher", "baseline")  # others follow
_AGAIN = "kdviz measure {} --network ... as before says where it is now, and measures nothing twice"

OwnData = Annotated[ImageFolder | LabelledTexts | ModelNet40, Field(discriminator="kind")]
"""What networks that were trained elsewhere are measured on."""


class Saved(Part):
    """Where the checkpoints of a network lie: a folder, how they are named, which network of each file."""

    folder: AbsolutePath
    pattern: str | None = None
    part: str | None = None

    def find(self) -> dict[int, Path]:
        """List the checkpoints by epoch; errors are those of :func:`kdviz.sources.find_checkpoints`."""
        return find_checkpoints(self.folder, pattern=self.pattern)


class _Asked(Part):
    """What is said of samples in the shell."""

    data: OwnData


def choose_data(given: Mapping[str, Any], changes: Sequence[str]) -> OwnData:
    """Make a source of what is said of it and of changes, as :func:`kdviz.studies.make_plan` takes them.

    Parameters
    ----------
    given
        ``{"kind": "texts", "file": path, "tokenizer": folder}``.
    changes
        ``"data.length=64"``, the value as YAML.

    Raises
    ------
    ValueError
        If a change or a value is not valid.
    """
    values: dict[str, Any] = {"data": dict(given)}
    change_values(values, {}, changes)
    if others := values.keys() - {"data"}:
        raise ValueError(
            f"-s is {name_some(sorted(others))}; without a study it changes how samples are read: data.NAME, "
            "such as data.length=64"
        )
    return _Asked.model_validate(values).data


class Whereabouts(Part):
    """Where what was measured lies.

    Attributes
    ----------
    data
        The samples.
    grid
        Of images: units a side.
    checkpoints
        Those of every network, by its name in the run.
    """

    data: OwnData
    grid: int | None = Field(default=None, ge=1)
    checkpoints: dict[str, Saved]

    @model_validator(mode="before")
    @classmethod
    def _read_images(cls, values: Any) -> Any:
        """Understand what was remembered while there were images alone."""
        if not isinstance(values, dict) or "images" not in values:
            return values
        told = {name: value for name, value in values.items() if name in ("images", "masks", "size")}
        others = {name: value for name, value in values.items() if name not in told}
        return {"data": {"kind": "image-folder", **told}, **others}

    @property
    def places(self) -> dict[str, Path]:
        """Files and folders of the samples, by what they are."""
        return {name: value for name, value in self.data if isinstance(value, Path)}

    @classmethod
    def load(cls, store: Path) -> "Whereabouts":
        """Read what is remembered of a run.

        Raises
        ------
        StoreError
            If nothing is, or it is damaged.
        """
        path = networks_file(store)
        again = _AGAIN.format(store)
        if not path.is_file():
            raise StoreError(f"{path} is missing, which says where checkpoints and samples lie; {again}")
        try:
            return cls.model_validate(read_json(path))
        except (ValidationError, StoreError) as error:
            raise StoreError(f"{path} is damaged: remove it; {again}") from error

    def add_to(self, run: Run) -> None:
        """Remember it beside a run, with the networks that were remembered before."""
        with run.writing():
            path = networks_file(run.path)
            known = Whereabouts.load(run.path).checkpoints if path.is_file() else {}
            told = self.model_copy(update={"checkpoints": {**known, **self.checkpoints}})
            write_json(path, told.model_dump(mode="json"))


def build_fed(make_network: Callable[[], nn.Module], data: OwnData, prepared: Prepared) -> nn.Module:
    """Make a network, and let it take samples as they are prepared.

    Raises
    ------
    ValueError
        If it takes no clouds.
    """
    network = make_network()
    if isinstance(data, TextSource):
        name_tokens(network, data.load_tokenizer().pad_token_id or 0)  # as encode fills up
    elif isinstance(data, ModelNet40):
        turn_clouds(network, torch.from_numpy(prepared.inputs[:1]))
    return network


class OwnNetworks:
    """The networks of a run that were measured from folders, and its samples: a `Cast` without a study.

    Parameters
    ----------
    run
        As ``kdviz measure RUN --network ...`` left it.
    networks
        What builds them: ``module:function``, for one of another kind ``NAME=module:function``.
    device, progress
        As for :func:`kdviz.measure`.

    Raises
    ------
    ValueError
        If nothing builds one of the networks, or a name is not among them.
    DataError, StoreError
        If checkpoints or samples are gone, or not those that were measured.
    """

    def __init__(self, run: Run, networks: Sequence[str], device: str | None, progress: bool) -> None:
        self.run, self.device, self.progress = run, device, progress
        self.where = Whereabouts.load(run.path)
        found = self.found = list_networks(run)
        listed = [
            Subject(one.name, one.role, tuple(one.layers.values()), one.seed)
            for one in found.values()
            if one.name in self.where.checkpoints
        ]
        if not listed:
            raise StoreError(
                f"{run.path} holds none of {name_some(self.where.checkpoints)}: measure them again"
            )
        last = len(_ORDER)
        self.subjects = sorted(listed, key=lambda one: _ORDER.index(one.role) if one.role in _ORDER else last)
        self.factories = self._find_factories(networks)
        places = dict(self.where.places)
        places |= {f"checkpoints of {one.name}": self.where.checkpoints[one.name].folder for one in listed}
        for what, place in places.items():
            if not place.exists():
                again = advise(place, _AGAIN.format(run.path))
                raise DataError(f"what {run.path} was measured from, {what}, is not there: {place}{again}")
        self._check_samples()
        for subject in self.subjects:
            with naming(subject.name):
                epoch, weights = self.finished(subject)
                load_measured(self, subject, self.build_for(subject)(), epoch, weights)

    def attribute(self) -> Run:
        """Draw the maps of every network at its last measured epoch, as far as not done yet.

        Raises
        ------
        ValueError
            If the samples are no images.
        """
        if self.source.modality != "image":
            raise ValueError(
                f"attribution maps are drawn for images, {self.run.path} is about {self.everything.plural}"
            )
        self.run.expect({f"attribution/{subject.name}": {} for subject in self.subjects})
        for subject in self.subjects:
            name, epoch = f"attribution/{subject.name}", self.finished(subject)[0]
            whole = self.run.is_whole(name) and self.run.result(name)["epoch"].values.tolist() == [epoch]
            if not whole:
                with naming(subject.name):
                    attribute(self, subject)
        return self.run

    def share(self, samples: int | None = None) -> Run:
        """Ask which properties of the teacher the networks share, as :meth:`kdviz.studies.Study.share`."""
        return share(self, samples)

    def explain(self, samples: int | None = None) -> Run:
        """Map and score what students have beside baselines, as :meth:`kdviz.studies.Study.explain`."""
        return explain(self, samples)

    def check_coherency(self, samples: int = 4, pairs: int = 4) -> Run:
        """Ask which maps survive rescaled weights, as :meth:`kdviz.studies.Study.check_coherency`."""
        return check_coherency(self, samples, pairs)

    def _find_factories(self, networks: Sequence[str]) -> dict[str, Callable[[], nn.Module]]:
        """Return what builds each network, by its name."""
        names = [subject.name for subject in self.subjects]
        told: dict[str | None, str] = {}
        for text in networks:
            name, equals, factory = text.rpartition("=")
            whose = one_of("--network: a name before =", name, names) if equals else None
            if whose in told:
                twice = "all networks" if whose is None else whose
                raise ValueError(f"--network says twice what builds {twice}: {told[whose]} and {factory}")
            told[whose] = factory
        if None not in told and (rest := [name for name in names if name not in told]):
            raise ValueError(
                f"--network does not say what builds {name_some(rest)}: give module:function, too, for all "
                "that are not named"
            )
        made = {factory: find_factory(factory)[0] for factory in told.values()}
        return {name: made[told[name if name in told else None]] for name in names}

    def _check_samples(self) -> None:
        """Refuse other samples than those that were measured."""
        prepared, samples, (first, *_) = self.measured, self.measured_set, self.subjects
        attrs = self.run.catalogue()[first.name, first.layers[0]]
        given = prepare_inputs(
            torch.from_numpy(prepared.inputs[:]),
            prepared.units,
            prepared.foreground,
            samples.labels,
            samples.sample_ids,
            entry=entry_of(attrs),
        )
        if attrs.get("input_fingerprint") != given.fingerprint:
            raise DataError(
                f"{self._place} holds other {samples.plural} under the names of those that were measured, or "
                "what prepares them, such as a tokenizer, is another"
            )

    # -- samples

    @property
    def source(self) -> OwnData:
        """How the samples are read."""
        return self.where.data

    @property
    def _place(self) -> Path:
        """Where the samples themselves lie."""
        return next(path for name, path in self.where.places.items() if name in ("images", "file", "folder"))

    @cached_property
    def everything(self) -> SampleSet:
        """All samples there are."""
        return self.source.read()

    @cached_property
    def measured_set(self) -> SampleSet:
        """Those that were measured."""
        names, known = self.run.samples["sample"].values.tolist(), self.everything
        if gone := sorted({*names} - {*known.sample_ids}):
            raise DataError(
                f"{self._place} lacks {len(gone)} {known.plural} that were measured: {name_some(gone)}"
            )
        return known.select(names)

    @cached_property
    def measured(self) -> Prepared:
        """The same, as networks and measuring take them."""
        return self.source.prepare(self.measured_set, grid=self.where.grid)

    def ask(self, count: int) -> SampleSet:
        """Return so many samples, spread over all, or all there are."""
        return self.everything.pick_evenly(count)

    def as_tensors(self, samples: SampleSet) -> tuple[Tensor, Tensor]:
        """Return samples as networks take them, and their labels."""
        return torch.from_numpy(self.source.prepare(samples).inputs[:]), torch.from_numpy(samples.labels)

    # -- networks

    def build_for(self, subject: Subject) -> Callable[[], nn.Module]:
        """Return what makes an untrained network of this kind."""
        return partial(build_fed, self.factories[subject.name], self.source, self.measured)

    def load(self, subject: Subject, network: nn.Module, checkpoint: Path) -> dict[str, Any]:
        """Put weights of a network into one that was built for it, and return them as `load_weights` does."""
        try:
            return load_weights(network, checkpoint, self.where.checkpoints[subject.name].part)
        except MisfitError as error:
            other = (
                f"if {subject.name} is of another kind, --network {subject.name}=module:function builds it"
            )
            raise MisfitError(f"{error}; {other}") from error

    def feature_of(self, subject: Subject) -> str:
        """Say which feature of its layers is measured."""
        return self.measured.units.feature

    def modules(self, subject: Subject) -> list[str]:
        """Name the layers at which a network is measured."""
        return list(subject.layers)

    def checkpoints(self, subject: Subject) -> dict[int, Path]:
        """Return the weights of a network by the epochs at which it was measured."""
        saved = self.where.checkpoints[subject.name]
        found, measured = saved.find(), self.run.epochs(subject.name, subject.layers[0])
        if gone := [epoch for epoch in measured if epoch not in found]:
            what = f"checkpoints of {subject.name} that were measured: epochs {name_some(gone)}"
            raise DataError(f"{saved.folder} lacks {what}")
        return {epoch: found[epoch] for epoch in measured}

    def finished(self, subject: Subject) -> tuple[int, Path]:
        """Return a network's last measured epoch, and its weights."""
        return max(self.checkpoints(subject).items())

    def is_taught_whole(self, student: Subject) -> bool:
        """Say yes: nothing is known of heads that were trained afterwards."""
        return True

    def compared(self, student: Subject) -> list[str]:
        """Name the layers at which a student is compared with its baseline: those where it was measured."""
        return self.modules(student)

    def in_teacher(self, module: str) -> str:
        """Name a layer of students as the teacher has it: by the name of both, alike, or the only one.

        Raises
        ------
        ValueError
            If the teacher was measured at other layers, and not at one alone.
        """
        teacher = next(subject for subject in self.subjects if subject.role == "teacher")
        own = self.found[teacher.name].layers
        for one in self.found.values():
            for label, known in one.layers.items():
                if known == module and label in own:
                    return own[label]
        if module in teacher.layers or len(teacher.layers) == 1:
            return module if module in teacher.layers else teacher.layers[0]
        together = {f"like {module}": [module, teacher.layers[-1]]}
        raise ValueError(
            f"{teacher.name} was not measured at {module}, but at {name_some(teacher.layers)}: give each "
            "layer of students that it lacks a name together with one of these, such as "
            f"kdviz.store.describe({str(self.run.path)!r}, layers={together}) in Python"
        )
