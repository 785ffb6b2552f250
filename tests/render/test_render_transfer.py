"""Charts of what is shared: every dot where its number says, every region in its place."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from kdviz import render, schema
from kdviz.render.style import ROLE_STYLES

NETWORKS = ("teacher", "baseline-s0", "student-kl-s0", "student-kl-s1")
KINDS = ("teacher", "baseline", "student-kl", "student-kl")
ROLES = ("teacher", "independent", "student", "student")


@pytest.fixture
def table():
    margins = {
        ("accuracy", True, ""): (0.3, 0.0, 0.02, 0.04),
        ("answers as the teacher:", False, "edges"): (0.4, 0.0, 0.1, -0.05),
    }
    rows = [
        {
            "title": title,
            "own": own,
            "part": part,
            "network": network,
            "kind": kind,
            "role": role,
            "margin": margin,
        }
        for (title, own, part), values in margins.items()
        for network, kind, role, margin in zip(NETWORKS, KINDS, ROLES, values, strict=True)
    ]
    return pd.DataFrame(rows).eval("margin_low = margin - 0.01\nmargin_high = margin + 0.01")


def dots_of(axis):
    """Where dots lie, by colour: (row, percentage points)."""
    found = {}
    for line in axis.get_lines():
        if line.get_marker() not in ("None", None, "") and len(line.get_xdata()):
            rows, margins = (np.asarray(data, float) for data in (line.get_ydata(), line.get_xdata()))
            places = zip(rows.round().tolist(), margins.round(6).tolist(), strict=True)
            found.setdefault(to_hex(line.get_color()).upper(), []).extend(places)
    return found


def test_transfer_chart__puts_dots_at_margins_in_percentage_points(table):
    (axis,) = render.transfer_chart(table, title="shared").axes
    found = dots_of(axis)
    students, teacher = ROLE_STYLES["student"].colour, ROLE_STYLES["teacher"].colour
    assert sorted(found[students]) == [(0, -5.0), (0, 10.0), (1, 2.0), (1, 4.0)]
    assert found[teacher] == [(1, 30.0)], "of consensus the teacher has no value of its own"
    assert [label.get_text() for label in axis.get_yticklabels()] == [
        "answers as the teacher: edges",
        "accuracy",
    ]


def test_transfer_chart__has_knowledge_points_in_a_column_of_their_own(table):
    points = table[table["part"] == ""].assign(title="points at fc1:", part="foreground")
    second, first = render.transfer_chart(table, title="shared", points=points).axes
    assert dots_of(first) == dots_of(render.transfer_chart(table, title="shared").axes[0])
    assert dots_of(second)[ROLE_STYLES["student"].colour] == [(0, 2.0), (0, 4.0)]
    assert [label.get_text() for label in second.get_yticklabels()] == ["points at fc1: foreground"]
    assert len(render.transfer_chart(table, title="shared", points=points[:0]).axes) == 1


def test_transfer_chart__draws_undertrained_networks_hollow(table):
    (axis,) = render.transfer_chart(table, title="shared", undertrained={"student-kl-s1": 0.2}).axes
    hollow = [
        line for line in axis.get_lines() if line.get_markerfacecolor() == "white" and len(line.get_xdata())
    ]
    assert sorted(float(line.get_xdata()[0]) for line in hollow) == [-5.0, 4.0]


def test_invariance_curves__are_shares_of_unchanged_answers():
    unchanged = np.ones((1, 3, 2, 4), bool)
    unchanged[0, 1, 1, :2] = unchanged[0, 2, 1, :3] = False
    ds = schema.build(
        {"unchanged": unchanged},
        coords={
            "change": ["blur"], "level": [0, 1, 2], "strength": [[0.0, 1.0, 2.0]],
            "strength_unit": ["pixels"], "network": ["teacher", "alone"],
            "role": ["teacher", "independent"], "sample": list("abcd"),
        },
    )  # fmt: skip
    kinds = {"teacher": "teacher", "alone": "alone"}
    axis = render.invariance_curves(ds, kinds, title="curves").axes[0]
    lines = {to_hex(one.get_color()).upper(): one for one in axis.get_lines() if len(one.get_xdata())}
    np.testing.assert_allclose(lines[ROLE_STYLES["baseline"].colour].get_ydata(), [100, 50, 25])
    np.testing.assert_allclose(lines[ROLE_STYLES["teacher"].colour].get_ydata(), [100, 100, 100])
    np.testing.assert_allclose(lines[ROLE_STYLES["teacher"].colour].get_xdata(), [0, 1, 2])


def test_boundary_maps__give_a_class_one_colour_in_all_maps():
    maps = np.array([[[[7, 7], [3, 3]]], [[[7, 3], [3, 3]]]])
    ds = xr.Dataset(
        {
            "label_map": (("network", "triplet", "plane_row", "plane_col"), maps),
            "boundary_overlap": (("network", "triplet"), [[1.0], [0.58]]),
            "corner_row": (("triplet", "corner"), [[0.0, 1.0, 1.0]]),
            "corner_col": (("triplet", "corner"), [[0.0, 0.0, 1.0]]),
        },
        {"network": ["teacher", "student"]},
    )
    one, other = render.boundary_maps(ds, ["teacher", "student"], title="planes").axes
    first, second = (np.asarray(axis.get_images()[0].get_array()) for axis in (one, other))
    assert (first[0, 0] == first[0, 1]).all() and (first[0, 0] == second[0, 0]).all()
    assert (first[1, 0] == second[0, 1]).all() and (first[0, 0] != first[1, 0]).any()
    assert other.get_xlabel() == "overlap 0.58"


def test_similarity_matrices__show_every_pair_of_stages_from_the_input_up():
    cka = np.array([[[1.0, 0.2], [0.3, 1.0]], [[0.5, 0.1], [0.4, 0.9]]])
    ds = xr.Dataset(
        {"cka": (("network", "network_stage", "teacher_stage"), cka)}, {"network": ["teacher", "student-kl"]}
    )
    first, second, _ = render.similarity_matrices(ds, ["teacher", "student-kl"], title="alike").axes
    for axis, one in zip((first, second), cka, strict=True):
        np.testing.assert_array_equal(axis.get_images()[0].get_array(), one)
        assert axis.get_images()[0].origin == "lower" and axis.get_images()[0].get_clim() == (0, 1)
    assert second.get_title() == "kl\ndiagonal 0.70"
