"""Clouds pixel by pixel: geometry by hand, colours by the colour map."""

from dataclasses import replace
from math import sqrt

import numpy as np
import pytest
import xarray as xr
from matplotlib import colormaps
from matplotlib.colors import to_rgb

from kdviz import render
from kdviz.render import style

# The ends of three axes: middle 0, radius 1.
ENDS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], float)
NONE, ALL = np.zeros(6, bool), np.ones(6, bool)
FOCUS = 0.93 * sqrt(4**2 - 1) / 2  # over the size: seen from 4 radii a ball of radius 1 fills 0.93 of it


def rgb(colour: str | tuple) -> np.ndarray:
    return np.rint(255 * np.array(to_rgb(colour)))


def at(picture: np.ndarray, place: np.ndarray) -> np.ndarray:
    return picture[int(place[1]), int(place[0])].astype(float)


def cloud_of(places: np.ndarray | list, inside: np.ndarray) -> render.CloudCanvas:
    return render.CloudCanvas(dict(zip("xyz", np.asarray(places, float).T, strict=True)), inside)


# -- geometry


def test_project_cloud__from_the_front() -> None:
    places = render.project_cloud(ENDS, azimuth=0, elevation=0, size=100)
    arm = 100 * FOCUS / 4
    expected = [
        (50 + arm, 50, 0),  # x to the right
        (50 - arm, 50, 0),
        (50, 50, 1),  # y away
        (50, 50, -1),
        (50, 50 - arm, 0),  # z up
        (50, 50 + arm, 0),
    ]
    np.testing.assert_allclose(places, expected, atol=1e-9)


def test_project_cloud__a_quarter_turn_brings_y_to_the_right_and_x_to_the_front() -> None:
    front = render.project_cloud(ENDS, azimuth=0, elevation=0)
    turned = render.project_cloud(ENDS, azimuth=90, elevation=0)
    np.testing.assert_allclose(turned[[2, 3, 1, 0, 4, 5]], front, atol=1e-9)


def test_project_cloud__from_above_y_points_up() -> None:
    places = render.project_cloud(ENDS, azimuth=0, elevation=90, size=100)
    assert places[2, 1] < 50 < places[3, 1] and places[4, 2] == pytest.approx(-1)  # z is nearest
    np.testing.assert_allclose(places[0, :2], (50 + 100 * FOCUS / 4, 50))


@pytest.mark.parametrize("azimuth", [17, 120, 300])
def test_project_cloud__turning_the_viewer_is_turning_the_cloud_back(azimuth: int) -> None:
    turn = np.deg2rad(-azimuth)
    back = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    half = np.random.default_rng(0).normal(size=(40, 3))
    cloud = np.concatenate([half, -half])  # whose bounding box has its middle at 0 however it is turned
    seen = render.project_cloud(cloud, azimuth=azimuth, elevation=25)
    np.testing.assert_allclose(render.project_cloud(cloud @ back.T, azimuth=0, elevation=25), seen, atol=1e-9)


def test_project_cloud__nearer_is_larger_and_all_stays_inside() -> None:
    box = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    places = render.project_cloud(box, azimuth=0, elevation=0, size=100)
    near, far = places[box[:, 1] < 0], places[box[:, 1] > 0]
    assert np.ptp(near[:, 0]) > 1.2 * np.ptp(far[:, 0])
    for azimuth in range(0, 360, 15):
        places = render.project_cloud(box * (3, 1, 2) + 7, azimuth=azimuth, size=100)
        assert places[:, :2].min() > 1 and places[:, :2].max() < 99


def test_project_cloud__one_point_and_equal_points_lie_in_the_middle() -> None:
    for count in (1, 3):
        places = render.project_cloud(np.full((count, 3), 5.0), size=60)
        np.testing.assert_allclose(places, [(30, 30, 0)] * count)


# -- colours and shapes

FRONT = render.Looks(opacity=1.0, azimuth=0, elevation=0)
SIDE = {"looks": FRONT, "size": 400}


def turn(azimuth: int) -> dict:
    return {"looks": replace(FRONT, azimuth=azimuth), "size": 400}


def test_draw_values__a_point_has_the_colour_of_its_value_where_it_lies() -> None:
    flat = np.delete(ENDS, [2, 3], axis=0)  # all at one depth: nothing fades
    values = [0.0, 0.25, 0.5, 9.0]
    drawn = cloud_of(flat, ALL[:4]).draw_values(values, render.Scale((0.0, 1.0)), **SIDE)
    assert drawn.shape == (400, 400, 3) and drawn.dtype == np.uint8
    for value, place in zip(
        values, render.project_cloud(flat, azimuth=0, elevation=0, size=400), strict=True
    ):
        expected = rgb(colormaps["viridis_r"](min(value, 1.0))[:3])
        np.testing.assert_array_equal(at(drawn, place), expected)


def test_draw_values__a_quarter_turn_moves_the_colour() -> None:
    lone = np.array([0.0, 1, 1, 1, 1, 1])  # x is yellow
    front = cloud_of(ENDS, ALL).draw_values(lone, render.Scale((0.0, 1.0)), **SIDE)
    back = cloud_of(ENDS, ALL).draw_values(lone, render.Scale((0.0, 1.0)), **turn(270))
    side = cloud_of(ENDS, ALL).draw_values(lone, render.Scale((0.0, 1.0)), **turn(180))
    arm = round(400 * FOCUS / 4)
    faded = 255 - 0.85 * (255 - 255 * np.array(colormaps["viridis_r"](0.0)[:3]))  # half-way back: 0.15 white
    np.testing.assert_allclose(front[200, 200 + arm], faded, atol=1)
    np.testing.assert_allclose(side[200, 200 - arm], faded, atol=1)
    assert (back[200, 200 + arm] == front[200, 200 - arm]).all(), "seen from behind, another point is there"


def test_draw_values__the_near_point_hides_the_far_one_in_any_order() -> None:
    for values, cloud in (([0.0, 1.0], [[0, -1, 0], [0, 1, 0]]), ([1.0, 0.0], [[0, 1, 0], [0, -1, 0]])):
        drawn = cloud_of(cloud, ALL[:2]).draw_values(values, render.Scale((0.0, 1.0)), **SIDE)
        np.testing.assert_array_equal(drawn[200, 200], rgb(colormaps["viridis_r"](0.0)[:3]))


def test_draw_values__nan_stays_grey_and_opacity_zero_is_the_cloud() -> None:
    plain = cloud_of(ENDS, ALL).draw_input(**SIDE)
    bare = cloud_of(ENDS, ALL).draw_values([np.nan] * 6, render.Scale((0, 1)), **SIDE)
    none = cloud_of(ENDS, ALL).draw_values(
        [0.5] * 6, render.Scale((0, 1)), looks=replace(FRONT, opacity=0.0), size=400
    )
    np.testing.assert_array_equal(bare, plain)
    np.testing.assert_array_equal(none, plain)
    assert np.ptp(plain.astype(int), axis=2).max() == 0, "greys"


def test_draw_input__the_object_is_larger_and_darker() -> None:
    def ink(inside: np.ndarray) -> tuple[int, int]:
        drawn = cloud_of(ENDS[:2], inside).draw_input(**SIDE)
        return int((drawn < 255).all(axis=2).sum()), int(drawn[200, 200 + round(400 * FOCUS / 4)].max())

    (large, dark), (small, light) = ink(ALL[:2]), ink(NONE[:2])
    assert large > 1.5 * small and dark < light - 50


def test_draw_points__disc_on_the_object_diamond_on_the_background() -> None:
    cloud, size = ENDS[:2], 2000  # stamps of radius 42
    points, inside = ALL[:2], np.array([True, False])
    drawn = cloud_of(cloud, inside).draw_points(points, FRONT, size)
    disc, diamond = render.project_cloud(cloud, azimuth=0, elevation=0, size=size)
    reach = round(0.021 * size)
    assert (at(drawn, disc) == rgb(style.DISC.colour)).all()
    assert (at(drawn, diamond) == rgb(style.DIAMOND.colour)).all()
    for place, end in ((disc, reach), (diamond, 1.25 * reach)):
        assert (at(drawn, place + np.array([end - 3, 0, 0])) == 0).all(), "a black rim"
    beyond = np.array([1.15 * reach, 0, 0])  # outside the circle, inside the diamond
    assert (at(drawn, disc + beyond) == 255).all()
    assert at(drawn, diamond + beyond).min() < 255


def test_draw_points__others_are_pale() -> None:
    drawn = cloud_of(ENDS, ALL).draw_points(NONE, **SIDE)
    shown = drawn[(drawn < 250).any(axis=2)]
    assert len(shown) and shown.min() > 90 and np.ptp(shown.astype(int), axis=1).max() == 0


def test_draw_detours__discs_for_held_crosses_for_dropped_nothing_on_the_background() -> None:
    cloud, size = np.delete(ENDS, [2, 3], axis=0), 2000
    held, dropped = np.array([1, 0, 1, 0], bool), np.array([0, 1, 0, 0], bool)
    inside = np.array([1, 1, 0, 0], bool)
    drawn = cloud_of(cloud, inside).draw_detours(held, dropped, FRONT, size)
    (disc, cross, outside, _) = render.project_cloud(cloud, azimuth=0, elevation=0, size=size)
    assert (at(drawn, disc) == rgb(style.DISC.colour)).all()
    assert (at(drawn, cross) == rgb(style.CROSS.colour)).all()
    reach = round(0.021 * size)
    assert (at(drawn, cross + np.array([0.6 * reach, 0.6 * reach, 0])) == rgb(style.CROSS.colour)).all()
    assert (at(drawn, cross + np.array([0.9 * reach, 0, 0])) == 255).all(), "a cross is no disc"
    assert np.ptp(at(drawn, outside)) == 0, "a point on the background stays grey"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: cloud_of(ENDS, ALL).draw_points(ALL[:1]),
            r"points has shape \(1,\), the sample needs \(6,\)",
        ),
        (lambda: cloud_of(ENDS, ALL).draw_points(ALL.astype(float)), "points must be bool, got float64"),
        (lambda: cloud_of(ENDS, ALL).draw_detours(ALL, ALL[:1]), r"dropped has shape \(1,\)"),
        (
            lambda: cloud_of(ENDS, ALL).draw_values([0.0] * 5, render.Scale((0, 1))),
            r"values has shape \(5,\)",
        ),
        (lambda: cloud_of(ENDS, ALL).draw_values([0.0] * 6, render.Scale((1, 0))), "limits are 1 and 0"),
    ],
)
def test_clouds__refuse_what_does_not_fit(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# -- figures

INSIDE, POINTS = np.array([1, 1, 1, 0, 0, 0], bool), np.array([0, 1, 0, 0, 1, 0], bool)
VALUES = np.array([0.0, 1, 1, 1, 1, np.nan])


@pytest.fixture
def box() -> xr.Dataset:
    """One cloud, two epochs; entropies and points of the last are `VALUES` and `POINTS`."""
    places = {axis: (("sample", "unit"), ENDS[None, :, at]) for at, axis in enumerate("xyz")}
    dims = ("epoch", "sample", "unit")
    return xr.Dataset(
        {
            "valid": (("sample", "unit"), ALL[None]),
            "foreground": (("sample", "unit"), INSIDE[None]),
            "entropy": (dims, np.stack([VALUES * 0, VALUES])[:, None]),
            "knowledge_point": (dims, np.stack([NONE, POINTS])[:, None]),
        },
        coords={"sample": ["box"], "unit": np.arange(6), "epoch": [0, 5], **places},
    )


def test_turntable__a_line_each_from_every_side(box: xr.Dataset) -> None:
    figure = render.turntable(box, "box", title="ends")
    axes = np.array(figure.axes[:12]).reshape(3, 4)
    assert [axis.get_title() for axis in axes[0]] == ["30°", "120°", "210°", "300°"]
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["input", "entropy", "points"]
    canvas = render.CloudCanvas(dict(zip("xyz", ENDS.T, strict=True)), INSIDE)
    for side, azimuth in zip(axes.T, (30, 120, 210, 300), strict=True):
        looks = render.Looks(opacity=1.0, azimuth=azimuth)
        expected = [
            canvas.draw_input(looks, 320),
            canvas.draw_values(VALUES, render.Scale((0.0, 1.0)), looks=looks, size=320),
            canvas.draw_points(POINTS, looks, 320),
        ]
        for axis, picture in zip(side, expected, strict=True):
            np.testing.assert_array_equal(axis.images[0].get_array(), picture)
    bare = render.turntable(box.drop_vars(["entropy", "knowledge_point"]), "box")
    assert len(bare.axes) == 4
    with pytest.raises(ValueError, match="no kind that can be drawn"):
        render.turntable(box.drop_vars("x"), "box")
    words = box.drop_vars(["x", "y", "z"]).assign_coords(
        token=(box["x"].dims, np.full(box["x"].shape, "word"))
    )
    with pytest.raises(ValueError, match="box is no cloud"):
        render.turntable(words, "box")
