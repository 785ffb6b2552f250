"""The noise floor: how far every metric moves when nothing but the measurement seed changes."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

import kdviz
from benchmarks.reports import show_table, write_result
from kdviz.analysis import NetworkPair, measure_noise_floor
from kdviz.errors import DegenerateWarning
from kdviz.models import PRESETS
from kdviz.schema import METHODS
from kdviz.sources import normalise
from kdviz.studies import Study, StudyPlan
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord

METRICS = ("n_fg", "n_bg", "fg_ratio", "rho", "d_mean", "d_std")

Measured = dict[tuple[str, str], xr.Dataset]  # by layer and role


@dataclass(frozen=True)
class NoisePlan:
    """What is measured, how often, and on which study.

    Attributes
    ----------
    seeds
        Measurement seeds, 0 and up.
    layers, samples, epochs, train_count, probes, draws
        Of the study that is trained where none is given, and of its measurements.
    more
        Factor on probes and draws of the second look at the last checkpoint; 1 for none.
    """

    seeds: int = 5
    layers: tuple[str, ...] = ("conv", "fc1")
    samples: int = 24
    epochs: int = 6
    train_count: int = 2000
    probes: int = 40
    draws: int = 4
    more: int = 4


QUICK = NoisePlan(seeds=2, layers=("fc1",), samples=6, epochs=2, train_count=200, probes=32, draws=2, more=2)


def run_noise(
    plan: NoisePlan, folder: Path | None = None, *, study: Path | None = None, name: str = "noise"
) -> None:
    """Train or open a study, measure it with several seeds, print and write how the results differ."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        chosen = open_study(plan, Path(place)) if study is None else Study(study, StudyPlan.load(study))
        asked, workshop = chosen.plan, Workshop(chosen)
        plan = replace(
            plan,
            layers=tuple(asked.networks.layers),
            epochs=asked.training.epochs,
            probes=asked.measurement.probes,
            draws=asked.measurement.draws,
        )
        subjects = list(list_networks(workshop))
        own = workshop.measured_set.describe(workshop.measured)  # those the study itself measures
        samples = own.isel(sample=slice(plan.samples))
        seeds, finer = [], []
        for seed in range(plan.seeds):
            print(f"measurement seed {seed + 1} of {plan.seeds}", flush=True)
            seeds.append(measure_all(workshop, subjects, samples, seed))
            if plan.more > 1:
                finer.append(measure_all(workshop, subjects, samples, seed, more=plan.more))
    results: dict[str, Any] = {
        "entropies": describe_entropies(seeds, plan.probes)
        + describe_entropies(finer, plan.probes * plan.more),
        "metrics": describe_metrics(seeds),
        "pairs": describe_pairs(seeds),
        "study": asked.identity,
    }
    show_table("Metrics: mean over measurement seeds, and standard deviation (noise)", results["metrics"])
    show_table("Entropies: movement between seeds beside the error reported, nat", results["entropies"])
    show_table("Last checkpoint, each seed beside the next", results["pairs"])
    write_result(name, asdict(replace(plan, samples=samples.sizes["sample"])), results, folder)


# -- the study


@dataclass(frozen=True)
class Subject:
    """One network at one layer, and where its checkpoints are."""

    name: str
    role: str
    label: str
    module: str
    checkpoints: Mapping[int, Path]
    distance: xr.DataArray | None = None


def open_study(plan: NoisePlan, folder: Path) -> Study:
    """Train baseline and students on the built-in images beside the built-in teacher."""
    asked = {
        "networks": {"layers": plan.layers},
        "training": {"epochs": plan.epochs, "count": plan.train_count},
        "measurement": {"samples": plan.samples, "probes": plan.probes, "draws": plan.draws},
    }
    study = Study(folder, StudyPlan.model_validate(asked))
    study.train()
    return study


def list_networks(workshop: Workshop) -> Iterator[Subject]:
    """Return teacher, student and baseline of the study's first training seed, at each of its layers."""
    plan, networks = workshop.plan, workshop.study.folder / "networks"
    seed, epochs = plan.training.seeds[0], list(plan.training.measured_epochs)
    teacher = dict([workshop.teacher_checkpoint])
    for label, module in plan.networks.layers.items():
        yield Subject("teacher", "teacher", label, module, teacher)
        for role, place in (
            ("student", f"student-{label}-s{seed}/features"),
            ("baseline", f"baseline-s{seed}"),
        ):
            record = TrainingRecord.open(networks / place)
            checkpoints = {epoch: record.checkpoints[epoch] for epoch in epochs}
            distance = record.weight_distance(module).sel(epoch=epochs)
            yield Subject(place.partition("/")[0], role, label, module, checkpoints, distance)


def measure_all(
    workshop: Workshop, subjects: list[Subject], samples: xr.Dataset, seed: int, *, more: int = 1
) -> Measured:
    """Measure all networks with one seed; with `more` probes and draws, their last checkpoint only."""
    plan, preset = workshop.plan.measurement, PRESETS[workshop.plan.networks.architecture]
    assert plan.grid is not None
    inputs = torch.from_numpy(normalise(samples["thumbnail"].values))
    measured = {}
    for subject in subjects:
        last = max(subject.checkpoints)
        ds = kdviz.measure_checkpoints(
            workshop.build,
            subject.checkpoints if more == 1 else {last: subject.checkpoints[last]},
            inputs,
            network=subject.name,
            role=subject.role,
            layers=subject.module,
            units=kdviz.units.grid(plan.grid),
            foreground=samples["foreground"].values,
            sample_ids=samples["sample"].values.tolist(),
            method=plan.method,
            probes=plan.probes * more,
            draws=plan.draws * more,
            weight=preset.weight,
            seed=seed,
        )
        if subject.distance is not None and more == 1:
            ds = ds.assign(weight_distance=subject.distance)
        measured[subject.label, subject.role] = kdviz.find_points(ds, threshold=preset.threshold)
    return measured


# -- how far it moves


def describe_metrics(seeds: list[Measured]) -> list[dict[str, Any]]:
    """Return every metric over the seeds, and beside it what resampling the images would change."""
    rows = []
    for label in dict.fromkeys(label for label, _ in seeds[0]):
        networks = {
            role: [measured[label, role] for measured in seeds] for role in ("student", "baseline", "teacher")
        }
        compared = kdviz.compare(**networks)
        for metric in METRICS:
            values = compared.sel(metric=metric)
            row: dict[str, Any] = {"layer": label, "metric": metric}
            for role in ("teacher", "student", "baseline", "difference"):
                row[role] = _known(values[role].mean())
                row[f"{role}_noise"] = _known(values[role].std(ddof=1))
            width = values["difference_high"] - values["difference_low"]
            rows.append(row | {"difference_interval": _known(width.mean() / 2)})  # half of 95 % over images
    return rows


def _known(value: xr.DataArray) -> float | None:
    return None if np.isnan(value) else value.item()


def describe_entropies(seeds: list[Measured], probes: int) -> list[dict[str, Any]]:
    """Compare the movement of unit entropies between seeds with the error that each reports for itself."""
    rows = []
    for (label, role), first in seeds[0].items() if seeds else ():
        last = slice(-1, None)
        for part, epochs in (
            (("all", slice(None)), ("last", last)) if first.sizes["epoch"] > 1 else (("last", last),)
        ):
            networks = [measured[label, role].isel(epoch=epochs) for measured in seeds]
            rows.append(
                {"layer": label, "role": role, "epochs": part, "probes": probes, **measure_movement(networks)}
            )
    return rows


def measure_movement(networks: list[xr.Dataset]) -> dict[str, float | None]:
    """Movement of entropies and points between measurements of one network that differ in their seed.

    ``moved`` is the standard deviation over seeds and ``reported`` the stored ``entropy_error``, both root
    mean squares over units; ``gain_ratio`` and ``path_ratio`` are moved over reported for the samples that
    every seed measured by that method. ``jaccard`` is the share of points two seeds agree on, ``flipped`` the
    share of units they disagree on, and ``flagged`` the share of these that one of the two calls uncertain.
    """
    entropy, error = (np.stack([ds[name].values for ds in networks]) for name in ("entropy", "entropy_error"))
    method = np.stack([ds["method"].values for ds in networks])
    moved, reported = entropy.astype(float).var(0, ddof=1), np.square(error, dtype=float).mean(0)
    ratios: dict[str, float | None] = {}
    for code, name in enumerate(METHODS):
        alike = (method == code).all(0)
        ratio = np.sqrt(moved[alike].mean() / reported[alike].mean()) if alike.any() else None
        ratios[f"{name}_ratio"] = ratio
    agreed, flips, flagged = [], [], []
    for one, two in combinations(networks, 2):
        found = [ds["knowledge_point"].values for ds in (one, two)]
        either = (found[0] | found[1]).sum(-1)
        agreed.append(
            ((found[0] & found[1]).sum(-1)[either > 0] / either[either > 0]).mean() if either.any() else 1
        )
        differ = found[0] != found[1]
        flips.append(differ.mean())
        doubted = (one["uncertain"] | two["uncertain"]).values[differ]
        flagged += doubted.tolist()
    return {
        "moved": np.sqrt(moved.mean()),
        "reported": np.sqrt(reported.mean()),
        "ratio": np.sqrt(moved.mean() / reported.mean()),
        **ratios,
        "path": (method == METHODS.index("path")).mean(),
        "jaccard": np.mean(agreed),
        "flipped": np.mean(flips),
        "flagged": np.mean(flagged) if flagged else None,
    }


def describe_pairs(seeds: list[Measured]) -> list[dict[str, Any]]:
    """Set the final counts of each seed beside those of the next, as `measure_noise_floor` does for a run."""
    rows = []
    for number, (one, two) in enumerate(pairwise(seeds)):
        pairs = {
            label: NetworkPair(
                layer=one[label, "student"].attrs["layer"],
                students={number: one[label, "student"]},
                baselines={number: one[label, "baseline"]},
                student_repeats={number: two[label, "student"]},
                baseline_repeats={number: two[label, "baseline"]},
            )
            for label in dict.fromkeys(label for label, _ in one)
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateWarning)  # an image without points agrees on none
            rows.append(measure_noise_floor(pairs))
    return [{str(name): value for name, value in row.items()} for row in pd.concat(rows).to_dict("records")]
