"""How near kdviz comes to the authors' procedure on every network of the zoo, and whether it says so."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

from benchmarks import authors
from benchmarks.accuracy import LINEAR, only_probe_gains, share_points
from benchmarks.peers import counted
from benchmarks.reports import show_table, write_result
from benchmarks.zoo.cases import Case, load_case
from benchmarks.zoo.networks import KEPT, ZOO, find_accuracy, find_weights, load_data, load_network
from benchmarks.zoo.references import SAMPLES, read_reference
from kdviz.schema import METHODS

FEWER = 100  # times fewer passes than the authors
ERRORS = {"near": 0.02, "far": 0.03}  # nat, near-linear samples and the others
JACCARD = 0.05  # below that of two runs of the authors' procedure
OTHER_SEEDS = range(1, 6)  # of measurements beside the one that is compared with a reference
BEYOND, BY_CHANCE = 2.0, 0.05  # stated errors, and the share of units that are further off if they are right
POOLED = "passes times_fewer error near_error far_error stated beyond jaccard rank by_path apart".split()
Maps = NDArray[np.float64]  # (samples, units), NaN beyond a sample's units


@dataclass(frozen=True)
class ZooPlan:
    """What is compared: networks, samples of each, and settings of kdviz, the first being judged."""

    networks: tuple[str, ...] = tuple(ZOO)
    samples: int = SAMPLES
    settings: tuple[str, ...] = ("default", "gain", "path")


QUICK = ZooPlan(networks=("tanh",), samples=1, settings=("default",))


@dataclass(frozen=True)
class Reference:
    """All runs at one level, their mean, and the chance in it: a standard deviation for each sample, nat."""

    runs: tuple[Maps, ...]
    mean: Maps
    chance: Maps

    @classmethod
    def of(cls, runs: NDArray[np.float64]) -> "Reference":
        """Take runs ``(samples, runs, units)``, at least two."""
        level = np.nanmean(runs, axis=(1, 2), keepdims=True)
        same = runs - np.nanmean(runs, axis=2, keepdims=True) + level
        variance = np.nanmean(same.var(1, ddof=1), axis=1, keepdims=True)
        return cls(tuple(same.swapaxes(0, 1)), same.mean(1), np.sqrt(variance / same.shape[1]))

    @property
    def pairs(self) -> list[tuple[Maps, Maps]]:
        """Every two runs."""
        return list(itertools.combinations(self.runs, 2))


def run_zoo(plan: ZooPlan, folder: Path | None = None, *, name: str = "zoo", references: Path = KEPT) -> bool:
    """Compare every setting on every case with a reference, print and write it; True if all goals are met."""
    torch.set_num_threads(1)
    rows, about, networks, missing = [], [], [], []
    for network in plan.networks:
        if find_weights(network) is None:
            missing += [f"{network} {where}" for where in ZOO[network].layers]
            continue
        networks.append(describe_network(network))
        for where in ZOO[network].layers:
            case = load_case(network, where, plan.samples)
            runs = read_reference(case, references)
            if len(runs) < plan.samples:
                missing.append(f"{case.name}, {plan.samples - len(runs)} of {plan.samples} samples")
            if not len(runs):
                continue
            reference = Reference.of(runs)
            about.append(describe_reference(case, reference))
            rows += list(compare_case(case, reference, plan.settings))
            show_table(f"{case.name}: error against the reference (nat)", rows[-len(plan.settings) :])
    show_table("networks", networks)
    show_table("references: what is known of them (nat)", about)
    show_table("settings, every case counting alike", overall := summarise(rows, plan.settings))
    show_table("goals", goals := judge(rows, about, plan.settings[0]))
    show_table("silently wrong", silent := find_silent(rows, plan.settings[0]))
    print(f"\nno reference: {', '.join(missing) or 'none missing'}")
    results = {
        "cases": rows,
        "goals": goals,
        "missing": missing,
        "networks": networks,
        "overall": overall,
        "references": about,
        "silent": silent,
    }
    write_result(name, asdict(plan), results, folder)
    return not missing and all(goal["met"] for goal in goals)


def describe_network(name: str) -> dict[str, Any]:
    """Return what a network of the zoo is."""
    network, specimen = load_network(name), ZOO[name]
    return {
        "network": name,
        "kind": specimen.kind,
        "weights": sum(weights.numel() for weights in network.parameters()),
        "accuracy": find_accuracy(network, load_data(specimen, "held-out")),
        "feature": "relu" if specimen.relu else "identity",
        **{where: specimen.layers.get(where) for where in ("middle", "last")},
    }


def describe_reference(case: Case, reference: Reference) -> dict[str, Any]:
    """Return the chance in a reference and how alike two of its runs are."""
    chance = float(np.mean([np.nanmean(np.abs(one - other)) for one, other in reference.pairs])) / 2**0.5
    shared = [same for pair in reference.pairs if (same := _jaccard(*pair)) is not None]
    return {
        "case": case.name,
        "samples": len(reference.mean),
        "units": int(np.isfinite(reference.mean).sum(1).max()),
        "chance_of_authors": chance,
        "chance_of_reference": chance / len(reference.runs) ** 0.5,
        "spread_over_units": float(np.nanstd(reference.mean, axis=1).mean()),
        "jaccard": float(np.mean(shared)) if shared else None,
        "rank": float(np.mean([_rank(*pair) for pair in reference.pairs])),
    }


def compare_case(case: Case, reference: Reference, settings: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Return a row for every setting; of samples, those that have a reference."""
    known = slice(len(reference.mean))
    with only_probe_gains():
        linearity = case.measure(method="gain")["linearity"].values[0, known]
    near = (linearity >= LINEAR[0]) & (linearity <= LINEAR[1])
    by_gain: dict[str, Any] = {}
    for setting in settings:
        row: dict[str, Any] = {"case": case.name, "setting": setting}
        if setting == "gain" and by_gain:
            yield by_gain | row | {"as_default": True}
            continue
        options = {} if setting == "default" else {"method": setting}
        with counted(case.module) as spent:
            ds = case.measure(**options)
        row |= compare_maps(ds.isel(sample=known), reference, near, spent.passes / len(case.names))
        row["apart"] = compare_seeds([ds, *(case.measure(seed=seed, **options) for seed in OTHER_SEEDS)])
        if row["by_path"] == 0:
            by_gain = row
        yield row


def compare_maps(
    ds: xr.Dataset, reference: Reference, near: NDArray[np.bool_], passes: float
) -> dict[str, Any]:
    """Return how far one measurement is from the reference, and how far by its own account."""
    entropy, stated, linearity = (
        ds[name].values[0].astype(float) for name in ("entropy", "entropy_error", "linearity")
    )
    error = np.abs(entropy - reference.mean)
    inside = np.isfinite(error)
    beyond = error > BEYOND * np.hypot(stated, reference.chance)
    each = np.nanmean(error, axis=1)
    return {
        "passes": round(passes, 1),
        "times_fewer": round(authors.PASSES / passes, 1),
        "error": float(each.mean()),
        "near": int(near.sum()),
        "near_error": float(each[near].mean()) if near.any() else None,
        "far_error": float(each[~near].mean()) if not near.all() else None,
        "largest": float(np.nanmax(error)),
        "stated": float(np.nanmean(stated)),
        "beyond": float(beyond[inside].mean()),
        "jaccard": _jaccard(entropy, reference.mean),
        "rank": _rank(entropy, reference.mean),
        "by_path": float((ds["method"].values[0] == METHODS.index("path")).mean()),
        "linearity_low": float(linearity.min()),
        "linearity_high": float(linearity.max()),
        "spread": float(np.nanstd(entropy, axis=1).mean()),
    }


def compare_seeds(measured: Sequence[xr.Dataset]) -> float:
    """Share of units in which two measurements differ by more than two stated errors of the difference."""
    shares = []
    for one, other in itertools.combinations(measured, 2):
        differ = np.abs(one["entropy"] - other["entropy"])
        beyond = differ > BEYOND * np.hypot(one["entropy_error"], other["entropy_error"])
        shares.append(float(beyond.where(differ.notnull()).mean()))
    return float(np.mean(shares))


def _jaccard(one: Maps, other: Maps) -> float | None:
    """Overlap of points, which are units 0.2 nat below the mean of all: what is foreground is not known."""
    same = share_points(one, other, np.zeros(one.shape, bool))
    return float(np.nanmean(same)) if np.isfinite(same).any() else None


def _rank(one: Maps, other: Maps) -> float:
    pairs = zip(one, other, strict=True)
    return float(np.mean([spearmanr(*pair, nan_policy="omit").statistic for pair in pairs]))


def summarise(rows: Sequence[dict[str, Any]], settings: Sequence[str]) -> list[dict[str, Any]]:
    """Return every setting over all cases."""
    pooled = []
    for setting in settings:
        same = [row for row in rows if row["setting"] == setting]
        row: dict[str, Any] = {"setting": setting, "cases": len(same)}
        for key in POOLED:
            known = [one[key] for one in same if one[key] is not None]
            row[key] = float(np.mean(known)) if known else None
        row["largest"] = max((one["largest"] for one in same), default=None)
        pooled.append(row)
    return pooled


def judge(
    rows: Sequence[dict[str, Any]], about: Sequence[dict[str, Any]], setting: str
) -> list[dict[str, Any]]:
    """Say of every goal in how many cases the setting reaches it, and where it is missed most."""
    of_two_runs = {row["case"]: row["jaccard"] for row in about}
    judged = [row for row in rows if row["setting"] == setting]
    asked: list[tuple[str, float, Callable[[dict[str, Any]], float | None]]] = [
        ("times fewer passes", -FEWER, lambda row: -row["times_fewer"]),
        ("error of near-linear samples, nat", ERRORS["near"], lambda row: row["near_error"]),
        ("error of the others, nat", ERRORS["far"], lambda row: row["far_error"]),
        (
            "Jaccard below that of two runs",
            JACCARD,
            lambda row: _below(of_two_runs[row["case"]], row["jaccard"]),
        ),
        ("units of two seeds beyond two stated errors", BY_CHANCE, lambda row: row["apart"]),
    ]
    goals = []
    for goal, limit, read in asked:
        found = [(value, row["case"]) for row in judged if (value := read(row)) is not None]
        worst, case = max(found, default=(None, None))
        missed = [case for value, case in found if value > limit]
        goals.append(
            {
                "goal": goal,
                "asked": abs(limit),
                "cases": len(found),
                "reached": len(found) - len(missed),
                "worst": None if worst is None else abs(worst) if limit < 0 else worst,
                "worst_case": case,
                "met": not missed,
            }
        )
    return goals


def _below(two_runs: float | None, found: float | None) -> float | None:
    return None if two_runs is None or found is None else two_runs - found


def find_silent(rows: Sequence[dict[str, Any]], setting: str) -> list[dict[str, Any]]:
    """Return the cases in which a setting is further off than it says on twice as many units as it may."""
    silent = [row for row in rows if row["setting"] == setting and row["beyond"] > 2 * BY_CHANCE]
    return sorted(silent, key=lambda row: -row["beyond"])
