"""Train and measure a study."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema, units
from kdviz.checkpoints import load_weights
from kdviz.errors import StoreError
from kdviz.measuring import measure_checkpoints
from kdviz.models import PRESETS, build
from kdviz.runs.plans import PLAN_FILE, TEACHER_SEED, StudyPlan
from kdviz.sources import ImageSet, fashion_composites, find_data, image_folder, normalise
from kdviz.store import Run, create_run, open_run
from kdviz.training import (
    FASHION_PLANS,
    TrainingPlan,
    TrainingRecord,
    accuracy_array,
    distil_features,
    evaluate,
    probe_accuracy,
    train_classifier,
    train_head,
)
from kdviz.training.records import read_tensors

BUILT_IN_TEACHER = "runs/teacher-fashion.safetensors"
_HELD_OUT_SHARE = 0.2  # of the user's own images


@dataclass(frozen=True)
class Study:
    """One folder with a plan, its networks and its run.

    Attributes
    ----------
    folder
        Where everything lies.
    plan
        What is compared.
    progress
        Show progress bars.
    """

    folder: Path
    plan: StudyPlan
    progress: bool = True

    @property
    def run_path(self) -> Path:
        """Where the measurements are."""
        return self.folder / "run.zarr"

    def train(self) -> None:
        """Train what is not trained yet: teacher, baselines, students in two stages.

        Raises
        ------
        StoreError
            If the folder holds another study.
        DataError
            If images cannot be read.
        """
        if not (self.folder / PLAN_FILE).exists():
            _ = self._training_set  # a plan whose images cannot be read is not kept
        self.plan.save(self.folder)
        for seed in self.plan.seeds:
            self._train_baseline(seed)
            for layer in self.plan.layers:
                self._train_student(layer, seed)
                self._student_accuracy(layer, seed)

    def measure(self) -> Run:
        """Measure every network at the plan's epochs, as far as that is not done yet.

        The final network of each seed is measured a second time with another measurement seed: how far
        its knowledge points move then is the noise floor of every metric. The held-out accuracy at every
        epoch is stored beside: a student's is that of a head retrained on top of its frozen checkpoint.

        Returns
        -------
        Run
            With groups ``teacher``, ``baseline-s0``, ``student-fc1-s0``, ... and ``...-repeat``.

        Raises
        ------
        StoreError
            If training is not finished, or the run was measured otherwise.
        """
        for folder in self._training_folders():
            TrainingRecord.open(folder)  # nothing is measured, nor a teacher trained, before all are finished
        run = create_run(
            self.run_path,
            samples=describe_images(self._measured_set, units.grid(self.plan.grid)),
            attrs=self._run_attrs(),
        )
        checkpoint, accuracy = self._teacher_checkpoint()
        self._measure(run, "teacher", "teacher", self.plan.layers, checkpoint, {"accuracy": accuracy})
        known = accuracy_array([accuracy], list(checkpoint), "the network itself")
        self._write(run, "teacher", self.plan.layers, known)
        for seed in self.plan.seeds:
            record = TrainingRecord.open(self._network_folder("baseline", seed))
            details = self._details(seed, record)
            self._measure_both(run, f"baseline-s{seed}", "baseline", self.plan.layers, record, details)
            self._write(run, f"baseline-s{seed}", self.plan.layers, self._baseline_accuracy(seed))
            for layer in self.plan.layers:
                folder = self._network_folder(f"student-{layer}", seed)
                record = TrainingRecord.open(folder / "features")
                details = self._details(seed, TrainingRecord.open(folder / "head")) | {
                    "distilled_layer": self._module(layer),
                    "distillation_method": "features",
                    "teacher": "teacher",
                }
                name = f"student-{layer}-s{seed}"
                self._measure_both(run, name, "student", (layer,), record, details)
                self._write(run, name, (layer,), self._student_accuracy(layer, seed))
        return run

    def attribute(self) -> Run:
        """Draw the attribution maps of every network at the end of its training, as far as not done yet.

        The class explained is the label. Students are explained with the head that their second stage
        trained on the frozen features: without it their logits mean nothing.

        Returns
        -------
        Run
            With results ``attribution/teacher``, ``attribution/baseline-s0``, ...

        Raises
        ------
        StoreError
            If training is not finished, or measuring not begun.
        MissingExtraError
            If captum is not installed.
        """
        from kdviz.baselines import attribute  # an extra that training and measuring do without

        if not self.run_path.is_dir():
            raise StoreError(f"{self.folder} is not measured yet; first kdviz measure {self.folder}")
        run, images = open_run(self.run_path), self._measured_set
        inputs = torch.from_numpy(normalise(images.images))
        todo = {name: end for name, end in self._ends().items() if f"attribution/{name}" not in run.results}
        for name, end in (bar := tqdm(todo.items(), desc="attributing", disable=not self.progress)):
            bar.set_postfix_str(name, refresh=False)
            network = self._build()
            load_weights(network, end.weights)
            ds = attribute(
                network,
                inputs,
                units=units.grid(self.plan.grid),
                labels=images.labels,
                foreground=images.masks,
                sample_ids=images.sample_ids,
                epoch=end.epoch,
                progress=False,
            )
            about = {"network": name, "network_role": end.role, "architecture": self.plan.architecture}
            run.write_result(f"attribution/{name}", ds.assign_attrs(about))
        return run

    def _ends(self) -> dict[str, "_End"]:
        """Give the end of training of every network, by its name in the run."""
        ((epoch, weights),) = self._teacher_checkpoint()[0].items()
        ends = {"teacher": _End("teacher", epoch, weights)}
        last = self.plan.epochs
        for seed in self.plan.seeds:
            record = TrainingRecord.open(self._network_folder("baseline", seed))
            ends[f"baseline-s{seed}"] = _End("baseline", last, record.checkpoints[last])
            for layer in self.plan.layers:
                head = TrainingRecord.open(self._network_folder(f"student-{layer}", seed) / "head")
                weights = head.checkpoints[self.plan.head_epochs]
                ends[f"student-{layer}-s{seed}"] = _End("student", last, weights)
        return ends

    # -- data

    @cached_property
    def _training_set(self) -> ImageSet:
        if self.plan.images is None:
            return fashion_composites("train", canvas=self.plan.size)
        return self._own_images("train")

    @cached_property
    def _held_out_set(self) -> ImageSet:
        if self.plan.images is None:
            return fashion_composites("held-out", canvas=self.plan.size)
        return self._own_images("held-out")

    def _own_images(self, part: str) -> ImageSet:
        """Divide the user's images, class by class, in an order that depends on nothing but their number."""
        assert self.plan.images is not None and self.plan.masks is not None
        everything = image_folder(self.plan.images, masks=self.plan.masks, size=self.plan.size)
        order = np.random.default_rng(0).permutation(len(everything))
        order = order[np.argsort(everything.labels[order], kind="stable")]
        held_out = np.arange(len(order)) % round(1 / _HELD_OUT_SHARE) == 0
        chosen = order[held_out] if part == "held-out" else order[~held_out]
        images = everything.select(np.random.default_rng(1).permutation(chosen))
        return replace(images, split=np.full(len(images), part))

    @cached_property
    def _measured_set(self) -> ImageSet:
        pool = self._student_set if self.plan.evaluated == "train" else self._held_out_set
        return pool.select(np.arange(min(self.plan.samples, len(pool))))

    @cached_property
    def _student_set(self) -> ImageSet:
        everything = self._training_set
        return everything.select(np.arange(min(self.plan.train_count, len(everything))))

    @cached_property
    def _student_data(self) -> tuple[Tensor, Tensor]:
        return _as_tensors(self._student_set)

    @cached_property
    def _held_out_data(self) -> tuple[Tensor, Tensor]:
        return _as_tensors(self._held_out_set)

    # -- networks

    def _network_folder(self, name: str, seed: int | None = None) -> Path:
        return self.folder / "networks" / (name if seed is None else f"{name}-s{seed}")

    def _training_folders(self) -> list[Path]:
        """Where every training run of the plan lies."""
        folders = []
        for seed in self.plan.seeds:
            folders.append(self._network_folder("baseline", seed))
            for layer in self.plan.layers:
                folder = self._network_folder(f"student-{layer}", seed)
                folders += [folder / "features", folder / "head"]
        return folders if self.plan.images is None else [self._network_folder("teacher"), *folders]

    def _module(self, layer: str) -> str:
        return PRESETS[self.plan.architecture].layers[layer]

    def _modules(self) -> list[str]:
        return [self._module(layer) for layer in PRESETS[self.plan.architecture].layers]

    def _build(self, seed: int = 0) -> nn.Module:
        classes = len(self._training_set.classes)
        return build(self.plan.architecture, classes=classes, input_size=self.plan.size, seed=seed)

    def _training_plan(self, kind: str, seed: int) -> TrainingPlan:
        """Give the built-in images' plan of this kind, for the study's number of epochs and a seed."""
        known = FASHION_PLANS.get(kind, FASHION_PLANS["fc2"])  # a deeper layer learns like fc2
        epochs = {"teacher": self.plan.teacher_epochs, "head": self.plan.head_epochs}.get(
            kind, self.plan.epochs
        )
        ends_only = (0, epochs) if kind in ("teacher", "head") else ()
        assert isinstance(known.learning_rate, tuple)
        first, last = known.learning_rate
        rates = (first * self.plan.rate_factor, last * self.plan.rate_factor)
        changes = {"epochs": epochs, "seed": seed, "checkpoints": ends_only, "learning_rate": rates}
        return TrainingPlan(**known.model_dump() | changes)

    def _teacher_checkpoint(self) -> tuple[dict[int, Path], float]:
        """Give the teacher's last epoch and held-out accuracy; train it first where it is not built in."""
        if self.plan.images is None:
            path = find_data(BUILT_IN_TEACHER)
            _, about = read_tensors(path)
            return {FASHION_PLANS["teacher"].epochs: path}, about["held_out_accuracy"]
        record = train_classifier(
            self._build(TEACHER_SEED),
            *_as_tensors(self._training_set),
            folder=self._network_folder("teacher"),
            plan=self._training_plan("teacher", TEACHER_SEED),
            tracked_layers=self._modules(),
            validation=self._held_out_data,
            progress=self.progress,
        )
        last = self.plan.teacher_epochs
        return {last: record.checkpoints[last]}, _accuracy(record)

    @cached_property
    def _teacher(self) -> nn.Module:
        teacher = self._build()
        checkpoint, _ = self._teacher_checkpoint()
        load_weights(teacher, *checkpoint.values())
        return teacher

    def _train_baseline(self, seed: int) -> None:
        train_classifier(
            self._build(seed),
            *self._student_data,
            folder=self._network_folder("baseline", seed),
            plan=self._training_plan("baseline", seed),
            tracked_layers=self._modules(),
            validation=self._held_out_data,
            progress=self.progress,
        )

    def _train_student(self, layer: str, seed: int) -> None:
        folder = self._network_folder(f"student-{layer}", seed)
        student = self._build(seed)
        inputs, labels = self._student_data
        distil_features(
            student,
            self._teacher,
            inputs,
            layer=self._module(layer),
            folder=folder / "features",
            plan=self._training_plan(layer, seed),
            tracked_layers=[self._module(layer)],
            progress=self.progress,
        )
        train_head(
            student,
            inputs,
            labels,
            layer=self._module(layer),
            folder=folder / "head",
            plan=self._training_plan("head", seed),
            validation=self._held_out_data,
            progress=self.progress,
        )

    # -- accuracy over training

    def _baseline_accuracy(self, seed: int) -> xr.DataArray:
        record = TrainingRecord.open(self._network_folder("baseline", seed))
        start = self._build(seed)
        load_weights(start, record.checkpoints[0])
        values = [evaluate(start, *self._held_out_data), *record.history["validation_accuracy"]]
        epochs = list(self.plan.measured_epochs)
        return accuracy_array([values[epoch] for epoch in epochs], epochs, "the network itself")

    def _student_accuracy(self, layer: str, seed: int) -> xr.DataArray:
        """Train a head on every measured checkpoint; that of the last is the student's own."""
        folder = self._network_folder(f"student-{layer}", seed)
        features = TrainingRecord.open(folder / "features")
        *epochs, last = self.plan.measured_epochs
        found = probe_accuracy(
            self._build(seed),
            {epoch: features.checkpoints[epoch] for epoch in epochs},
            *self._student_data,
            layer=self._module(layer),
            folder=folder / "probes",
            plan=self._training_plan("head", seed),
            validation=self._held_out_data,
            progress=self.progress,
        )
        values = [*found.values, _accuracy(TrainingRecord.open(folder / "head"))]
        return accuracy_array(values, [*epochs, last], found.attrs["definition"])

    # -- measuring

    def _run_attrs(self) -> dict[str, schema.Attribute]:
        config = self.plan.model_dump(mode="json", exclude={"seeds", "layers", "images", "masks"})
        config["threshold"] = PRESETS[self.plan.architecture].threshold
        config["classes"] = list(self._measured_set.classes)
        config["layer_names"] = {
            layer: self._module(layer) for layer in PRESETS[self.plan.architecture].layers
        }
        return schema.make_attrs(
            dataset_id=self._measured_set.source,
            architecture=self.plan.architecture,
            input_fingerprint=self._measured_set.fingerprint,
            config=config,
        )

    def _details(self, seed: int, record: TrainingRecord) -> dict[str, schema.Attribute]:
        return {"training_seed": seed, "accuracy": _accuracy(record)}

    def _measure_both(
        self,
        run: Run,
        name: str,
        role: str,
        layers: tuple[str, ...],
        record: TrainingRecord,
        details: dict[str, schema.Attribute],
    ) -> None:
        epochs = self.plan.measured_epochs
        checkpoints = {epoch: record.checkpoints[epoch] for epoch in epochs}
        self._measure(run, name, role, layers, checkpoints, details)
        for layer in layers:
            distance = record.weight_distance(self._module(layer)).sel(epoch=list(epochs))
            self._write(run, name, (layer,), distance)
        last = epochs[-1]
        self._measure(run, f"{name}-repeat", role, layers, {last: checkpoints[last]}, details, repeat=True)

    def _write(self, run: Run, name: str, layers: tuple[str, ...], variable: xr.DataArray) -> None:
        for layer in layers:
            run.write_variable(name, self._module(layer), variable)

    def _measure(
        self,
        run: Run,
        name: str,
        role: str,
        layers: tuple[str, ...],
        checkpoints: dict[int, Path],
        details: dict[str, schema.Attribute],
        repeat: bool = False,
    ) -> None:
        images = self._measured_set
        measure_checkpoints(
            self._build,
            checkpoints,
            torch.from_numpy(normalise(images.images)),
            network=name,
            role=role,
            layers=[self._module(layer) for layer in layers],
            units=units.grid(self.plan.grid),
            store=run,
            foreground=images.masks,
            labels=images.labels,
            sample_ids=images.sample_ids,
            method=self.plan.method,
            probes=self.plan.probes,
            draws=self.plan.draws,
            weight=PRESETS[self.plan.architecture].weight,
            seed=self.plan.measurement_seed + repeat,
            progress=self.progress,
            details={"architecture": self.plan.architecture, **details},
        )


def describe_images(images: ImageSet, grid: units.Grid) -> xr.Dataset:
    """Describe images as the samples of a run: names, classes, masks in units, and the pictures."""
    return xr.Dataset(
        {
            "valid": (("sample", "unit"), np.ones((len(images), grid.count), bool)),
            "foreground": (("sample", "unit"), grid.reduce_mask(images.masks)),
            "thumbnail": (("sample", "y_pixel", "x_pixel", "channel"), images.images),
        },
        coords={
            "sample": list(images.sample_ids),
            "unit": np.arange(grid.count),
            "label": ("sample", images.labels),
            "split": ("sample", list(images.split)),
            **grid.coordinates(),
        },
    )


@dataclass(frozen=True)
class _End:
    """A network at the end of its training: its role, the epoch that was measured last, its weights."""

    role: str
    epoch: int
    weights: Path


def _accuracy(record: TrainingRecord) -> float:
    return float(record.history["validation_accuracy"].iloc[-1])


def _as_tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(normalise(images.images)), torch.from_numpy(images.labels)
