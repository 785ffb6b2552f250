"""Runs of images without masks, and masks that come later."""

import numpy as np
import pytest

import kdviz
from kdviz import testing, units
from kdviz.errors import SchemaError, StoreError
from kdviz.store import add_masks

MASKS = np.zeros((4, 8, 8), np.uint8)
MASKS[:, 2:7, 1:5], MASKS[:, :2] = 9, 255  # an object, and a border that is neither


@pytest.fixture
def measured(tmp_path):
    def measure(name, foreground=None):
        path = tmp_path / f"{name}.zarr"
        images = testing.random_images(4)
        for network, role, seed in (("student", "student", 0), ("baseline", "baseline", 1)):
            checkpoints = {epoch: testing.small_cnn(seed=seed + 2 * epoch).state_dict() for epoch in (0, 1)}
            kdviz.measure_checkpoints(
                testing.small_cnn,
                checkpoints,
                images,
                network=network,
                role=role,
                layers="fc1",
                units=units.grid(4),
                store=path,
                foreground=foreground,
                probes=4,
                draws=2,
                progress=False,
            )
        return kdviz.open_run(path)

    return measure


def counts(run):
    pair = kdviz.analysis.pair_networks(run)["fc1"]
    return [kdviz.count_points(ds) for ds in (pair.students[0], pair.baselines[0])]


@pytest.mark.filterwarnings("ignore::kdviz.errors.KdvizWarning")
def test_add_masks__gives_what_measuring_with_them_gives(measured):
    later, before = measured("later"), measured("before", MASKS)
    app = kdviz.explore(later)
    assert any("kdviz.store.add_masks(run, masks)" in note for note in app.view.notes)
    assert not any(one.counts for one in app.view.networks)
    with pytest.raises(SchemaError, match=r"kdviz\.store\.add_masks\(run, masks\)"):
        counts(later)
    found = add_masks(later, MASKS)
    for one, other in zip(counts(found), counts(before), strict=True):
        assert one.drop_attrs().equals(other.drop_attrs())
    assert int(found.samples["void"].sum()) == 16 and found.samples.identical(before.samples)
    app.selection.epoch = 0  # what was open stands
    assert kdviz.explore(found).view.networks[0].counts
    # measuring goes on, with the masks or without
    assert measured("later").samples.identical(found.samples)
    assert measured("later", MASKS).samples.identical(found.samples)


def test_add_masks__is_repeated_and_refused(measured, tmp_path, monkeypatch):
    run, masks = measured("run"), MASKS
    move = kdviz.store.masks.replace_folder
    with pytest.raises(ValueError, match=r"foreground: masks hold the values 1, 2, 3"):
        add_masks(run, np.arange(256).reshape(4, 8, 8) % 3 + 1)

    def stop_late(new, target):
        if target.name == "foreground":
            raise KeyboardInterrupt
        move(new, target)

    monkeypatch.setattr(kdviz.store.masks, "replace_folder", stop_late)
    with pytest.raises(KeyboardInterrupt):  # between the two variables
        add_masks(run, masks)
    between = kdviz.open_run(run.path)
    assert not np.array(kdviz.schema.read_sides(between.samples)).any()
    monkeypatch.setattr(kdviz.store.masks, "replace_folder", move)
    found = add_masks(run.path, masks)
    assert "foreground" in found.samples and add_masks(found, masks).samples.identical(found.samples)
    with pytest.raises(StoreError, match="holds other masks"):
        add_masks(found, masks == 9)
    with pytest.raises(StoreError, match="is an exported file"):
        add_masks(measured("other").export(tmp_path / "other.nc"), masks)


def test_add_masks__of_a_partition(tmp_path):
    parts = units.mask(np.arange(16).reshape(4, 4).repeat(2, 0).repeat(2, 1))
    samples = kdviz.networks.prepare_inputs(testing.random_images(2, size=8), parts).samples
    run = kdviz.store.create_run(tmp_path / "run.zarr", samples=samples)
    with pytest.raises(ValueError, match="for pixels also pass units"):
        add_masks(run, MASKS[:2])
    found = add_masks(run, MASKS[:2], units=parts)
    np.testing.assert_array_equal(found.samples["foreground"], parts.reduce_mask(MASKS[:2]) > 0)
