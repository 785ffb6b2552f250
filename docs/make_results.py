"""Draw the figures of the documentation and print its tables, from a study on built-in data of any kind.

python docs/make_results.py STUDY

STUDY is the folder of ``kdviz demo --modality image|text|cloud --seeds 3 --folder STUDY``.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import kdviz
from kdviz import analysis, render, schema

IMAGES = Path(__file__).with_name("images")
SHOWN = ("train-00001", "train-00019", "train-00029")  # three training images that read well when small
SHOWN_OTHERS = 4
THRESHOLDS = {0.2: (0.15, 0.25), 0.5: (0.25, 0.75)}  # to compare with, by the one chosen


def print_markdown(table: pd.DataFrame, decimals: int = 2) -> None:
    """Print a table as Markdown, numbers rounded."""
    rows = [
        [f"{v:.{decimals}f}" if isinstance(v, float) else str(v) for v in row] for row in table.to_numpy()
    ]
    print("| " + " | ".join(map(str, table.columns)) + " |")
    print("|" + "---|" * len(table.columns))
    print("\n".join("| " + " | ".join(row) + " |" for row in rows), "\n")


def draw_points(run: kdviz.store.Run, pair: analysis.NetworkPair) -> Figure:
    """Lay out the knowledge points of some samples over training."""
    seed = next(iter(pair.students))
    student, baseline, teacher = pair.students[seed], pair.baselines[seed], pair.teacher
    few = [0, 2, -1] if "row" in run.samples.variables else [0, -1]
    columns = {"teacher": teacher.isel(epoch=-1)} if teacher is not None else {}
    for role, ds in (("student", student), ("baseline", baseline)):
        columns |= {f"{role}\nepoch {epoch}": ds.sel(epoch=epoch) for epoch in ds["epoch"].values[few]}
    known = student["sample"].values
    shown = [name for name in SHOWN if name in known] or known[:SHOWN_OTHERS].tolist()
    return render.plot_points(columns, samples=run.samples, names=shown)


def draw(run: kdviz.store.Run, pairs: dict[str, analysis.NetworkPair], table: pd.DataFrame) -> None:
    """Write the figures, named after the kind of input unless it is images."""
    kind = str(run.attrs.get("modality", "image"))
    prefix = "" if kind == "image" else f"{kind}_"
    IMAGES.mkdir(exist_ok=True)
    pair = pairs["fc1"] if "fc1" in pairs else next(iter(pairs.values()))
    figure = draw_points(run, pair)
    figure.savefig(IMAGES / f"{prefix}knowledge_points.jpg", dpi=120, pil_kwargs={"quality": 88})
    for label, one in pairs.items():
        networks = {"teacher": [one.teacher] if one.teacher is not None else []}
        networks |= {"student": [*one.students.values()], "baseline": [*one.baselines.values()]}
        counts = {name: [*map(analysis.tabulate_counts, group)] for name, group in networks.items() if group}
        inside = schema.choose_words(run.samples).foreground
        figure = render.count_curves(counts, title=f"{label}: one line a training seed", foreground=inside)
        figure.savefig(IMAGES / f"{prefix}counts_{label}.png", dpi=110)
    kept = table[table["metric"].isin(["n_fg", "n_bg", "fg_ratio", "d_mean", "d_std", "rho"])]
    figure = render.difference_dots(
        kept, title="student minus baseline; green: the side the hypotheses expect"
    )
    figure.savefig(IMAGES / f"{prefix}differences.png", dpi=110)


def list_numbers(pairs: dict[str, analysis.NetworkPair], table: pd.DataFrame) -> pd.DataFrame:
    """Put the seeds of every metric side by side, with the counts of the teacher."""
    rows = []
    for (layer, metric), group in table.groupby(["layer", "metric"], sort=False):
        by_role = {role: " / ".join(f"{v:.2f}" for v in group[role]) for role in ("student", "baseline")}
        teacher = pairs[layer].teacher
        counts = {} if teacher is None else analysis.tabulate_counts(teacher).iloc[-1]
        rows.append({"layer": layer, "metric": metric, **by_role, "teacher": counts.get(metric, "")})
    return pd.DataFrame(rows)


def describe_units(pairs: dict[str, analysis.NetworkPair]) -> pd.DataFrame:
    """Tell how many units there are, how linear networks are, and what training does to both."""
    rows = []
    for layer, pair in pairs.items():
        for role, networks in (("student", pair.students), ("baseline", pair.baselines)):
            for seed, ds in networks.items():
                seen = (ds["gain"] > 0).where(ds["foreground"]).mean(["sample", "unit"]).values
                spread = ds["entropy"].std("unit").mean("sample").values
                low, high = np.nanquantile(ds["linearity"], (0.01, 0.99))
                rows.append(
                    {
                        "layer": layer,
                        "role": role,
                        "seed": seed,
                        "foreground": float(ds["foreground"].sum("unit").mean()),
                        "units": float(ds["valid"].sum("unit").mean()),
                        "by path": int((ds["method"] == 1).sum()),
                        "linearity 1 %": low,
                        "99 %": high,
                        "object seen, first": seen[0],
                        "last": seen[-1],
                        "spread, first": spread[0],
                        "spread, last": spread[-1],
                    }
                )
    return pd.DataFrame(rows)


def compare_unit_gains(run: kdviz.store.Run, threshold: float) -> pd.DataFrame:
    """Tell what units of several parts do to points and spread; before training none is learned."""
    rows = []
    for unit_gain in ("sum", "mean"):
        settings = analysis.Settings(threshold=threshold, unit_gain=unit_gain)
        for layer, pair in analysis.pair_networks(run, settings).items():
            networks = [*pair.students.values(), *pair.baselines.values()]
            found = np.mean([ds["knowledge_point"].sum("unit").mean("sample") for ds in networks], axis=0)
            spread = np.mean([ds["entropy"].std("unit").mean("sample") for ds in networks], axis=0)
            ends = {"points, first": found[0], "points, last": found[-1]}
            ends |= {"spread, first": spread[0], "spread, last": spread[-1]}
            rows.append({"unit gain": unit_gain, "layer": layer, **ends})
    return pd.DataFrame(rows)


def main(study: Path) -> None:
    """Draw and print everything that ``docs/results.md`` shows."""
    run = kdviz.open_run(study)
    threshold = json.loads(run.attrs["config"])["threshold"]
    pairs = analysis.pair_networks(run, analysis.Settings(threshold=threshold))
    table = analysis.compare_layers(pairs)
    draw(run, pairs, table)
    print_markdown(analysis.describe_measurement(pairs))
    print_markdown(run.summary())
    print_markdown(describe_units(pairs))
    if "unit_size" in run.samples:
        print_markdown(compare_unit_gains(run, threshold))
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
    print_markdown(list_numbers(pairs, table))
    table["ahead"] = np.sign(table["difference"]) == table["supporting_sign"]
    table["clear"] = table["ahead"] & (np.sign(table["difference_low"]) == np.sign(table["difference_high"]))
    tally = (
        table.groupby(["hypothesis", "metric", "layer"], sort=False)[["ahead", "clear"]].sum().reset_index()
    )
    print_markdown(tally.assign(of=len(table["seed"].unique())))
    print_markdown(analysis.measure_noise_floor(pairs))
    for other_threshold in THRESHOLDS[threshold]:
        other = analysis.compare_layers(
            analysis.pair_networks(run, analysis.Settings(threshold=other_threshold))
        )
        means = other.groupby(["layer", "metric"], sort=False)[["student", "baseline", "difference"]].mean()
        print_markdown(means.reset_index().assign(threshold=other_threshold))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
