"""Pictures pixel by pixel, figures by the data in their axes."""

import io
import itertools
import subprocess
import sys
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kdviz import render
from kdviz.render import charts, layout, style

YELLOW = [240, 228, 66]  # FOREGROUND_COLOUR
PINK = [204, 121, 167]  # BACKGROUND_COLOUR
WHITE = [255, 255, 255]
BLACK = [0, 0, 0]


@pytest.fixture(autouse=True)
def pyplot_is_left_alone() -> Iterator[None]:
    assert plt.get_fignums() == []
    yield
    assert plt.get_fignums() == []


def grey(height: int, width: int, level: int = 200) -> np.ndarray:
    return np.full((height, width, 3), level, np.uint8)


def mask(count: int, *chosen: int) -> np.ndarray:
    found = np.zeros(count, bool)
    found[list(chosen)] = True
    return found


def grid(picture: np.ndarray, foreground: np.ndarray, rows: int, cols: int) -> render.GridCanvas:
    unit = np.arange(rows * cols)
    places = {"unit": unit, "row": unit // cols, "col": unit % cols}
    return render.GridCanvas(places, foreground, picture, rows=rows, cols=cols)


def draw_points(
    picture: np.ndarray, points: np.ndarray, foreground: np.ndarray, *, rows: int, cols: int, size: int = 240
) -> np.ndarray:
    return grid(picture, foreground, rows, cols).draw_points(points, size=size)


# -- draw_points


def test_draw_points__disc_on_the_object_diamond_on_the_background_rest_dimmed() -> None:
    # 2 x 2 cells of 80 pixels: object top row; points top left and bottom left
    drawn = draw_points(grey(8, 8), mask(4, 0, 2), mask(4, 0, 1), rows=2, cols=2, size=160)
    assert drawn.shape == (160, 160, 3) and drawn.dtype == np.uint8
    assert drawn[40, 40].tolist() == YELLOW
    assert drawn[120, 40].tolist() == PINK
    assert drawn[40, 120].tolist() == drawn[120, 120].tolist() == [80, 80, 80]  # 0.4 of 200
    assert (
        drawn[10, 10].tolist() == drawn[150, 10].tolist() == [200, 200, 200]
    )  # points' cells keep their light


def test_draw_points__disc_is_round_and_diamond_is_not() -> None:
    # radii 0.3 x 80 = 24 and, for as large a diamond, 30: (16, 16) off the centre is inside the circle
    # (22.6) and outside the diamond (32)
    drawn = draw_points(grey(8, 8), mask(4, 0, 3), mask(4, 0), rows=2, cols=2, size=160)
    assert drawn[40 + 16, 40 + 16].tolist() == YELLOW
    assert drawn[120 + 16, 120 + 16].tolist() == [200, 200, 200]
    assert drawn[120, 120 + 15].tolist() == PINK
    for r, c in ((40, 16), (40, 64), (16, 40), (120, 90), (120, 150), (150, 120)):
        assert drawn[r, c].tolist() == BLACK, "both have a black rim at their radius"


def test_draw_points__outline_runs_along_the_edge_of_the_object_only() -> None:
    # 3 x 3 cells of 40 pixels, the object a 2 x 2 block at the top left; no points
    drawn = draw_points(grey(9, 9), mask(9), mask(9, 0, 1, 3, 4), rows=3, cols=3, size=120)
    assert drawn[79, 20].tolist() == drawn[79, 60].tolist() == WHITE  # lower edge of the block
    assert drawn[20, 79].tolist() == drawn[60, 79].tolist() == WHITE  # right edge
    assert drawn[0, 20].tolist() == drawn[20, 0].tolist() == WHITE  # along the border of the picture
    dimmed = [80, 80, 80]
    assert drawn[40, 20].tolist() == drawn[20, 40].tolist() == drawn[40, 40].tolist() == dimmed  # inside
    assert drawn[80, 100].tolist() == drawn[100, 80].tolist() == drawn[119, 119].tolist() == dimmed  # outside
    # a line of one pixel: 4 sides of 80 pixels, corners shared
    assert np.count_nonzero((drawn == 255).all(axis=2)) == pytest.approx(4 * 80, abs=4)


def test_draw_points__grid_and_picture_need_not_be_square() -> None:
    # picture 20 x 50 -> 100 x 250; 2 x 5 cells of 50 x 50, the last of the first row a point
    picture = grey(20, 50)
    picture[:, :30] = 100
    drawn = draw_points(picture, mask(10, 4, 7), mask(10, 4), rows=2, cols=5, size=100)
    assert drawn.shape == (100, 250, 3)
    assert drawn[25, 225].tolist() == YELLOW  # row 0, column 4
    assert drawn[75, 125].tolist() == PINK  # row 1, column 2
    assert drawn[75, 225].tolist() == [80, 80, 80]  # row 1, column 4
    assert drawn[25, 25].tolist() == [40, 40, 40]
    assert drawn[55, 105].tolist() == [100, 100, 100]


def test_draw_points__cells_that_do_not_divide_the_picture_meet_without_gap() -> None:
    points = mask(9, 4)
    drawn = draw_points(grey(10, 10), points, mask(9, 0), rows=3, cols=3, size=100)
    bright = (drawn[:, 50] == 200).all(axis=1) | (drawn[:, 50] != 80).all(axis=1)
    # rows whose centre lies in 100/3 .. 200/3
    assert np.flatnonzero(bright).tolist() == list(range(33, 67))


def test_draw_points__one_cell_is_the_whole_picture() -> None:
    drawn = draw_points(grey(5, 5), mask(1, 0), mask(1, 0), rows=1, cols=1, size=50)
    assert drawn[25, 25].tolist() == YELLOW
    assert drawn[25, 25 + 17].tolist() == [200, 200, 200]
    assert drawn[0, 25].tolist() == drawn[25, 0].tolist() == WHITE
    nothing = draw_points(grey(5, 5), mask(1), mask(1), rows=1, cols=1, size=50)
    assert np.unique(nothing).tolist() == [80]


def test_draw_points__no_points_dims_everything_all_points_nothing() -> None:
    none = draw_points(grey(4, 4), mask(16), mask(16), rows=4, cols=4, size=80)
    assert np.unique(none).tolist() == [80]
    every = draw_points(grey(4, 4), ~mask(16), mask(16), rows=4, cols=4, size=80)
    assert not (every == 80).all(axis=2).any()
    centres = every[10::20, 10::20]
    assert (centres == PINK).all() and centres.shape == (4, 4, 3)


def test_draw_points__grey_picture_gives_the_same_as_its_three_equal_channels() -> None:
    one = np.random.default_rng(0).integers(0, 256, (6, 7), dtype=np.uint8)
    arguments = (mask(4, 1), mask(4, 1, 2))
    three = draw_points(np.stack([one] * 3, axis=2), *arguments, rows=2, cols=2)
    assert three.shape == (240, 280, 3)
    np.testing.assert_array_equal(draw_points(one, *arguments, rows=2, cols=2), three)


def test_draw_points__channels_first_of_0_to_1_give_the_same_as_bytes() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    arguments = (mask(4, 1), mask(4, 1, 2))
    floats = np.moveaxis(picture, 2, 0).astype(np.float32) / 255
    drawn = [draw_points(one, *arguments, rows=2, cols=2) for one in (picture, floats)]
    np.testing.assert_array_equal(*drawn)


def test_draw_points__leaves_the_picture_alone() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (240, 240, 3), dtype=np.uint8)
    before = picture.copy()
    drawn = draw_points(picture, ~mask(1), mask(1), rows=1, cols=1)
    np.testing.assert_array_equal(picture, before)
    np.testing.assert_array_equal(drawn[:28], before[:28])  # same size, far from the diamond: not resampled


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"picture": np.zeros((4, 4, 4), np.uint8)}, r"picture must be .* got \(4, 4, 4\), uint8"),
        ({"picture": np.zeros((1, 4, 4, 3), np.uint8)}, r"picture must be .* got \(1, 4, 4, 3\)"),
        ({"picture": np.zeros((4, 4, 3), np.float32)}, "picture must be .* float32"),
        ({"picture": np.full((3, 4, 4), np.nan)}, r"of 0 to 1; got \(3, 4, 4\), float64"),
        ({"picture": np.full((3, 4, 4), -0.1)}, r"\(3, H, W\) of 0 to 1; got \(3, 4, 4\), float64"),
        ({"points": mask(5)}, r"points has shape \(5,\), the sample needs \(4,\)"),
        ({"points": mask(4).reshape(2, 2)}, r"points has shape \(2, 2\)"),
        ({"points": np.zeros(4, np.float32)}, "points must be bool, got float32"),
    ],
)
def test_draw_points__refuses_what_does_not_fit(changes: dict, message: str) -> None:
    arguments = {"picture": grey(4, 4), "points": mask(4), "foreground": mask(4), **changes}
    with pytest.raises(ValueError, match=message):
        draw_points(**arguments, rows=2, cols=2)


# -- count_curves


def counts(role: str, epochs: list[int], n_fg: list[float]) -> pd.DataFrame:
    values = np.array(n_fg)
    columns = {"role": role}
    for name, scale in (("n_fg", 1), ("n_bg", 0.5), ("fg_ratio", 0.1)):
        columns |= {
            name: values * scale,
            f"{name}_low": values * scale - 0.1,
            f"{name}_high": values * scale + 0.2,
        }
    return pd.DataFrame(columns, index=pd.Index(epochs, name="epoch"))


@pytest.fixture
def curves() -> Figure:
    networks = {
        "teacher": [counts("teacher", [16], [7.0])],
        "student": [
            counts("student", [0, 2, 5], [1, 4, 6]),
            counts("student", [0, 2, 5], [1, 5, 8]),
        ],
        "baseline": [counts("baseline", [0, 2, 5], [1, 2, 3])],
    }
    return render.count_curves(networks, title="fc1")


def test_count_curves__lines_hold_the_counts_and_the_teacher_is_a_dashed_level(curves: Figure) -> None:
    assert curves.get_suptitle() == "fc1"
    assert len(curves.axes) == 3
    for axis, scale in zip(curves.axes, (1, 0.5, 0.1), strict=True):
        level, *networks = axis.lines
        assert level.get_linestyle() == "--" and set(level.get_ydata()) == {7.0 * scale}
        assert [line.get_xdata().tolist() for line in networks] == [[0, 2, 5]] * 3
        expected = [np.array(row) * scale for row in ([1, 4, 6], [1, 5, 8], [1, 2, 3])]
        np.testing.assert_array_equal([line.get_ydata() for line in networks], expected)
        colours = [style.ROLE_STYLES[role].colour for role in ("student", "student", "baseline")]
        assert [line.get_color() for line in networks] == colours
        assert [line.get_marker() for line in networks] == ["o", "o", "s"]


def test_count_curves__have_one_axis_of_epochs_where_a_ratio_begins_undefined() -> None:
    table = make_trace("student", [0, 2, 5], [0, 6, 4]).counts
    table.loc[0, ["fg_ratio", "fg_ratio_low", "fg_ratio_high"]] = np.nan
    first, *others = render.count_curves({"student": [table]}, title="fc1").axes
    assert first.get_xlim()[0] < 0 < 5 < first.get_xlim()[1]
    assert all(axis.get_xlim() == first.get_xlim() for axis in others)


def test_count_curves__band_spans_the_uncertain_units(curves: Figure) -> None:
    bands = [band.get_paths()[0].vertices for band in curves.axes[0].collections]
    assert len(bands) == 3  # none for the teacher's level
    for band, values in zip(bands, ([1, 4, 6], [1, 5, 8], [1, 2, 3]), strict=True):
        for epoch, value in zip((0, 2, 5), values, strict=True):
            at_epoch = band[band[:, 0] == epoch, 1]
            assert at_epoch.min() == pytest.approx(value - 0.1) and at_epoch.max() == pytest.approx(
                value + 0.2
            )


def test_count_curves__every_network_is_named_once_and_limits_are_fixed(curves: Figure) -> None:
    labels = [text.get_text() for text in curves.legends[0].get_texts()]
    assert labels == ["teacher", "student", "baseline"]
    assert [axis.get_xlabel() for axis in curves.axes] == ["epoch"] * 3
    assert [axis.get_ylim()[0] for axis in curves.axes] == [0, 0, 0]
    assert curves.axes[2].get_ylim() == (0, 1)


# -- difference_dots


def differences(**changes: object) -> pd.DataFrame:
    table = pd.DataFrame(
        [
            ("n_fg", "conv", 0, 3.0, 1.0, 4.0, 1),
            ("n_fg", "conv", 1, -2.0, -2.5, -1.0, 1),
            ("n_fg", "fc1", 0, 1.0, 0.5, 2.0, 1),
            ("n_bg", "conv", 0, -1.0, -2.0, 0.0, -1),
        ],
        columns=[
            "metric",
            "layer",
            "seed",
            "difference",
            "difference_low",
            "difference_high",
            "supporting_sign",
        ],
    )
    return table.assign(**changes)


def test_difference_dots__one_panel_a_metric_one_dot_a_seed() -> None:
    figure = render.difference_dots(differences(), title="who is ahead")
    assert figure.get_suptitle() == "who is ahead"
    assert [axis.get_title() for axis in figure.axes] == ["n_fg", "n_bg"]
    n_fg, n_bg = figure.axes
    dots = [container.lines[0] for container in n_fg.containers]
    assert [dot.get_ydata().tolist() for dot in dots] == [[3.0, -2.0], [1.0]]
    np.testing.assert_allclose(np.concatenate([dot.get_xdata() for dot in dots]), [-0.08, 0.08, 1])
    assert [text.get_text() for text in n_fg.get_xticklabels()] == ["conv", "fc1"]
    assert [text.get_text() for text in n_bg.get_xticklabels()] == ["conv"]


def test_difference_dots__bars_are_the_intervals() -> None:
    bars = render.difference_dots(differences(), title="").axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([bar[:, 1] for bar in bars], [[1.0, 4.0], [-2.5, -1.0]])


def test_difference_dots__limits_are_symmetric_and_the_supporting_half_is_shaded() -> None:
    for axis, sign in zip(render.difference_dots(differences(), title="").axes, (1, -1), strict=True):
        low, high = axis.get_ylim()
        assert low == -high and high >= (4.0 if sign > 0 else 2.0)
        (shade,) = axis.patches
        bottom, top = shade.get_y(), shade.get_y() + shade.get_height()
        assert (bottom, top) == ((0, high) if sign > 0 else (low, 0))
        assert shade.get_facecolor()[:3] == to_rgb("#009E73")


def test_difference_dots__undefined_differences_leave_the_panel_empty_but_whole() -> None:
    nothing = differences(difference=np.nan, difference_low=np.nan, difference_high=np.nan)
    figure = render.difference_dots(nothing, title="")
    assert all(np.isfinite(axis.get_ylim()).all() and axis.get_ylim()[1] > 0 for axis in figure.axes)
    figure.savefig(io.BytesIO(), format="png")


def test_difference_dots__metrics_that_are_undefined_everywhere_are_left_out_beside_others() -> None:
    table = differences()
    table.loc[table["metric"] == "n_bg", "difference"] = np.nan
    assert [axis.get_title() for axis in render.difference_dots(table, title="").axes] == ["n_fg"]


def test_difference_dots__long_names_do_not_overlap() -> None:
    names = [f"{loss} at classifier.fc1" for loss in ("attention", "contrast", "features", "hint")]
    table = pd.concat([differences().head(1).assign(layer=name) for name in names])
    figure = render.difference_dots(table, title="")
    figure.savefig(io.BytesIO(), format="png")
    (axis,) = figure.axes
    ends = [label.get_window_extent().get_points() for label in axis.get_xticklabels()]
    assert min(end[0, 1] for end in ends) >= 0, "nothing is cut off below"
    assert all(one[1, 0] < other[0, 0] for one, other in itertools.pairwise(ends)), "one beside the other"


# -- without matplotlib


def test_render__without_matplotlib_names_the_extra() -> None:
    code = "import sys; sys.modules['matplotlib'] = None; import kdviz.render"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "kdviz.errors.MissingExtraError: pictures need matplotlib: install kdviz[view]"
    )


# -- draw_detours


BLUE = [86, 180, 233]  # DROPPED_COLOUR


def test_draw_detours__disc_for_held_cross_for_dropped_nothing_on_the_background() -> None:
    drawn = grid(grey(8, 8), mask(4, 0, 1), 2, 2).draw_detours(mask(4, 0, 2), mask(4, 1), size=160)
    assert drawn[40, 40].tolist() == YELLOW
    assert drawn[40, 120].tolist() == BLUE  # where the strokes of the cross meet
    assert drawn[40 - 12, 120 + 12].tolist() == drawn[40 + 12, 120 + 12].tolist() == BLUE
    assert drawn[40, 120 + 12].tolist() == [200, 200, 200]  # a cross is no disc; the cell keeps its light
    assert drawn[120, 40].tolist() == [80, 80, 80]  # a point on the background is left out


# -- draw_values


def values_picture(
    values: list[float], *, opacity: float = 1.0, limits: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    canvas = grid(grey(8, 8, 100), mask(4), 2, 2)
    looks = render.Looks(opacity=opacity)
    return canvas.draw_values(values, render.Scale(limits, "gray"), looks=looks, size=160)


def test_draw_values__ends_of_the_scale_beyond_them_and_nan() -> None:
    drawn = values_picture([0.0, 1.0, 7.0, np.nan], opacity=1.0)
    assert drawn[40, 40].tolist() == BLACK
    assert drawn[40, 120].tolist() == drawn[120, 40].tolist() == WHITE
    assert drawn[120, 120].tolist() == [100, 100, 100]


def test_draw_values__opacity_mixes_with_the_picture() -> None:
    half = values_picture([0.0, 1.0, 0.0, 0.0], opacity=0.5)
    assert half[40, 40].tolist() == [50, 50, 50]
    assert abs(half[40, 120].astype(int) - 177).max() <= 1
    none = values_picture([0.0, 1.0, 0.0, 0.0], opacity=0.0)
    assert (none == 100).all()


def test_draw_values__colours_of_the_picture_fade_under_those_of_values() -> None:
    picture = np.full((8, 8, 3), (88, 60, 32), np.uint8)  # of mean 60
    half = grid(picture, mask(4), 2, 2).draw_values(
        [0.0, 1.0, 0.0, np.nan], render.Scale((0.0, 1.0), "gray"), render.Looks(opacity=0.5), 160
    )
    assert half[40, 40].tolist() == [37, 30, 23], "half way to grey, then half way to black"
    assert half[120, 120].tolist() == [88, 60, 32]


def test_draw_values__refuses_limits_that_do_not_increase_and_wrong_shapes() -> None:
    with pytest.raises(ValueError, match=r"limits are 1.0 and 1.0; the first must be below"):
        values_picture([0.0] * 4, limits=(1.0, 1.0))
    with pytest.raises(ValueError, match=r"values has shape \(3,\), the sample needs \(4,\)"):
        values_picture([0.0, 0.0, 0.0])


# -- files, thumbnails, views


def test_encode_png__keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    assert np.array_equal(plt.imread(io.BytesIO(layout.encode_png(picture))) * 255, picture)


def test_colour_stops__from_end_to_end() -> None:
    assert layout.colour_stops("gray", 3) == ["#000000", "#808080", "#ffffff"]


def make_trace(role: str, epochs: list[int], n_fg: list[int], **details: object) -> charts.Trace:
    mean = np.array(n_fg, float)
    columns = {f"{name}{end}": mean for name in ("n_fg", "n_bg") for end in ("", "_low", "_high")}
    ratios = {f"fg_ratio{end}": np.full(len(epochs), 0.5) for end in ("", "_low", "_high")}
    table = pd.DataFrame(columns | ratios, index=pd.Index(epochs, name="epoch")).assign(role=role)
    return charts.Trace(
        f"{role}-s0",
        style.style_networks({role: role})[role],
        table,
        np.array([0.0, 1.0, 1.0, np.nan]),
        n_fg=np.array(n_fg),
        **details,
    )


def test_view_charts__cursor_threshold_peak_and_place() -> None:
    student = make_trace(
        "student", [0, 2, 5], [1, 6, 4], cutoff=0.25, distance=np.array([0.0, 0.5, 1.5]), peak_epoch=2
    )
    teacher = make_trace("teacher", [9], [8], cutoff=np.nan)
    shown = charts.Charts([teacher, student], 3, "nat", render.CloudCanvas.vocabulary)
    counts, _, _, distance, histogram = charts.view_charts(shown).axes
    level, curve, cursor = counts.lines
    assert level.get_ydata()[0] == 8 and level.get_linestyle() == "--"
    assert curve.get_xdata().tolist() == [0, 2, 5] and curve.get_ydata().tolist() == [1, 6, 4]
    assert cursor.get_xdata()[0] == 3
    path, now, peak = distance.lines
    assert path.get_xydata().tolist() == [[0, 1], [0.5, 6], [1.5, 4]]
    assert now.get_xydata().tolist() == [[0.5, 6]]  # epoch 3 is not stored: the one before
    assert peak.get_xydata().tolist() == [[0.5, 6]] and peak.get_marker() == "*"
    cutoffs = [line.get_xdata()[0] for line in histogram.lines]
    np.testing.assert_array_equal(cutoffs, [np.nan, 0.25])  # a line at NaN is not seen
    assert histogram.get_xlabel() == "nat" and distance.get_title() == "its points on the object"


def test_view_charts__without_counts_shows_the_histogram_alone() -> None:
    trace = charts.Trace(
        "teacher", style.style_networks({"teacher": "teacher"})["teacher"], None, np.array([0.0, 1.0])
    )
    shown = charts.Charts([trace], 3, "nat", render.CloudCanvas.vocabulary)
    (histogram,) = charts.view_charts(shown).axes
    assert histogram.get_title() == "points of this cloud"


def test_view_figure__holds_input_panels_headings_and_charts() -> None:
    panels = {"kept": grey(4, 4, 10), "points": grey(4, 4, 20)}
    trace = make_trace("student", [0, 2], [1, 6])
    figure = layout.view_figure(
        grey(4, 4, 30),
        {"student, epoch 2\n6 object\n2 background": panels},
        charts.Charts([trace], 2, "nat", render.GridCanvas.vocabulary),
        title="a bird",
        note="threshold 0.2",
    )
    pictures = [axis.images[0].get_array()[0, 0, 0] for axis in figure.axes if axis.images]
    assert pictures == [30, 10, 20]
    svg = layout.encode_figure(figure, "svg").decode()
    assert svg.startswith("<?xml") and len(layout.encode_figure(figure)) > 1000
    texts = {text.get_text() for text in figure.findobj(lambda one: hasattr(one, "get_text"))}
    assert {"a bird", "student, epoch 2\n6 object\n2 background", "kept", "points"} <= texts
    assert "threshold 0.2" in texts
