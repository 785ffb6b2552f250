"""Do the tasks of a study: train, tell accuracies, measure, draw maps."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

import torch
from tqdm.auto import tqdm

from kdviz import distillation, schema
from kdviz.errors import StoreError
from kdviz.files import link_tree, make_folder, read_json, write_json
from kdviz.measuring import Estimate, Measurement, plan_measurement, warn_of_doubts
from kdviz.networks import load_weights
from kdviz.networks.hashing import fingerprint_tensors
from kdviz.store import Run, create_run, describe, open_run
from kdviz.studies.attributing import attribute
from kdviz.studies.materials import Materials, inherit
from kdviz.studies.tasks import BEGUN_FILE, Layout, Subject, Task, is_trained
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
from kdviz.training.watching import tell_accuracy

_RATES = "training.rate_factor, or its rate in training.recipes"
_ITSELF = "the network itself"
_EXACT = "exact match of first and last token, of "


class Workshop(Materials):
    """Does the tasks of one study; what they share, such as samples, is loaded once."""

    def __init__(self, study: Layout) -> None:
        super().__init__(study)
        self.measurements: dict[str, Measurement] = {}

    def begin(self) -> None:
        """Keep the plan of a new study, once its samples are read and each loss is tried.

        Raises
        ------
        ValueError
            If a loss fails on untrained networks: so no teacher is trained for students that cannot be.
        """
        _ = self.training_set, self.held_out_set  # both are listed before images of either are read
        _ = self.teacher_set, self.teacher_held_out_set
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
                raise FloatingPointError(str(error).replace("learning_rate", _RATES)) from error
        elif task.action == "accuracy":
            self.tell_accuracy(task.subject)
        else:
            attribute(self, task.subject)

    # -- training

    def training_plan(self, kind: str, seed: int, factor: float | None = None) -> TrainingPlan:
        """Return the plan of this kind of training, for the study's number of epochs and a seed.

        Rates are multiplied by a factor, the plan's if None.
        """
        asked, plans = self.plan.training, PLANS[self.plan.data.modality]
        known = plans.get(kind, plans["baseline" if kind in distillation.LOSSES else "student"])
        taught = getattr(self.plan.networks.teacher, "epochs", asked.epochs)
        special = {"head": asked.head_epochs, "teacher": taught, "fine_tuning": taught}
        epochs = special.get(kind, asked.epochs)
        changes: dict[str, Any] = {
            "epochs": epochs,
            "seed": seed,
            "checkpoints": (0, epochs) if kind in special else asked.checkpoints,
        }
        at_layer = kind in self.plan.networks.layers
        for name in ("student", kind) if at_layer else ("teacher" if kind == "fine_tuning" else kind,):
            if recipe := asked.recipes.get(name):
                changes |= recipe.model_dump(exclude_none=True)
        return TrainingPlan(
            **known.slowed(asked.rate_factor if factor is None else factor).model_dump() | changes
        )

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
        if (
            folder.is_dir()
            or not study.others
            or (subject.loss and self._make_loss(subject).begins_as_teacher)
        ):
            return
        parts = ["train", "held-out"]
        _ = self.training_set, self.held_out_set  # so that what they are is written down
        if subject.role != "baseline":
            parts += ["teacher", "teacher's train"]
            _ = self.teacher_set
        ours = read_json(study.folder / BEGUN_FILE)
        for place in (one for one in study.others if (one / BEGUN_FILE).is_file()):
            try:
                with warnings.catch_warnings(action="ignore"):
                    other, theirs = Layout(place, type(self.plan).load(place)), read_json(place / BEGUN_FILE)
            except StoreError:
                continue  # a neighbour's trouble is not ours
            twin = next((one for one in other.subjects() if one.name == subject.name), None)
            if twin is None or other.origin(twin) != study.origin(subject):
                continue
            trained = other.training_folders(twin)
            same = all(ours.get(part) == theirs.get(part) for part in parts)
            if not (same and trained and all(map(is_trained, trained))):
                continue
            begun = read_json(trained[0] / "plan.json")
            taught = fingerprint_tensors(self.teacher.state_dict()) if subject.role == "student" else None
            if begun["tracked_layers"] == self._weights(subject) and begun["teacher"] == taught:
                link_tree(other.network_folder(twin), folder, without=("probes",))
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
        (folder, *heads), factor = self.study.training_folders(subject), self.study.rate_factor(subject)
        network = self.build(seed, teacher=is_teacher, pretrained=is_teacher)
        inputs, labels = self.as_tensors(self.teacher_set) if is_teacher else self.student_data
        validation = self.as_tensors(self.teacher_held_out_set) if is_teacher else self.held_out_data
        same: dict[str, Any] = {"device": self.device, "progress": self.study.progress}
        to_learn: dict[str, Any] = {"labels": labels, "validation": validation}
        if loss is not None:
            learned = self._make_loss(subject)
            if learned.begins_as_teacher:
                other = getattr(taught, "data", None) or getattr(taught, "classes", None)
                weights, source = self.teacher.state_dict(), self.teacher_checkpoint[1]
                inherit(network, weights, source, without=self.logits if other else None)
            if loss.head:
                to_learn = {} if subject.has_head else {"validation": validation}
            to_learn |= {"loss": learned, "teacher": None if learned.begins_as_teacher else self.teacher}
        record = train(
            network,
            inputs,
            folder=folder,
            plan=self.training_plan(kind, seed, factor),
            tracked_layers=self._weights(subject),
            name=subject.name,
            **to_learn,
            **same,
        )
        for head in heads:
            record = train(
                network,
                inputs,
                labels,
                loss=CrossEntropy(beyond=self._module(layer)),
                folder=head,
                plan=self.training_plan("head", seed, factor),
                validation=self.held_out_data,
                name=f"{subject.name} head",
                **same,
            )
        if self.study.progress and "validation_accuracy" in record.history:
            classes = self.count_classes(is_teacher)
            tqdm.write(
                tell_accuracy(
                    subject.name,
                    float(record.history["validation_accuracy"].iloc[-1]),
                    1 / classes if classes else None,
                    len(validation[1]),
                )
            )

    # -- accuracy over training

    def tell_accuracy(self, subject: Subject) -> None:
        """Write a network's accuracy at every measured epoch."""
        values, definition = self._find_accuracy(subject)
        definition = f"{_EXACT}{definition}" if self.plan.data.finds_spans else definition
        make_folder(self.study.network_folder(subject))
        classes = self.count_classes(subject.role == "teacher")
        about = {
            "accuracy": {str(epoch): value for epoch, value in values.items()},
            "definition": definition,
            "chance": 1 / classes if classes else None,
        }
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
            plan=self.training_plan("head", seed, self.study.rate_factor(subject)),
            validation=self.held_out_data,
            device=self.device,
            progress=self.study.progress,
            name=subject.name,
        )
        head = TrainingRecord.open(self.study.training_folders(subject)[-1])
        own = float(head.history["validation_accuracy"].iloc[-1])
        values = dict(zip(checkpoints, map(float, found.values), strict=True))
        return values | {last: own}, found.attrs["definition"]

    # -- measuring

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""
        return self.study.progress

    @cached_property
    def run(self) -> Run:
        """The run, made if it is not there."""
        config = {
            "study": self.plan.identity,
            "threshold": self.preset.threshold,
            "classes": list(self.measured_set.classes),
            "layer_names": dict(self.preset.layers),
        }
        if self.plan.data.finds_spans:
            config["answers"] = "span"
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
        samples, prepared = self.measured_set, self.measured
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
            seed=plan.seed + repeat,
            **self.options_of(subject),
            device=self.device,
            details=self._details(subject) | self._told(subject, last),
        )

    def options_of(self, subject: Subject) -> dict[str, Any]:
        """Return what decides how a network is measured, but for the seed."""
        plan, preset = self.plan.measurement, self.preset_of(subject)
        asked = {"method": plan.method, "probes": plan.probes, "draws": plan.draws}
        return {"entry": preset.entry, "feature": preset.feature, "weight": preset.weight, **asked}

    def _told(self, subject: Subject, epoch: int) -> dict[str, schema.Attribute]:
        accuracies, _ = self.study.accuracies(subject)
        told: dict[str, schema.Attribute] = {"accuracy": accuracies[epoch]}
        with suppress(StoreError):  # a plan that is damaged hinders nothing that is measured
            rate = self._record(subject).learning_rate if self.study.training_folders(subject) else None
            told |= {} if rate is None else {"learning_rate": rate}
        return told

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
        self._name_layers()
        accuracies, definition = self.study.accuracies(subject)
        values = epoch_array("accuracy", [*accuracies.values()], [*accuracies], definition=definition)
        for module in self.study.modules(subject):
            if subject.role != "teacher":
                weight = self._stand_ins.get(module, module)
                distance = self._record(subject).weight_distance(weight)
                self.run.write_variable(subject.name, module, distance.sel(epoch=measurement.epochs))
            self.run.write_variable(subject.name, module, values)

    def _name_layers(self) -> None:
        """Have layers, also a teacher's own, go by the plan's names, where nobody named them since."""
        run, asked = open_run(self.study.run_path), self.plan.networks
        taught = getattr(asked.teacher, "layers", {})
        measured = {module for _, module in run.catalogue()}
        names: dict[str, tuple[str, ...]] = {}
        for label, module in asked.layers.items():
            own = tuple(one for one in dict.fromkeys((module, taught.get(label, module))) if one in measured)
            told = run.layer_names.get(label, ())
            named = run.layer_names | names  # of two labels for one module, the first
            others = {one for name, modules in named.items() if name != label for one in modules}
            said = {told, (self.preset.layers.get(label),)}
            if own and own not in said and {*told} <= {*own} and not others & {*own}:
                names[label] = own
        if names:
            describe(self.run, layers=names, overwrite=True)

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
