"""How relevant it is what students have apart, and when in training it comes."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdviz.render.style import ROLE_STYLES, NetworkStyle, draw_bars, name_lines, open_figure, style_networks

_SCORES = {
    "rs student": "relevance (rs)",
    "rs distilled": "rs distilled",
    "rs residual": "rs residual",
    "fss student-teacher": "like the teacher (fss)",
}
_OF_BASE = {"rs student": "rs base", "fss student-teacher": "fss base-teacher"}


def relevance_chart(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw scores with their intervals: a panel a score, a column a layer, a dot a student.

    Parameters
    ----------
    table
        Of one epoch and input, from :func:`kdviz.analysis.tabulate_relevance`.
    title
        Shown above. Scores of the baselines, and the relevance of the teacher, stand beside the students'.

    Raises
    ------
    ValueError
        If the table is of several epochs or inputs, or of none.
    """
    for column in ("epoch", "input"):
        if len(several := table[column].unique().tolist()) != 1:
            raise ValueError(f"table must be of one {column}, got {several}; select one of them")
    layers, styles = table["layer"].unique().tolist(), _style_kinds(table)
    figure, (axes,) = open_figure(title, 13, 3.2, len(_SCORES))
    for axis, (score, name) in zip(axes, _SCORES.items(), strict=True):
        for place, layer in enumerate(layers):
            of_layer = table[table["layer"] == layer]
            groups = {
                "baseline": of_layer[of_layer["score"] == _OF_BASE.get(score, "")].drop_duplicates("base")
            }
            if score == "rs student":
                groups["teacher"] = of_layer[of_layer["score"] == "rs teacher"].iloc[:1]
            students = of_layer[of_layer["score"] == score]
            groups |= {str(kind): rows for kind, rows in students.groupby("kind", sort=False)}
            for kind, rows in groups.items():
                at = list(styles).index(kind)
                offset = 0.7 * ((at + 0.5) / len(styles) - 0.5)
                places = [
                    place + offset + min(0.02, 0.14 / len(rows)) * number for number in range(len(rows))
                ]
                draw_bars(axis, places, rows, "value", styles[kind])
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xticks(range(len(layers)), layers)
        axis.set_xlim(-0.5, len(layers) - 0.5)
        axis.set_title(name, fontsize=10)
    _name_kinds(figure, axes[0], styles)
    return figure


def relevance_progress(table: pd.DataFrame, *, title: str) -> Figure:
    """Draw scores over training: a column a score, a row a layer, a line a network.

    Parameters
    ----------
    table
        Of several epochs, from :func:`kdviz.analysis.tabulate_relevance`.
    title
        Shown above.

    Raises
    ------
    ValueError
        If the table is of one epoch, or of none.
    """
    if table["epoch"].nunique() < 2:
        raise ValueError("table must be of several epochs: join the scores of each along 'epoch'")
    layers, styles = table["layer"].unique().tolist(), _style_kinds(table)
    figure, axes = open_figure(title, 13, 1 + 2.4 * len(layers), len(_SCORES), len(layers), sharex=True)
    for row, layer in zip(axes, layers, strict=True):
        for axis, (score, name) in zip(row, _SCORES.items(), strict=True):
            of_layer = table[(table["layer"] == layer) & (table["input"] == "plain")]
            students = of_layer[of_layer["score"] == score]
            lines = [
                (str(kind), rows) for (kind, _), rows in students.groupby(["kind", "student"], sort=False)
            ]
            bases = of_layer[of_layer["score"] == _OF_BASE.get(score, "")].drop_duplicates(["base", "epoch"])
            lines += [("baseline", rows) for _, rows in bases.groupby("base", sort=False)]
            for kind, rows in lines:
                axis.plot(rows["epoch"], rows["value"], color=styles[kind].colour, linewidth=1.2, alpha=0.8)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_title(f"{name}\n{layer}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=8)
    _name_kinds(figure, axes[0, 0], {kind: style for kind, style in styles.items() if kind != "teacher"})
    return figure


def _style_kinds(table: pd.DataFrame) -> dict[str, NetworkStyle]:
    kinds = {str(kind): "student" for kind in table["kind"].unique()}
    return {"teacher": ROLE_STYLES["teacher"]} | style_networks({"baseline": "baseline"} | kinds)


def _name_kinds(figure: Figure, axis: Axes, styles: dict[str, NetworkStyle]) -> None:
    for kind, style in styles.items():
        axis.plot([], [], style.marker, color=style.colour, markersize=4, label=kind.removeprefix("student-"))
    name_lines(figure, axis)
