"""Runs put together."""

import numpy as np
import pytest
import xarray as xr
from measured_runs import measure_small

import kdviz
from kdviz import analysis, testing, units
from kdviz.errors import StoreError
from kdviz.store import Run, create_run

MASKS = np.zeros((5, 8, 8), bool)
MASKS[:, 2:7, 1:5] = True


@pytest.fixture
def measure(tmp_path):
    def measure(folder, network, role, seed, masks=MASKS, images=5, **options):
        options |= {"images": images, "foreground": masks, "max_batch": 2}
        return measure_small(tmp_path / f"{folder}.zarr", network, role, seed, **options)

    return measure


def draw_maps() -> xr.Dataset:
    network, images = testing.small_cnn(seed=2), testing.random_images(5)
    return kdviz.attribute(network, images, units=units.grid(4), foreground=MASKS, progress=False)


def test_join__puts_students_of_one_run_beside_the_baseline_of_another(measure, tmp_path):
    measure("a", "teacher", "teacher", 9)
    first = measure("a", "student", "student", 0)
    maps = draw_maps()
    first.write_result("attribution/student", maps)
    first.write_result("transfer/mine", maps)
    measure("b", "teacher", "teacher", 9)  # the same once more
    second = measure("b", "student", "student", 4)  # another one of that name
    second.write_result("attribution/student", maps)
    second.write_result("transfer/other", maps)
    measure("b", "baseline", "baseline", 6)
    kdviz.store.describe(second.path, accuracy={"baseline": 0.5})
    first.export(tmp_path / "a.nc")
    for _ in range(2):  # what is there stays
        whole = kdviz.store.join(tmp_path / "whole.zarr", [tmp_path / "a.nc", tmp_path / "b.zarr"])
        assert whole.networks == ["b-student", "baseline", "student", "teacher"]
        assert {*whole.results} == {"attribution/student", "attribution/b-student", "transfer/mine"}
        assert whole.gaps() == ""
    for name, run, network in (
        ("teacher", first, "teacher"),
        ("student", first, "student"),
        ("b-student", second, "student"),
        ("baseline", second, "baseline"),
    ):
        for layer in ("conv2", "fc1"):
            ours, theirs = whole.dataset(name, layer), kdviz.open_run(run.path).dataset(network, layer)
            assert ours.attrs.pop("network") == name and theirs.attrs.pop("network") == network
            assert ours.attrs.pop("joined_from") == run.name and "joined" in ours.attrs
            del ours.attrs["joined"]
            xr.testing.assert_identical(ours[[*theirs.data_vars]], theirs)
    pairs = analysis.pair_networks(whole, layers=["fc1"])
    assert [*pairs] == ["b-student at fc1", "student at fc1"]
    pair = pairs["student at fc1"]
    assert pair.baselines[0].attrs["network"] == "baseline" and pair.teacher is not None
    assert pair.baselines[0].attrs["accuracy"] == 0.5
    app = kdviz.explore(whole)
    app.selection.networks = ["student", "b-student", "baseline"]
    assert [one.network for one in app.view.networks] == ["student", "b-student", "baseline"]
    app.close()


def test_join__goes_on_after_a_kill_at_any_block(measure, tmp_path, monkeypatch):
    one, other = measure("a", "student", "student", 0), measure("b", "baseline", "baseline", 4)
    expected = kdviz.store.join(tmp_path / "expected.zarr", [one, other])
    write, left = Run.write_block, [0]

    def write_some(self, *args):
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, *args)

    monkeypatch.setattr(Run, "write_block", write_some)
    for _ in range(40):
        left[0] = 3
        try:
            whole = kdviz.store.join(tmp_path / "whole.zarr", [one, other])
            break
        except KeyboardInterrupt:
            assert kdviz.open_run(tmp_path / "whole.zarr").samples.sizes["sample"] == 5
    for name in ("student", "baseline"):
        for layer in ("conv2", "fc1"):
            xr.testing.assert_identical(whole.dataset(name, layer), expected.dataset(name, layer))


def test_join__takes_masks_from_the_run_that_has_them_and_refuses_others(measure, tmp_path):
    without = measure("a", "student", "student", 0, masks=None)
    with_masks = measure("b", "baseline", "baseline", 4)
    whole = kdviz.store.join(tmp_path / "whole.zarr", [without, with_masks])
    assert "foreground" in whole.samples and whole.networks == ["baseline", "student"]
    with pytest.raises(ValueError, match="runs names 1; name two or more"):
        kdviz.store.join(tmp_path / "one.zarr", [without])
    more = measure("c", "baseline", "baseline", 4, masks=None, images=4)
    with pytest.raises(StoreError, match="hold other samples: variable 'sample' differs"):
        kdviz.store.join(tmp_path / "other.zarr", [without, more])
    moved = measure("d", "baseline", "baseline", 4, masks=~MASKS)
    with pytest.raises(StoreError, match="hold other samples: variable 'foreground' differs"):
        kdviz.store.join(tmp_path / "other.zarr", [with_masks, moved])
    assert not (tmp_path / "other.zarr").exists()


def test_join__keeps_students_with_teacher_and_baseline_of_their_own_run(measure, tmp_path):
    taught = {"details": {"teacher": "teacher"}}
    for folder, seed in (("a", 0), ("b", 20)):
        measure(folder, "teacher", "teacher", seed + 9)
        measure(folder, "student", "student", seed, **taught)
        measure(folder, "baseline", "baseline", seed + 5)
        kdviz.store.describe(tmp_path / f"{folder}.zarr", layers={"head": "fc1"})
    whole = kdviz.store.join(tmp_path / "whole.zarr", [tmp_path / "a.zarr", tmp_path / "b.zarr"])
    assert whole.layer_names == {"head": ("fc1",)}
    assert analysis.list_networks(whole)["b-student"].teacher == "b-teacher"
    pairs = analysis.pair_networks(whole, layers=["head"])
    for start, label in (("", "student at head"), ("b-", "b-student at head")):
        pair = pairs[label]
        named = [ds.attrs["network"] for ds in (pair.students[0], pair.baselines[0], pair.teacher)]
        assert named == [f"{start}student", f"{start}baseline", f"{start}teacher"]


def test_join__keeps_results_beside_a_network_that_both_hold_and_leaves_other_runs_alone(measure, tmp_path):
    measure("a", "teacher", "teacher", 9)
    first = measure("a", "student", "student", 0)
    measure("b", "teacher", "teacher", 9)
    second = measure("b", "baseline", "baseline", 4)
    maps = draw_maps()
    second.write_result("attribution/teacher", maps)
    second.write_result("transfer/mine", maps)
    whole = kdviz.store.join(tmp_path / "whole.zarr", [first, second])
    assert {*whole.results} == {"attribution/teacher", "transfer/mine"}
    with pytest.raises(ValueError, match="one of the runs, which stay as they are"):
        kdviz.store.join(first.path, [first, second])
    other = measure("c", "other", "student", 7)
    with pytest.raises(StoreError, match="joined"):
        kdviz.store.join(other.path, [first, second])
    assert kdviz.open_run(other.path).networks == ["other"]
    kdviz.store.describe(first.path, layers={"head": "fc1"})
    kdviz.store.describe(second.path, layers={"head": "conv2"})
    with pytest.raises(ValueError, match=r"'head' names fc1, conv2 in these runs, and .* has two of them"):
        kdviz.store.join(tmp_path / "new.zarr", [first.path, second.path])
    begun = create_run(tmp_path / "d.zarr", samples=first.samples, attrs=first.attrs)
    attrs = first.catalogue()["student", "fc1"]
    begun.create_group("student", "fc1", epochs=[0, 1], attrs=attrs, block=2)
    with pytest.raises(StoreError, match="not measured whole"):
        kdviz.store.join(tmp_path / "new.zarr", [first, begun])
    assert not (tmp_path / "new.zarr").exists()
