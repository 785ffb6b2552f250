"""The chart of many runs: dots, intervals and printed diamonds where the table says, on readable scales."""

import io

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from kdviz import render
from kdviz.render import style

COLUMNS = ["layer", "metric", "supporting_sign", "difference", "low", "high", "printed_difference"]


def make_rows(**changes: object) -> pd.DataFrame:
    table = pd.DataFrame(
        [
            ("conv", "n_fg", 1, 3.0, -1.0, 7.0, 4.0),
            ("fc1", "n_fg", 1, 5.0, 2.0, 8.0, np.nan),
            ("conv", "d_var", -1, -0.2, -0.3, -0.1, 500.0),
            ("fc1", "d_var", -1, -0.1, -0.2, 0.0, -50.0),
        ],
        columns=COLUMNS,
    )
    labels = {"dataset": "CUB200-2011", "network": "VGG-16", "teacher_network": "", "setting": ""}
    return table.assign(**{**labels, **changes})


def dots(axis: Axes) -> tuple[list[float], list[float]]:
    (container,) = axis.containers
    return container.lines[0].get_xdata().tolist(), container.lines[0].get_ydata().tolist()


def diamonds(axis: Axes) -> list[tuple[float, float]]:
    (line,) = [one for one in axis.lines if one.get_marker() == "D" and len(one.get_xdata())]
    return [(x, y) for x, y in zip(*line.get_data(), strict=True) if np.isfinite(x)]


def test_arms_chart__one_panel_a_metric_one_line_an_arm_and_layer() -> None:
    figure = render.arms_chart(make_rows(), title="who is ahead")
    assert figure.get_suptitle() == "who is ahead"
    n_fg, d_var, *_ = figure.axes
    assert [axis.get_title() for axis in (n_fg, d_var)] == ["n_fg", "d_var"]
    assert [text.get_text() for text in n_fg.get_yticklabels()] == ["conv", "fc1"]
    values, places = dots(n_fg)
    assert values == [3.0, 5.0] and places == pytest.approx([-0.14, 0.86])
    bars = n_fg.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 0] for bar in bars], [[-1.0, 7.0], [2.0, 8.0]])
    assert diamonds(n_fg) == [(4.0, 0.14)]
    assert n_fg.get_ylim()[0] > n_fg.get_ylim()[1], "the first arm is at the top"


def test_arms_chart__printed_differences_of_another_size_have_a_scale_above() -> None:
    figure = render.arms_chart(make_rows(), title="")
    _, d_var, above = figure.axes
    assert diamonds(above) == [(500.0, 0.14), (-50.0, pytest.approx(1.14))]
    assert above.get_xlim() == pytest.approx((-550, 550)) and d_var.get_xlim() == pytest.approx((-0.33, 0.33))
    assert "scale above: as printed" in figure.get_supxlabel()
    # 8 times the interval is the last that shares it, and so is a difference of 0
    for value in (8 * 0.3, -0.3 / 8 - 1e-9, 0.0):
        near = make_rows()
        near.loc[2:, "printed_difference"] = value
        assert len(render.arms_chart(near, title="").axes) == 2, value
    small = make_rows()
    small.loc[2:, "printed_difference"] = 0.03
    assert len(render.arms_chart(small, title="").axes) == 3


def test_arms_chart__zero_is_in_the_middle_and_the_supporting_side_shaded() -> None:
    for axis, sign in zip(render.arms_chart(make_rows(), title="").axes, (1, -1, None), strict=True):
        low, high = axis.get_xlim()
        assert low == -high
        if sign:
            (shade,) = [one for one in axis.patches if one.get_facecolor()[:3] != (0, 0, 0)]
            assert (shade.get_x(), shade.get_width()) == ((0, high) if sign > 0 else (low, high))


def test_arms_chart__a_wide_interval_ends_at_four_times_the_largest_difference() -> None:
    rows = make_rows(low=-1000.0, high=1000.0, printed_difference=np.nan)
    n_fg, d_var = render.arms_chart(rows, title="").axes
    assert n_fg.get_xlim()[1] == pytest.approx(1.1 * 4 * 5) and d_var.get_xlim()[1] == pytest.approx(0.88)
    assert "above" not in n_fg.figure.get_supxlabel()


def test_arms_chart__lines_are_named_by_what_differs() -> None:
    arms = [make_rows(network="AlexNet", teacher_network=name) for name in ("VGG-16", "VGG-19")]
    rows = pd.concat([*arms, make_rows(network="AlexNet")])
    figure = render.arms_chart(rows[rows["layer"] == "fc1"], title="")
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["from VGG-16", "from VGG-19", ""]
    one = make_rows().iloc[[0]]
    assert [t.get_text() for t in render.arms_chart(one, title="").axes[0].get_yticklabels()] == ["conv"]


def test_arms_chart__legend_names_the_printed_ones_where_there_are_any() -> None:
    def legend(rows: pd.DataFrame) -> list[str]:
        return [text.get_text() for text in render.arms_chart(rows, title="").legends[0].get_texts()]

    assert legend(make_rows()) == ["here", "printed"]
    assert legend(make_rows(printed_difference=np.nan)) == ["here"]


@pytest.mark.parametrize("arms", [1, 13])
def test_arms_chart__grows_with_its_lines_and_draws_what_is_undefined(arms: int) -> None:
    rows = pd.concat([make_rows(setting=f"b {arm}") for arm in range(arms)])
    figure = render.arms_chart(rows, title="")
    assert figure.get_figheight() == pytest.approx(1.5 + 0.27 * 2 * arms)
    nothing = rows.assign(difference=np.nan, low=np.nan, high=np.nan, printed_difference=np.nan)
    empty = render.arms_chart(nothing, title="")
    assert all(axis.get_xlim() == (-1, 1) for axis in empty.axes)
    empty.savefig(io.BytesIO(), format="png")


def test_arms_chart__shades_as_the_other_charts_do() -> None:
    assert style.SUPPORT == style.ROLE_STYLES["teacher"].colour
