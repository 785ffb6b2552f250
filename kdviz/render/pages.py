"""Words and tables of pages: HTML that is the same in a notebook and in the report written from it."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from kdviz.wording import say_interval, say_number, say_sides

_COLOURS = {"yes": "#d5ecd9", "the other way": "#f6d9cc", "undecided": "#ececec", "mixed": "#f3e8c3"}
# Beside the element: JupyterLab drops style sheets and scripts of a notebook that it does not trust yet.
_CHIP = "color:#111;border-radius:4px;padding:1px 7px;white-space:nowrap"
_DOUBT = "background:#f6d9cc;color:#111;border-left:5px solid #c2410c;padding:6px 12px;margin:6px 0"
_STYLE = """<style>
.kdviz {font-size: 14px; line-height: 1.5; max-width: 1100px}
.kdviz td, .kdviz th {text-align: left !important; padding: 3px 10px !important; vertical-align: top;
  max-width: none !important; white-space: normal !important}
.kdviz table {border-collapse: collapse; margin: 4px 0 8px 0 !important}
.kdviz table.sortable th {cursor: pointer; border-bottom: 1px solid #888 !important;
  vertical-align: bottom}
.kdviz table.sortable tr:nth-child(even) {background: var(--jp-rendermime-table-row-background, #f7f7f7)}
.kdviz td.number, .kdviz th.number {text-align: right !important}
.kdviz td.number span {white-space: nowrap}
.kdviz .note {color: var(--jp-ui-font-color2, #666); font-size: 13px}
.kdviz h3 {margin: 14px 0 2px 0; font-size: 16px}
.kdviz ul {margin: 2px 0 6px 0}
</style>"""
_SORT = """<script>
window.kdvizSort = window.kdvizSort || function (head) {
  const body = head.closest("table").tBodies[0], at = head.cellIndex;
  const up = head.ariaSort !== "ascending", number = head.className === "number";
  const key = row => { const v = row.cells[at].dataset.value; return number ? parseFloat(v) : v };
  const order = (a, b) => a < b ? -1 : a > b ? 1 : 0;
  [...body.rows].sort((one, other) => {
    const a = key(one), b = key(other);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);  // unknown: last
    return order(a, b) * (up ? 1 : -1);
  }).forEach(row => body.append(row));
  for (const one of head.parentNode.cells) one.removeAttribute("aria-sort");
  head.ariaSort = up ? "ascending" : "descending";
};
</script>"""


class Page:
    """A piece of HTML, shown as such by notebooks."""

    def __init__(self, body: str) -> None:
        self.body = body

    def _repr_html_(self) -> str:
        return f'{_STYLE}<div class="kdviz">{self.body}</div>'

    def __repr__(self) -> str:
        """Say what it is where there is only text."""
        return f"<{len(self.body)} characters of HTML>"


def show_verdict(
    about: Mapping[str, str],
    doubts: Sequence[str],
    answers: Sequence[Mapping[str, Any]],
    notes: Sequence[str],
) -> Page:
    """Write what a run says: the fields of :class:`kdviz.analysis.Verdict`, as `dataclasses.asdict` has them.

    Returns
    -------
    Page
        Doubts first, then each question with its answer and findings.
    """
    rows = "".join(
        f"<tr><td><b>{_escape(name)}</b></td><td>{_escape(text)}</td></tr>" for name, text in about.items()
    )
    parts = [f"<table>{rows}</table>"]
    parts += [f'<div class="doubt" style="{_DOUBT}"><b>In doubt:</b> {_escape(one)}.</div>' for one in doubts]
    for one in answers:
        parts.append(f"<h3>{_escape(one['question'])}: {_mark(one['answer'])}</h3>")
        parts.append("<ul>" + "".join(f"<li>{_tell(finding)}</li>" for finding in one["findings"]) + "</ul>")
    return Page("".join(parts) + _note(*notes))


def show_notes(*notes: str) -> Page:
    """Write sentences as small print; names between backticks are set as code."""
    return Page(_note(*notes))


def show_table(
    table: pd.DataFrame,
    *,
    about: Mapping[str, str] | None = None,
    intervals: Mapping[str, tuple[str, str]] | None = None,
    sides: Mapping[str, tuple[str, str]] | None = None,
    folded: str = "",
) -> Page:
    """Write a table whose columns sort when clicked, with two significant digits of what is uncertain.

    Parameters
    ----------
    table
        Its index is not shown. Numbers that are not whole are written with two significant digits; a column
        named ``answer`` is coloured.
    about
        What columns mean: shown below, and where the mouse rests.
    intervals
        By column, those of its ends: written as one, with the digits that the interval leaves.
    sides
        By column of `intervals`, those two whose difference it is: written so that they differ by it.
    folded
        A line that unfolds the table; always open if empty.
    """
    about, intervals = about or {}, intervals or {}
    hidden = {end for ends in intervals.values() for end in ends}
    shown = [name for name in table.columns if name not in hidden]
    numbers = {name for name in shown if name in intervals or pd.api.types.is_numeric_dtype(table[name])}
    signed = {name for name, (low, _) in intervals.items() if (table[low] < 0).any()}  # differences
    head = "".join(
        f'<th class="{"number" if name in numbers else ""}" title="{html.escape(about.get(name, ""))}" '
        f'tabindex="0" onclick="kdvizSort(this)" onkeydown="event.key === \'Enter\' && kdvizSort(this)">'
        f"{_escape(name)}</th>"
        for name in shown
    )
    body = ""
    for row in table.to_dict("records"):
        told: dict[str, str] = {}
        for name, both in (sides or {}).items():
            numbers_of = [row[one] for one in (*both, name, *intervals[name])]
            told |= dict(zip(both, say_sides(*numbers_of), strict=True))
        cells = [
            _cell(name, row[name], [row[end] for end in intervals.get(name, ())], name in signed, told)
            for name in shown
        ]
        body += f"<tr>{''.join(cells)}</tr>"
    said = "; ".join(f"<b>{_escape(name)}</b> {_escape(text)}" for name, text in about.items())
    note = f'<div class="note">{said}.</div>' if said else ""
    whole = (
        f'{_SORT}<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note}'
    )
    return Page(f"<details><summary>{_escape(folded)}</summary>{whole}</details>" if folded else whole)


def _note(*sentences: str) -> str:
    return f'<div class="note">{" ".join(map(_escape, sentences))}</div>' if sentences else ""


def _cell(name: str, value: Any, ends: Sequence[Any], sign: bool, told: Mapping[str, str]) -> str:
    if ends:
        said, apart, interval = say_interval(value, *ends, sign=sign).partition(" ")
        text = f"{said}{apart}<span>{interval}</span>" if apart else said  # breaks between the two alone
    elif isinstance(value, (bool, np.bool_, str)):
        inner = _mark(value) if name == "answer" else _escape(value)
        return f'<td data-value="{html.escape(str(value))}">{inner}</td>'
    elif pd.isna(value):
        return '<td class="number" data-value="">\u2013</td>'
    elif isinstance(value, (int, np.integer)):
        text = str(value)
    else:
        text = told.get(name) or say_number(value)
    return f'<td class="number" data-value="{value:.6g}">{text}</td>'  # the same on every processor


def _tell(finding: Mapping[str, Any]) -> str:
    parts = [f"{_mark(answer)} {_escape(told)}" for answer, told in finding["parts"]]
    claim = _escape(finding["claim"])
    return f"{claim}: {'; '.join(parts)}" if parts else claim


def _mark(answer: object) -> str:
    text = str(answer)
    colour = next((colour for word, colour in _COLOURS.items() if text.endswith(word)), "#ececec")
    return f'<span class="answer" style="background:{colour};{_CHIP}">{_escape(text)}</span>'


def _escape(text: object) -> str:
    return re.sub("`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))
