"""The numbers printed in the knowledge-point papers, to show beside one's own. Reads one packaged table.

Source: Zhang, Cheng, Chen, Rao, "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
Classification", TPAMI 2022 (arXiv 2208.08741), Tables II to IX. Column ``note`` marks what the paper leaves
open and probable misprints; numbers are kept as printed.
"""

from importlib.resources import files

import pandas as pd

from kdviz.arguments import one_of

_KEYS = ("table", "dataset", "network", "layer", "role")
_NUMBERS = ("n_fg", "n_bg", "fg_ratio", "d_mean", "d_var", "rho")
_PAIR = ("table", "dataset", "network", "layer", "setting")  # what a student and its baseline share
_DECIMALS = 6  # of differences: no printed number has more than four


def paper_rows(
    *,
    table: str | None = None,
    dataset: str | None = None,
    network: str | None = None,
    layer: str | None = None,
    role: str | None = None,
) -> pd.DataFrame:
    """Return the printed rows, one for each network of a table, that match every given value.

    Parameters
    ----------
    table
        Roman number, ``"II"`` to ``"IX"``.
    dataset
        For example ``"CUB200-2011"``.
    network
        Architecture of the network measured, for example ``"VGG-16"``.
    layer
        Layer distilled at and measured: ``"Conv"``, ``"FC1"``, ``"FC2"``, ``"FC3"`` or ``"last hidden"``.
    role
        ``"teacher"``, ``"student"`` or ``"baseline"``.

    Returns
    -------
    DataFrame
        Text columns ``table``, ``dataset``, ``network``, ``layer``, ``role``, ``teacher`` (architecture,
        where the table names it), ``setting`` and ``note``, empty where the paper says nothing; number
        columns ``n_fg``, ``n_bg``, ``fg_ratio``, ``d_mean``, ``d_var`` (printed as D_std, but a variance)
        and ``rho``, NaN where the table has none.

    Raises
    ------
    ValueError
        If a value does not occur; the message lists those that do.

    Examples
    --------
    >>> rows = paper_rows(table="V", dataset="CUB200-2011", network="VGG-16", layer="FC1")
    >>> rows.set_index("role")["n_fg"].to_dict()
    {'student': 43.77, 'baseline': 22.5}
    """
    with (files("kdviz") / "papers.csv").open(encoding="utf-8") as file:
        rows = pd.read_csv(file, keep_default_na=False, na_values={name: "" for name in _NUMBERS})
    for key, wanted in zip(_KEYS, (table, dataset, network, layer, role), strict=True):
        if wanted is None:
            continue
        rows = rows[rows[key] == one_of(key, wanted, sorted(set(rows[key]) - {""}))]
    return rows.reset_index(drop=True)


def paper_pairs(
    *,
    table: str | None = None,
    dataset: str | None = None,
    network: str | None = None,
    layer: str | None = None,
) -> pd.DataFrame:
    """Return the printed students beside their baselines, a row for each pair and metric.

    Parameters
    ----------
    table, dataset, network, layer
        As in `paper_rows`.

    Returns
    -------
    DataFrame
        ``table``, ``dataset``, ``network``, ``layer``, ``teacher`` (architecture), ``setting`` and ``note``
        of the two rows; ``metric``, one of the number columns of `paper_rows`; ``student``, ``baseline`` and
        ``difference`` (student minus baseline), and ``teacher_value``, which Table IV alone has. Metrics that
        a table does not print have no row. Several students may share a baseline: Tables II and IX print it
        once for all teachers.

    Raises
    ------
    ValueError
        If a value does not occur; the message lists those that do.

    Examples
    --------
    >>> pairs = paper_pairs(table="II", network="VGG-11").query("metric == 'n_fg'")
    >>> pairs[["teacher", "student", "baseline", "difference"]].values.tolist()[:2]
    [['VGG-11', 34.06, 25.5, 8.56], ['VGG-16', 37.11, 25.5, 11.61]]
    """
    rows = paper_rows(table=table, dataset=dataset, network=network, layer=layer)
    roles = {role: rows[rows["role"] == role] for role in ("student", "baseline", "teacher")}
    shared = [*_PAIR]
    pairs = roles["student"].merge(
        roles["baseline"], on=shared, suffixes=("", "_baseline"), validate="many_to_one"
    )
    values = roles["teacher"][[*shared, *_NUMBERS]]
    pairs = pairs.merge(values, "left", shared, suffixes=("", "_teacher"), validate="many_to_one")
    notes = [
        "; ".join(dict.fromkeys(filter(None, f"{one}; {other}".split("; "))))
        for one, other in zip(pairs["note"], pairs["note_baseline"], strict=True)
    ]
    named = pairs[["table", "dataset", "network", "layer", "teacher", "setting"]].assign(note=notes)
    parts = [
        named.assign(
            metric=name,
            student=pairs[name],
            baseline=pairs[f"{name}_baseline"],
            difference=(pairs[name] - pairs[f"{name}_baseline"]).round(_DECIMALS),
            teacher_value=pairs[f"{name}_teacher"],
        )
        for name in _NUMBERS
    ]
    metrics = pd.concat(parts).sort_index(kind="stable").dropna(subset=["student", "baseline"])
    return metrics.reset_index(drop=True)
