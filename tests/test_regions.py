"""Masks as they come: which values are object, background and neither, from arrays to counts."""

import io

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import kdviz
from kdviz import testing, units

DISC = (np.hypot(*np.mgrid[-32:32, -32:32]) < 20).astype(np.uint8)


def compressed(mask, quality):
    file = io.BytesIO()
    Image.fromarray(mask).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    ("values", "marks"),
    [
        ([False, True], [0, 1]),
        ([0, 1], [0, 1]),
        ([0, 255], [0, 1]),
        ([0, 15], [0, 1]),
        ([0, 65535], [0, 1]),
        ([0, 0], [0, 0]),
        ([1, 1], [1, 1]),
        ([255, 255], [1, 1]),
        ([0.0, 1.0], [0, 1]),
        ([0.0, 0.2, 0.5, 0.9], [0, 0, 1, 1]),
        ([-1, 0, 1], [-1, 0, 1]),
        ([0, -1], [0, -1]),
        ([0, 15, 255], [0, 1, -1]),
        ([0, 1, 20, 255], [0, 1, 1, -1]),
        ([15, 255], [1, -1]),
        ([0, 3, 252, 255], [0, 0, 1, 1]),
        ([0, 0, 0, 5, 90, 130, 248, 255, 255, 255], [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]),
        ([0, 0, 40_000, 65_000, 65_535], [0, 0, 1, 1, 1]),
    ],
)
def test_read_mask__knows_the_usual_kinds(values, marks):
    found = units.read_mask(values)
    assert found.astype(int).tolist() == marks
    assert found.dtype == (np.int8 if -1 in marks else bool)
    np.testing.assert_array_equal(units.read_mask(found), found)  # marks are masks


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_read_mask__sees_through_compression(quality):
    soft = compressed(255 * DISC, quality)
    assert set(np.unique(soft)) - {0, 255}  # noise there is: above 0 lies more than the object
    wrong = (units.read_mask(soft) != DISC).sum()
    assert wrong <= 40 < (soft > 0).sum() - DISC.sum()


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        [0, 1, 2],
        [0, 1, 300],
        [0, 128, 255],
        [0, 1, 2, 3, 200],
        [0, 64, 128, 191, 255],
        [-2, 0],
        [0.0, 1.5, 2],
        [0] * 9 + [5] + [255] * 17,  # an object of 255 with a little noise, more likely than one of 5
    ],
)
def test_read_mask__asks_what_it_cannot_know(values):
    with pytest.raises(ValueError, match=r"masks hold the values .*say what they mean.*: foreground="):
        units.read_mask(values)


def test_read_mask__does_what_it_is_told():
    """The advice of the message above, word for word."""
    assert units.read_mask([1, 2, 3], foreground=[1], void=[3]).tolist() == [1, 0, -1]
    assert units.read_mask([0, 1, 2, 700], threshold=1).tolist() == [False, True, True, True]
    assert units.read_mask([0, 100, 128, 200], threshold=128).tolist() == [False, False, True, True]
    assert units.read_mask([0, 9, 7], void=7).tolist() == [0, 1, -1]  # the rest is 0 and one other value
    with pytest.raises(ValueError, match="by foreground values or by a threshold"):
        units.read_mask([0, 1], foreground=1, threshold=1)
    with pytest.raises(ValueError, match=r"\[1\] are foreground and void"):
        units.read_mask([0, 1], foreground=1, void=[1, 2])
    with pytest.raises(ValueError, match="masks hold NaN"):
        units.read_mask([0, np.nan])


def test_reduce_mask__void_pixels_belong_to_neither_side():
    voc = np.zeros((1, 4, 4), np.uint8)
    voc[0, :2, :2] = 255  # all of a cell, three of another, two of the third with one of the object
    voc[0, :2, 2:] = [[255, 255], [255, 7]]
    voc[0, 2:, :2] = [[255, 255], [7, 0]]
    assert units.grid(2).reduce_mask(voc, "area").tolist() == [[-1, -1, 0, 0]]
    voc[0, 3, 1] = 7
    assert units.grid(2).reduce_mask(voc, "area").tolist() == [[-1, -1, 1, 0]]
    assert units.grid(2).reduce_mask(voc).tolist() == [[-1, 1, 1, 0]]  # the pixel in the middle
    parts = units.mask([[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2)
    assert parts.reduce_mask(voc).tolist() == [[-1, -1, 1, 0]]


TRIMAP = np.array([[1, 1, 3, 2], [1, 1, 3, 2], [3, 3, 3, 2], [2, 2, 2, 2]])


def measured(foreground):
    network = testing.small_cnn().eval()
    images = testing.random_images(3)
    return kdviz.measure(
        network,
        images,
        layers="fc1",
        units=units.grid(4),
        foreground=foreground,
        probes=4,
        draws=2,
        progress=False,
    )


@pytest.fixture(scope="module")
def with_void():
    return measured(units.read_mask(np.stack([TRIMAP.ravel()] * 3), foreground=1, void=3))


def test_measure__keeps_void_units_apart(with_void):
    assert with_void["void"].values[0].tolist() == (TRIMAP == 3).ravel().tolist()
    assert with_void["foreground"].values[0].tolist() == (TRIMAP == 1).ravel().tolist()
    with pytest.raises(
        ValueError, match=r"foreground: masks hold the values 1, 2, 3.*kdviz\.units\.read_mask"
    ):
        measured(np.stack([TRIMAP.ravel()] * 3))


def drop_void(ds):
    """Leave the void units out of the dataset altogether."""
    kept = ds.isel(unit=~ds["void"].values[0])
    return kept.assign_coords(unit=np.arange(kept.sizes["unit"])).drop_vars("void")


def test_points__void_units_count_nowhere(with_void):
    """All that is counted is what a dataset without these units gives."""
    ds = kdviz.derive_entropy(with_void)
    ds = xr.concat([ds, ds.assign_coords(epoch=[1])], "epoch", data_vars="minimal")
    ds["entropy"] = ds["entropy"] + 0.2 * np.random.default_rng(0).normal(size=ds["entropy"].shape)
    ds["entropy"] = ds["entropy"].where(~ds["void"], -9)  # would be points, if they were asked
    found, expected = (kdviz.find_points(one) for one in (ds, drop_void(ds)))
    assert not (found["knowledge_point"] & ds["void"]).any()
    np.testing.assert_allclose(found["background_entropy"], expected["background_entropy"], rtol=1e-12)
    for one, other in (
        (kdviz.count_points(found), kdviz.count_points(expected)),
        (kdviz.measure_learning(found).drop_dims("unit"), kdviz.measure_learning(expected).drop_dims("unit")),
        (kdviz.compare(student=found, baseline=found), kdviz.compare(student=expected, baseline=expected)),
    ):
        for name in one.data_vars:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
    tables = [kdviz.analysis.tabulate_layers({"fc1": one}) for one in (ds, drop_void(ds))]
    np.testing.assert_allclose(*tables)


def test_scores__void_units_count_nowhere(with_void):
    maps = -with_void["entropy"].where(~with_void["void"], -99).expand_dims(attribution_method=["map"])
    ds = with_void[["valid", "foreground", "void"]].assign(attribution=maps)
    one, other = (kdviz.analysis.score_attributions(each) for each in (ds, drop_void(ds)))
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def test_coarsen_grid__merges_void_units(with_void):
    coarse = kdviz.analysis.coarsen_grid(with_void, 2)
    # cells of 4: all object; half void, none object; half void; one void
    assert coarse["foreground"].values[0].tolist() == [True, False, False, False]
    assert not coarse["void"].any()
    mostly = with_void.copy(deep=True)
    mostly["void"].values[:, 3] = True
    assert kdviz.analysis.coarsen_grid(mostly, 2)["void"].values[0].tolist() == [False, True, False, False]


def test_run__keeps_void(with_void, tmp_path):
    masks = units.read_mask(np.stack([TRIMAP.ravel()] * 3), foreground=1, void=3)
    options = {"layers": "fc1", "units": units.grid(4), "probes": 4, "draws": 2, "progress": False}
    weights = testing.small_cnn().state_dict()
    where = {"network": "student", "role": "student", "store": tmp_path / "run.zarr"}
    kdviz.measure_checkpoints(
        testing.small_cnn, {1: weights}, testing.random_images(3), foreground=masks, **where, **options
    )
    run = kdviz.open_run(tmp_path / "run.zarr")
    again = kdviz.open_run(run.export(tmp_path / "run.nc"))
    for one in (run, again):
        ds = one.dataset("student", "fc1")
        np.testing.assert_array_equal(ds["void"], with_void["void"])
        assert kdviz.explore(one).view.canvas.coordinates["void"].sum() == (TRIMAP == 3).sum()
