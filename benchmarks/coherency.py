"""Which maps move when weights are rescaled and outputs stay: the small VGG and VGG-16, in two precisions."""

from collections.abc import Mapping
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
    """How one network is audited.

    Attributes
    ----------
    factors
        Uniform ones; those per channel are log-normal, of standard deviation 1 in the logarithm.
    samples, probes, draws
        Of the entropy.
    methods
        Maps that are compared.
    precisions
        In which the network computes; the goal is set for float64.
    singly
        Whether pairs are also rescaled one by one, besides two groups of disjoint ones.
    """

    factors: tuple[float, ...] = (4.0, 3.0)
    samples: int = 4
    probes: int = 40
    draws: int = 8
    methods: tuple[str, ...] = MAPS
    precisions: tuple[str, ...] = ("float64", "float32")
    singly: bool = True


PLANS = {
    "small_vgg": CoherencyPlan(),
    # 16 layers, three of them with up to 100 million weights: minutes a network
    "vgg16": CoherencyPlan((3.0,), 1, 8, 2, ("entropy",), ("float64",), singly=False),
}
QUICK = {"small_vgg": CoherencyPlan((4.0,), 1, 8, 2, singly=False)}


def run_coherency(
    plans: Mapping[str, CoherencyPlan], folder: Path | None = None, *, name: str = "coherency"
) -> bool:
    """Audit networks, print tables and write a file for each; True if the entropy stays where it should."""
    verdicts: list[dict[str, Any]] = []
    for network, plan in plans.items():
        rows: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for precision in plan.precisions:
            audited = audit_network(network, plan, double=precision == "float64")
            summary = kdviz.analysis.summarise_audits(audited).reset_index().to_dict("records")
            rows += [{"precision": precision, **row} for row in summary]
            found.append({"network": network, "precision": precision, **judge(audited)})
            show_table(f"{network}, {precision}", summary)
        show_table(f"{network}: largest move of an entropy (nat)", found)
        write_result(
            name.replace("coherency", f"coherency-{network}"),
            plan.__dict__,
            {"maps": rows, "goals": found},
            folder,
        )
        verdicts += found
    return all(row["met"] for row in verdicts if row["precision"] == "float64")


def audit_network(name: str, plan: CoherencyPlan, *, double: bool) -> pd.DataFrame:
    """Rescale all disjoint pairs at once, from the first layer on and from the second, and single ones."""
    network, inputs, masks = load_case(name, plan.samples)
    pairs = coherency.find_pairs(network, inputs).pairs
    groups: list[Any] = [coherency.list_disjoint(pairs), coherency.list_disjoint(pairs[1:])]
    with torch.no_grad():
        classes = network(inputs).argmax(1)
    return coherency.audit(
        network,
        inputs,
        classes,
        units=kdviz.units.grid(CELLS),
        foreground=masks,
        pairs=[*groups, *(pairs if plan.singly else ())],
        factors=plan.factors,
        methods=plan.methods,
        double=double,
        probes=plan.probes,
        draws=plan.draws,
    )


def load_case(name: str, samples: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a network with inputs and masks, VGG-16 with biases drawn too: with zeros they test nothing."""
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
    """Return the largest moves of any entropy under uniform factors, and per channel out of the pair."""
    of_entropy = audited[audited["method"] == "entropy"]
    per_channel = of_entropy["factor"] == "per channel"
    uniform = of_entropy.loc[~per_channel, "difference"].max()
    outside = of_entropy.loc[per_channel & (of_entropy["place"] != "between"), "difference"].max()
    between = of_entropy.loc[per_channel & (of_entropy["place"] == "between"), "difference"].max()
    return {
        "uniform": float(uniform),
        "outside": float(outside),
        "between": float(between),
        "output_difference": float(audited["output_difference"].max()),
        "met": bool(uniform <= LARGEST and outside <= LARGEST),  # not where there is nothing to compare
    }
