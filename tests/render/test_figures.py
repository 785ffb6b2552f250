"""Figures over canvases: every panel is what the canvas draws, for each kind of unit."""

import re
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from kdviz import render
from kdviz.render import layout, style, writing

UNIT, NAMES = np.arange(4), ["a", "b"]
VALID = np.array([[True] * 4, [True, True, True, False]])
INSIDE = np.array([[True, True, False, False], [False, True, True, False]])
KINDS = ("image", "text", "cloud")


def places(kind: str) -> dict:
    if kind == "image":
        return {"row": ("unit", UNIT // 2), "col": ("unit", UNIT % 2)}
    if kind == "text":
        return {
            "token": (
                ("sample", "unit"),
                np.array([["a", "fine", "old", "film"], ["so", "very", "dull", ""]]),
            )
        }
    points = np.random.default_rng(0).normal(size=(3, 2, 4))
    return {axis: (("sample", "unit"), one) for axis, one in zip("xyz", points, strict=True)}


def make(kind: str, seed: int = 0) -> xr.Dataset:
    """Two samples, two epochs; images have no padding."""
    generator, dims = np.random.default_rng(seed), ("epoch", "sample", "unit")
    valid = VALID | (kind == "image")
    entropy = generator.normal(-3, 1, (2, 2, 4)).round(2)
    return xr.Dataset(
        {
            "valid": (("sample", "unit"), valid),
            "foreground": (("sample", "unit"), INSIDE),
            "entropy": (dims, np.where(valid, entropy, np.nan)),
            "knowledge_point": (dims, generator.random((2, 2, 4)) > 0.5),
        },
        coords={"sample": NAMES, "unit": UNIT, "epoch": [0, 7], **places(kind)},
    )


def canvas_of(kind: str, ds: xr.Dataset, at: int) -> render.Canvas:
    return render.choose_kind(ds).of(ds, ds, at, INSIDE[at])


def panels(figure: Figure, columns: int) -> np.ndarray:
    return np.array(figure.axes[: 2 * columns]).reshape(2, columns)


def assert_shows(axis: plt.Axes, panel: render.Panel) -> None:
    if isinstance(panel, writing.Text):
        written = [one.get_text() for one in axis.artists + axis.texts]
        assert written == [word.shown for word in panel.words]
        fills = [to_hex(one.get_facecolor()) for one in axis.patches]
        assert fills == [to_hex(word.fill) for word in panel.words if word.fill]
    else:
        np.testing.assert_array_equal(axis.images[0].get_array(), panel)


@pytest.mark.parametrize("kind", KINDS)
def test_plot_points__a_row_a_sample_a_column_a_network(kind: str) -> None:
    one, other = make(kind), make(kind, 1)
    figure = render.plot_points({"teacher": one, "student\nepoch 0": other.sel(epoch=0)}, title="fc1")
    axes = panels(figure, 3)
    assert figure.get_suptitle() == "fc1" and plt.get_fignums() == []
    assert [axis.get_title() for axis in axes[0]] == ["input", "teacher", "student\nepoch 0"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == NAMES
    for at, row in enumerate(axes):
        canvas = canvas_of(kind, one, at)
        valid = one["valid"].values[at]
        assert_shows(row[0], canvas.draw_input(render.Looks(opacity=1), 320))
        for axis, ds, epoch in ((row[1], one, -1), (row[2], other, 0)):
            found = ds["knowledge_point"].values[epoch, at][valid]
            assert_shows(axis, canvas.draw_points(found, size=320))
            inside = int((found & INSIDE[at][valid]).sum())
            assert (
                axis.get_xlabel()
                == f"{inside} {canvas.vocabulary.foreground}, {found.sum() - inside} background"
            )


@pytest.mark.parametrize("kind", KINDS)
def test_plot_detours__what_was_kept_and_what_was_dropped(kind: str) -> None:
    ds = make(kind)
    axes = panels(render.plot_detours({"student": ds}, names=["b", "a"]), 2)
    for at, row in zip((1, 0), axes, strict=True):
        valid = ds["valid"].values[at]
        first, last = (ds["knowledge_point"].values[:, at] & INSIDE[at])[:, valid]
        assert_shows(row[1], canvas_of(kind, ds, at).draw_detours(last, first & ~last, size=320))
        assert row[1].get_xlabel() == f"{last.sum()} kept, {(first & ~last).sum()} dropped"
    with pytest.raises(ValueError, match="has dimensions unit; needed:"):
        render.plot_detours({"student": ds.isel(epoch=-1)})


@pytest.mark.parametrize("kind", KINDS)
def test_plot_entropy__one_scale_for_all(kind: str) -> None:
    one, other = make(kind), make(kind, 1)
    figure = render.plot_entropy({"teacher": one, "student": other})
    every = np.stack([ds["entropy"].values[-1] for ds in (one, other)])
    limits = (np.nanmin(every), np.nanmax(every))
    axes = panels(figure, 3)
    for column, values in zip(axes.T[1:], every, strict=True):
        for at, axis in enumerate(column):
            known = values[at][one["valid"].values[at]]
            assert_shows(axis, canvas_of(kind, one, at).draw_values(known, render.Scale(limits), size=320))
    bar = figure.axes[6]
    assert bar.get_ylim() == limits and bar.get_ylabel() == "entropy in nat (high: discarded)"
    with pytest.raises(ValueError, match=r"entropy in nat .* holds no number"):
        render.plot_entropy({"teacher": one.assign(entropy=one["entropy"] * np.nan)})


@pytest.mark.parametrize("kind", KINDS)
def test_plot_maps__lie_over_inputs_every_column_on_its_own_scale(kind: str) -> None:
    ds = make(kind)
    signed = ds["entropy"] + 3
    maps = xr.concat([signed, abs(signed)], "attribution_method").assign_coords(
        attribution_method=["grad_cam", "size"]
    )
    attributed = ds[["valid", "foreground"]].assign(attribution=maps)
    figure = render.plot_maps({"entropy fc1": ds, "student": attributed})
    axes = panels(figure, 4)
    assert [axis.get_title() for axis in axes[0]] == ["input", "entropy fc1", "grad cam", "size"]
    last = signed.values[-1]
    entropy, reach = ds["entropy"].values[-1], np.nanmax(abs(last))
    expected = [
        (entropy, (np.nanmin(entropy), np.nanmax(entropy)), "viridis_r"),
        (last, (-reach, reach), "RdBu_r"),
        (abs(last), (0.0, reach), "viridis"),
    ]
    for column, (values, limits, colours) in zip(axes.T[1:], expected, strict=True):
        for at, axis in enumerate(column):
            known = values[at][ds["valid"].values[at]]
            canvas = canvas_of(kind, ds, at)
            over = canvas.draw_values(known, render.Scale(limits, colours), render.Looks(opacity=0.7), 320)
            assert_shows(axis, over)
    bars = [axis.get_xlim() for axis in figure.axes[9:]]
    assert bars == [expected[0][1][::-1], expected[1][1], expected[2][1]], "bright is on the right"
    size = attributed.sel(attribution_method=["size"])
    both = render.plot_maps({"student": size, "teacher": size})
    assert [axis.get_title() for axis in both.axes[1:3]] == ["student\nsize", "teacher\nsize"]


def test_rows__of_samples_named_by_hashes_say_place_and_class() -> None:
    hashed = ["3f2a9c01b7de", "3f2a9c01b7de-2"]
    ds = make("image").assign_coords(sample=hashed)
    (row,) = [axis.get_ylabel() for axis in render.plot_entropy({"a": ds}, names=hashed[1:]).axes[:1]]
    assert row == "image 1"
    known = ds.isel(sample=[1, 0]).assign_coords(label=("sample", [4, 0]))
    figure = render.plot_entropy({"a": ds}, names=hashed[1:], samples=known)
    assert figure.axes[0].get_ylabel() == "image 0, class 4", "the place among the samples of the run"
    files = ds.assign_coords(sample=["000000000139", "owl.png"])
    assert render.plot_entropy({"a": files}).axes[0].get_ylabel() == "000000000139"


def test_plot_points__images_of_the_run_or_given_ones() -> None:
    ds = make("image")
    pictures = np.random.default_rng(3).integers(0, 256, (2, 6, 8, 3), np.uint8)
    samples = ds.assign(thumbnail=(("sample", "y_pixel", "x_pixel", "channel"), pictures))
    stored = render.plot_points({"student": ds}, samples=samples, names=["b"])
    np.testing.assert_array_equal(stored.axes[0].images[0].get_array(), pictures[1])
    given = render.plot_points({"student": ds}, samples=samples, names=["b"], pictures=pictures[:1, ..., 0])
    np.testing.assert_array_equal(
        given.axes[0].images[0].get_array(), np.repeat(pictures[0, ..., :1], 3, axis=2)
    )
    assert (render.plot_points({"student": ds}).axes[0].images[0].get_array() == 128).all()


def test_plot_points__samples_without_masks_and_merged_units() -> None:
    ds = make("image").drop_vars("foreground")
    assert render.plot_points({"student": ds}).axes[1].get_xlabel().startswith("0 object, ")
    coarse = ds.isel(unit=[0])
    figure = render.plot_entropy({"2 x 2": ds, "1 x 1": coarse}, samples=ds)
    assert len(np.unique(figure.axes[2].images[0].get_array().reshape(-1, 3), axis=0)) == 1


def test_plot_points__words_can_be_searched() -> None:
    svg = layout.encode_figure(render.plot_points({"student": make("text")}), "svg").decode()
    said = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert {"fine", "old", "dull"} <= {word.split("\xa0")[-1] for word in said} and "" not in said


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ds: render.plot_points({}), "networks is empty"),
        (lambda ds: render.plot_points({"s": ds}, names=["a", "z"]), "names holds z"),
        (
            lambda ds: render.plot_points({"s": ds.drop_vars("knowledge_point")}),
            "no knowledge_point, which kdviz.find_points adds",
        ),
        (
            lambda ds: render.plot_entropy(
                {"s": ds.assign(entropy=ds["entropy"].expand_dims(layer=["fc1"]))}
            ),
            "has dimensions layer, unit",
        ),
        (lambda ds: render.plot_points({"s": ds.drop_vars("row")}), "no kind that can be drawn"),
        (
            lambda ds: render.plot_points({"s": ds}, pictures=np.zeros((2, 4, 4, 3))),
            "uint8",
        ),
    ],
)
def test_figures__refuse_what_cannot_be_drawn(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(make("image"))


def test_lay_out__captions_notes_and_empty_places() -> None:
    grey = np.full((4, 8, 3), 9, np.uint8)
    figure = layout.lay_out(
        [[grey, None], [None, grey]], ["a", "b"], ["x", "y"], captions=[["1", ""], ["", "2"]], note="below"
    )
    axes = panels(figure, 2)
    assert [len(axis.images) for axis in axes.flat] == [1, 0, 0, 1]
    assert [axis.get_xlabel() for axis in axes.flat] == ["1", "", "", "2"]
    assert figure.get_supxlabel() == "below"
    with pytest.raises(ValueError, match="zip"):
        layout.lay_out([[grey]], ["a", "b"], ["x"])


def test_style_networks__roles_keep_their_looks_and_others_differ() -> None:
    roles = {
        "t": "teacher",
        "s-fc1": "student",
        "s-kd": "student",
        "s-crd": "student",
        "b": "baseline",
        "x": "",
    }
    styles = style.style_networks(roles)
    assert list(styles) == list(roles)
    assert styles["t"] == (style.ROLE_STYLES["teacher"].colour, "D")
    assert styles["s-fc1"] == (style.ROLE_STYLES["student"].colour, "o")
    assert styles["b"] == (style.ROLE_STYLES["baseline"].colour, "s")
    assert len({style.colour for style in styles.values()}) == len({*styles.values()}) == 6
    many = style.style_networks({str(k): "student" for k in range(31)})
    assert len({*many.values()}) == 31


def test_lay_out__breaks_a_note_where_its_parts_end_and_a_part_where_it_must() -> None:
    panel = np.zeros((4, 4, 3), np.uint8)
    parts = ["disc: " + "a " * 12, "diamond: on the background", "line: " + "b " * 50]
    figure = render.layout.lay_out([[panel]], ["input"], ["a"], note="    ".join(map(str.strip, parts)))
    lines = figure.get_supxlabel().split("\n")
    assert max(map(len, lines)) <= 33 and [line[:4] for line in lines] == [
        "disc",
        "diam",
        "line",
        "b b ",
        "b b ",
        "b b ",
    ]
    assert "a; diamond: on the background; line: b b" in render.describe_figure(figure)
    assert "b; b" not in render.describe_figure(figure)
