"""Figures of learning and of layers, by the data in their axes."""

from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kdviz import render
from kdviz.render import style


@pytest.fixture(autouse=True)
def pyplot_is_left_alone() -> Iterator[None]:
    yield
    assert plt.get_fignums() == []


def drawn(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure


# -- ratio_against_accuracy


@pytest.fixture
def table() -> pd.DataFrame:
    columns = {
        "role": "student",
        "accuracy": [np.nan, 0.2, 0.6],
        "fg_ratio": [0.1, 0.3, 0.7],
        "fg_ratio_low": [0.1, 0.2, 0.6],
        "fg_ratio_high": [0.1, 0.5, 0.7],
        "weight_distance": [0.0, 0.5, 1.5],
        "n_fg": [1.0, 5.0, 4.0],
    }
    return pd.DataFrame(columns, index=pd.Index([0, 2, 5], name="epoch"))


def test_ratio_against_accuracy__is_a_path_with_named_ends_and_bars(table: pd.DataFrame) -> None:
    teacher = table.iloc[-1:].assign(role="teacher")
    figure = drawn(render.ratio_against_accuracy({"mine": table, "its teacher": teacher}, title="fc1"))
    (axis,) = figure.axes
    line, point = (container.lines[0] for container in axis.containers)
    assert line.get_xydata().tolist() == [[0.2, 0.3], [0.6, 0.7]], "the epoch of unknown accuracy is left out"
    assert point.get_xydata().tolist() == [[0.6, 0.7]]
    assert line.get_color() == style.ROLE_STYLES["student"].colour and line.get_marker() == "o"
    assert point.get_color() == style.ROLE_STYLES["teacher"].colour and point.get_marker() == "D"
    bars = axis.containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[0.2, 0.5], [0.6, 0.7]])
    assert [text.get_text() for text in axis.texts] == ["epoch 2", "epoch 5", "epoch 5"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["mine", "its teacher"]
    assert axis.get_ylim() == (0, 1)


# -- points_over_distance


def test_points_over_distance__marks_every_peak_their_mean_and_spread(table: pd.DataFrame) -> None:
    peaks = pd.DataFrame({"distance": [0.5, 0.5, 1.5, 1.5], "n_fg": [9, 3, 6, 8]})
    figure = drawn(render.points_over_distance({"mine": table}, {"mine": peaks}, title="fc1"))
    (axis,) = figure.axes
    dots, band = axis.collections[0], axis.patches[0]
    assert dots.get_offsets().tolist() == [[0.5, 9], [0.5, 3], [1.5, 6], [1.5, 8]]
    assert (band.get_x(), band.get_x() + band.get_width()) == (0.5, 1.5), (
        "mean 1 and population deviation 0.5"
    )
    level, curve = axis.lines
    assert set(level.get_xdata()) == {1.0} and level.get_linestyle() == "--"
    assert curve.get_xydata().tolist() == [[0, 1], [0.5, 5], [1.5, 4]]
    assert axis.get_title() == "mine: D_mean 1.00, D_std 0.50"


def test_points_over_distance__refuses_other_names(table: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="tables has mine, peaks yours"):
        render.points_over_distance({"mine": table}, {"yours": table}, title="")


def test_ratio_against_accuracy__without_accuracies_says_so(table: pd.DataFrame) -> None:
    figure = drawn(render.ratio_against_accuracy({"mine": table.assign(accuracy=np.nan)}, title=""))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no accuracy recorded in this run"]


# -- layer_curves


def test_layer_curves__object_and_background_of_every_calibration() -> None:
    columns = {"foreground": [-4.0, -3.0], "foreground_error": [0.1, 0.2]}
    columns |= {"background": [-3.5, -1.0], "background_error": [0.3, 0.4]}
    table = pd.DataFrame(columns, index=["conv1", "fc1"])
    figure = drawn(render.layer_curves({"loss": table, "mean": table + 1}, title="both"))
    loss, mean = figure.axes
    background, foreground = loss.containers
    assert background.lines[0].get_ydata().tolist() == [-3.5, -1.0] and background.get_label() == "background"
    assert foreground.lines[0].get_ydata().tolist() == [-4.0, -3.0] and foreground.get_label() == "foreground"
    bars = [segment[:, 1] for segment in foreground.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, [[-4.1, -3.9], [-3.2, -2.8]])
    assert mean.containers[1].lines[0].get_ydata().tolist() == [-3.0, -2.0]
    assert [label.get_text() for label in mean.get_xticklabels()] == ["conv1", "fc1"]
    assert loss.get_ylim() == mean.get_ylim(), "one axis for both"
