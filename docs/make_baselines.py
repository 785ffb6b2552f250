"""Print the tables of attribution maps in ``docs/results.md`` and draw its figures, from an attributed study.

python docs/make_baselines.py STUDY

STUDY is the folder of ``kdviz demo --seeds 3 --folder STUDY``, after ``kdviz attribute STUDY``. It takes
minutes.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

import kdviz
from kdviz import analysis, attribution, models, render, sources, units
from kdviz.networks.checkpoints import load_weights

IMAGES = Path(__file__).with_name("images")
LAYERS = {"conv": "features.conv4", "fc1": "classifier.fc1", "fc2": "classifier.fc2"}
SHOWN = ["train-00001", "train-00019", "train-00005"]
RANDOMISED = 10  # images whose networks are randomised
SEEDS = (0, 1, 2)


def print_markdown(table: pd.DataFrame) -> None:
    """Print a table as Markdown, its index as first column, numbers with two decimals."""
    print("| " + " | ".join(["", *map(str, table.columns)]) + " |")
    print("|" + "---|" * (len(table.columns) + 1))
    for name, row in table.iterrows():
        print("| " + " | ".join([str(name), *(v if isinstance(v, str) else f"{v:.2f}" for v in row)]) + " |")
    print()


def score(run: kdviz.store.Run, network: str, layer: str) -> pd.DataFrame:
    """Mean scores of a network's maps and of its entropy at a layer, with intervals."""
    scores = analysis.score_attributions(
        run.result(f"attribution/{network}"), entropy=run.dataset(network, LAYERS[layer])
    )
    return analysis.tabulate_scores(scores)


def print_scores(run: kdviz.store.Run) -> None:
    """Print all scores of the teacher with intervals, then the AUC of all roles, seed by seed."""
    table = score(run, "teacher", "fc1")
    text = table.apply(lambda row: f"{row['mean']:.2f} ({row['low']:.2f}, {row['high']:.2f})", axis=1)
    print_markdown(text.where(table["samples"] > 0, "").unstack()[list(analysis.SCORES)].loc[order(table)])
    print(
        "teacher",
        {layer: score(run, "teacher", layer).loc["entropy", "mean"].round(2).to_dict() for layer in LAYERS},
    )
    for name in ("auc", "entropy_correlation"):
        for layer in LAYERS:
            columns = {"teacher": score(run, "teacher", layer)["mean"].xs(name, level="score")}
            for role in (f"student-{layer}", "baseline"):
                found = [score(run, f"{role}-s{k}", layer)["mean"].xs(name, level="score") for k in SEEDS]
                columns[role] = pd.concat(found, axis=1).apply(
                    lambda row: " / ".join(f"{v:.2f}" for v in row), axis=1
                )
            print(f"{name} at {layer}")
            print_markdown(pd.DataFrame(columns).loc[order(table)])


def order(table: pd.DataFrame) -> list[str]:
    """Methods in the order in which they were drawn."""
    return list(dict.fromkeys(table.index.get_level_values("attribution_method")))


def print_checks(run: kdviz.store.Run) -> None:
    """Print areas of removal and rank correlations under randomised weights, of the teacher; draw figures."""
    ds, entropy = run.result("attribution/teacher"), run.dataset("teacher", LAYERS["fc1"])
    images = sources.fashion_composites("train").select(np.arange(ds.sizes["sample"]))
    assert list(images.sample_ids) == ds["sample"].values.tolist()
    inputs = torch.from_numpy(sources.normalise(images.images))
    teacher = models.build("small_vgg", classes=len(images.classes), input_size=48)
    load_weights(teacher, sources.find_data("runs/teacher-fashion.safetensors"))
    grid = units.grid(16)
    for reference in ("blur", "mean"):
        curves = attribution.remove_units(
            teacher, inputs, ds, units=grid, entropy=entropy, reference=reference, progress=False
        )
        table = analysis.tabulate_scores(curves)
        text = table.apply(lambda row: f"{row['mean']:.2f} ({row['low']:.2f}, {row['high']:.2f})", axis=1)
        print(reference)
        print_markdown(text.unstack().loc[order(table)])
        if reference == "blur":
            draw_curves(curves).savefig(IMAGES / "baselines_removal.png", dpi=110)
    for way in ("cascade", "independent"):
        found = [
            attribution.randomise_weights(
                teacher,
                inputs[:RANDOMISED],
                units=grid,
                explained=images.labels[:RANDOMISED],
                entropy_layers=list(LAYERS.values()),
                order=way,
                seed=seed,
                progress=False,
            )
            for seed in (SEEDS if way == "cascade" else SEEDS[:1])
        ]
        together = xr.concat(found, "seed")
        print(way, "undefined", int(together["similarity"].isnull().sum()))
        print("spread over seeds", float(together["similarity"].mean("sample").std("seed").max()))
        for name in ("similarity", "similarity_of_sizes"):
            print(way, name)
            table = together[name].mean(["seed", "sample"]).to_pandas()
            print_markdown(table)
            if (way, name) == ("cascade", "similarity"):
                title = "rank correlation with the map before; randomised: this layer and those left of it"
                render.similarity_table(table, title=title).savefig(
                    IMAGES / "baselines_randomised.png", dpi=110
                )
    figure = render.plot_maps({"entropy fc1": entropy, "teacher": ds}, samples=run.samples, names=SHOWN)
    figure.savefig(IMAGES / "baselines_maps.jpg", dpi=120, pil_kwargs={"quality": 88})


def draw_curves(curves: xr.Dataset) -> object:
    """Mean curves of all methods."""
    means = curves.mean("sample")
    deletion, insertion = (
        {
            str(one): means[name].sel(attribution_method=one).values
            for one in means["attribution_method"].values
        }
        for name in ("deletion", "insertion")
    )
    return render.removal_curves(means["share"], deletion, insertion, title="teacher, removed units blurred")


if __name__ == "__main__":
    study = kdviz.open_run(Path(sys.argv[1]) / "run.zarr")
    print_scores(study)
    print_checks(study)
