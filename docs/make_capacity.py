"""Distil into a student of a fraction of the teacher's width, directly and through an assistant between them.

python docs/make_capacity.py FOLDER

Prints the table "A student far smaller than its teacher" of ``docs/results.md``. Trains eight networks on the
built-in images in FOLDER, and goes on where it was stopped.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from make_results import print_markdown
from torch import nn
from torch.nn.functional import softmax

from kdviz import analysis, distillation, sources, unicam
from kdviz.models import image
from kdviz.networks import load_weights
from kdviz.training import PLANS, evaluate, train

SEEDS, EPOCHS, COUNT = (0, 1), 12, 4000
SIZE, SCORED = 48, 500
WIDTHS = {"student": 0.25, "assistant": 0.5}  # of the teacher's channels and hidden units
LAYERS = ["features.conv4", "classifier.fc1"]


def main(folder: Path) -> None:
    """Train what is not trained yet, and print accuracies and scores."""
    seen, unseen = (sources.fashion_composites(part, canvas=SIZE) for part in ("train", "held-out"))
    inputs, labels = as_tensors(seen.select(np.arange(COUNT)))
    held_out = as_tensors(unseen)
    classes = len(seen.classes)

    def build(width: float, seed: int) -> nn.Module:
        return image.build("small_vgg", classes=classes, input_size=SIZE, width=width, seed=seed)

    teacher = build(1.0, 0)
    load_weights(teacher, sources.find_data("runs/teacher-fashion.safetensors"))

    def learn(name: str, seed: int, width: float, other: nn.Module | None) -> nn.Module:
        network = build(width, seed)
        plan = PLANS["image"]["baseline"]
        train(
            network,
            inputs,
            labels,
            loss=None if other is None else distillation.KL(),
            teacher=other,
            folder=folder / f"{name}-s{seed}",
            plan=plan.model_copy(update={"epochs": EPOCHS, "seed": seed}),
            validation=held_out,
        )
        return network.eval()

    asked, classes_asked = held_out[0][:SCORED], held_out[1][:SCORED].numpy()
    rows = []
    for seed in SEEDS:
        assistant = learn("assistant", seed, WIDTHS["assistant"], teacher)
        base = learn("base", seed, WIDTHS["student"], None)
        students = {
            "from the teacher": learn("direct", seed, WIDTHS["student"], teacher),
            "through the assistant": learn("assisted", seed, WIDTHS["student"], assistant),
        }
        told = {"teacher": teacher, "assistant": assistant, "base": base} | students
        with torch.no_grad():
            answers = {name: softmax(network(asked), 1) for name, network in told.items()}
        for name, network in told.items():
            row = {"network": name, "seed": seed, "accuracy": evaluate(network, *held_out)}
            row["as the teacher"] = float(
                (answers[name].argmax(1) == answers["teacher"].argmax(1)).float().mean()
            )
            if name in students:
                networks = {"student": network, "base": base, "teacher": teacher}
                scores = unicam.score(
                    networks, asked, classes_asked, student="student", base="base", teacher="teacher",
                    layers=LAYERS, resamples=50,
                )  # fmt: skip
                table = analysis.tabulate_relevance([scores])
                for _, one in table.iterrows():
                    row[f"{one['score']}, {one['layer']}"] = one["value"]
                row["half width"] = ((table["value_high"] - table["value_low"]) / 2).max()
            rows.append(row)
    table = pd.DataFrame(rows).sort_values(["network", "seed"], kind="stable")
    cells = table.groupby("network", sort=False).agg(
        lambda values: " / ".join(f"{value:.3f}" for value in values.dropna())
    )
    print_markdown(cells.drop(columns="seed").T.reset_index(names=""))


def as_tensors(samples: sources.ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images as networks take them, and their labels."""
    prepared = sources.FashionComposites(size=SIZE).prepare(samples, grid=None)
    return torch.from_numpy(prepared.inputs[:]), torch.from_numpy(samples.labels)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
