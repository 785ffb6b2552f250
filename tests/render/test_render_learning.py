"""Figures of learning and of layers, by the data in their axes."""

import itertools
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from kdviz import render
from kdviz.render.panels import outline_object


@pytest.fixture(autouse=True)
def pyplot_is_left_alone() -> Iterator[None]:
    yield
    assert plt.get_fignums() == []


def mask(count: int, *chosen: int) -> np.ndarray:
    found = np.zeros(count, bool)
    found[list(chosen)] = True
    return found


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
    assert line.get_color() == render.ROLE_COLOURS["student"] and line.get_marker() == "o"
    assert point.get_color() == render.ROLE_COLOURS["teacher"] and point.get_marker() == "D"
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


# -- detour_panels


def panels(**changes: object) -> Figure:
    arguments = {
        "pictures": [np.full((8, 16, 3), 200, np.uint8)],
        "kept": [[mask(8, 0, 5), mask(8)]],
        "dropped": [[mask(8, 1), mask(8, 0, 1, 2)]],
        "foreground": [mask(8, 0, 1, 5)],
        "rows": 2,
        "cols": 4,
        "columns": ["student", "baseline"],
        "names": ["bird"],
    } | changes
    return render.detour_panels(**arguments)


def test_detour_panels__lay_out_what_draw_detours_draws() -> None:
    figure = drawn(panels())
    shown, student, baseline = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["input", "student", "baseline"]
    grid = {"rows": 2, "cols": 4}
    picture, on_object = np.full((8, 16, 3), 200, np.uint8), mask(8, 0, 1, 5)
    expected = [
        render.draw_detours(picture, mask(8, 0, 5), mask(8, 1), on_object, **grid),
        render.draw_detours(picture, mask(8), mask(8, 0, 1, 2), on_object, **grid),
    ]
    for axis, one in zip((student, baseline), expected, strict=True):
        np.testing.assert_array_equal(axis.images[0].get_array(), one)
    assert student.get_xlabel() == "2 kept, 1 dropped" and baseline.get_xlabel() == "0 kept, 3 dropped"
    assert shown.get_ylabel() == "bird"
    np.testing.assert_array_equal(shown.images[0].get_array(), picture)


def test_outline_object__runs_around_the_object() -> None:
    axis = Figure().subplots()
    outline_object(axis, mask(8, 0, 1, 5).reshape(2, 4))
    (outline,) = axis.collections
    edges = {frozenset(map(tuple, segment.tolist())) for segment in outline.get_segments()}
    # cells (0, 0), (0, 1) and (1, 1): eight edges, none between neighbours
    corners = [(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 2), (1, 1), (0, 1), (0, 0)]
    assert edges == {frozenset(pair) for pair in itertools.pairwise(corners)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kept": [[mask(6), mask(6)]]}, r"points has shape \(6,\), a grid of 2 x 4 needs \(8,\)"),
        ({"dropped": [[mask(8).astype(int), mask(8)]]}, "dropped must be bool"),
        ({"names": ["bird", "cat"]}, "zip"),
        ({"columns": ["student"]}, "zip"),
        ({"pictures": [np.zeros((8, 16, 3))]}, "uint8"),
    ],
)
def test_detour_panels__refuses_what_does_not_fit(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        panels(**changes)


# -- entropy_panels, layer_curves


def test_entropy_panels__all_layers_share_one_colour_scale() -> None:
    entropy = np.array([[np.arange(8) - 8.0, np.full(8, -2.0)], [np.full(8, -4.0), np.full(8, np.nan)]])
    figure = drawn(
        render.entropy_panels(
            [np.zeros((8, 16, 3), np.uint8)] * 2,
            entropy,
            [mask(8, 0)] * 2,
            rows=2,
            cols=4,
            columns=["conv1", "fc1"],
            names=["bird", "cat"],
            title="all",
        )
    )
    maps = [axis.images[-1] for axis in figure.axes if len(axis.images) == 2]
    assert [(image.norm.vmin, image.norm.vmax) for image in maps] == [(-8.0, -1.0)] * 4
    np.testing.assert_array_equal(maps[0].get_array(), [[-8, -7, -6, -5], [-4, -3, -2, -1]])
    np.testing.assert_array_equal(maps[1].get_array(), np.full((2, 4), -2.0))
    assert [axis.get_title() for axis in figure.axes[:3]] == ["input", "conv1", "fc1"]
    assert figure.axes[-1].get_ylabel() == "entropy in nat (high: discarded)"


@pytest.mark.parametrize(
    ("entropy", "message"),
    [
        (np.zeros((1, 1, 6)), r"entropy has shape \(1, 1, 6\).* need \(1, 1, 8\)"),
        (np.full((1, 1, 8), np.nan), "holds no number"),
    ],
)
def test_entropy_panels__refuses_what_does_not_fit(entropy: np.ndarray, message: str) -> None:
    picture = np.zeros((8, 16, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        render.entropy_panels(
            [picture], entropy, [mask(8)], rows=2, cols=4, columns=["fc1"], names=["bird"], title=""
        )


def test_layer_curves__object_and_background_of_every_calibration() -> None:
    columns = {"foreground": [-4.0, -3.0], "foreground_error": [0.1, 0.2]}
    columns |= {"background": [-3.5, -1.0], "background_error": [0.3, 0.4]}
    table = pd.DataFrame(columns, index=["conv1", "fc1"])
    figure = drawn(render.layer_curves({"loss": table, "mean": table + 1}, title="both"))
    loss, mean = figure.axes
    background, foreground = loss.containers
    assert background.lines[0].get_ydata().tolist() == [-3.5, -1.0] and background.get_label() == "background"
    assert foreground.lines[0].get_ydata().tolist() == [-4.0, -3.0] and foreground.get_label() == "object"
    bars = [segment[:, 1] for segment in foreground.lines[2][0].get_segments()]
    np.testing.assert_allclose(bars, [[-4.1, -3.9], [-3.2, -2.8]])
    assert mean.containers[1].lines[0].get_ydata().tolist() == [-3.0, -2.0]
    assert [label.get_text() for label in mean.get_xticklabels()] == ["conv1", "fc1"]
    assert loss.get_ylim() == mean.get_ylim(), "one axis for both"
