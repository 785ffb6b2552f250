"""The peers' procedures beside kdviz on the same sentences and clouds: network passes, and seeds that agree.

The peers' noise is of another size than kdviz's, so nats of one say little about nats of the other. What is
compared between seeds is free of size: every map is centred, its movement between seeds is divided by how far
the mean map spreads over units, and rankings are compared.
"""

import itertools
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from tqdm.auto import tqdm

import kdviz
from benchmarks import replicas
from benchmarks.reports import show_table, write_result
from benchmarks.subjects import Subject, make_point_subject, make_word_subject

GOALS = (  # of whom, over whom, times fewer passes
    ("text", "kdviz", "nlp-recipes, 5,000 steps", 50),
    ("cloud", "kdviz", "point clouds, 2,000 steps, rate 0.0005", 4),
    ("cloud", "kdviz", "point clouds, 2,000 steps, rate 0.0001", 4),
)
RATES = (1e-4, 5e-4)  # the ends of what the cloud procedure was published with

Maps = list[NDArray[np.float64]]  # for every sample (seeds, units), nat


@dataclass(frozen=True)
class PeerPlan:
    """What is compared.

    Attributes
    ----------
    seeds
        Runs of every procedure.
    sentences, clouds, points, background
        Size of the problems; the last two a cloud.
    steps, steps_short, steps_points
        Of the three procedures.
    settling
        Steps to the minima that the peers aim at.
    """

    seeds: int = 4
    sentences: int = 4
    clouds: int = 3
    points: int = 256
    background: int = 128
    steps: int = replicas.STEPS
    steps_short: int = replicas.STEPS_SHORT
    steps_points: int = replicas.STEPS_POINTS
    settling: int = 400


QUICK = PeerPlan(
    seeds=2, sentences=2, clouds=2, points=40, background=20,
    steps=20, steps_short=10, steps_points=20, settling=10,
)  # fmt: skip


def run_peers(plan: PeerPlan, folder: Path | None = None, *, name: str = "peers") -> bool:
    """Run every procedure on every sample, print tables and write them; True if the goals are met."""
    torch.set_num_threads(1)
    toy = run_toy(plan)
    show_table("five words: noise scales, and published", toy)
    words = make_word_subject(plan.sentences)
    clouds = make_point_subject(plan.clouds, points=plan.points, background=plan.background)
    rows: list[dict[str, Any]] = []
    for subject, compare in ((words, compare_words), (clouds, compare_points)):
        found = tabulate(subject, *compare(subject, plan))
        print(f"\n{subject.name}: accuracy {subject.accuracy:.0%}, {len(subject.samples)} samples")
        show_table(f"passes a sample, and how {plan.seeds} seeds agree", found)
        rows += found
    goals = [judge(rows, *goal) for goal in GOALS]
    show_table("goals", goals)
    networks = [{"subject": subject.name, "accuracy": subject.accuracy} for subject in (words, clouds)]
    results = {"toy": toy, "networks": networks, "procedures": rows, "goals": goals}
    write_result(name, asdict(plan), results, folder)
    return all(goal["met"] for goal in goals)


# -- the five-word toy

TOY_WEIGHTS = (10.0, 20.0, 5.0, -20.0, -10.0)
TOY_PUBLISHED = (0.00316, 0.00159, 0.00630, 0.00159, 0.00308)
TOY_SEEDS = 16


@dataclass(frozen=True)
class Toy:
    """Five words of 256 entries each, drawn with standard deviation 0.01, and their weighted sum."""

    embeddings: Tensor
    spread: Tensor

    @staticmethod
    def phi(embeddings: Tensor) -> Tensor:
        """``(S, 5, 256)`` to ``(S, 256)``."""
        return torch.einsum("t,stk->sk", torch.tensor(TOY_WEIGHTS), embeddings)


def make_toy(seed: int = 0) -> Toy:
    """Make the toy with its normaliser from 100 sampled inputs, as published."""
    generator = torch.Generator().manual_seed(seed)
    sampled = 0.01 * torch.randn(101, 5, 256, generator=generator)
    return Toy(sampled[0], replicas.find_spread([Toy.phi(inputs[None]) for inputs in sampled[1:]]))


def search_toy(toy: Toy, seeds: Sequence[int], steps: int = replicas.STEPS) -> replicas.Search:
    """Run the 5,000-step procedure with the toy's settings: rate 0.5, scale 1."""
    return replicas.search_words(
        Toy.phi, toy.embeddings, spread=toy.spread, scale=1.0, seeds=seeds, steps=steps, rate=0.5
    )


def solve_toy(toy: Toy, seed: int = 0) -> NDArray[np.float64]:
    """Return kdviz's noise scales of the toy: the minimiser for the peers' weight and normaliser, ``(5,)``.

    One entry of an embedding stands for all 256, which are alike. kdviz divides by the feature variance at
    ``tau0``, the peers by the variance over sampled inputs; ``tau0`` is chosen so that these are the same.
    Their entropy weight is then ours: both take means, over words and over features.
    """
    network = nn.Sequential(nn.Flatten(), nn.Linear(5, 1, bias=False)).requires_grad_(False)
    network[1].weight.copy_(torch.tensor([TOY_WEIGHTS]))
    variance = 1 / float(toy.spread.double().square().reciprocal().mean())
    ds = kdviz.measure(
        network,
        torch.zeros(1, 1, 1, 5),
        layers="1",
        feature="identity",
        units=kdviz.units.grid(1, 5),
        base_noise=float(variance / np.square(TOY_WEIGHTS).sum()) ** 0.5,
        seed=seed,
        progress=False,
    )
    derived = kdviz.derive_entropy(ds, solver="optimum", weight=replicas.RATE_OF_ENTROPY, calibration=None)
    return derived["noise_scale"].values[0, 0].astype(float)


def run_toy(plan: PeerPlan) -> list[dict[str, Any]]:
    """Compare the published noise scales with the replica's and kdviz's, word by word."""
    toy = make_toy()
    logs = search_toy(toy, range(TOY_SEEDS), plan.steps).noise_scale.double().log().numpy()
    mean, spread, ours = logs.mean(0), logs.std(0, ddof=1), solve_toy(toy)
    return [
        {
            "weight": TOY_WEIGHTS[word],
            "published": TOY_PUBLISHED[word],
            "replica": np.exp(mean[word]),
            "replica_lowest": np.exp(logs[:, word].min()),
            "replica_highest": np.exp(logs[:, word].max()),
            "deviations": (np.log(TOY_PUBLISHED[word]) - mean[word]) / spread[word],
            "kdviz": ours[word],
            "published_over_kdviz": TOY_PUBLISHED[word] / ours[word],
        }
        for word in range(len(TOY_WEIGHTS))
    ]


# -- sentences and clouds


@dataclass(frozen=True)
class Outcome:
    """What a procedure found: maps in nat, and its cost for one sample and seed."""

    procedure: str
    maps: Maps
    passes: float
    seconds: float
    by_path: float | None = None


def compare_words(subject: Subject, plan: PeerPlan) -> tuple[list[Outcome], Maps]:
    """Run every procedure on the same sentences; give the outcomes and the peers' settled minima."""
    outcomes = list(measure_kdviz(subject, plan, "kdviz"))
    spread = replicas.find_spread(subject.sampled)
    each = list(zip(subject.phis, subject.samples, subject.unit_of, strict=True))
    for name, scale, steps in (
        (GOALS[0][2], subject.scale, plan.steps),
        ("interpret-text, 150 steps", replicas.SCALE_SHORT, plan.steps_short),
    ):
        start = time.process_time()
        searches = [
            replicas.search_words(
                phi, sample, spread=spread, scale=scale, seeds=range(plan.seeds), steps=steps
            )
            for phi, sample, _ in tqdm(each, desc=name)
        ]
        seconds = (time.process_time() - start) / (plan.seeds * len(searches))
        maps = [to_maps(one.noise_scale, rows) for one, (*_, rows) in zip(searches, each, strict=True)]
        outcomes.append(Outcome(name, maps, float(np.mean([one.passes for one in searches])), seconds))
    settled = [
        to_maps(
            replicas.settle_words(phi, sample, spread=spread, scale=subject.scale, steps=plan.settling)[None],
            rows,
        )
        for phi, sample, rows in tqdm(each, desc="settling")
    ]
    return outcomes, settled


def compare_points(subject: Subject, plan: PeerPlan) -> tuple[list[Outcome], Maps]:
    """Run every procedure on the same clouds; give the outcomes and the peers' settled minima.

    The first outcome is what the others are compared with: kdviz with more draws than its default of 4.
    """
    outcomes = [
        *measure_kdviz(subject, plan, "kdviz, 8 draws", draws=8),
        *measure_kdviz(subject, plan, "kdviz"),
        *measure_kdviz(subject, plan, "kdviz, tau0 0.03", base_noise=0.03),
        *measure_kdviz(subject, plan, "kdviz by gain", method="gain", draws=8),
    ]
    clouds, phi = torch.stack(subject.samples), subject.phis[0]
    variance, before = replicas.find_variance(phi, clouds)
    for rate in RATES:
        start = time.process_time()
        search = replicas.search_points(
            phi, clouds, variance=variance, seeds=range(plan.seeds), steps=plan.steps_points, rate=rate
        )
        seconds = (time.process_time() - start) / (plan.seeds * len(clouds))
        maps = list(search.noise_scale.double().log().numpy().transpose(1, 0, 2))
        outcomes.append(
            Outcome(f"point clouds, 2,000 steps, rate {rate:g}", maps, before + search.passes, seconds)
        )
    settled = replicas.settle_points(phi, clouds, variance=variance, steps=plan.settling)
    return outcomes, list(settled.double().log().numpy()[:, None])


def measure_kdviz(subject: Subject, plan: PeerPlan, name: str, **settings: Any) -> Iterator[Outcome]:
    """Return what kdviz stores, and the minimiser of Eq. (4) from the same passes."""
    start = time.process_time()
    with counted(subject.layer) as spent:
        measured = [
            subject.measure(seed=seed, **settings) for seed in tqdm(range(plan.seeds), desc=name, unit="seed")
        ]
    runs = plan.seeds * len(subject.samples)
    seconds = (time.process_time() - start) / runs
    by_path = float(np.mean([ds["method"].mean() for ds in measured]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a unit that does not matter meets the clamp
        optima = [
            kdviz.derive_entropy(ds, solver="optimum", weight=ds.attrs["weight"], calibration=None)
            for ds in measured
        ]
    for label, found in ((name, measured), (f"{name}, optimum", optima)):
        entropy = np.stack([ds["entropy"].values[0] for ds in found], 1).astype(float)
        valid = measured[0]["valid"].values
        maps = [seeds[:, units] for seeds, units in zip(entropy, valid, strict=True)]
        yield Outcome(label, maps, spent.passes / runs, seconds, by_path)


def to_maps(noise_scale: Tensor, unit_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Turn scales of tokens into nat, the mean over what belongs to one unit: ``(S, T)`` to ``(S, U)``."""
    logs = noise_scale.double().log().numpy()
    return np.stack([logs[:, unit_of == unit].mean(1) for unit in range(unit_of.max() + 1)], 1)


@dataclass
class Spent:
    """Passes counted so far."""

    passes: int = 0


@contextmanager
def counted(layer: nn.Module) -> Iterator[Spent]:
    """Count every forward pass that reaches a layer, and every backward pass that leaves it."""
    spent = Spent()

    def note(module: nn.Module, args: object, output: Tensor) -> None:
        spent.passes += len(output)
        if output.requires_grad:
            output.register_hook(count)

    def count(gradient: Tensor) -> None:
        spent.passes += len(gradient)

    handle = layer.register_forward_hook(note)
    try:
        yield spent
    finally:
        handle.remove()


# -- how far seeds agree


def tabulate(subject: Subject, outcomes: Sequence[Outcome], settled: Maps) -> list[dict[str, Any]]:
    """Return a row for every outcome: its cost, how far its seeds agree, and with what else."""
    return [
        {
            "modality": subject.modality,
            "subject": subject.name,
            "procedure": one.procedure,
            "passes": one.passes,
            "seconds": one.seconds,
            "by_path": one.by_path,
            **agreement(one.maps),
            "with_settled": likeness(one.maps, settled),
            "with_kdviz": likeness(one.maps, [seeds.mean(0)[None] for seeds in outcomes[0].maps]),
        }
        for one in outcomes
    ]


def likeness(maps: Maps, others: Maps) -> float:
    """Return the mean rank correlation of single seeds' maps with another map, ``(1, U)`` for each sample."""
    found = [
        spearmanr(seed, other[0]).statistic
        for seeds, other in zip(maps, others, strict=True)
        for seed in seeds
    ]
    return float(np.mean(found))


def agreement(maps: Maps) -> dict[str, float]:
    """Say how far maps of several seeds agree, averaged over samples.

    Returns
    -------
    dict
        ``spread``: standard deviation of a unit over seeds, each map centred, nat. ``between``: standard
        deviation over units of the mean map, nat. ``relative``: the one over the other. ``spearman``: rank
        correlation of two seeds. ``quarter``, ``tenth``: Jaccard index of the lowest units of two seeds.
    """
    centred = [seeds - seeds.mean(1, keepdims=True) for seeds in maps]
    spread = float(np.mean([seeds.std(0, ddof=1).mean() for seeds in centred]))
    between = float(np.mean([seeds.mean(0).std() for seeds in centred]))
    pairs = [pair for seeds in maps for pair in itertools.combinations(seeds, 2)]
    return {
        "spread": spread,
        "between": between,
        "relative": spread / between,
        "spearman": float(np.mean([spearmanr(*pair).statistic for pair in pairs])),
        "quarter": float(np.mean([overlap(*pair, 1 / 4) for pair in pairs])),
        "tenth": float(np.mean([overlap(*pair, 1 / 10) for pair in pairs])),
    }


def overlap(one: NDArray[np.float64], other: NDArray[np.float64], top: float) -> float:
    """Jaccard index of the units of lowest entropy; lots are drawn where equal ones compete."""
    rng = np.random.default_rng(0)
    count = max(1, round(top * len(one)))
    first, second = (set(np.lexsort((rng.random(len(one)), each))[:count]) for each in (one, other))
    return len(first & second) / len(first | second)


def judge(
    rows: Sequence[dict[str, Any]], modality: str, ours: str, rival: str, asked: float
) -> dict[str, Any]:
    """Say whether kdviz takes as many times fewer passes as was asked, at no larger spread between seeds."""
    found = {row["procedure"]: row for row in rows if row["modality"] == modality}
    fewer = found[rival]["passes"] / found[ours]["passes"]
    spreads = found[ours]["relative"], found[rival]["relative"]
    return {
        "setting": ours,
        "rival": rival,
        "times_fewer_asked": asked,
        "times_fewer": fewer,
        "relative": spreads[0],
        "relative_of_rival": spreads[1],
        "met": bool(fewer >= asked and spreads[0] <= spreads[1]),
    }
