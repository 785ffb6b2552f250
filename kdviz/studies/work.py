"""Do the tasks of a study: the only part of it that loads samples, builds networks and needs torch."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import distillation, models, schema
from kdviz.errors import DataError, StoreError
from kdviz.files import hash_file, link_tree, list_differences, make_folder, read_json, write_json
from kdviz.measuring import Estimate, Measurement, plan_measurement, warn_of_doubts
from kdviz.measuring.trial import is_same_response, respond
from kdviz.models import SpanNetwork, TextNetwork, encoders
from kdviz.networks import load_weights, prepare_inputs
from kdviz.networks.checkpoints import read_checkpoint
from kdviz.networks.features import FeatureReader, frozen
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.sources import Prepared, SampleSet, find_data
from kdviz.sources.samples import Part
from kdviz.sources.text import TextSource
from kdviz.store import Run, create_run, open_run
from kdviz.studies.parts import BuiltInTeacher, SavedTeacher
from kdviz.studies.plans import BUILT_IN_TEACHERS, STUDY_FILE
from kdviz.studies.tasks import Layout, Subject, Task, is_trained
from kdviz.training import (
    PLANS,
    CrossEntropy,
    TrainingPlan,
    TrainingRecord,
    evaluate,
    probe_accuracy,
    train,
)
from kdviz.training.distances import epoch_array
from kdviz.training.stages import placed, try_loss
from kdviz.units import Grid

_ITSELF = "the network itself"
_EXACT = "exact match of first and last token, of "
_BEGUN_FILE = "data.json"


class Workshop:
    """Does the tasks of one study; what they share, such as samples, is loaded once."""

    def __init__(self, study: Layout) -> None:
        self.study, self.plan = study, study.plan
        self.device = study.device or self.plan.device
        self.loaded: dict[str, SampleSet] = {}
        self.measurements: dict[str, Measurement] = {}
        if (study.folder / _BEGUN_FILE).exists():
            self.recognise()

    def begin(self) -> None:
        """Keep the plan of a new study, once its samples are read and each loss is tried.

        Raises
        ------
        ValueError
            If a loss fails on untrained networks: so no teacher is trained for students that cannot be.
        """
        _ = self.measured_set.fingerprint  # reads what is measured, masks included
        student, teacher = self.build(), self.build(teacher=True)
        inputs, labels = self.student_data
        for subject in self.study.subjects():
            if subject.loss is None or subject.seed != self.plan.training.seeds[0]:
                continue
            loss, wanted = self._make_loss(subject), None if subject.loss.head else labels
            plan = self.training_plan("baseline", 0)
            with placed(self.device or "cpu", student, teacher):
                try_loss(student, inputs, wanted, loss=loss, teacher=teacher, plan=plan)
        self.plan.save(self.study.folder)
        self.recognise()

    def do(self, task: Task) -> None:
        """Do a task that is no measurement, or go on with it."""
        if task.action == "train":
            try:
                self.train(task.subject)
            except FloatingPointError as error:
                told = str(error).replace("lower learning_rate", "lower training.rate_factor, or its rate in")
                raise FloatingPointError(f"{task.subject.name}: {told} training.recipes") from error
        elif task.action == "accuracy":
            self.tell_accuracy(task.subject)
        else:
            self.attribute(task.subject)

    # -- samples

    @cached_property
    def training_set(self) -> SampleSet:
        """All samples to train on."""
        return self._load("train")

    @cached_property
    def held_out_set(self) -> SampleSet:
        """Samples that no network sees."""
        return self._load("held-out")

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
        return data.load(part)

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

    def _load(self, part: Part) -> SampleSet:
        samples = self.loaded[part] = self.plan.data.load(part)
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
        folder, path = self.study.folder, self.study.folder / _BEGUN_FILE
        known = read_json(path, remove=path) if path.exists() else {}
        begun, back = dict(known), "put it back, or choose another folder"
        asked = json.loads(json.dumps(self.plan.identity))
        deciding = {name: value for name, value in asked.items() if not name.startswith("measurement.")}
        stored = begun.setdefault("plan", deciding)
        if differing := list_differences(stored, {name: deciding.get(name) for name in stored}):
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

    # -- networks

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

    def build(self, seed: int = 0, *, teacher: bool = False, pretrained: bool = False) -> nn.Module:
        """Make an untrained network, or the teacher as its training starts."""
        shape, asked = dict(self.plan.data), self.plan.networks
        classes = getattr(asked.teacher, "classes", None) if teacher else None
        if classes is None and not self.plan.data.finds_spans:
            classes = len((self.teacher_set if teacher else self.training_set).classes)
        options: dict[str, Any] = {"classes": classes, "seed": seed}
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

    def _module(self, layer: str | None) -> str:
        assert layer is not None
        return self.plan.networks.layers[layer]

    def _weights(self, subject: Subject) -> list[str]:
        """Name the modules whose weights are followed: the distilled one, or all that may be measured."""
        layers = self.plan.networks.layers
        if subject.distilled is not None:
            modules = [layers[subject.distilled]]
        else:
            modules = [*self.preset.layers.values(), *layers.values()]
        return list(dict.fromkeys(self._stand_ins.get(module, module) for module in modules))

    # -- training

    def training_plan(self, kind: str, seed: int) -> TrainingPlan:
        """Return the plan of this kind of training, for the study's number of epochs and a seed."""
        asked, plans = self.plan.training, PLANS[self.plan.data.modality]
        known = plans.get(kind, plans["baseline" if kind in distillation.LOSSES else "student"])
        taught = getattr(self.plan.networks.teacher, "epochs", asked.epochs)
        special = {"head": asked.head_epochs, "teacher": taught, "fine_tuning": taught}
        epochs = special.get(kind, asked.epochs)
        assert isinstance(known.learning_rate, tuple)
        first, last = known.learning_rate
        changes: dict[str, Any] = {
            "epochs": epochs,
            "seed": seed,
            "checkpoints": (0, epochs) if kind in special else asked.checkpoints,
            "learning_rate": (first * asked.rate_factor, last * asked.rate_factor),
        }
        at_layer = kind in self.plan.networks.layers
        for name in ("student", kind) if at_layer else ("teacher" if kind == "fine_tuning" else kind,):
            if recipe := asked.recipes.get(name):
                changes |= recipe.model_dump(exclude_none=True)
        return TrainingPlan(**known.model_dump() | changes)

    def _make_loss(self, subject: Subject) -> distillation.Loss:
        assert subject.loss is not None
        place = {} if subject.distilled is None else {"layer": subject.distilled}
        options, asked = place | subject.loss.options, self.plan.networks
        theirs = getattr(asked.teacher, "layers", {})
        if theirs and options.get("layer") is not None:
            options.setdefault("teacher_layer", options["layer"])
        named = {"layer": {**self.preset.layers, **asked.layers}}
        named["teacher_layer"] = named["layer"] | theirs

        def find(option: str, name: Any) -> Any:
            if isinstance(name, (list, tuple)):
                return [find(option, one) for one in name]
            return named[option].get(name, name)

        options |= {option: find(option, options[option]) for option in options.keys() & named.keys()}
        return distillation.LOSSES[subject.loss.kind](**options)

    def take_over(self, subject: Subject) -> None:
        """Take a network and its accuracy from a study that trained it alike, if there is one."""
        study, folder = self.study, self.study.network_folder(subject)
        if folder.is_dir() or not study.others:
            return
        _ = self.training_set, self.held_out_set  # so that what they are is written down
        ours = read_json(study.folder / _BEGUN_FILE)
        for place in (one for one in study.others if (one / _BEGUN_FILE).is_file()):
            other, theirs = Layout(place, type(self.plan).load(place)), read_json(place / _BEGUN_FILE)
            twin = next((one for one in other.subjects() if one.name == subject.name), None)
            if twin is None or other.origin(twin) != study.origin(subject):
                continue
            same = all(ours.get(part) == theirs.get(part) for part in ("train", "held-out", "teacher"))
            trained = other.training_folders(twin)
            if not (same and trained and all(map(is_trained, trained))):
                continue
            if read_json(trained[0] / "plan.json")["tracked_layers"] == self._weights(subject):
                link_tree(other.network_folder(twin), folder)
                return

    def train(self, subject: Subject) -> None:
        """Train a network, and the head of a student that needs one."""
        self.take_over(subject)
        loss, layer = subject.loss, subject.distilled
        kind = "baseline" if loss is None else (layer or loss.kind) if loss.head else loss.kind
        seed, is_teacher, taught = subject.seed, subject.seed is None, self.plan.networks.teacher
        if seed is None:
            seed = getattr(taught, "seed", 0)
            kind = "teacher" if getattr(taught, "encoder", None) is None else "fine_tuning"
        folder, *heads = self.study.training_folders(subject)
        network = self.build(seed, teacher=is_teacher, pretrained=is_teacher)
        inputs, labels = self.as_tensors(self.teacher_set) if is_teacher else self.student_data
        validation = self.as_tensors(self.teacher_held_out_set) if is_teacher else self.held_out_data
        same: dict[str, Any] = {"device": self.device, "progress": self.study.progress}
        to_learn: dict[str, Any] = {"labels": labels, "validation": validation}
        if loss is not None:
            learned = self._make_loss(subject)
            if learned.begins_as_teacher:
                inherit(network, self.teacher.state_dict(), self.teacher_checkpoint[1])
            if loss.head:
                to_learn = {} if subject.has_head else {"validation": validation}
            to_learn |= {"loss": learned, "teacher": self.teacher if learned.needs_teacher else None}
        train(
            network,
            inputs,
            folder=folder,
            plan=self.training_plan(kind, seed),
            tracked_layers=self._weights(subject),
            **to_learn,
            **same,
        )
        for head in heads:
            train(
                network,
                inputs,
                labels,
                loss=CrossEntropy(beyond=self._module(layer)),
                folder=head,
                plan=self.training_plan("head", seed),
                validation=self.held_out_data,
                **same,
            )

    # -- accuracy over training

    def tell_accuracy(self, subject: Subject) -> None:
        """Write a network's accuracy at every measured epoch."""
        values, definition = self._find_accuracy(subject)
        definition = f"{_EXACT}{definition}" if self.plan.data.finds_spans else definition
        make_folder(self.study.network_folder(subject))
        about = {"accuracy": {str(epoch): value for epoch, value in values.items()}, "definition": definition}
        write_json(self.study.accuracy_file(subject), about)

    def _find_accuracy(self, subject: Subject) -> tuple[dict[int, float], str]:
        if subject.role == "teacher":
            epoch, _ = self.teacher_checkpoint
            if getattr(self.plan.networks.teacher, "classes", None) is not None:
                return {epoch: float("nan")}, "unknown: the network tells other classes"
            unseen = self.as_tensors(self.teacher_held_out_set)
            return {epoch: evaluate(self.teacher.to(self.device or "cpu"), *unseen)}, _ITSELF
        if subject.has_head:
            return self._probe(subject)
        record = self._record(subject)
        start = self.build()
        load_weights(start, record.checkpoints[0])
        untrained = evaluate(start.to(self.device or "cpu"), *self.held_out_data)
        known = [untrained, *record.history["validation_accuracy"]]
        return {epoch: float(known[epoch]) for epoch in self.checkpoints(subject)}, _ITSELF

    def _probe(self, subject: Subject) -> tuple[dict[int, float], str]:
        """Train a head on every measured checkpoint; that of the last is the student's own."""
        checkpoints, seed = self.checkpoints(subject), subject.seed
        assert seed is not None
        last = max(checkpoints)
        del checkpoints[last]
        found = probe_accuracy(
            self.build(seed),
            checkpoints,
            *self.student_data,
            layer=self._module(subject.distilled),
            folder=self.study.network_folder(subject) / "probes",
            plan=self.training_plan("head", seed),
            validation=self.held_out_data,
            device=self.device,
            progress=self.study.progress,
        )
        head = TrainingRecord.open(self.study.training_folders(subject)[-1])
        own = float(head.history["validation_accuracy"].iloc[-1])
        values = dict(zip(checkpoints, map(float, found.values), strict=True))
        return values | {last: own}, found.attrs["definition"]

    # -- measuring

    @cached_property
    def run(self) -> Run:
        """The run, made if it is not there."""
        config = {
            "study": self.plan.identity,
            "threshold": self.preset.threshold,
            "classes": list(self.measured_set.classes),
            "layer_names": dict(self.preset.layers),
        }
        attrs = schema.make_attrs(
            modality=self.plan.data.modality,
            dataset_id=self.measured_set.source,
            architecture=self.plan.networks.architecture,
            input_fingerprint=self.measured_set.fingerprint,
            config=config,
        )
        samples = self.measured_set.describe(self.measured)
        contents = self.study.contents("measure", "repeat")
        return create_run(self.study.run_path, samples=samples, attrs=attrs, contents=contents)

    def plan_measurement(self, subject: Subject, repeat: bool = False) -> Measurement:
        """Say how a network is measured at all its epochs, or again at the last with another seed."""
        checkpoints, plan = self.checkpoints(subject), self.plan.measurement
        last = max(checkpoints)
        samples, prepared, preset = self.measured_set, self.measured, self.preset_of(subject)
        return plan_measurement(
            self.build_for(subject),
            {last: checkpoints[last]} if repeat else checkpoints,
            torch.from_numpy(prepared.inputs[:]),
            network=f"{subject.name}-repeat" if repeat else subject.name,
            role=subject.role,
            layers=self.study.modules(subject),
            units=prepared.units,
            foreground=prepared.foreground,
            labels=samples.labels,
            sample_ids=samples.sample_ids,
            entry=preset.entry,
            feature=preset.feature,
            method=plan.method,
            probes=plan.probes,
            draws=plan.draws,
            weight=preset.weight,
            seed=plan.seed + repeat,
            device=self.device,
            details=self._details(subject) | self._told(subject, last),
        )

    def _told(self, subject: Subject, epoch: int) -> dict[str, schema.Attribute]:
        accuracies, _ = self.study.accuracies(subject)
        return {"accuracy": accuracies[epoch]}

    def estimate(self, tasks: Sequence[Task]) -> dict[str, Estimate]:
        """Estimate what measurements will take, by name of the network in the run."""
        store, found = self.study.run_path, {}
        for task in tqdm(tasks, desc="estimating", unit="network", disable=not self.study.progress):
            measurement = self.plan_measurement(task.subject, repeat=task.action == "repeat")
            if told := measurement.estimate(store if store.is_dir() else None):
                found[str(measurement.network)] = told
        return found

    def measurement_of(self, task: Task) -> Measurement:
        """Return the measurement of a task; the last two are kept, for blocks of both may come in turn."""
        if task.key not in self.measurements:
            self.measurements = dict([*self.measurements.items()][-1:])
            self.measurements[task.key] = self.plan_measurement(task.subject, task.action == "repeat")
        return self.measurements[task.key]

    def count_blocks(self, task: Task) -> int:
        """Count the blocks of a measurement."""
        epochs = 1 if task.action == "repeat" else len(self.checkpoints(task.subject))
        return epochs * -(-len(self.measured_set) // schema.BLOCK)

    def conclude(self, task: Task, measurement: Measurement) -> None:
        """Say what of a whole measurement is doubtful, and write what else is known of the network beside."""
        warn_of_doubts(measurement.read(self.run))
        if task.action == "repeat":
            return
        subject = task.subject
        accuracies, definition = self.study.accuracies(subject)
        values = epoch_array("accuracy", [*accuracies.values()], [*accuracies], definition=definition)
        for module in self.study.modules(subject):
            if subject.role != "teacher":
                weight = self._stand_ins.get(module, module)
                distance = self._record(subject).weight_distance(weight)
                self.run.write_variable(subject.name, module, distance.sel(epoch=measurement.epochs))
            self.run.write_variable(subject.name, module, values)

    def _details(self, subject: Subject) -> dict[str, schema.Attribute]:
        architecture = self._architecture(subject.role == "teacher")
        details: dict[str, schema.Attribute] = {"architecture": architecture}
        if subject.seed is not None:
            details["training_seed"] = subject.seed
        if subject.loss is not None:
            details |= {"distillation_method": subject.loss.kind, "teacher": "teacher"}
        if subject.distilled is not None:
            details["distilled_layer"] = self._module(subject.distilled)
        return details

    def _check_measured(
        self, run: Run, subject: Subject, network: nn.Module, epoch: int, weights: Path
    ) -> None:
        """Load weights into a network and refuse it if it is not the one that was measured at this epoch."""
        measured, modules = self.checkpoints(subject)[epoch], self.study.modules(subject)
        at = run.epochs(subject.name, modules[0]).index(epoch)
        attrs = run.catalogue()[subject.name, modules[0]]
        same = (
            fingerprint_tensors(load_weights(network, measured))
            == str(attrs["weights_fingerprint"]).split()[at]
        )
        load_weights(network, weights)  # of a head beside the same features, where a student needs one
        inputs = prepare_inputs(torch.from_numpy(self.measured.inputs[:]), self.measured.units)
        with frozen(network):
            found = respond(
                FeatureReader(network, modules, self.preset_of(subject).feature, main=inputs.main), inputs
            )
        for module in modules:
            known = run.variable(subject.name, module, "clean_response")
            if known is not None and not np.isnan(stored := float(known[at])):
                same = same and is_same_response(found[module], stored)
        if not same:
            where = " or ".join(dict.fromkeys(map(str, (measured, weights))))
            raise StoreError(
                f"{subject.name} is not the network that was measured: the weights in {where} or its code "
                "have changed; put them back, or measure in another folder"
            )

    def attribute(self, subject: Subject) -> None:
        """Draw the attribution maps of a finished network."""
        from kdviz.attribution import attribute  # an extra that training and measuring do without

        network, samples, prepared = self.build_for(subject)(), self.measured_set, self.measured
        run, (epoch, weights) = open_run(self.study.run_path), self.finished(subject)
        assert isinstance(prepared.units, Grid)
        self._check_measured(run, subject, network, epoch, weights)
        ds = attribute(
            network,
            torch.from_numpy(prepared.inputs[:]),
            units=prepared.units,
            labels=samples.labels,
            foreground=prepared.foreground,
            sample_ids=samples.sample_ids,
            epoch=epoch,
            device=self.device,
            progress=self.study.progress,
        )
        about = {
            "network": subject.name,
            "network_role": subject.role,
            "architecture": self._architecture(subject.role == "teacher"),
        }
        run.write_result(f"attribution/{subject.name}", ds.assign_attrs(about), overwrite=True)


def inherit(network: nn.Module, weights: Mapping[str, Tensor], source: Path) -> None:
    """Give a network all weights of another that fit in name and shape.

    Raises
    ------
    DataError
        If none do.
    """
    own = network.state_dict()
    known = {name: one for name, one in weights.items() if name in own and one.shape == own[name].shape}
    if not known:
        raise DataError(f"{source} holds no weights of a {type(network).__name__}, such as {next(iter(own))}")
    network.load_state_dict(own | known)
