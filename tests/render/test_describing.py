"""The text alternative of a figure names what is drawn in it, and comes with it wherever it is shown."""

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_figures import make, places

from kdviz import render


@pytest.fixture
def networks() -> dict[str, xr.Dataset]:
    return {"teacher": make("image"), "student\nepoch 0": make("image", 1).sel(epoch=0)}


def count(ds: xr.Dataset, name: str) -> tuple[int, int]:
    one = ds.isel(epoch=-1) if "epoch" in ds.dims else ds
    found, inside = (one[key].sel(sample=name).values for key in ("knowledge_point", "foreground"))
    return int((found & inside).sum()), int((found & ~inside).sum())


def test_describe_figure__names_columns_rows_and_counts_of_pictures(networks: dict) -> None:
    told = render.describe_figure(render.plot_points(networks, title="after the last epoch, at fc1"))
    first, second = ([count(ds, name) for ds in networks.values()] for name in "ab")
    assert told == (
        "after the last epoch, at fc1. Pictures in 3 columns: input; teacher; student epoch 0. "
        f"Row a. teacher: {first[0][0]} object, {first[0][1]} background; "
        f"student epoch 0: {first[1][0]} object, {first[1][1]} background. "
        f"Row b. teacher: {second[0][0]} object, {second[0][1]} background; "
        f"student epoch 0: {second[1][0]} object, {second[1][1]} background. "
        "disc: knowledge point on the object; diamond: on the background; white line: edge of the object."
    )


def test_describe_figure__tells_the_ends_of_a_common_scale(networks: dict) -> None:
    told = render.describe_figure(render.plot_entropy(networks))
    shown = [
        ds["entropy"].isel(epoch=-1) if "epoch" in ds.dims else ds["entropy"] for ds in networks.values()
    ]
    low, high = (
        f"{end(map(float, map(end_of, shown))):.2g}" for end, end_of in ((min, np.min), (max, np.max))
    )
    assert f"Row a. Row b. Colours: entropy in nat (high: discarded), from {low} to {high}." in told


def test_describe_figure__bars_below_columns_are_no_charts() -> None:
    dims = ("attribution_method", "epoch", "sample", "unit")
    maps = xr.Dataset(
        {"attribution": (dims, np.linspace(0, 1, 16).reshape(2, 1, 2, 4))},
        coords={
            "attribution_method": ["grad_cam", "occlusion"], "epoch": [7], "sample": ["a", "b"],
            "unit": np.arange(4), "valid": (("sample", "unit"), np.ones((2, 4), bool)), **places("image"),
        },
    )  # fmt: skip
    told = render.describe_figure(render.plot_maps({"entropy": make("image"), "mine": maps}))
    assert told == "Pictures in 4 columns: input; entropy; grad cam; occlusion. Row a. Row b."


def differences(metrics: dict[str, dict[str, list[tuple[float, float, float]]]]) -> Figure:
    """Draw by metric and layer what difference each seed has, with its ends."""
    rows = [
        {"metric": metric, "layer": layer, "seed": seed, "supporting_sign": 1}
        | dict(zip(["difference", "difference_low", "difference_high"], ends, strict=True))
        for metric, layers in metrics.items()
        for layer, seeds in layers.items()
        for seed, ends in enumerate(seeds)
    ]
    return render.difference_dots(pd.DataFrame(rows), title="seed by seed")


def test_describe_figure__says_once_what_charts_share_and_which_intervals_lie_clear_of_0() -> None:
    clear, below, across = (0.3, 0.1, 0.5), (-2.0, -3.0, -1.0), (0.3, 0.0, 0.6)  # 0.3 - (0.3 - 0) is not 0
    single = {"conv": [(4.0, np.nan, np.nan)], "fc1": [(np.nan,) * 3]}
    told = render.describe_figure(
        differences({"n_fg": {"conv": [clear, across], "fc1": [below]}, "rho": single})
    )
    assert told == (
        "seed by seed. 2 charts of student minus baseline over conv, fc1: "
        "n_fg (above 0: conv +0.30 (0.10 to 0.50); below 0: fc1 -2.0 (-3.0 to -1.0); "
        "not clear of 0: conv +0.30 (0.00 to 0.60)); rho (without interval: conv +4.0)."
    )


def test_describe_figure__counts_intervals_that_are_too_many_to_be_listened_to() -> None:
    seeds = [(1.0 + at, 0.5, 30.0) for at in range(20)] + [(-1.0, -2.0, 1.0)] * 5
    told = render.describe_figure(differences({"n_fg": {"conv": seeds, "fc1": [(-1.0, -2.0, -0.5)]}}))
    assert told.endswith(
        "n_fg (conv: 20 above 0, 5 not clear of 0, from -1.0 to 20; fc1: 1 below 0, from -1.0 to -1.0)."
    )
    many = {f"l{at}": [(1.0, 0.5, 30.0)] for at in range(25)}
    assert render.describe_figure(differences({"n_fg": many})).endswith("n_fg (25 above 0, from 1.0 to 1.0).")


def draw_rows(**look: object) -> tuple[Figure, Axes]:
    figure = Figure()
    axis = figure.subplots()
    axis.errorbar([0.5, -2.0], [0, 1.1], xerr=0.25, fmt="s", color="red", **look)
    axis.set_yticks([0, 1], ["conv", "fc1"])
    axis.set_xlabel("x")
    return figure, axis


def test_describe_figure__tells_intervals_by_row_and_line_where_0_is_marked_only() -> None:
    figure, axis = draw_rows()
    assert render.describe_figure(figure) == "Chart of conv, fc1 over x."  # shares, say
    axis.axvline(0)
    assert render.describe_figure(figure) == (
        "Chart of conv, fc1 over x: above 0: conv +0.50 (0.25 to 0.75); below 0: fc1 -2.00 (-2.25 to -1.75)."
    )
    axis.errorbar([np.nan, 1.0], [0, 1], xerr=[[1, 1], [1, 2]], fmt="o", color="blue")
    axis.plot([], [], "o", color="blue", label="kl")
    axis.plot([], [], "s", color="red", label="hint")
    axis.legend()
    assert "above 0: conv hint +0.50 (0.25 to 0.75), fc1" not in (told := render.describe_figure(figure))
    assert "not clear of 0: fc1 kl +1.0 (0.0 to 3.0). Lines: kl, hint." in told
    axis.plot([], [], "o", color="blue", label="kl as well")
    axis.legend()
    assert "not clear of 0: fc1 +1.0 (0.0 to 3.0)" in render.describe_figure(figure)


def test_describe_figure__tells_no_interval_that_it_cannot_read() -> None:
    plain = "Chart of conv, fc1 over x."
    figure, axis = draw_rows(xuplims=True)  # an arrow: who knows how far
    axis.axvline(0)
    assert render.describe_figure(figure) == plain
    figure, axis = draw_rows(yerr=0.1)
    axis.axvline(0)
    assert render.describe_figure(figure) == plain
    figure, axis = draw_rows()
    axis.axvline(0)
    axis.errorbar([1.0], [1.5], xerr=1)  # between rows
    assert render.describe_figure(figure) == plain
    figure, axis = draw_rows()
    axis.axvline(0.1)
    axis.axhline(0)
    assert render.describe_figure(figure) == plain
    figure, axis = draw_rows()
    axis.axvline(0)
    axis.containers[0].lines[0].remove()
    assert render.describe_figure(figure) == plain


def test_describe_figure__reads_charts_beside_each_other_and_figures_within() -> None:
    columns = {"dataset": "a", "network": "n", "teacher_network": "", "layer": "fc1", "supporting_sign": 1}
    rows = [
        columns | {"setting": setting, "metric": metric, "difference": 2.0, "low": low, "high": 3.0}
        for metric in ("n_fg", "rho")
        for setting, low in (("one", 1.0), ("two", -1.0))
    ]
    figure = render.arms_chart(pd.DataFrame(rows).assign(printed_difference=np.nan), title="arms")
    outcome = "(above 0: one +2.0 (1.0 to 3.0); not clear of 0: two +2.0 (-1.0 to 3.0))"
    assert f"2 charts of one, two: n_fg {outcome}; rho {outcome}." in render.describe_figure(figure)
    figure = Figure()
    inner = figure.subfigures(1, 2)[1].subfigures(2, 1)[0]
    axis = inner.subplots()
    axis.plot([0, 1], [1, 2], label="mine")
    inner.legend()
    assert "mine from 1.0 to 2.0. Lines: mine." in render.describe_figure(figure)


def test_describe_figure__names_the_lines_of_charts_and_what_stands_in_a_title() -> None:
    names = [f"{name}{end}" for name in ("n_fg", "n_bg", "fg_ratio") for end in ("", "_low", "_high")]
    table = pd.DataFrame(
        {"role": "student", **{name: [1.0, 4.0] for name in names}, "weight_distance": [0.0, 1.5]},
        index=pd.Index([0, 5], name="epoch"),
    )
    told = render.describe_figure(render.count_curves({"mine": [table], "its twin": [table]}, title="fc1"))
    assert told == (
        "fc1. 3 charts over epoch: points on the foreground; points on the background; "
        "share on the foreground. "
        "Lines: mine, its twin."
    )
    peaks = pd.DataFrame({"distance": [0.5, 1.5], "n_fg": [3, 6]})
    both = {"mine": table, "its twin": table}
    told = render.describe_figure(render.points_over_distance(both, dict.fromkeys(both, peaks), title="fc1"))
    assert told == (
        "fc1. 2 charts of knowledge points on the foreground over weight distance: "
        "mine: D_mean 1.00, D_std 0.50; its twin: D_mean 1.00, D_std 0.50."
    )


def test_describe_figure__lists_rows_of_a_table_and_cuts_long_lists_short() -> None:
    names = [f"m{index}" for index in range(30)]
    table = pd.DataFrame(np.zeros((30, 2)), index=names, columns=["model.conv", "model.fc"])
    told = render.describe_figure(render.similarity_table(table, title="ranks"))
    assert told.startswith("ranks. Chart of m0, m1,") and told.endswith("m23 and 6 more over conv, fc.")


def test_describe_figure__tells_where_lines_end_and_levels_lie() -> None:
    names = [f"{name}{end}" for name in ("n_fg", "n_bg", "fg_ratio") for end in ("", "_low", "_high")]
    found = {
        "finished": ([7.0], [9]),
        "watched": ([0.25, 3.5], [0, 9]),
        "late": ([np.nan, 0.5, 0.75], [0, 4, 9]),
    }
    tables = {
        key: [pd.DataFrame({"role": "student", **dict.fromkeys(names, values)}, pd.Index(at, name="epoch"))]
        for key, (values, at) in found.items()
    }
    tables["finished"] += [table + 1 for table in [tables["finished"][0].drop(columns="role")]]
    told = render.describe_figure(render.count_curves(tables, title="fc1"))
    assert (
        "points on the background (finished 7.0; finished 8.0; watched from 0.25 to 3.5; "
        "late from 0.50 to 0.75);" in told
    )


def test_describe_figure__names_no_line_that_looks_like_another() -> None:
    figure = Figure()
    one, other = figure.subplots(1, 2)
    for axis, name in ((one, "a"), (other, "b")):
        axis.plot([0, 1], [1, 2], color="red")
        axis.plot([], [], color="red", label=name)
        axis.legend()
        axis.set_xlabel("x")
    assert render.describe_figure(figure) == "2 charts over x. Lines: a, b."
    figure = Figure()
    axis = figure.subplots()
    axis.plot([0, 1], [0.2, 0.7], label="c")
    axis.axvline(0.5, label="cut")
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="x")
    assert render.describe_figure(figure) == "Chart over x: c from 0.20 to 0.70."


def test_describe_figure__tells_the_cells_of_a_table() -> None:
    table = pd.DataFrame(
        {"moved": [0, 2, 3], "compared": [4, 6, 5]},
        index=pd.MultiIndex.from_tuples(
            [("entropy", "x4", "between"), ("grad_cam", "x4", "after"), ("grad_cam", "x4", "between")],
            names=["method", "factor", "place"],
        ),
    )
    told = render.describe_figure(render.coherency_chart(table, title="what moved"))
    assert told == (
        "what moved. Chart of entropy, grad cam over between them, after them: "
        "a layer by 4 (entropy: between them 0 of 4; grad cam: between them 3 of 5, after them 2 of 6)."
    )
    figure = Figure()
    axis = figure.subplots()
    axis.imshow(np.eye(2))
    for place in ((0, 0), (-1, 5), (np.nan, 1)):  # a note on a picture is no cell
        axis.text(*place, "note")
    axis.set_xlabel("x")
    assert render.describe_figure(figure) == "Chart over x."
    axis.set_xticks([0, 1], ["left", "right"])
    axis.set_yticks([0, 1], ["up", "down"])
    assert render.describe_figure(figure) == "Chart of up, down over x (left, right): up: left note."


def test_describe_figure__tells_no_places_of_rows_as_values() -> None:
    figure = Figure()
    axes = figure.subplots(1, 2)
    for axis in axes:
        axis.plot([0.5, -2.0], [0.1, 1.1], "s", color="red", label="here")
        axis.set_xlabel("difference")
    axes[0].set_yticks([0, 1], ["conv", "fc1"])
    axes[1].set_yticks([0, 1], ["", ""])
    assert render.describe_figure(figure) == "2 charts of conv, fc1 over difference."


def test_describe_figure__keeps_numbers_to_itself_that_nobody_would_listen_to() -> None:
    names = [f"{name}{end}" for name in ("n_fg", "n_bg", "fg_ratio") for end in ("", "_low", "_high")]
    index = pd.Index([0, 9], name="epoch")
    many = {  # 27 lines
        f"network {at}": [
            pd.DataFrame({"role": "student", **{name: [1.0, at] for name in names}}, index=index)
        ]
        for at in range(9)
    }
    assert "from" not in render.describe_figure(render.count_curves(many, title="fc1"))


def test_figure__brings_its_description_to_notebooks(networks: dict) -> None:
    figure = render.plot_points(networks, title="fc1")
    _, metadata = InteractiveShell.instance().display_formatter.format(figure)
    assert metadata["alt"] == render.describe_figure(figure) and re.match(
        r"fc1\. Pictures in", metadata["alt"]
    )
