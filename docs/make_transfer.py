"""Draw the chart and print the tables of the section "What else got distilled" of ``docs/results.md``.

python docs/make_transfer.py [RUN]

RUN is a study or its run after ``kdviz transfer``; by default the built-in one.
"""

import sys
import warnings
from pathlib import Path

import pandas as pd
from make_results import IMAGES, print_markdown

import kdviz
from kdviz import analysis, render, sources, transfer


def main(path: Path) -> None:
    """Write ``transfer.png`` and print everything else."""
    warnings.simplefilter("ignore", kdviz.errors.ConvergenceWarning)  # dead features: they have no points
    run = kdviz.open_run(path)
    results = analysis.read_transfer(run)
    answers, table = results["confidence"], analysis.score_transfer(results.values())
    table["kind"] = table["kind"].str.removeprefix("student-")
    hollow = analysis.find_undertrained(answers)
    title = f"what networks share with their teacher, {answers.sizes['sample']} held-out images"
    counted = analysis.collect_points(run, answers).values()
    points = analysis.score_transfer(counted).replace({"kind": "^student-"}, "", regex=True)
    figure = render.transfer_chart(
        table, title=title, points=points, undertrained=hollow, foreground="object"
    )
    figure.savefig(IMAGES / "transfer.png", dpi=110)
    print(f"undertrained: {hollow}\n")

    kinds = table.drop_duplicates("network").set_index("network")["kind"]
    told = pd.DataFrame(
        {
            "accuracy": answers["right"].mean("sample").to_series(),
            "shared mistakes": transfer.error_consistency(answers)["error_consistency"].to_series(),
            "calibration error": transfer.calibration_error(answers)["calibration_error"].to_series(),
        }
    )
    by_kind = told.groupby(kinds.reindex(told.index).values, sort=False)
    cells = by_kind.agg(lambda values: " / ".join(f"{value:.3f}" for value in values))
    print_markdown(cells.reset_index(names="networks"))

    networks = table[table["role"] != "teacher"]
    sides = {"above the baselines": networks["margin_low"] > 0, "below": networks["margin_high"] < 0}
    counts = pd.DataFrame(sides).groupby(networks["kind"], sort=False).sum()
    print_markdown(counts.assign(of=networks["kind"].value_counts()).reset_index())

    table = pd.concat([table, points], ignore_index=True)
    shown = table[(table["role"] != "teacher") | table["own"]]  # what the teacher shares with itself is all
    others = shown.assign(margin=100 * table["margin"])
    others["row"] = (others["title"] + " " + others["part"]).str.strip(" :")
    cells = others.groupby(["row", "kind"], sort=False)["margin"].agg(
        lambda values: " / ".join(f"{value:+.1f}" for value in values.dropna())
    )
    rows, columns = others["row"].unique(), others["kind"].unique()
    print_markdown(cells.unstack().fillna("").loc[rows, columns].reset_index())
    spread = 100 * others["margin_high"] - others["margin"]
    print(f"half widths of the intervals: up to {spread.max():.1f}, median {spread.median():.1f}\n")

    if "adversarial" in results:
        attacks = results["adversarial"]
        rates = (100 * attacks["fooled"].mean("sample")).to_pandas().T
        print_markdown(rates.rename(lambda name: name.removeprefix("student-")).reset_index(), 1)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else sources.find_data("runs/transfer.nc"))
