"""What a study is about, in memory: its samples, and its networks as they are built, trained or saved."""

import json
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdviz import models
from kdviz.errors import DataError, StoreError
from kdviz.files import hash_file, list_differences, read_json, write_json
from kdviz.models import SpanNetwork, TextNetwork, encoders
from kdviz.networks import load_weights
from kdviz.networks.checkpoints import read_checkpoint
from kdviz.sources import Prepared, SampleSet, Source, find_data
from kdviz.sources.samples import Part
from kdviz.sources.text import TextSource
from kdviz.studies.parts import LOGITS, BuiltInTeacher, SavedTeacher
from kdviz.studies.plans import BUILT_IN_TEACHERS, STUDY_FILE, is_added
from kdviz.studies.tasks import BEGUN_FILE, Layout, Subject
from kdviz.training import PLANS, TrainingRecord


class Materials:
    """Samples and networks of one study, each loaded once."""

    def __init__(self, study: Layout) -> None:
        self.study, self.plan = study, study.plan
        self.device = study.device or self.plan.device
        self.loaded: dict[str, SampleSet] = {}
        if (study.folder / BEGUN_FILE).exists():
            self.recognise()

    # -- samples

    @cached_property
    def training_set(self) -> SampleSet:
        """All samples to train on."""
        return self._read(self.plan.data, "train", "train")

    @cached_property
    def held_out_set(self) -> SampleSet:
        """Samples that no network sees."""
        return self._read(self.plan.data, "held-out", "held-out")

    @cached_property
    def teacher_set(self) -> SampleSet:
        """All samples that the teacher is trained on, where it is trained here."""
        return self._load_others("train")

    @cached_property
    def teacher_held_out_set(self) -> SampleSet:
        """Samples of the teacher's kind that no network sees."""
        return self._load_others("held-out")

    def _load_others(self, part: Part) -> SampleSet:
        data = getattr(self.plan.networks.teacher, "data", None)
        if data is None:
            return self.training_set if part == "train" else self.held_out_set
        return self._read(data, f"teacher's {part}", part)

    @cached_property
    def student_set(self) -> SampleSet:
        """Those that students and baselines see."""
        everything = self.training_set
        return everything.select(np.arange(min(self.plan.training.count, len(everything))))

    @cached_property
    def measured_set(self) -> SampleSet:
        """Those that are measured."""
        pool = self.student_set if self.plan.measurement.part == "train" else self.held_out_set
        return self.plan.data.choose(pool, self.plan.measurement.samples)

    @cached_property
    def measured(self) -> Prepared:
        """What is measured, as networks and measuring take it."""
        return self.plan.data.prepare(self.measured_set, grid=self.plan.measurement.grid)

    @cached_property
    def student_data(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels of students and baselines."""
        return self.as_tensors(self.student_set)

    @cached_property
    def held_out_data(self) -> tuple[Tensor, Tensor]:
        """Inputs and labels that tell accuracies."""
        return self.as_tensors(self.held_out_set)

    def _read(self, data: Source, name: str, part: Part) -> SampleSet:
        samples = self.loaded[name] = data.load(part)
        if self.study.folder.is_dir():
            self.recognise()
        return samples

    def recognise(self) -> None:
        """See that plan, samples loaded and a teacher of the user's are those that the study was begun with.

        How it is measured may change until it is; the run knows that.

        Raises
        ------
        StoreError
            If the plan differs, or samples or teacher are others under the same names.
        """
        folder, path = self.study.folder, self.study.folder / BEGUN_FILE
        known = read_json(path, remove=path) if path.exists() else {}
        begun, back = dict(known), "put it back, or choose another folder"
        asked = json.loads(json.dumps(self.plan.identity))
        deciding = {name: value for name, value in asked.items() if not name.startswith("measurement.")}
        stored = begun.setdefault("plan", deciding)
        later = {name: None for name in deciding.keys() - stored.keys() if is_added(name)}
        if differing := list_differences(
            stored | later, {name: deciding.get(name) for name in stored | later}
        ):
            raise StoreError(
                f"{folder / STUDY_FILE}: the study was begun with {'; '.join(differing)}; {back}"
            )
        for part, samples in self.loaded.items():
            if begun.setdefault(part, samples.fingerprint) != samples.fingerprint:
                raise StoreError(
                    f"{folder} was begun with other samples to {part} under the same names; "
                    "put them back, or choose another folder"
                )
        teacher = self.plan.networks.teacher
        file = teacher.file if isinstance(teacher, SavedTeacher) else getattr(teacher, "start", None)
        if file is not None and file.is_file():
            digest = hash_file(file)
            if begun.setdefault("teacher", digest) != digest:
                raise StoreError(f"{file} is not the teacher that {folder} was begun with; {back}")
        if begun != known:
            write_json(path, begun)

    def as_tensors(self, samples: SampleSet) -> tuple[Tensor, Tensor]:
        """Return samples as networks take them, and their labels, or first and last tokens of answers."""
        prepared = self.plan.data.prepare(samples, grid=self.plan.measurement.grid)
        targets = samples.labels if prepared.targets is None else prepared.targets
        return torch.from_numpy(prepared.inputs[:]), torch.from_numpy(targets)

    @property
    def source(self) -> Source:
        """How the samples are read."""
        return self.plan.data

    def ask(self, count: int) -> SampleSet:
        """Return so many samples that no network sees, or all there are."""
        return self.held_out_set.select(np.arange(min(count, len(self.held_out_set))))

    # -- networks

    @property
    def subjects(self) -> list[Subject]:
        """The networks of the plan, the teacher first."""
        return list(self.study.subjects())

    @property
    def preset(self) -> models.ArchitecturePreset:
        """Constants of the architecture of students and baselines."""
        return models.PRESETS[self.plan.networks.architecture]

    def preset_of(self, subject: Subject) -> models.ArchitecturePreset:
        """Constants of a network's architecture."""
        return models.PRESETS[self._architecture(subject.role == "teacher")]

    def _architecture(self, teacher: bool) -> str:
        asked = self.plan.networks
        return (teacher and getattr(asked.teacher, "architecture", None)) or asked.architecture

    @cached_property
    def _stand_ins(self) -> Mapping[str, str]:
        """Module whose weight stands for a layer that has none, of students and baselines."""
        network = self.build() if self.plan.networks.architecture == "encoder" else None
        if isinstance(network, (TextNetwork, SpanNetwork)):
            return encoders.last_weights(network)
        return self.preset.weights

    def build_for(self, subject: Subject) -> Callable[[], nn.Module]:
        """Return what makes an untrained network of this kind."""
        return partial(self.build, teacher=subject.role == "teacher")

    def load(self, subject: Subject, network: nn.Module, checkpoint: Path) -> dict[str, Any]:
        """Put weights of a network into one that was built for it, and return them as `load_weights` does."""
        return load_weights(network, checkpoint)

    def build(self, seed: int = 0, *, teacher: bool = False, pretrained: bool = False) -> nn.Module:
        """Make an untrained network, or the teacher as its training starts."""
        shape, asked = dict(self.plan.data), self.plan.networks
        options: dict[str, Any] = {"classes": self.count_classes(teacher), "seed": seed}
        if self.plan.data.modality == "image":
            options |= {"input_size": shape["size"]}
        elif self.plan.data.modality == "text":
            pad = self._tokenizer.pad_token_id or 0  # as encode fills up
            options |= {"vocabulary": len(self._tokenizer), "length": shape["length"], "pad": pad}
        encoder = getattr(asked.teacher, "encoder", None)
        if encoder is not None and (teacher or asked.architecture == "encoder"):
            depth = None if teacher else asked.depth
            return encoders.build(encoder, trained=pretrained, depth=depth, **options)
        network: nn.Module = getattr(models, self.plan.data.modality).build(
            self._architecture(teacher), **options
        )
        start = getattr(asked.teacher, "start", None)
        if pretrained and start is not None:
            inherit(network, read_checkpoint(start), start)
        return network

    def count_classes(self, teacher: bool) -> int | None:
        """Return how many classes the teacher or any other network tells; None where answers are found."""
        told: int | None = getattr(self.plan.networks.teacher, "classes", None) if teacher else None
        if told is not None or self.plan.data.finds_spans:
            return told
        return len((self.teacher_set if teacher else self.training_set).classes)

    @cached_property
    def _tokenizer(self) -> Any:
        assert isinstance(self.plan.data, TextSource)
        return self.plan.data.load_tokenizer()

    @cached_property
    def teacher(self) -> nn.Module:
        """The finished teacher."""
        network = self.build(teacher=True)
        _, weights = self.teacher_checkpoint
        load_weights(network, weights)
        return network

    @property
    def teacher_checkpoint(self) -> tuple[int, Path]:
        """The teacher's last epoch and its weights."""
        teacher = self.plan.networks.teacher
        if isinstance(teacher, BuiltInTeacher):
            path = find_data(BUILT_IN_TEACHERS[self.plan.data.kind])
            return PLANS[self.plan.data.modality]["teacher"].epochs, path
        if isinstance(teacher, SavedTeacher):
            return teacher.epoch, teacher.file
        (folder,) = self.study.training_folders(next(self.study.subjects()))
        return teacher.epochs, TrainingRecord.open(folder).checkpoints[teacher.epochs]

    def checkpoints(self, subject: Subject) -> dict[int, Path]:
        """Return the weights of a network by the epochs at which it is measured."""
        if subject.role == "teacher":
            return dict([self.teacher_checkpoint])
        record = self._record(subject)
        return {epoch: record.checkpoints[epoch] for epoch in self.plan.training.measured_epochs}

    def finished(self, subject: Subject) -> tuple[int, Path]:
        """Return a network's last epoch, and weights with which its logits mean something."""
        if subject.role == "teacher":
            return self.teacher_checkpoint
        record = TrainingRecord.open(self.study.training_folders(subject)[-1])
        return self.plan.training.epochs, record.checkpoints[max(record.checkpoints)]

    def _record(self, subject: Subject) -> TrainingRecord:
        """Open the training whose epochs are measured: the first of a student that gets a head afterwards."""
        return TrainingRecord.open(self.study.training_folders(subject)[0])

    @property
    def logits(self) -> str:
        """Name the module that gives the logits of students and baselines."""
        return self.preset.layers.get(LOGITS, "head")

    def in_teacher(self, module: str) -> str:
        """Name a layer of students as the teacher has it, by the papers' name of both."""
        asked = self.plan.networks
        labels = {module: label for label, module in {**self.preset.layers, **asked.layers}.items()}
        theirs: Mapping[str, str] = getattr(asked.teacher, "layers", {})
        return theirs.get(labels.get(module, ""), module)

    def modules(self, subject: Subject) -> list[str]:
        """Name the modules at which a network is measured."""
        return self.study.modules(subject)

    def feature_of(self, subject: Subject) -> str:
        """Say which feature of its layers is measured."""
        return self.preset_of(subject).feature

    def is_taught_whole(self, student: Subject) -> bool:
        """Tell whether the preset's first layer, and the map's, come before the layer that is distilled.

        A student whose head is trained by itself is none of the teacher's above it.
        """
        return not student.has_head or student.distilled in self.preset.layers

    def compared(self, student: Subject) -> list[str]:
        """Name the modules where a student is compared with its baseline: an early one, and all measured."""
        early = list(self.preset.layers.values())[:1] if self.is_taught_whole(student) else []
        return list(dict.fromkeys([*early, *self.modules(student)]))

    def _module(self, layer: str | None) -> str:
        assert layer is not None
        return self.plan.networks.layers[layer]

    def followed(self, subject: Subject) -> list[str]:
        """Name the modules that training follows: the distilled one, or all that may be measured."""
        if subject.distilled is not None:
            return [self._module(subject.distilled)]
        return [*self.preset_of(subject).layers.values(), *self.study.modules(subject)]

    def _weights(self, subject: Subject) -> list[str]:
        """Name the modules whose weights stand for those that are followed."""
        modules = self.followed(subject)
        return list(dict.fromkeys(self._stand_ins.get(module, module) for module in modules))


def inherit(
    network: nn.Module, weights: Mapping[str, Tensor], source: Path, without: str | None = None
) -> None:
    """Give a network all weights of another that fit in name and shape, but for those of one module.

    Raises
    ------
    DataError
        If none do.
    """
    own = network.state_dict()
    fitting = {name: one for name, one in weights.items() if name in own and one.shape == own[name].shape}
    known = {name: one for name, one in fitting.items() if name.rpartition(".")[0] != without}
    if not known:
        raise DataError(f"{source} holds no weights of a {type(network).__name__}, such as {next(iter(own))}")
    network.load_state_dict(own | known)
