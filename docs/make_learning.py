"""Draw the figures and print the tables of the section "Learning dynamics" of ``docs/results.md``.

python docs/make_learning.py STUDY

STUDY is the folder of ``kdviz demo --seeds 3 --folder STUDY``; the rest comes from the stored runs.
"""

import sys
import warnings
from pathlib import Path

import pandas as pd
from make_results import IMAGES, print_markdown

import kdviz
from kdviz import analysis, render, sources

SHOWN = ("train-00016", "train-00000", "train-00014")


def correlate(pairs: dict[str, analysis.NetworkPair]) -> pd.DataFrame:
    """Correlate foreground ratio and accuracy over the checkpoints after epoch 0, network by network."""
    rows = []
    for label, pair in pairs.items():
        for role, networks in (("student", pair.students), ("baseline", pair.baselines)):
            for seed, ds in networks.items():
                table = analysis.tabulate_counts(ds).loc[1:]
                ratio, accuracy = table["fg_ratio"], table["accuracy"]
                values = {"r": ratio.corr(accuracy), "ranks": ratio.corr(accuracy, method="spearman")}
                rows.append({"layer": label, "role": role, "seed": seed, **values})
    return pd.DataFrame(rows)


def draw_learning(run: kdviz.store.Run, pair: analysis.NetworkPair) -> None:
    """Draw ratio against accuracy, and the detours, of the first training seed."""
    student, baseline = next(iter(pair.students.values())), next(iter(pair.baselines.values()))
    networks = {"student": student, "baseline": baseline, "teacher": pair.teacher}
    tables = {name: analysis.tabulate_counts(ds) for name, ds in networks.items() if ds is not None}
    figure = render.ratio_against_accuracy(tables, title="fc1, seed 0", foreground="object")
    figure.savefig(IMAGES / "ratio_accuracy.png", dpi=110)
    both = {"student at fc1": student, "baseline": baseline}
    render.plot_detours(both, samples=run.samples, names=SHOWN).savefig(
        IMAGES / "detours.jpg", dpi=100, pil_kwargs={"quality": 88}
    )


def draw_layers(run: kdviz.store.Run) -> dict[str, pd.DataFrame]:
    """Draw the teacher layer by layer; give the table of each network under equal feature loss."""
    tables = {}
    for network in run.networks:
        order = analysis.order_layers(run, network)
        derived = {
            label: kdviz.derive_entropy(run.dataset(network, layer), feature_loss=1.5)
            for label, layer in order.items()
        }
        tables[network] = analysis.tabulate_layers(derived)
        if network == "teacher":
            shown = run.samples["sample"].values[:3]
            title = "the teacher, equal feature loss at every layer"
            render.plot_entropy(derived, samples=run.samples, names=shown, title=title).savefig(
                IMAGES / "layers.jpg", dpi=100, pil_kwargs={"quality": 88}
            )
    return tables


def main(study: Path) -> None:
    """Draw and print everything that the section shows."""
    warnings.simplefilter("ignore", kdviz.errors.ConvergenceWarning)
    run = kdviz.open_run(study / "run.zarr")
    pairs = analysis.pair_networks(run)
    draw_learning(run, pairs["fc1"])
    print_markdown(correlate(pairs))
    tuning = analysis.pair_networks(kdviz.open_run(sources.find_data("runs/finetuning.nc")))
    numbers = ["metric", "student", "baseline", "difference", "low", "high", "answer"]
    print_markdown(analysis.tabulate_differences(tuning)[numbers])
    for role in ("student", "baseline"):  # over training, means over seeds; accuracies of each at the end
        counts = [analysis.tabulate_counts(ds) for ds in tuning["fc1"].by_role[role].values()]
        over = pd.concat(counts).groupby("epoch")[["n_fg", "n_bg", "accuracy"]].mean()
        print(role, [round(float(one["accuracy"].iloc[-1]), 2) for one in counts])
        print_markdown(over.reset_index())
    for network, table in draw_layers(kdviz.open_run(sources.find_data("runs/layers.nc"))).items():
        print(network)
        print_markdown(table.reset_index()[["layer", "foreground", "background", "difference", "ahead"]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
