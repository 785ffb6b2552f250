"""Draw the figures of the documentation and print its tables, from a study on the built-in images.

python docs/make_results.py STUDY

STUDY is the folder of ``kdviz demo --seeds 3 --folder STUDY``.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

import kdviz
from kdviz import analysis, render

IMAGES = Path(__file__).with_name("images")
SHOWN = ("train-00001", "train-00019", "train-00029")  # three training images that read well when small


def print_markdown(table: pd.DataFrame, decimals: int = 2) -> None:
    """Print a table as Markdown, numbers rounded."""
    rows = [
        [f"{v:.{decimals}f}" if isinstance(v, float) else str(v) for v in row] for row in table.to_numpy()
    ]
    print("| " + " | ".join(map(str, table.columns)) + " |")
    print("|" + "---|" * len(table.columns))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), "\n")


def draw(study: Path, pairs: dict[str, analysis.NetworkPair], table: pd.DataFrame) -> None:
    """Write the figures."""
    run = kdviz.open_run(study / "run.zarr")
    pair = pairs["fc1"]
    seed = next(iter(pair.students))
    student, baseline, teacher = pair.students[seed], pair.baselines[seed], pair.teacher
    columns = {"teacher": teacher.isel(epoch=-1)} if teacher is not None else {}
    for role, ds in (("student", student), ("baseline", baseline)):
        columns |= {f"{role}\nepoch {epoch}": ds.sel(epoch=epoch) for epoch in ds["epoch"].values[[0, 2, -1]]}
    shown = [name for name in SHOWN if name in student["sample"].values]
    IMAGES.mkdir(exist_ok=True)
    render.point_panels(
        run.samples["thumbnail"].sel(sample=shown).values,
        [[ds["knowledge_point"].sel(sample=name).values for ds in columns.values()] for name in shown],
        student["foreground"].sel(sample=shown).values,
        rows=int(student["row"].max()) + 1,
        cols=int(student["col"].max()) + 1,
        columns=list(columns),
        names=shown,
    ).savefig(IMAGES / "knowledge_points.jpg", dpi=120, pil_kwargs={"quality": 88})
    for label, one in pairs.items():
        networks = {"teacher": one.teacher} if one.teacher is not None else {}
        for role in ("students", "baselines"):
            networks |= {f"{role}-{k}": ds for k, ds in getattr(one, role).items()}
        counts = {name: analysis.tabulate_counts(ds) for name, ds in networks.items()}
        figure = render.count_curves(counts, title=f"{label}: one line a training seed")
        figure.savefig(IMAGES / f"counts_{label}.png", dpi=110)
    kept = table[table["metric"].isin(["n_fg", "n_bg", "fg_ratio", "d_mean", "d_std", "rho"])]
    figure = render.difference_dots(
        kept, title="student minus baseline; green: the side the hypotheses expect"
    )
    figure.savefig(IMAGES / "differences.png", dpi=110)


def main(study: Path) -> None:
    """Draw and print everything that ``docs/results.md`` shows."""
    pairs = analysis.pair_networks(kdviz.open_run(study / "run.zarr"))
    table = analysis.compare_layers(pairs)
    draw(study, pairs, table)
    print_markdown(analysis.describe_measurement(pairs))
    numbers = [
        "layer",
        "metric",
        "seed",
        "student",
        "baseline",
        "difference",
        "difference_low",
        "difference_high",
    ]
    print_markdown(table[numbers])
    table["ahead"] = np.sign(table["difference"]) == table["supporting_sign"]
    table["clear"] = table["ahead"] & (np.sign(table["difference_low"]) == np.sign(table["difference_high"]))
    tally = (
        table.groupby(["hypothesis", "metric", "layer"], sort=False)[["ahead", "clear"]].sum().reset_index()
    )
    print_markdown(tally.assign(of=len(table["seed"].unique())))
    print_markdown(analysis.measure_noise_floor(pairs))
    for threshold in (0.15, 0.25):
        other = analysis.compare_layers(
            analysis.pair_networks(kdviz.open_run(study / "run.zarr"), threshold=threshold)
        )
        means = other.groupby(["layer", "metric"], sort=False)[["student", "baseline", "difference"]].mean()
        print_markdown(means.reset_index().assign(threshold=threshold))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
