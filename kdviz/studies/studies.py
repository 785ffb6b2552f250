"""Train and measure a study."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from kdviz import schema, units
from kdviz.distillation import Features
from kdviz.errors import StoreError
from kdviz.measuring import measure_checkpoints
from kdviz.models import PRESETS, ArchitecturePreset
from kdviz.networks.checkpoints import load_weights
from kdviz.sources import find_data
from kdviz.store import Run, create_run, open_run
from kdviz.studies.materials import Material, Prepared, SampleSet, describe_samples, find_material
from kdviz.studies.plans import PLAN_FILE, TEACHER_SEED, StudyPlan
from kdviz.training import (
    TrainingPlan,
    TrainingRecord,
    accuracy_array,
    distil,
    evaluate,
    probe_accuracy,
    train_classifier,
    train_head,
)
from kdviz.training.records import read_tensors


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
            _ = self._measured_set  # a plan whose samples cannot be read, or not measured, is not kept
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
            samples=describe_samples(self._measured_set, self._measured),
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
        ValueError
            If this is no study of images.
        MissingExtraError
            If captum is not installed.
        """
        from kdviz.attribution import attribute  # an extra that training and measuring do without

        if self.plan.modality != "image":
            raise ValueError(
                f"attribution maps are drawn for images, {self.folder} is a study of {self.plan.modality}s"
            )
        if not self.run_path.is_dir():
            raise StoreError(f"{self.folder} is not measured yet; first kdviz measure {self.folder}")
        run, samples = open_run(self.run_path), self._measured_set
        todo = {name: end for name, end in self._ends().items() if f"attribution/{name}" not in run.results}
        for name, end in (bar := tqdm(todo.items(), desc="attributing", disable=not self.progress)):
            bar.set_postfix_str(name, refresh=False)
            network = self._build()
            load_weights(network, end.weights)
            ds = attribute(
                network,
                self._measured.inputs,
                units=units.grid(self.plan.grid),
                labels=samples.labels,
                foreground=self._measured.foreground,
                sample_ids=samples.sample_ids,
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
    def _material(self) -> Material[Any]:
        return find_material(self.plan)

    @cached_property
    def _training_set(self) -> SampleSet:
        return self._material.load("train")

    @cached_property
    def _held_out_set(self) -> SampleSet:
        return self._material.load("held-out")

    @cached_property
    def _measured_set(self) -> SampleSet:
        pool = self._student_set if self.plan.evaluated == "train" else self._held_out_set
        return self._material.choose(pool, self.plan.samples)

    @cached_property
    def _student_set(self) -> SampleSet:
        everything = self._training_set
        return everything.select(np.arange(min(self.plan.train_count, len(everything))))

    @cached_property
    def _student_data(self) -> tuple[Tensor, Tensor]:
        return self._as_tensors(self._student_set)

    @cached_property
    def _held_out_data(self) -> tuple[Tensor, Tensor]:
        return self._as_tensors(self._held_out_set)

    def _as_tensors(self, samples: SampleSet) -> tuple[Tensor, Tensor]:
        return self._material.prepare(samples).inputs, torch.from_numpy(samples.labels)

    @cached_property
    def _measured(self) -> Prepared:
        return self._material.prepare(self._measured_set)

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
        return folders if self._material.built_in else [self._network_folder("teacher"), *folders]

    @property
    def _preset(self) -> ArchitecturePreset:
        return PRESETS[self.plan.architecture]

    def _module(self, layer: str) -> str:
        return self._preset.layers[layer]

    def _weights(self, layer: str) -> str:
        """Name the module whose weight stands for a layer."""
        return self._preset.weights.get(self._module(layer), self._module(layer))

    def _all_weights(self) -> list[str]:
        return list(dict.fromkeys(self._weights(layer) for layer in self._preset.layers))

    def _build(self, seed: int = 0) -> nn.Module:
        return self._material.build(len(self._training_set.classes), seed)

    def _training_plan(self, kind: str, seed: int) -> TrainingPlan:
        """Give the built-in data's plan of this kind, for the study's number of epochs and a seed."""
        plans = self._material.plans
        *_, deepest = (name for name in plans if name not in ("teacher", "baseline", "head"))
        known = plans.get(kind, plans[deepest])  # a deeper layer learns like the deepest known
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
        if self._material.built_in:
            path = find_data(self._material.teacher)
            _, about = read_tensors(path)
            return {self._material.plans["teacher"].epochs: path}, about["held_out_accuracy"]
        record = train_classifier(
            self._build(TEACHER_SEED),
            *self._as_tensors(self._training_set),
            folder=self._network_folder("teacher"),
            plan=self._training_plan("teacher", TEACHER_SEED),
            tracked_layers=self._all_weights(),
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
            tracked_layers=self._all_weights(),
            validation=self._held_out_data,
            progress=self.progress,
        )

    def _train_student(self, layer: str, seed: int) -> None:
        folder = self._network_folder(f"student-{layer}", seed)
        student = self._build(seed)
        inputs, labels = self._student_data
        distil(
            student,
            self._teacher,
            inputs,
            loss=Features(self._module(layer)),
            folder=folder / "features",
            plan=self._training_plan(layer, seed),
            tracked_layers=[self._weights(layer)],
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
        config = self.plan.as_json(exclude={"seeds", "layers", "images", "masks", "texts", "clouds"})
        config["threshold"] = self._preset.threshold
        config["classes"] = list(self._measured_set.classes)
        config["layer_names"] = dict(self._preset.layers)
        return schema.make_attrs(
            modality=self.plan.modality,
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
            distance = record.weight_distance(self._weights(layer)).sel(epoch=list(epochs))
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
        samples = self._measured_set
        measure_checkpoints(
            self._build,
            checkpoints,
            self._measured.inputs,
            network=name,
            role=role,
            layers=[self._module(layer) for layer in layers],
            units=self._measured.units,
            store=run,
            foreground=self._measured.foreground,
            labels=samples.labels,
            sample_ids=samples.sample_ids,
            entry=self._preset.entry,
            feature=self._preset.feature,
            method=self.plan.method,
            probes=self.plan.probes,
            draws=self.plan.draws,
            weight=self._preset.weight,
            seed=self.plan.measurement_seed + repeat,
            progress=self.progress,
            details={"architecture": self.plan.architecture, **details},
        )


@dataclass(frozen=True)
class _End:
    """A network at the end of its training: its role, the epoch that was measured last, its weights."""

    role: str
    epoch: int
    weights: Path


def _accuracy(record: TrainingRecord) -> float:
    return float(record.history["validation_accuracy"].iloc[-1])
