"""How near kdviz comes to long runs of the authors' procedure, and at how many network passes."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

import kdviz
from benchmarks import authors
from benchmarks.costs import trace_passes
from benchmarks.problems import CELLS, CHECKPOINTS, LAYERS, load_images, load_network
from benchmarks.references import IMAGES, LONG_DRAWS, find_reference
from benchmarks.reports import show_table, write_result
from kdviz.gain import SharedLoss

LINEAR = (0.8, 1.25)  # measured over predicted loss, by probe gains alone, of images called near-linear
GOALS = {"near": (100, 0.02), "far": (100, 0.03)}  # times fewer passes than the authors, mean error in nat


@dataclass(frozen=True)
class AccuracyPlan:
    """What is compared.

    Attributes
    ----------
    images
        The first of the 30 with stored references.
    probes
        Settings of kdviz by gain, for the curve of error against passes.
    draws
        Settings of kdviz by path.
    few_draws
        Cheap versions of the authors' own loop, up to their calibration.
    timed
        Images on which the whole authors' loop is timed.
    """

    images: int = IMAGES
    probes: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    draws: tuple[int, ...] = (2, 4, 8)
    few_draws: tuple[int, ...] = (4, 8, 16, 32)
    timed: int = 3


QUICK = AccuracyPlan(images=4, probes=(16, 64), draws=(2,), few_draws=(4,), timed=1)


@dataclass
class Case:
    """One checkpoint and layer with its reference.

    Attributes
    ----------
    expected
        Entropies of the reference, ``(images, units)``: the mean of all stored runs, weighted by draws.
    near
        Whether probe gains alone predict the loss at the solution, ``(images,)``.
    """

    checkpoint: str
    layer: str
    network: nn.Module
    inputs: Tensor
    masks: Tensor
    names: list[str]
    runs: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    expected: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    near: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))

    def measure(self, **settings: Any) -> xr.Dataset:
        """Measure all images with kdviz."""
        return kdviz.measure(
            self.network,
            self.inputs,
            layers=LAYERS[self.layer],
            units=kdviz.units.grid(CELLS),
            foreground=self.masks,
            sample_ids=self.names,
            progress=False,
            **settings,
        )


def run_accuracy(plan: AccuracyPlan, folder: Path | None = None, *, name: str = "accuracy") -> bool:
    """Compare every setting on every case, print tables and write them; True if the goals are met."""
    cases = [load_case(checkpoint, layer, plan) for checkpoint in CHECKPOINTS for layer in LAYERS]
    noise = [describe_reference(case) for case in cases]
    show_table("references: what is known of them (nat)", noise)
    rows = [row for case in cases for row in compare_case(case, plan)]
    show_table("mean absolute error against the reference (nat), by image", rows)
    overall = summarise(rows)
    show_table("all cases together", overall)
    speed = [time_case(case, plan.timed) for case in cases]
    show_table("processor seconds an image, one after the other in this run", speed)
    verdicts = [judge(overall, kind) for kind in GOALS]
    show_table("goals", verdicts)
    results = {"cases": rows, "goals": verdicts, "overall": overall, "references": noise, "speed": speed}
    write_result(name, {**plan.__dict__, "long_draws": LONG_DRAWS}, results, folder)
    return all(verdict["met"] for verdict in verdicts)


def load_case(checkpoint: str, layer: str, plan: AccuracyPlan) -> Case:
    """Load network, images and reference, and find which images are near-linear."""
    inputs, masks, names = (part[: plan.images] for part in load_images(IMAGES))
    case = Case(checkpoint, layer, load_network(checkpoint), inputs, masks, names)
    with xr.open_dataset(find_reference(checkpoint, layer)) as stored:
        case.runs = {run: stored[run].sel(sample=names).values.astype(float) for run in stored.data_vars}
    level = case.runs["reference"].mean(1, keepdims=True)  # the authors' last step is not at the target
    centred = [case.runs[run] - case.runs[run].mean(1, keepdims=True) + level for run in sorted(case.runs)]
    case.expected = np.average(centred, axis=0, weights=[authors.DRAWS, authors.DRAWS, LONG_DRAWS])
    with only_probe_gains():
        linearity = case.measure(method="gain")["linearity"].values[0]
    case.near = (linearity >= LINEAR[0]) & (linearity <= LINEAR[1])
    return case


def describe_reference(case: Case) -> dict[str, Any]:
    """Return the chance in the references, from the difference of two runs of the authors' procedure."""
    one, other = case.runs["authors_a"], case.runs["authors_b"]
    between = float(np.abs(one - other).mean()) / 2**0.5
    draws = 2 * authors.DRAWS + LONG_DRAWS
    return {
        "case": f"{case.checkpoint} {case.layer}",
        "near_linear_images": f"{int(case.near.sum())} of {len(case.near)}",
        "chance_of_authors": between,
        "chance_of_reference": between * (authors.DRAWS / draws) ** 0.5,
        "spread_over_units": float(case.expected.std(1).mean()),
        "jaccard_of_two_authors_runs": float(np.nanmean(jaccard(case, one, other))),
    }


def compare_case(case: Case, plan: AccuracyPlan) -> Iterator[dict[str, Any]]:
    """Return a row for every setting."""
    label = f"{case.checkpoint} {case.layer}"
    settings: list[tuple[str, dict[str, Any], AbstractContextManager]] = [
        ("kdviz default", {}, nullcontext()),
        ("probe gains alone", {"method": "gain"}, only_probe_gains()),
        *((f"kdviz gain, {p} probes", {"method": "gain", "probes": p}, nullcontext()) for p in plan.probes),
        *((f"kdviz path, {d} draws", {"method": "path", "draws": d}, nullcontext()) for d in plan.draws),
    ]
    for name, options, context in tqdm(settings, desc=label, unit="setting"):
        results: list[xr.Dataset] = []
        with context:
            passes = trace_passes(case.network, lambda: results.append(case.measure(**options)))  # noqa: B023
        spent = sum(one.samples * (1 + one.backwards) for one in passes)
        entropy = results[0]["entropy"].values[0].astype(float)
        by_path = float((results[0]["method"].values == 1).mean())
        yield _row(case, name, entropy, spent / len(case.names)) | {"by_path": by_path}
    head = authors.cut_head(case.network, LAYERS[case.layer])
    unit = authors.share_cells(case.inputs.shape[-1], CELLS)
    for draws in tqdm(plan.few_draws, desc=f"{label}, authors", unit="setting"):
        runs = [
            authors.descend(head, image, unit, seed=1000 + at, draws=draws, to_the_end=False)
            for at, image in enumerate(case.inputs)
        ]
        entropy = torch.stack([run.at_target for run in runs]).numpy()
        spent = float(np.mean([run.passes for run in runs]))
        yield _row(case, f"authors' loop, {draws} draws, to the target", entropy, spent) | {"by_path": 1.0}
    for run in ("authors_a", "authors_b"):  # each judged by what does not contain it
        rest = {"authors_a": "authors_b", "authors_b": "authors_a"}[run]
        level = case.runs["reference"].mean(1, keepdims=True)
        other = case.runs[rest] - case.runs[rest].mean(1, keepdims=True) + level
        independent = np.average([case.runs["reference"], other], axis=0, weights=[LONG_DRAWS, authors.DRAWS])
        name = f"authors' procedure, run {run[-1]}"
        yield _row(case, name, case.runs[run], authors.PASSES, independent) | {"by_path": 1.0}


def _row(
    case: Case,
    name: str,
    entropy: NDArray[np.float64],
    passes: float,
    expected: NDArray[np.float64] | None = None,
) -> dict[str, Any]:
    expected = case.expected if expected is None else expected
    error, same = np.abs(entropy - expected).mean(1), jaccard(case, entropy, expected)
    row: dict[str, Any] = {
        "case": f"{case.checkpoint} {case.layer}",
        "setting": name,
        "passes": round(passes, 1),
        "times_fewer": round(authors.PASSES / passes, 1),
    }
    for kind, chosen in (("near", case.near), ("far", ~case.near)):
        row[f"{kind}_images"] = int(chosen.sum())
        row[f"{kind}_error"] = float(error[chosen].mean()) if chosen.any() else None
        row[f"{kind}_worst"] = float(error[chosen].max()) if chosen.any() else None
        row[f"{kind}_jaccard"] = float(np.nanmean(same[chosen])) if chosen.any() else None
    return row


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pool the cases, every image counting alike."""
    pooled = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        same = [row for row in rows if row["setting"] == setting]
        passes = float(np.mean([row["passes"] for row in same]))
        one = {
            "setting": setting,
            "passes": round(passes, 1),
            "times_fewer": round(authors.PASSES / passes, 1),
        }
        for kind in GOALS:
            counted = [row for row in same if row[f"{kind}_images"]]
            weights = [row[f"{kind}_images"] for row in counted]
            for what in ("error", "jaccard"):
                values = [row[f"{kind}_{what}"] for row in counted]
                one[f"{kind}_{what}"] = float(np.average(values, weights=weights)) if weights else None
        pooled.append(one)
    return pooled


def judge(overall: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Say whether the default settings reach the goal for near or far images."""
    default = overall[0]
    fewer, error = GOALS[kind]
    found = default[f"{kind}_error"]
    met = default["times_fewer"] >= fewer and (found is None or found <= error)
    return {
        "images": kind,
        "times_fewer_asked": fewer,
        "times_fewer": default["times_fewer"],
        "error_asked": error,
        "error": found,
        "met": met,
    }


def jaccard(case: Case, one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Overlap of the knowledge points of two sets of maps, by image; NaN where neither has any."""
    foreground = kdviz.units.grid(CELLS).reduce_mask(case.masks.numpy() > 0)
    return share_points(one, other, foreground)


def share_points(
    one: NDArray[np.float64], other: NDArray[np.float64], foreground: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Overlap of the knowledge points of two sets of maps, all ``(samples, units)``, NaN beyond the units."""
    first, second = (_points(entropy, foreground) for entropy in (one, other))
    union = (first | second).sum(1)
    return np.where(union > 0, (first & second).sum(1) / np.maximum(union, 1), np.nan)


def _points(entropy: NDArray[np.float64], foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    each = [np.nanmean(sample[~mask]) for sample, mask in zip(entropy, foreground, strict=True)]
    return np.mean(each) - entropy > 0.2


def only_probe_gains() -> AbstractContextManager:
    """Leave the drift out, as a first version of the engine did."""

    def keep(bench: Any, layer: Any, surrogate: Any, *_: Any, **__: Any) -> SharedLoss:
        return SharedLoss(surrogate.gain, surrogate.gain_error, torch.zeros(len(surrogate.gain)))

    return patch("kdviz.measuring.blocks.share_loss", keep)


def time_case(case: Case, count: int) -> dict[str, Any]:
    """Time the whole authors' loop on some images and kdviz on all of them."""
    head = authors.cut_head(case.network, LAYERS[case.layer])
    unit = authors.share_cells(case.inputs.shape[-1], CELLS)
    start = time.process_time()
    for at, image in enumerate(case.inputs[:count]):
        authors.descend(head, image, unit, seed=at)
    theirs = (time.process_time() - start) / count
    start = time.process_time()
    case.measure()
    ours = (time.process_time() - start) / len(case.names)
    return {
        "case": f"{case.checkpoint} {case.layer}",
        "authors": theirs,
        "kdviz": ours,
        "ratio": theirs / ours,
    }
