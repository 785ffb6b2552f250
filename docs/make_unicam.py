"""Draw the figures and print the tables of "Distilled and residual features" in ``docs/results.md``.

python docs/make_unicam.py [RUN]

RUN is a study or its run after ``kdviz unicam``; by default the built-in one.
"""

import sys
import warnings
from pathlib import Path

import pandas as pd
from make_results import IMAGES, print_markdown

import kdviz
from kdviz import analysis, render, sources

SHOWN = 5  # samples of the picture
SCORES = [
    "rs student",
    "rs base",
    "rs teacher",
    "rs distilled",
    "rs residual",
    "fss student-teacher",
    "fss base-teacher",
]


def main(path: Path) -> None:
    """Write ``unicam-*.png`` and print everything else."""
    warnings.simplefilter("ignore", kdviz.errors.ConvergenceWarning)  # dead features: they have no points
    run = kdviz.open_run(path)
    table = analysis.tabulate_relevance(analysis.read_room(run, "unicam-scores").values())
    progress = analysis.tabulate_relevance(analysis.read_room(run, "unicam-progress").values())
    maps = {name: analysis.as_attributions(ds) for name, ds in analysis.read_room(run, "unicam").items()}

    plain = table[table["input"] == "plain"]
    title = "relevance of what networks see, and likeness to the teacher"
    render.relevance_chart(plain, title=title).savefig(IMAGES / "unicam.png", dpi=110)
    title = "when students become like their teacher, and apart from their baselines"
    render.relevance_progress(progress, title=title).savefig(IMAGES / "unicam-progress.png", dpi=110)
    name = [name for name in maps if "-kl-" in name][-1]
    columns = {"": maps[name]}
    for label, layer in analysis.list_networks(run)[name].layers.items():
        columns[f"entropy\nat {label}"] = analysis.Settings().derive(run.dataset(name, layer))
    shown = maps[name]["sample"].values[:SHOWN].tolist()
    figure = render.plot_maps(columns, samples=run.samples, names=shown, title=f"{name}, beside its baseline")
    figure.savefig(IMAGES / "unicam-maps.png", dpi=110)

    for layer, of_layer in plain.groupby("layer", sort=False):
        print(f"{layer}\n")
        widths = ((of_layer["value_high"] - of_layer["value_low"]) / 2).groupby(of_layer["score"])
        cells = of_layer.pivot_table("value", "kind", "score", aggfunc=_join, sort=False)[SCORES]
        cells.loc["half width of the intervals, at most"] = widths.max().map("{:.3f}".format)
        print_markdown(cells.reset_index())
    lost = table.pivot_table("value", ["layer", "kind"], ["score", "input"], aggfunc="mean", sort=False)
    print("perturbed less plain, means over seeds\n")
    change = lost.xs("perturbed", axis=1, level=1) - lost.xs("plain", axis=1, level=1)
    print_markdown(change[SCORES].reset_index(), 3)

    rows = []
    for name, ds in maps.items():
        mass = analysis.score_attributions(ds)["foreground_mass"].isel(epoch=-1)
        apart = mass.sel(attribution_method="distilled") - mass.sel(attribution_method="residual")
        error = float(apart.std(ddof=1)) / int(apart.notnull().sum()) ** 0.5
        told = {str(one["attribution_method"].values): f"{float(one.mean()):.3f}" for one in mass}
        rows.append(
            {"student": name, **told, "difference": f"{float(apart.mean()):+.3f} ± {1.96 * error:.3f}"}
        )
    print(f"share of the object in pictures: {float(ds['foreground'].mean()):.3f}\n")
    print_markdown(pd.DataFrame(rows))

    followed = progress[progress["score"].isin(["fss student-teacher", "fss base-teacher", "rs distilled"])]
    print_markdown(
        followed.pivot_table("value", ["layer", "score", "kind"], "epoch", sort=False).reset_index(), 2
    )


def _join(values: pd.Series) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else sources.find_data("runs/transfer.nc"))
