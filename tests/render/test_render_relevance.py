"""Charts of what students have apart: every dot and line where its number says."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from kdviz import render
from kdviz.render.style import ROLE_STYLES

SCORES = (
    "rs student",
    "rs base",
    "rs teacher",
    "rs distilled",
    "rs residual",
    "fss student-base",
    "fss student-teacher",
)


@pytest.fixture
def table():
    rows = [
        {
            "student": f"student-{kind}-s0", "kind": f"student-{kind}", "base": "baseline-s0", "layer": layer,
            "epoch": epoch, "input": "plain", "score": score,
            "value": (0.5 if "base" in score else 0.1 * (1 + at)) * (1 + epoch) / 4 + 0.01 * (layer == "fc1"),
        }
        for epoch in (0, 3)
        for layer in ("conv", "fc1")
        for at, kind in enumerate(("kl", "hint"))
        for score in (*SCORES, "fss base-teacher")
    ]  # fmt: skip
    return pd.DataFrame(rows).eval("value_low = value - 0.02\nvalue_high = value + 0.03")


def test_relevance_chart__has_a_dot_for_every_student_and_what_it_is_compared_with(table):
    axes = render.relevance_chart(table[table["epoch"] == 3], title="relevance").axes
    assert [axis.get_title() for axis in axes] == [
        "relevance (rs)", "rs distilled", "rs residual", "like the teacher (fss)"
    ]  # fmt: skip
    assert [one.get_text() for one in axes[0].get_xticklabels()] == ["conv", "fc1"]
    dots = {}
    for line in axes[0].get_lines():
        if line.get_marker() not in ("None", None, "") and len(line.get_xdata()):
            places = dots.setdefault(to_hex(line.get_color()).upper(), [])
            where, values = (np.asarray(data, float) for data in (line.get_xdata(), line.get_ydata()))
            places += zip(np.round(where).tolist(), np.round(values, 6).tolist(), strict=True)
    assert dots[ROLE_STYLES["baseline"].colour] == [(0, 0.5), (1, 0.51)]
    assert dots[ROLE_STYLES["teacher"].colour] == [(0, 0.1), (1, 0.11)]
    assert dots[ROLE_STYLES["student"].colour] == [(0, 0.1), (1, 0.11)], "the first kind of student"
    assert len(dots) == 4, "and the other kind"


def test_relevance_progress__draws_a_line_a_network_over_epochs(table):
    figure = render.relevance_progress(table, title="progress")
    (distilled,) = (axis for axis in figure.axes if axis.get_title() == "rs distilled\nfc1")
    lines = [one for one in distilled.get_lines() if len(one.get_xdata()) == 2 and one.get_color() != "black"]
    assert sorted(one.get_ydata().round(6).tolist() for one in lines) == [[0.035, 0.11], [0.06, 0.21]]
    (likeness,) = (axis for axis in figure.axes if axis.get_title() == "like the teacher (fss)\nconv")
    baseline = [
        one
        for one in likeness.get_lines()
        if to_hex(one.get_color()).upper() == ROLE_STYLES["baseline"].colour
    ]
    assert [one.get_ydata().tolist() for one in baseline] == [[0.125, 0.5]], "drawn once"
    np.testing.assert_array_equal(baseline[0].get_xdata(), [0, 3])


def test_relevance_charts__refuse_what_they_cannot_tell_apart(table):
    with pytest.raises(ValueError, match=r"table must be of one epoch, got \[0, 3\]; select one"):
        render.relevance_chart(table, title="")
    last = table[table["epoch"] == 3]
    with pytest.raises(ValueError, match=r"table must be of one input, got \['plain', 'perturbed'\]"):
        render.relevance_chart(pd.concat([last, last.assign(input="perturbed")]), title="")
    with pytest.raises(ValueError, match="table must be of several epochs"):
        render.relevance_progress(last, title="")
