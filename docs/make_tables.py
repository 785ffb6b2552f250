"""Print the section "The papers' tables, small" of ``docs/results.md`` from named studies that are done.

python docs/make_tables.py FOLDER

FOLDER is that of ``kdviz study run NAME --folder FOLDER`` for every NAME; what is not done is left out.
"""

import sys
from pathlib import Path

import pandas as pd
from make_results import print_markdown

from kdviz import analysis
from kdviz.errors import StoreError
from kdviz.studies import Series, find_study, list_studies

METRICS = ("n_fg", "n_bg", "fg_ratio", "d_mean", "d_var", "rho")
LABELS = ("dataset", "network", "teacher_network", "setting", "layer")


def lay_out(rows: pd.DataFrame) -> pd.DataFrame:
    """Put student / baseline of every metric side by side; + and - where seeds agree, by their interval."""
    labels = [name for name in LABELS if rows[name].nunique() > 1 or name == "layer"]
    table = []
    for named, group in rows.groupby(list(LABELS), sort=False):
        known = dict(zip(LABELS, named, strict=True))
        row = {name.removesuffix("_network"): known[name] for name in labels}
        for _, one in group[group["metric"].isin(METRICS)].iterrows():
            mark = ("+" if one["ahead"] else "-") if one["clear"] else ""
            known_ones = one["seeds"] > 0  # without points no ratio is defined
            both = f"{one['student']:.2f} / {one['baseline']:.2f} {mark}".strip()
            row[one["metric"]] = both if known_ones else ""
        if group["teacher"].notna().any():
            row["teacher's n_fg"] = f"{group.set_index('metric')['teacher']['n_fg']:.1f}"
        table.append(row)
    return pd.DataFrame(table).fillna("")


def count(rows: pd.DataFrame, table: str) -> dict[str, str]:
    """Count for each metric how often students are clearly ahead, behind and neither, and ahead in print."""
    tally = analysis.tally_wins(rows, table=table or None).reset_index().set_index("metric")
    told = {}
    for metric in METRICS:
        one = tally.loc[metric]
        printed = f", {one['printed_wins']} of {one['printed_pairs']}" if one["printed_pairs"] else ""
        told[metric] = f"{one['ahead']} / {one['behind']} / {one['undecided']}{printed}"
    return told


def main(folder: Path) -> None:
    """Print the tables of all studies that are done, and the count of all last."""
    counts, shown = [], dict[tuple[Path, ...], str]()
    for name in list_studies():
        study = find_study(name)
        series = Series(name, study, study.arms("small"), folder, progress=False)
        try:
            rows = analysis.tabulate_arms(series.readings(), table=study.table or None)
        except StoreError as error:
            print(f"({name}: {error})\n")
            continue
        print(f"### {study.title}{f' (Table {study.table})' if study.table else ''}\n\n{study.question}\n")
        seeds = ", ".join(map(str, series.parts[0][1].plan.training.seeds))
        print(f"`kdviz study run {name}`, seeds {seeds}. {study.presets['small'].about.strip()}\n")
        same = shown.setdefault(tuple(study.folder for _, study in series.parts), name)
        if same != name:
            print(f"The networks and numbers are those of `{same}`.\n")
        else:
            print_markdown(lay_out(rows))
        counts.append({"study": name, **count(rows, study.table)})
    print_markdown(pd.DataFrame(counts))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
