"""Which maps move when weights are rescaled and outputs stay: the small VGG and VGG-16, in two precisions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import kdviz
from benchmarks.problems import CELLS, load_images, load_network
from benchmarks.reports import show_table, write_result
from kdviz import coherency
from kdviz.models import build

LARGEST = 1e-4  # nat: what the entropy may move where it should not move
MAPS = ("input_gradient", "layer_gradient", "activation", "grad_cam", "entropy")


@dataclass(frozen=True)
class CoherencyPlan:
    """What is audited.

    Attributes
    ----------
    networks
        ``small_vgg``: the built-in teacher. ``vgg16``: random weights and biases, 32 x 32 pixels.
    factors
        Uniform ones; those per channel are log-normal, of standard deviation 1 in the logarithm.
    samples, probes, draws
        Of the entropy, for each network.
    singly
        Networks whose pairs are also rescaled one by one; the others are in two groups of disjoint pairs.
    """

    networks: tuple[str, ...] = ("small_vgg", "vgg16")
    factors: tuple[float, ...] = (4.0, 3.0)
    samples: tuple[int, ...] = (4, 2)
    probes: tuple[int, ...] = (64, 8)
    draws: tuple[int, ...] = (8, 2)
    singly: tuple[str, ...] = ("small_vgg",)


QUICK = CoherencyPlan(("small_vgg",), (4.0,), (1,), (8,), (2,), ())


def run_coherency(plan: CoherencyPlan, folder: Path | None = None, *, name: str = "coherency") -> bool:
    """Audit every network, print tables and write them; True if the entropy stays where it should."""
    rows: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for case, network in enumerate(plan.networks):
        for double in (True, False):
            audited = audit_network(network, plan, case, double=double)
            found = {"network": network, "precision": "float64" if double else "float32"}
            summary = coherency.summarise(audited).reset_index().to_dict("records")
            rows += [{**found, **row} for row in summary]
            verdicts.append({**found, **judge(audited)})
            show_table(f"{network}, {found['precision']}", summary)
    show_table("largest move of an entropy where it should stay (nat)", verdicts)
    write_result(name, plan.__dict__, {"maps": rows, "goals": verdicts}, folder)
    return all(row["met"] for row in verdicts if row["precision"] == "float64")


def audit_network(name: str, plan: CoherencyPlan, case: int, *, double: bool) -> pd.DataFrame:
    """Rescale all disjoint pairs at once, from the first layer on and from the second, and single ones."""
    network, inputs, masks = load_case(name, plan.samples[case])
    pairs = coherency.find_pairs(network, inputs).pairs
    groups: list[Any] = [coherency.list_disjoint(pairs), coherency.list_disjoint(pairs[1:])]
    with torch.no_grad():
        targets = network(inputs).argmax(1)
    return coherency.audit(
        network,
        inputs,
        targets,
        units=kdviz.units.grid(CELLS),
        foreground=masks,
        pairs=[*groups, *(pairs if name in plan.singly else ())],
        factors=plan.factors,
        methods=MAPS,
        double=double,
        probes=plan.probes[case],
        draws=plan.draws[case],
    )


def load_case(name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Give a network with inputs and masks, VGG-16 with biases drawn too: with zeros they test nothing."""
    inputs, masks, _ = load_images(samples)
    if name == "small_vgg":
        return load_network("late"), inputs, masks
    network = build(name, classes=10, input_size=32, seed=0).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.normal_(std=0.05, generator=generator)
    inputs = nn.functional.interpolate(inputs, size=(32, 32), mode="area")
    return network, inputs, nn.functional.interpolate(masks[:, None].float(), size=(32, 32))[:, 0] > 0


def judge(audited: pd.DataFrame) -> dict[str, Any]:
    """Give the largest move of any unit's entropy under uniform factors, and per channel out of the pair."""
    of_entropy = audited[audited["method"] == "entropy"]
    per_channel = of_entropy["factor"] == "per channel"
    uniform = of_entropy.loc[~per_channel, "difference"].max()
    outside = of_entropy.loc[per_channel & (of_entropy["place"] != "between"), "difference"].max()
    between = of_entropy.loc[per_channel & (of_entropy["place"] == "between"), "difference"].max()
    moves: Sequence[float] = (uniform, outside)
    return {
        "uniform": float(uniform),
        "outside": float(outside),
        "between": float(between),
        "output_difference": float(audited["output_difference"].max()),
        "met": bool(max(moves) <= LARGEST),
    }
