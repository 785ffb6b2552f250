"""Runs to the tables of the papers: student beside baseline, our number beside the printed one.

An arm is one run, of a teacher with its students and baselines, under the labels by which the papers sort
their tables. Intervals here are over training seeds: how much would another training differ? Those of
:func:`kdviz.compare` are over samples, for given networks.
"""

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from kdviz.analysis.accuracies import find_chance, tabulate_accuracy
from kdviz.analysis.metrics import HYPOTHESES, METRICS
from kdviz.analysis.pairs import compare_layers, pair_networks
from kdviz.analysis.settings import Settings
from kdviz.arguments import one_of
from kdviz.papers import paper_pairs
from kdviz.store import Run
from kdviz.wording import say_number

LABELS = ("dataset", "network", "teacher", "setting")
CONFIDENCE = 0.95
_LISTED = 4  # rows named in a line of `describe_arms`
_COLUMNS = {"dataset": "dataset", "network": "network", "teacher": "teacher_network", "setting": "setting"}
_NAMED = (*_COLUMNS.values(), "layer")
_PAIR = ("dataset", "network", "teacher", "setting", "layer")  # of a printed table
_LAYERS = {"hidden": "last hidden"}  # as the papers call it
_PRINTED = {  # columns of `paper_pairs`
    "teacher": "teacher_value",
    "student": "student",
    "baseline": "baseline",
    "difference": "difference",
}
_ROWS = {  # of `arrange_arms`
    "teacher": "teacher",
    "student": "student",
    "baseline": "baseline",
    "difference": "difference",
    "low": "low",
    "high": "high",
    "printed_teacher": "printed teacher",
    "printed_student": "printed student",
    "printed_baseline": "printed baseline",
    "printed_difference": "printed difference",
}


@dataclass(frozen=True)
class Arm:
    """One run and where it stands in a table.

    Attributes
    ----------
    labels
        Of ``dataset``, ``network`` (architecture of student and baseline), ``teacher`` (architecture, where
        the table varies it) and ``setting`` those that it has, an empty one being none; as in
        :func:`kdviz.papers.paper_rows` where they mean the same.
    run
        From :func:`kdviz.open_run`.
    settings
        How points follow from gains; by default as in `pair_networks`.

    Raises
    ------
    ValueError, TypeError
        If a label is unknown or no text.
    """

    labels: Mapping[str, str]
    run: Run
    settings: Settings | None = None

    def __post_init__(self) -> None:
        """Refuse labels that no table has."""
        for label, text in self.labels.items():
            if not isinstance(text, str):
                raise TypeError(f"label {one_of('label', label, LABELS)} is {text!r}; allowed: a text")
            one_of("label", label, LABELS)


def tabulate_arms(arms: Sequence[Arm], *, table: str | None = None) -> pd.DataFrame:
    """Compare student and baseline in every arm, over training seeds, and put the printed numbers beside.

    Parameters
    ----------
    arms
        At least one; no two with the same labels.
    table
        Of Zhang et al. [1]_, ``"II"`` to ``"IX"``; None for no printed numbers.

    Returns
    -------
    DataFrame
        A row for each arm, layer and metric of `METRICS`. Layers with students or baselines only, or
        without a training seed that has both, are left out; losses at one layer are rows of their own, as
        in `pair_networks`.

        ``dataset``, ``network``, ``teacher_network``, ``setting``
            The labels, empty where the arm has none.
        ``layer``, ``hypothesis``, ``metric``, ``supporting_sign``
            As from `compare_layers`.
        ``seeds``
            Number of training seeds at which the metric is defined in student and baseline.
        ``student``, ``baseline``, ``difference``
            Means over these seeds; difference is student minus baseline. NaN without a seed.
        ``teacher``
            The value of the teacher (the first, if the run has several), on its last epoch; NaN for metrics
            of the learning path, and without a teacher.
        ``low``, ``high``
            95 % interval of the difference **over training seeds**, Student's t of the differences paired
            by seed: NaN with one seed, and wide with three (t = 4.30). It says nothing of other samples or
            data. Of seeds whose differences are equal, that over samples.
        ``over``
            ``"seeds"`` or ``"samples"``, what the interval is over.
        ``ahead``, ``clear``
            Whether the difference has the supporting sign, and whether the interval leaves out 0.
        ``printed_teacher``, ``printed_student``, ``printed_baseline``, ``printed_difference``
            Those of the printed row that the labels and the layer mean, NaN where there is none: case,
            blanks and hyphens aside the texts are equal, a layer `hidden` is "last hidden", and a cell that
            the paper leaves empty excludes nothing, so that one row of Tables II and VIII stands beside
            every layer. An arm without the label ``teacher`` or ``setting`` has a printed row only if just
            one is left. What is printed as D_std is ``d_var`` here; ``d_std`` is printed nowhere.
        ``same_sign``
            Whether both differences have the same sign; ``<NA>`` where either is missing.

    Raises
    ------
    StoreError, SchemaError
        If a run is damaged or unfinished.
    ValueError
        If there is no arm, two have the same labels, an arm has no pair to compare, or the table is unknown.

    References
    ----------
    .. [1] Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, Tables II to IX.
    """
    if not arms:
        raise ValueError("arms is empty; pass at least one")
    named = [tuple(arm.labels.get(label, "") for label in LABELS) for arm in arms]
    if twice := [one for one in dict.fromkeys(named) if named.count(one) > 1]:
        raise ValueError(f"several arms have the labels {dict(zip(LABELS, twice[0], strict=True))}")
    printed = None if table is None else paper_pairs(table=table)
    rows = [row for arm in arms for row in _compare_arm(arm, printed)]
    found = pd.DataFrame(rows)
    found["same_sign"] = found["same_sign"].astype("boolean")
    return found


def list_arms(arms: Sequence[Arm]) -> pd.DataFrame:
    """Say what is compared in every arm, before any point is counted.

    Returns
    -------
    DataFrame
        A row an arm: the labels, ``samples`` measured, ``threshold`` in nat, ``seeds``: training seeds of the
        students; ``teacher``, ``student``, ``baseline``: mean of their accuracies (`tabulate_accuracy`),
        students of all layers and losses together, NaN where not recorded; ``chance``: 1 over the number of
        classes, NaN where the run does not name them, or networks find spans.

    Raises
    ------
    StoreError
        If a run is damaged.
    """
    return pd.DataFrame([_list_arm(arm) for arm in arms])


def _list_arm(arm: Arm) -> dict[str, Any]:
    networks = tabulate_accuracy(arm.run)
    by_role = networks.groupby("role")["accuracy"].mean()
    return (
        {column: arm.labels.get(label, "") for label, column in _COLUMNS.items()}
        | {"samples": arm.run.samples.sizes["sample"]}
        | {"threshold": (arm.settings or Settings()).of_run(arm.run).threshold}
        | {"seeds": networks.loc[networks["role"] == "student", "seed"].nunique()}
        | {role: by_role.get(role, np.nan) for role in ("teacher", "student", "baseline")}
        | {"chance": find_chance(arm.run)}
    )


def _compare_arm(arm: Arm, printed: pd.DataFrame | None) -> list[dict[str, Any]]:
    pairs = pair_networks(arm.run, arm.settings)
    both = {label: pair for label, pair in pairs.items() if pair.students.keys() & pair.baselines.keys()}
    labels = {column: arm.labels.get(label, "") for label, column in _COLUMNS.items()}
    if not both:
        where = ", ".join(filter(None, labels.values())) or str(arm.run.path)
        raise ValueError(f"arm {where}: no layer has a student and a baseline of the same training seed")
    rows = []
    compared = compare_layers(both)
    for layer, of_layer in compared.groupby("layer", sort=False):
        twin = _find_printed(arm.labels, str(layer), printed)
        for metric, about in METRICS.items():
            numbers = average_seeds(of_layer[of_layer["metric"] == metric], about.supporting_sign)
            ours = numbers["difference"]
            theirs = {name: twin.get((name, metric), np.nan) for name in _PRINTED}
            known = np.isfinite(ours) and np.isfinite(theirs["difference"])
            rows.append(
                labels
                | {"layer": layer, "hypothesis": about.hypothesis, "metric": metric}
                | numbers
                | {f"printed_{name}": value for name, value in theirs.items()}
                | {"same_sign": np.sign(ours) == np.sign(theirs["difference"]) if known else None}
            )
    return rows


def average_seeds(rows: pd.DataFrame, supporting_sign: int) -> dict[str, Any]:
    """Average one metric at one layer over the training seeds at which it is defined.

    Differences that are equal tell no spread: their interval is that over samples, on average.
    """
    rows = rows.dropna(subset=["student", "baseline"])
    differences, count = rows["difference"].to_numpy(float), len(rows)
    mean = differences.mean() if count else np.nan
    low, high, over = np.nan, np.nan, "seeds" if count else ""
    if count > 1 and np.allclose(differences, mean, rtol=1e-9, atol=1e-12):
        low, high, over = rows["difference_low"].mean(), rows["difference_high"].mean(), "samples"
    elif count > 1:
        reach = stdtrit(count - 1, (1 + CONFIDENCE) / 2) * differences.std(ddof=1) / np.sqrt(count)
        low, high = mean - reach, mean + reach
    teacher = rows["teacher"] if "teacher" in rows else pd.Series(dtype=float)
    return {
        "supporting_sign": supporting_sign,
        "seeds": count,
        "student": rows["student"].mean(),
        "baseline": rows["baseline"].mean(),
        "teacher": teacher.mean(),
        "difference": mean,
        "low": low,
        "high": high,
        "over": over,
        "ahead": bool(mean * supporting_sign > 0),
        "clear": bool(low > 0 or high < 0),
    }


def _find_printed(
    labels: Mapping[str, str], layer: str, printed: pd.DataFrame | None
) -> Mapping[tuple[str, str], float]:
    """Find the printed pair of an arm and a layer: ``{(column, metric): value}``, empty if there is none."""
    if printed is None:
        return {}
    own = layer.rpartition(" at ")[2]
    wanted = {**labels, "layer": _LAYERS.get(own, own)}
    for key in _PAIR:
        if not wanted.get(key) and key in ("teacher", "setting"):
            continue
        texts = printed[key].map(_fold)
        printed = printed[(texts == "") | (texts == _fold(wanted.get(key, "")))]
    if len(printed[[*_PAIR]].drop_duplicates()) != 1:
        return {}
    values = printed.set_index("metric")
    return {
        (name, str(metric)): value
        for name, column in _PRINTED.items()
        for metric, value in values[column].items()
    }


def _fold(text: str) -> str:
    return re.sub(r"[\s_-]", "", text.casefold())


def tally_wins(rows: pd.DataFrame, *, table: str | None) -> pd.DataFrame:
    """Count how often the student is ahead of its baseline, here and in the printed table.

    Parameters
    ----------
    rows
        From `tabulate_arms`.
    table
        As there. All its pairs are counted, whatever their data and networks.

    Returns
    -------
    DataFrame
        Index ``hypothesis``, ``metric``, in the order of `METRICS`. ``ahead`` and ``behind``: rows whose
        interval over seeds lies on the side of the hypothesis, or on the other; ``undecided``: all others,
        with one seed all;
        ``pairs``: their sum, the rows with a difference. ``wins`` and ``ties`` count the signs alone.
        ``printed_wins``, ``printed_ties``, ``printed_pairs``: the same of the printed table; 0 where it
        does not print a metric, as none does `d_std`. ``agreement``: how many of the rows that stand beside
        a printed one have its sign, ``"5 of 6"``; empty without such rows.

    Raises
    ------
    ValueError
        If the table is unknown.
    """
    printed = paper_pairs(table=table) if table else pd.DataFrame({"metric": [], "difference": []})
    counts = {}
    for name, metric in METRICS.items():
        ours = rows[(rows["metric"] == name) & rows["difference"].notna()]
        ahead, clear = ours["ahead"].astype(bool), ours["clear"].astype(bool)
        theirs = printed.loc[printed["metric"] == name, "difference"]
        alike = ours["same_sign"].dropna()
        counts[metric.hypothesis, name] = {
            "ahead": int((ahead & clear).sum()),
            "behind": int((~ahead & clear).sum()),
            "undecided": int((~clear).sum()),
            "pairs": len(ours),
            "wins": int(ahead.sum()),
            "ties": int((ours["difference"] == 0).sum()),
            "printed_wins": int((theirs * metric.supporting_sign > 0).sum()),
            "printed_ties": int((theirs == 0).sum()),
            "printed_pairs": len(theirs),
            "agreement": f"{int(alike.sum())} of {len(alike)}" if len(alike) else "",
        }
    return pd.DataFrame.from_dict(counts, orient="index").rename_axis(["hypothesis", "metric"])


def arrange_arms(rows: pd.DataFrame) -> pd.DataFrame:
    """Lay out what `tabulate_arms` returned as the papers do: metrics beside each other, networks below.

    Returns
    -------
    DataFrame
        Columns ``n_fg``, ``n_bg``, ``fg_ratio``, ``d_mean``, ``d_var``, ``rho``. Index: those of the labels
        that any arm has, ``layer``, and ``row``: ``teacher``, ``student``, ``baseline``, ``difference``
        with ``low`` and ``high``, and the same printed; those without a number are left out.
    """
    kept = [name for name in _NAMED if (rows[name] != "").any()]
    metrics = [name for name in METRICS if name != "d_std"]
    chosen = rows[rows["metric"].isin(metrics)].set_index([*kept, "metric"])
    values = chosen[[*_ROWS]].rename(columns=_ROWS).rename_axis(columns="row")
    wide = pd.DataFrame(values.stack(future_stack=True).unstack("metric", sort=False))
    return wide.reindex(columns=pd.Index(metrics, name="metric")).dropna(how="all")


def doubt_arms(arms: Sequence[Arm]) -> list[str]:
    """Name the arms in which a role answers hardly better than by chance: points of such networks say little.

    Parameters
    ----------
    arms
        As for `list_arms`.

    Returns
    -------
    list of str
        A line for each arm and role whose mean accuracy is less than a tenth of the way from chance to 1.
    """
    told = []
    for _, row in list_arms(arms).iterrows():
        name = ", ".join(filter(None, (str(row[column]) for column in _COLUMNS.values())))
        for role in ("teacher", "student", "baseline"):
            if row[role] < 0.9 * row["chance"] + 0.1:
                right = f"right in {row[role]:.2f}, and chance in {row['chance']:.2f}"
                told.append(f"in doubt: {name}, the {role} is {right}")
    return told


def describe_arms(rows: pd.DataFrame) -> dict[str, str]:
    """Say what `tabulate_arms` found, a line for each metric of each hypothesis.

    A metric is called supported or contradicted if the intervals over training seeds of all rows lie on one
    side of 0, partly so if those of some rows do and the others contain 0, mixed if there are some on either
    side, undecided if all contain 0 or there is none. The rows without a clear side are named with their
    intervals, up to four.

    Returns
    -------
    dict
        By hypothesis, ``"H1"`` to ``"H3"``. `d_std`, the root of `d_var`, is left out.
    """
    told = {}
    for hypothesis, claim in HYPOTHESES.items():
        names = [name for name, one in METRICS.items() if one.hypothesis == hypothesis and name != "d_std"]
        told_of = [_describe_metric(rows[rows["metric"] == name], name) for name in names]
        lines = [textwrap.fill(one, 120, initial_indent="  ", subsequent_indent="      ") for one in told_of]
        told[hypothesis] = "\n".join([f"{hypothesis}, {claim.format(foreground='foreground')}:", *lines])
    return told


def _describe_metric(rows: pd.DataFrame, metric: str) -> str:
    known = rows[rows["difference"].notna()]
    if not len(known):
        return f"{metric} undefined"
    clear, ahead = known["clear"].astype(bool), known["ahead"].astype(bool)
    clearly = {"clearly": int((clear & ahead).sum()), "clearly behind": int((clear & ~ahead).sum())}
    if not clear.any():
        verdict = "undecided"
    elif all(clearly.values()):
        verdict = "mixed"
    else:
        verdict = "supported" if clearly["clearly"] else "contradicted"
        verdict = verdict if clear.all() else f"partly {verdict}"
    counts = [f"ahead in {int(ahead.sum())} of {len(known)}"]
    counts += [f"{side} in {count}" for side, count in clearly.items() if count]
    if len(rows) > len(known):
        counts.append(f"undefined in {len(rows) - len(known)}")
    said = [f"{metric} {verdict}", ", ".join(counts)]
    if not clear.all():
        varied = [name for name in _NAMED if rows[name].nunique() > 1]
        unclear = [_describe_row(row, varied) for _, row in known[~clear].iterrows()]
        more = f", and {len(unclear) - _LISTED} more" if len(unclear) > _LISTED else ""
        said.append(f"undecided: {', '.join(unclear[:_LISTED])}{more}")
    if verdict == "undecided":
        said = [f"{metric} {said[-1]}", said[1]]
    return "; ".join(said)


def _describe_row(row: pd.Series, varied: Sequence[str]) -> str:
    where = " ".join(str(row[name]) for name in varied)
    if row["seeds"] > 1:
        reach = (row["high"] - row["low"]) / 2
        found = f"{say_number(row['low'], reach)} to {say_number(row['high'], reach)} ({row['seeds']} seeds)"
    else:
        found = f"{say_number(row['difference'])} (1 seed)"
    return f"{where} {found}".strip()
