"""What there is to do in a study, and what of it is done already, told from the disk alone: no torch here.

Every task is idempotent: killed and called again it goes on, and ends with the same bits. Tasks can be
pickled and are named by what decides their result, so that any engine may run them in any order that `needs`
allows; those that write into the run, one after another.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import isnan
from pathlib import Path
from typing import Any, Literal

from kdviz.files import read_json
from kdviz.schema import BLOCK
from kdviz.store import Run, open_run
from kdviz.studies.parts import LOGITS, StudentLoss, TrainedTeacher
from kdviz.studies.plans import StudyPlan

BEGUN_FILE = "data.json"  # what a study was begun with
RATES = "rates"  # in it: the rate factors of networks that were trained before the plan's was changed
Action = Literal["train", "accuracy", "measure", "repeat", "attribute"]


@dataclass(frozen=True)
class Subject:
    """A network of a study.

    Attributes
    ----------
    name
        Its name in the run and of its folder.
    role
        Teacher, baseline or student.
    layers
        Where it is measured, by the plan's names.
    seed
        Of its training; None for the teacher.
    loss
        What a student learns by.
    distilled
        The layer of its loss, where that has one.
    """

    name: str
    role: str
    layers: tuple[str, ...]
    seed: int | None = None
    loss: StudentLoss | None = None
    distilled: str | None = None

    @property
    def has_head(self) -> bool:
        """Whether what lies beyond its loss's layer is trained afterwards; of the logits nothing does."""
        return self.loss is not None and self.loss.head and self.distilled != LOGITS


@dataclass(frozen=True)
class Task:
    """One thing to do with one network.

    Attributes
    ----------
    study
        The study it belongs to.
    action
        ``"train"``; ``"accuracy"`` over training; ``"measure"`` at all epochs; ``"repeat"`` the last one with
        another measurement seed; ``"attribute"``: maps of the finished network.
    subject
        The network.
    needs
        Keys of the tasks that must be done before.
    """

    study: "Layout"
    action: Action
    subject: Subject
    needs: tuple[str, ...] = ()

    @property
    def is_measurement(self) -> bool:
        """Whether it is done block by block."""
        return self.action in ("measure", "repeat")

    @property
    def steps(self) -> int:
        """How many blocks of samples a measurement has; 1 of another task."""
        if not self.is_measurement:
            return 1
        plan, once = self.study.plan, self.action == "repeat" or self.subject.role == "teacher"
        epochs = 1 if once else len(plan.training.measured_epochs)
        return epochs * -(-plan.measurement.samples // BLOCK)

    @cached_property
    def key(self) -> str:
        """Name of the task with a digest of everything that decides its result."""
        about = [self.study.plan.identity, self.study.modules(self.subject), repr(self.subject)]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        return f"{self.action}-{self.subject.name}-{digest}"

    def is_done(self, run: Run | None = None) -> bool:
        """Whether nothing is left to do, by what lies on the disk; `run` is the study's, if it is open."""
        study = self.study
        if self.action == "train":
            return all(is_trained(folder) for folder in study.training_folders(self.subject))
        if self.action == "accuracy":
            return study.accuracy_file(self.subject).is_file()
        if not study.run_path.is_dir():
            return False
        run = run or open_run(study.run_path)
        return all(run.is_whole(group, about) for group, about in self.contents.items())

    @property
    def contents(self) -> dict[str, dict[str, Any]]:
        """What the task writes into the run, as :mod:`kdviz.store.contents` lists it."""
        name, modules = self.subject.name, self.study.modules(self.subject)
        if self.action == "measure":
            variables = ["accuracy"] if self.subject.role == "teacher" else ["accuracy", "weight_distance"]
            return {f"points/{name}/{module}": {"variables": variables} for module in modules}
        if self.action == "repeat":
            return {f"points/{name}-repeat/{module}": {"repeat_of": name} for module in modules}
        return {f"attribution/{name}": {}} if self.action == "attribute" else {}


@dataclass(frozen=True)
class Layout:
    """What there is in a study, and where it lies; attributes are those of :class:`kdviz.studies.Study`."""

    folder: Path
    plan: StudyPlan
    progress: bool = True
    device: str | None = None
    others: tuple[Path, ...] = ()

    @property
    def run_path(self) -> Path:
        """Where the measurements are."""
        return self.folder / "run.zarr"

    def subjects(self) -> Iterator[Subject]:
        """Yield the networks of the plan: the teacher, and by seed a baseline and the students."""
        layers = tuple(self.plan.networks.layers)
        yield Subject("teacher", "teacher", layers)
        for seed in self.plan.training.seeds:
            yield Subject(f"baseline-s{seed}", "baseline", layers, seed)
            for loss in self.plan.losses:
                prefix = "student" if loss.kind == "features" else f"student-{loss.kind}"
                for layer in layers if loss.layered else (None,):
                    name = f"{prefix}-{layer}-s{seed}" if layer else f"{prefix}-s{seed}"
                    yield Subject(name, "student", (layer,) if layer else layers, seed, loss, layer)

    def tasks(self, *actions: Action) -> list[Task]:
        """List the tasks of some actions, or of all, each after those that it needs."""
        tasks: list[Task] = []
        for subject in self.subjects():
            taught = (tasks[0].key,) if subject.role == "student" else ()  # by the teacher, who comes first
            trained = Task(self, "train", subject, taught)
            accuracy = Task(self, "accuracy", subject, (trained.key,))
            measured = Task(self, "measure", subject, (accuracy.key,))
            repeated = [] if subject.role == "teacher" else [Task(self, "repeat", subject, (accuracy.key,))]
            drawn = Task(self, "attribute", subject, (measured.key,))
            tasks += [trained, accuracy, measured, *repeated, drawn]
        return [task for task in tasks if not actions or task.action in actions]

    def contents(self, *actions: Action) -> dict[str, dict[str, Any]]:
        """List what the run is to hold once the tasks of these actions are done."""
        return {group: about for task in self.tasks(*actions) for group, about in task.contents.items()}

    def modules(self, subject: Subject) -> list[str]:
        """Return the modules at which a network is measured."""
        asked = self.plan.networks
        own = getattr(asked.teacher, "layers", {}) if subject.role == "teacher" else {}
        return [own.get(layer, asked.layers[layer]) for layer in subject.layers]

    def origin(self, subject: Subject) -> dict[str, Any]:
        """Tell all that decides a network's training and accuracy, but for the samples themselves.

        Networks of two studies that have the same are the same network.
        """
        plan, asked = self.plan.as_json(), self.plan.networks
        own, taught = plan["networks"], plan["networks"]["teacher"]
        recipes, factor = plan["training"]["recipes"], self.rate_factor(next(self.subjects()))
        teacher = {
            "networks": [taught, taught.get("architecture") or own["architecture"]],
            "data": taught.get("data") or plan["data"],
            "training": [factor, recipes.get("teacher")],
        }
        if subject.role == "teacher":
            return teacher
        training = {name: value for name, value in plan["training"].items() if name != "seeds"}
        kind = subject.loss.kind if subject.loss else "baseline"
        used = [
            kind,
            *(("student", subject.distilled, "head") if subject.has_head or subject.distilled else ()),
        ]
        training["recipes"] = {name: one for name, one in recipes.items() if name in used}
        training["rate_factor"] = self.rate_factor(subject)
        return {
            "networks": [own["architecture"], asked.depth],
            "layer": own["layers"].get(subject.distilled),
            "data": plan["data"],
            "training": training,
            "subject": repr(replace(subject, layers=())),
            "teacher": teacher if subject.role == "student" else None,
        }

    def rate_factor(self, subject: Subject) -> float:
        """Return by what the learning rates of a network are multiplied: as planned, or as it was trained."""
        path, asked = self.folder / BEGUN_FILE, self.plan.training.rate_factor
        known = read_json(path, remove=path).get(RATES, {}) if path.exists() else {}
        return float(known.get(subject.name, asked))

    # -- where it lies

    def network_folder(self, subject: Subject) -> Path:
        """Return the folder of a network."""
        return self.folder / "networks" / subject.name

    def training_folders(self, subject: Subject) -> list[Path]:
        """Return the folders of a network's training: none, one, or those of a student and of its head."""
        folder = self.network_folder(subject)
        if subject.role == "teacher":
            return [folder] if isinstance(self.plan.networks.teacher, TrainedTeacher) else []
        if subject.loss is None or not subject.has_head:
            return [folder]
        return [folder / subject.loss.kind, folder / "head"]

    def accuracy_file(self, subject: Subject) -> Path:
        """Return the file with a network's accuracy by epoch."""
        return self.network_folder(subject) / "accuracy.json"

    def accuracies(self, subject: Subject) -> tuple[dict[int, float], str]:
        """Return a network's accuracy by epoch, and by which network it was told."""
        path = self.accuracy_file(subject)
        stored = read_json(path, remove=path)
        by_epoch = {int(epoch): value for epoch, value in stored["accuracy"].items()}
        return dict(sorted(by_epoch.items())), stored["definition"]  # JSON has "10" before "2"

    def tell_accuracies(self) -> str:
        """Say in a line how well each network does on held-out samples in the end, and what chance would."""
        told, chances = [], []
        for subject in self.subjects():
            path = self.accuracy_file(subject)
            last = [*self.accuracies(subject)[0].values()][-1]
            told.append(f"{subject.name} {'unknown' if isnan(last) else f'{last:.2f}'}")
            chances.append(read_json(path, remove=path).get("chance"))
        known = [f"chance {chance:.2f}" for chance in dict.fromkeys(chances) if chance]
        return f"held out{''.join(f', {one}' for one in known)}: {', '.join(told)}"


def is_trained(folder: Path) -> bool:
    """Whether a training run was finished and cleared up."""
    return (folder / "history.json").is_file() and not (folder / "state.pt").exists()
