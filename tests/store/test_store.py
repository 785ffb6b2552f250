"""Runs on disk: exact round trips, killed writers, refused writers, damaged files."""

import asyncio
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numcodecs import Zstd
from run_files import edit_node, plain_files
from zarr.core.sync import sync

from kdviz import schema
from kdviz.errors import SchemaError, StoreError
from kdviz.store import Run, add_masks, create_run, open_run
from kdviz.store.damage import MADE_WITH, list_made
from kdviz.store.files import read_group
from kdviz.store.sealing import SealedStore

GOLDEN_RUNS = [Path(__file__).parents[1] / "data" / f"golden_run_v{version}.nc" for version in (1, 2, 3)]
GOLDEN = GOLDEN_RUNS[-1]
EPOCHS = [0, 2, 5]
ATTRS = schema.make_attrs(network_role="student", seed=3, config={"probes": 64, "draws": 8})


def make_samples(count: int = 5, units: int = 4) -> xr.Dataset:
    valid = np.ones((count, units), bool)
    valid[-1, -1] = False
    return xr.Dataset(
        {
            "valid": (("sample", "unit"), valid),
            "foreground": (("sample", "unit"), valid & (np.arange(units) < 2)),
            "thumbnail": (
                ("sample", "y_pixel", "x_pixel", "channel"),
                np.arange(count * 12, dtype="uint8").reshape(count, 2, 2, 3),
            ),
        },
        coords={
            "sample": [f"bird-{index}é" for index in range(count)],
            "unit": np.arange(units),
            "label": ("sample", np.arange(count)),
            "split": ("sample", ["train", *["test"] * (count - 1)]),
            "token": (("sample", "unit"), np.where(valid, "wörd", "")),
        },
    )


def make_block(samples: xr.Dataset, epoch: int, rows: slice) -> xr.Dataset:
    """Values that depend on nothing but the epoch and the place in the run."""
    part = samples.reset_coords()[["valid"]].isel(sample=rows)
    sizes = {"epoch": 1, "quartile": 4, "sample": samples.sizes["sample"], "unit": samples.sizes["unit"]}
    variables = {}
    for index, name in enumerate(schema.MEASURED):
        spec = schema.VARIABLES[name]
        values = np.random.default_rng((epoch, index)).random([sizes[dim] for dim in spec.dims])
        values = (values > 0.5) if spec.dtype in ("bool", "int8", "int32") else values
        variables[name] = (spec.dims, values[:, rows].astype(spec.dtype))
    block = part.assign(variables).assign_coords(epoch=[epoch])
    for name in ("gain", "gain_error", "entropy", "noise_scale"):
        block[name] = block[name].where(block["valid"])
    return block


def measure_all(
    path: Path, *, layers: tuple[str, ...] = ("fc1",), after_block: Callable[[], object] = bool
) -> Run:
    """What the measuring side does: create, go through what is missing, write."""
    samples = make_samples()
    run = create_run(path, samples=samples, attrs=schema.make_attrs(dataset_id="birds"))
    with run.writing():
        for layer in layers:
            run.create_group("student", layer, epochs=EPOCHS, attrs=ATTRS, block=2)
            for epoch_index, block_index in run.missing("student", layer):
                rows = slice(2 * block_index, 2 * block_index + 2)
                block = make_block(samples, EPOCHS[epoch_index], rows)
                run.write_block("student", layer, epoch_index, block_index, block)
                after_block()
            distance = xr.DataArray(
                np.arange(3, dtype="float32"),
                dims="epoch",
                coords={"epoch": EPOCHS},
                name="weight_distance",
                attrs={"definition": "sum of steps"},
            )
            run.write_variable("student", layer, distance)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure_all(tmp_path_factory.mktemp("finished") / "run.zarr", layers=("features.10", "features.9"))


@pytest.fixture
def fresh(tmp_path: Path) -> Run:
    return create_run(tmp_path / "run.zarr", samples=make_samples())


def expected_dataset(samples: xr.Dataset) -> xr.Dataset:
    blocks = [make_block(samples, epoch, slice(None)) for epoch in EPOCHS]
    return xr.concat([block.drop_vars("valid") for block in blocks], dim="epoch")


@pytest.fixture(scope="module")
def reference_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted writer leaves."""
    return plain_files(measure_all(tmp_path_factory.mktemp("reference") / "run.zarr").path)


# -- round trips


def test_dataset__returns_every_value_dtype_and_coordinate_written(finished: Run) -> None:
    ds = finished.dataset("student", "features.9")
    expected = expected_dataset(make_samples())
    for name in schema.MEASURED:
        assert ds[name].dtype == schema.VARIABLES[name].dtype
        assert ds[name].dims == schema.VARIABLES[name].dims
        np.testing.assert_array_equal(ds[name].values, expected[name].values)
        assert ds[name].attrs == schema.VARIABLES[name].attrs
        assert finished.samples["foreground"].attrs == schema.VARIABLES["foreground"].attrs
    samples = make_samples()
    for name in ("valid", "foreground", "sample", "unit", "label", "split", "token"):
        np.testing.assert_array_equal(ds[name].values, samples[name].values)
        assert ds[name].dtype == samples[name].dtype
        assert (name in ds.coords) == (name in samples.coords)
    assert ds["epoch"].values.tolist() == EPOCHS
    assert ds["quartile"].values.tolist() == [1, 2, 3, 4]
    assert ds["weight_distance"].values.tolist() == [0.0, 1.0, 2.0]
    assert ds["weight_distance"].attrs["definition"] == "sum of steps"
    assert "thumbnail" not in ds and "done" not in ds
    assert ds.attrs["dataset_id"] == "birds"
    assert ds.attrs["network"] == "student" and ds.attrs["layer"] == "features.9"
    assert ds.attrs["seed"] == 3 and type(ds.attrs["seed"]) is int
    assert json.loads(ds.attrs["config"]) == {"probes": 64, "draws": 8}


def test_samples__keep_thumbnails_and_get_a_valid_mask(tmp_path: Path, finished: Run) -> None:
    np.testing.assert_array_equal(finished.samples["thumbnail"].values, make_samples()["thumbnail"].values)
    run = create_run(tmp_path / "r", samples=make_samples().drop_vars(["valid", "foreground"]))
    assert run.samples["valid"].dtype == bool
    assert run.samples["valid"].values.tolist() == np.ones((5, 4), bool).tolist()


def test_export__is_read_back_identical(tmp_path: Path, finished: Run) -> None:
    exported = open_run(finished.export(tmp_path / "deep" / "run.nc"))
    assert os.listdir(tmp_path / "deep") == ["run.nc"]
    assert exported.networks == finished.networks == ["student"]
    assert exported.layers("student") == finished.layers("student") == ["features.9", "features.10"]
    xr.testing.assert_identical(exported.samples, finished.samples)
    for layer in exported.layers("student"):
        one, two = exported.dataset("student", layer), finished.dataset("student", layer)
        xr.testing.assert_identical(one, two)
        assert {name: array.dtype for name, array in one.variables.items()} == {
            name: array.dtype for name, array in two.variables.items()
        }
        assert {name: type(value) for name, value in one.attrs.items()} == {
            name: type(value) for name, value in two.attrs.items()
        }
    pd.testing.assert_frame_equal(exported.summary(), finished.summary())


def test_export__replaces_only_when_asked(tmp_path: Path, finished: Run) -> None:
    target = tmp_path / "run.nc"
    target.write_text("precious")
    with pytest.raises(StoreError, match="exists; pass overwrite=True"):
        finished.export(target)
    assert target.read_text() == "precious"
    finished.export(target, overwrite=True)
    assert open_run(target).networks == ["student"]
    os.mkfifo(tmp_path / "pipe.nc")
    with pytest.raises(StoreError, match="no regular file; name another"):
        finished.export(tmp_path / "pipe.nc", overwrite=True)
    assert (tmp_path / "pipe.nc").is_fifo()


def test_export__leaves_the_old_file_when_it_fails(
    tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.nc"
    target.write_text("precious")

    def fail(self: xr.Dataset, path: Path, **rest: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(StoreError, match="disk full"):
        finished.export(target, overwrite=True)
    assert target.read_text() == "precious"
    assert os.listdir(tmp_path) == ["run.nc"]


def test_export__keeps_the_chosen_networks_and_samples(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    with run.writing():
        run.create_group("teacher", "fc1", epochs=[5], attrs=ATTRS, block=5)
        run.write_block("teacher", "fc1", 0, 0, make_block(make_samples(), 5, slice(None)))
    run.write_result("transfer/attacks", make_samples().drop_vars("thumbnail"))
    names = ["bird-4é", "bird-1é"]
    some = open_run(run.export(tmp_path / "some.nc", networks=["student"], samples=names))
    assert some.networks == ["student"] and some.results == []
    assert some.samples["sample"].values.tolist() == ["bird-1é", "bird-4é"], "in the order of the run"
    xr.testing.assert_identical(some.samples, run.samples.isel(sample=[1, 4]))
    xr.testing.assert_identical(
        some.dataset("student", "fc1"), run.dataset("student", "fc1").isel(sample=[1, 4])
    )
    assert some.summary()[["samples", "done"]].values.tolist() == [[2, 1.0]]
    only_samples = open_run(run.export(tmp_path / "only.nc", samples=names))
    assert only_samples.networks == ["student", "teacher"] and only_samples.results == []
    everything = open_run(run.export(tmp_path / "all.nc"))
    assert everything.networks == ["student", "teacher"] and everything.results == ["transfer/attacks"]
    xr.testing.assert_identical(everything.result("transfer/attacks"), run.result("transfer/attacks"))


def test_export__compact_leaves_out_only_what_can_be_derived(tmp_path: Path, finished: Run) -> None:
    whole = finished.dataset("student", "features.9")
    path = finished.export(tmp_path / "small.nc", compact=True)
    small = open_run(path).dataset("student", "features.9")
    assert set(whole.variables) - set(small.variables) == {"entropy", "entropy_error", "noise_scale"}
    exact = [name for name in small.data_vars if name != "gain_error"]
    xr.testing.assert_identical(small[exact], whole[exact])
    assert path.stat().st_size < finished.export(tmp_path / "large.nc").stat().st_size


@pytest.mark.parametrize(
    ("selection", "error", "message"),
    [
        ({"networks": ["studnet"]}, StoreError, "no network 'studnet'; did you mean 'student'?"),
        ({"samples": ["bird-1é", "cow"]}, StoreError, "has no sample 'cow'"),
        ({"samples": []}, ValueError, "samples is empty; name at least one"),
    ],
)
def test_export__unknown_selection_writes_nothing(
    tmp_path: Path, finished: Run, selection: dict[str, list[str]], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        finished.export(tmp_path / "some.nc", **selection)
    assert os.listdir(tmp_path) == []


def test_export__compact_rounds_the_gain_errors_to_14_bits(tmp_path: Path) -> None:
    samples = make_samples(1, units=8)
    run = create_run(tmp_path / "run.zarr", samples=samples)
    run.create_group("student", "fc1", epochs=[0], attrs=ATTRS, block=1)
    block = make_block(samples, 0, slice(None))
    one = 2**14  # 15 bits long, as are the numbers after it
    errors = np.array([0, one - 1, one, one + 1, one + 2, 2.0**-40 * (one + 1.1), 1 / 3, np.nan], "float32")
    block["gain_error"] = block["gain_error"].copy(data=errors.reshape(1, 1, 8))
    run.write_block("student", "fc1", 0, 0, block)
    stored = open_run(run.export(tmp_path / "small.nc", compact=True)).dataset("student", "fc1")
    # one + 1 lies half-way and goes to the even mantissa; a third is 10922.67 / 2**15
    expected = [0, one - 1, one, one, one + 2, 2.0**-40 * (one + 2), 10923 / 2**15, np.nan]
    np.testing.assert_array_equal(stored["gain_error"].values.ravel(), np.float32(expected))
    assert stored["gain_error"].dtype == np.float32 and stored["gain_error"].attrs["units"] == "1"
    np.testing.assert_array_equal(stored["gain"], block["gain"])
    whole = open_run(run.export(tmp_path / "whole.nc")).dataset("student", "fc1")
    np.testing.assert_array_equal(whole["gain_error"].values.ravel(), errors)


def test_export__keeps_the_results_of_kept_networks(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    with run.writing():
        run.create_group("teacher", "fc1", epochs=[5], attrs=ATTRS, block=5)
        run.write_block("teacher", "fc1", 0, 0, make_block(make_samples(), 5, slice(None)))
        maps = make_samples().drop_vars("thumbnail")
        run.write_result("attribution/student", maps.isel(sample=[4, 1, 0]))
        run.write_result("attribution/teacher", maps)
        run.write_result("scores/student", xr.Dataset({"score": 0.5}))
        run.write_result("summary", maps)
    names = ["bird-1é", "bird-4é", "bird-2é"]
    some = open_run(run.export(tmp_path / "some.nc", networks=["student"], samples=names))
    assert some.results == ["attribution/student", "scores/student"]
    assert some.result("attribution/student")["sample"].values.tolist() == ["bird-4é", "bird-1é"]
    xr.testing.assert_identical(
        some.result("attribution/student"), run.result("attribution/student").isel(sample=[0, 1])
    )
    assert float(some.result("scores/student")["score"]) == 0.5
    only_network = open_run(run.export(tmp_path / "network.nc", networks=["teacher"]))
    assert only_network.results == ["attribution/teacher"]
    xr.testing.assert_identical(only_network.result("attribution/teacher"), run.result("attribution/teacher"))
    only_samples = open_run(run.export(tmp_path / "only.nc", samples=names))
    assert only_samples.results == ["attribution/student", "attribution/teacher", "scores/student"]
    others = open_run(run.export(tmp_path / "others.nc", samples=["bird-2é"]))
    assert others.results == ["attribution/teacher", "scores/student"], "no sample of the student's is kept"
    assert open_run(run.export(tmp_path / "all.nc")).results == run.results


def test_export__is_opened_by_plain_xarray_as_a_tree(tmp_path: Path, finished: Run) -> None:
    tree = xr.open_datatree(finished.export(tmp_path / "run.nc"), engine="netcdf4")
    layer = tree["points/student/features.9"]
    assert layer["sample"].values.tolist() == make_samples()["sample"].values.tolist()
    np.testing.assert_array_equal(
        layer["gain"].values, finished.dataset("student", "features.9")["gain"].values
    )


storable_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
attributes = st.dictionaries(
    st.from_regex("mark_[a-z0-9]{1,8}", fullmatch=True),
    storable_text | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False),
    max_size=4,
)
names = st.lists(storable_text.filter(bool), min_size=1, max_size=3, unique=True)
float32 = st.floats(width=32, allow_nan=False)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(attrs={}, samples=["a"], values=[-0.0, -0.0, -0.0])
@given(attrs=attributes, samples=names, values=st.lists(float32, min_size=3, max_size=3))
def test_round_trip__holds_for_any_text_number_and_attribute(
    attrs: dict[str, str | int | float], samples: list[str], values: list[float]
) -> None:
    positions = np.resize(np.array(values, "float32"), (len(samples), 2))
    ds = xr.Dataset(
        {"x": (("sample", "unit"), positions, attrs)}, coords={"sample": samples, "unit": [0, 1]}, attrs=attrs
    )
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run.zarr", samples=ds)
        for opened in (run, open_run(run.export(Path(folder) / "run.nc"))):
            assert opened.samples["sample"].values.tolist() == samples
            assert opened.samples["x"].values.tobytes() == positions.tobytes()  # keeps the sign of zero
            for got in (opened.attrs, opened.samples["x"].attrs):
                assert {name: got[name] for name in attrs} == attrs
                assert all(type(got[name]) is type(value) for name, value in attrs.items())


@pytest.mark.parametrize("path", GOLDEN_RUNS, ids=lambda path: path.stem)
def test_golden_run__is_read_as_it_was_written(path: Path) -> None:
    run = open_run(path)
    assert repr(run) == f"<kdviz.Run {path.name}: 2 samples, 4 units; networks: student-fc1-s0>"
    assert run.attrs["created_at"] == "2026-01-01T00:00:00+00:00"
    assert run.attrs["schema_version"] == schema.SCHEMA_VERSION
    ds = run.dataset("student-fc1-s0", "features.7")
    nan = np.nan
    gain = [[[0, 0.25, 0.5, 0.75], [1, 1.25, 1.5, nan]], [[10, 10.25, 10.5, 10.75], [11, 11.25, 11.5, nan]]]
    np.testing.assert_array_equal(ds["gain"].values, np.array(gain, "float32"))
    np.testing.assert_array_equal(ds["entropy"].values, np.array(gain, "float32") - 4)
    assert ds["sample"].values.tolist() == ["cat-1", "dög-2"]
    assert ds["epoch"].values.tolist() == [0, 10]
    assert ds["foreground"].values.tolist() == [[True, True, False, False], [False, True, False, False]]
    assert ds["valid"].values.tolist() == [[True] * 4, [True, True, True, False]]
    if path.stem.endswith("3"):
        assert ds["unit_size"].values.tolist() == [[4, 2, 4, 2], [4, 2, 4, 0]]
        assert ds["void"].values.tolist() == [[False, False, False, True], [False] * 4]
    else:  # all units count alike
        assert not {"unit_size", "void"} & {*ds.variables}
    assert ds["linearity_quartile"].values[1, 1].tolist() == [0.5, 1.0, 1.5, 2.0]
    assert ds["method"].values.tolist() == [[1, 1], [1, 1]] and ds["method"].dtype == "int8"
    assert ds["gain"].attrs["long_name"] == "gain of the unit"
    assert ds["converged"].values.all() and ds["converged"].dtype == bool
    assert ds["weight_distance"].values.tolist() == [0.0, 1.5]
    assert ds.attrs["base_noise"] == 0.01 and ds.attrs["config"] == '{"probes": 64}'
    assert run.results == ["attribution/student-fc1-s0"]
    attribution = run.result("attribution/student-fc1-s0")
    assert attribution["attribution"].values.tolist() == [[[[-1.0, 0.0, 0.5, 2.0]]]]
    assert attribution["sample"].values.tolist() == ["bird-3"]


def test_store__reads_and_writes_without_torch(tmp_path: Path, finished: Run) -> None:
    code = (
        "import sys; from kdviz.store import open_run\n"
        f"run = open_run({str(finished.path)!r}); run.export({str(tmp_path / 'run.nc')!r})\n"
        "assert 'torch' not in sys.modules; print(run.dataset('student', 'features.9').sizes['epoch'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "3\n"


# -- killed writers


def start_writer(path: Path) -> subprocess.Popen[bytes]:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; import test_store\n"
        f"test_store.measure_all(Path({str(path)!r}), after_block=lambda: [print(flush=True), input()])"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def let_go_on(writer: subprocess.Popen[bytes]) -> None:
    """Let a writer that waits after a block write the next one."""
    assert writer.stdin is not None
    writer.stdin.write(b"\n")
    writer.stdin.flush()


def test_run__killed_at_random_moments_ends_bit_equal(
    tmp_path: Path, reference_files: dict[str, bytes]
) -> None:
    path = tmp_path / "killed" / "run.zarr"
    moments = random.Random(0)
    kills = 0
    for _ in range(4):
        with start_writer(path) as writer:
            assert writer.stdout is not None
            for _ in range(moments.randrange(1, 3)):
                if writer.stdout.readline():
                    let_go_on(writer)
            time.sleep(moments.uniform(0, 0.02))  # the kill hits the next block, begun, written or neither
            writer.kill()
        kills += writer.returncode == -signal.SIGKILL
    assert kills >= 1, "no writer was interrupted"
    run = measure_all(path)
    assert run.missing("student", "fc1") == []
    assert plain_files(run.path) == reference_files


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


@pytest.mark.parametrize("nth", [1, 12, 25, 33, 41, 60, 90, 137])
def test_run__stopped_before_any_write_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int, reference_files: dict[str, bytes]
) -> None:
    """The n-th file that zarr would write is left half-written under its temporary name, and the last."""
    count = 0
    lock = threading.Lock()
    real = zarr.storage._local._put

    def put(path: Path, value: object, exclusive: bool = False) -> int:
        nonlocal count
        with lock:
            count += 1
            if count == nth:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.with_suffix(".0.partial").write_bytes(b"half")
            if count >= nth:
                raise Killed
            return real(path, value, exclusive)

    async def end_all_writing() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*others, return_exceptions=True)

    path = tmp_path / "run" / "run.zarr"
    monkeypatch.setattr(zarr.storage._local, "_put", put)
    with pytest.raises(Killed):
        measure_all(path)
    sync(end_all_writing())  # a killed process leaves no thread behind
    monkeypatch.undo()
    assert plain_files(measure_all(path).path) == reference_files


@pytest.mark.parametrize(
    ("killed_at", "left"), [("before", 1.0), ("between", 1.0), ("after", 2.0)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("kind", ["result", "variable"])
def test_run__killed_while_replacing_keeps_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, killed_at: str, left: float
) -> None:
    """Killed before the old folder moves away, before the new one comes, or before the old one is removed."""
    run = measure_all(tmp_path / "run.zarr")

    def write(value: float) -> None:
        variable = xr.DataArray(
            np.full(3, value, "float32"), dims="epoch", coords={"epoch": EPOCHS}, name="weight_distance"
        )
        if kind == "variable":
            run.write_variable("student", "fc1", variable)
        else:
            run.write_result("distance/student", variable.to_dataset(), overwrite=True)

    def read() -> xr.Dataset:
        again = open_run(run.path)
        return again.dataset("student", "fc1") if kind == "variable" else again.result("distance/student")

    def kill(*paths: object) -> None:
        raise Killed

    write(1.0)
    complete = sorted(read().variables)
    rename, renames = Path.rename, iter(range(9))
    if killed_at == "after":
        remove = shutil.rmtree
        monkeypatch.setattr(
            shutil,
            "rmtree",
            lambda path, **rest: kill() if ".old" in str(path) else remove(path, **rest),
        )
    else:
        fatal = ("before", "between").index(killed_at)
        monkeypatch.setattr(
            Path, "rename", lambda *paths: (kill if next(renames) == fatal else rename)(*paths)
        )
    with pytest.raises(Killed):
        write(2.0)
    monkeypatch.undo()
    assert sorted(read().variables) == complete and read()["weight_distance"].values.tolist() == [left] * 3
    with run.writing():
        pass
    assert sorted(read().variables) == complete
    assert read()["weight_distance"].values.tolist() == [left] * 3
    assert not list(run.path.rglob("*.partial"))
    write(3.0)
    assert read()["weight_distance"].values.tolist() == [3.0] * 3


def test_write_block__replacing_a_done_block_is_not_done_in_between(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = measure_all(tmp_path / "run.zarr")
    real = zarr.Array.__setitem__

    def fail_on_entropy(self: zarr.Array, key: object, value: object) -> None:
        if self.basename == "entropy":
            raise Killed
        real(self, key, value)

    monkeypatch.setattr(zarr.Array, "__setitem__", fail_on_entropy)
    with pytest.raises(Killed):
        run.write_block("student", "fc1", 1, 2, make_block(make_samples(), 2, slice(4, 5)))
    monkeypatch.undo()
    assert run.missing("student", "fc1") == [(1, 2)]


def test_dataset__of_an_unfinished_layer_needs_partial(fresh: Run) -> None:
    samples = make_samples()
    fresh.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=3)
    assert fresh.missing("student", "fc1") == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]
    with pytest.raises(StoreError, match="no finished epoch yet"):
        fresh.dataset("student", "fc1", partial=True)
    for epoch_index, block_index in [(1, 0), (1, 1), (2, 0)]:
        rows = slice(3 * block_index, 3 * block_index + 3)
        fresh.write_block(
            "student", "fc1", epoch_index, block_index, make_block(samples, EPOCHS[epoch_index], rows)
        )
    with pytest.raises(StoreError, match="student/fc1 is unfinished: 3 of 6 blocks are missing"):
        fresh.dataset("student", "fc1")
    ds = fresh.dataset("student", "fc1", partial=True)
    assert ds["epoch"].values.tolist() == [2]
    np.testing.assert_array_equal(ds["gain"].values, expected_dataset(samples)["gain"].values[1:2])
    (row,) = fresh.summary().to_dict("records")
    measured = expected_dataset(samples)["zero_gain"].values[[1]].ravel().tolist()
    measured += expected_dataset(samples)["zero_gain"].values[2, :3].tolist()
    assert row.pop("no_gain") == pytest.approx(np.mean(measured) / 4)
    assert row == {
        "network": "student", "role": "student", "layer": "fc1", "epochs": 3, "samples": 5, "done": 0.5
    }  # fmt: skip


# -- settings


def test_create_group__reopens_the_same_settings_and_refuses_others(fresh: Run) -> None:
    def create(**changed: object) -> None:
        arguments = {"epochs": EPOCHS, "attrs": ATTRS, "block": 2} | changed
        fresh.create_group("student", "fc1", **arguments)  # type: ignore[arg-type]

    asked = {"epochs": EPOCHS, "attrs": ATTRS, "block": 2}
    assert fresh.find_epochs("student", "fc1", **asked) == [] and fresh.networks == []
    create()
    assert fresh.find_epochs("student", "fc1", **asked) == EPOCHS
    assert fresh.find_epochs("student", "fc1", **{**asked, "block": 3}) == [], "nothing is written yet"
    fresh.write_block("student", "fc1", 0, 0, make_block(make_samples(), 0, slice(0, 2)))
    with pytest.raises(StoreError, match="already measured with block 2, now 3"):
        fresh.find_epochs("student", "fc1", **{**asked, "block": 3})
    create(attrs={**ATTRS, "created_at": "2030-01-01T00:00:00+00:00", "torch_version": "9"})
    assert (0, 0) not in fresh.missing("student", "fc1")
    for changed, difference in (
        ({"attrs": {**ATTRS, "config": '{"draws": 8, "probes": 32}'}}, "config.probes 64, now 32"),
        ({"attrs": {**ATTRS, "config": '{"probes": 64}'}}, "config.draws 8, now not set"),
        ({"attrs": {**ATTRS, "seed": 4}}, "seed 3, now 4"),
        ({"attrs": {**ATTRS, "feature": "relu"}}, 'feature not set, now "relu"'),
        ({"block": 3}, "block 2, now 3"),
        ({"epochs": [9], "block": 3}, "block 2, now 3"),
        ({"variables": ["gain"]}, r"variables \["),
    ):
        with pytest.raises(StoreError, match=f"already measured with {difference}"):
            create(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"network": "a/b"}, "network is named 'a/b'"),
        ({"network": "foreground"}, "network is named 'foreground', which is a variable of the samples"),
        ({"network": ".."}, "network is named"),
        ({"layer": ""}, "layer is named ''"),
        ({"layer": "__x"}, "layer is named"),
        ({"layer": "x.partial"}, "layer is named"),
        ({"layer": "zarr.json"}, "layer is named"),
        ({"epochs": []}, "epochs is"),
        ({"epochs": [2, 1]}, "integers of 0 or more that increase"),
        ({"epochs": [0.5]}, r"epochs is \[0.5\]; allowed: integers"),
        ({"block": 0}, "block must be an integer of 1 or more, got 0"),
        ({"variables": ["gain", "gian"]}, r"variables holds \['gian'\]"),
        ({"attrs": {"deep": None}}, "attribute 'deep' is a NoneType"),
    ],
)
def test_create_group__refuses_bad_arguments_before_any_work(
    fresh: Run, changed: dict[str, object], message: str
) -> None:
    arguments = {"network": "student", "layer": "fc1", "epochs": EPOCHS, "attrs": ATTRS, "block": 2} | changed
    with pytest.raises(ValueError, match=message):
        fresh.create_group(arguments.pop("network"), arguments.pop("layer"), **arguments)  # type: ignore[arg-type]
    assert fresh.networks == []


def test_create_run__reopens_equal_samples_and_refuses_others(fresh: Run) -> None:
    assert create_run(fresh.path, samples=make_samples()).samples.identical(fresh.samples)
    other = make_samples()
    other["foreground"][0, 0] = False
    with pytest.raises(StoreError, match="other samples: variable 'foreground' differs"):
        create_run(fresh.path, samples=other)
    with pytest.raises(StoreError, match="variable 'thumbnail' is in one of them only"):
        create_run(fresh.path, samples=make_samples().drop_vars("thumbnail"))
    with pytest.raises(StoreError, match='input_fingerprint not set, now "ab"'):
        create_run(fresh.path, samples=make_samples(), attrs={"input_fingerprint": "ab"})


def test_create_run__refuses_bad_samples(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with pytest.raises(SchemaError, match="dimension 'epoch'"):
        create_run(path, samples=make_block(make_samples(), 0, slice(None)))
    with pytest.raises(SchemaError, match="variable 'sample' is missing"):
        create_run(path, samples=make_samples().drop_vars(["sample"]))
    with pytest.raises(SchemaError, match="samples is empty"):
        create_run(path, samples=make_samples().isel(sample=slice(0)))
    assert os.listdir(tmp_path) == []


def test_write_block__refuses_what_does_not_belong_there(fresh: Run) -> None:
    samples = make_samples()
    fresh.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=2)
    block = make_block(samples, 0, slice(0, 2))
    for wrong, message in (
        (
            make_block(samples, 0, slice(2, 4)),
            r"block has sample \['bird-2é', 'bird-3é'\] \(2\), its place in the run",
        ),
        (make_block(samples, 2, slice(0, 2)), r"block has epoch \[2\] \(1\), its place in the run has \[0\]"),
        (block.isel(sample=[1, 0]), "block has sample"),
        (block.isel(unit=slice(3)), "block has unit"),
        (block.isel(epoch=0), r"block has epoch \[\] \(0\)"),
        (block.assign(foreground=block["valid"]), "another 'foreground' than the run"),
        (block.drop_vars("gain"), "variable 'gain' is missing"),
        (block.assign(entropy=block["entropy"] * np.nan), "variable 'entropy' is NaN at 8 valid entries"),
        (block.assign(novelty=block["gain"]), "block holds novelty, the group only gain"),
        (block.isel(quartile=slice(3)), "block has 3 quartiles, must be 4"),
    ):
        with pytest.raises(ValueError, match=message):
            fresh.write_block("student", "fc1", 0, 0, wrong)
    with pytest.raises(ValueError, match=r"epoch_index must be an integer in 0\.\.2, got 3"):
        fresh.write_block("student", "fc1", 3, 0, block)
    with pytest.raises(ValueError, match=r"block_index must be an integer in 0\.\.2, got 3"):
        fresh.write_block("student", "fc1", 0, 3, block)
    assert len(fresh.missing("student", "fc1")) == 9
    fresh.write_block("student", "fc1", 0, 0, block)
    assert len(fresh.missing("student", "fc1")) == 8


def test_create_group__can_hold_fewer_variables(fresh: Run) -> None:
    fresh.create_group("teacher", "fc1", epochs=[7], attrs={}, block=99, variables=["gain", "method"])
    block = make_block(make_samples(), 7, slice(None))
    with pytest.raises(ValueError, match="block holds gain_error, "):
        fresh.write_block("teacher", "fc1", 0, 0, block)
    fresh.write_block("teacher", "fc1", 0, 0, block[["gain", "method"]])
    ds = fresh.dataset("teacher", "fc1")
    assert [name for name in schema.MEASURED if name in ds] == ["gain", "method"]
    np.testing.assert_array_equal(ds["gain"].values, block["gain"].values)


def test_write_variable__replaces_and_refuses(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    distance = run.dataset("student", "fc1")["weight_distance"]
    run.write_variable("student", "fc1", distance + 1)
    assert run.dataset("student", "fc1")["weight_distance"].values.tolist() == [1.0, 2.0, 3.0]
    for wrong, message in (
        (distance.rename(None), "variable is named None"),
        (distance.rename("gain"), "variable is named 'gain'"),
        (distance.isel(epoch=[0, 1]), "weight_distance has another 'epoch' than student/fc1"),
        (distance.astype("int64"), "variable 'weight_distance' has dtype int64"),
    ):
        with pytest.raises(ValueError, match=message):
            run.write_variable("student", "fc1", wrong)


def add_epochs(run: Run, epochs: list[int]) -> None:
    """What the measuring side does when epochs have come."""
    samples = make_samples()
    run.create_group("student", "fc1", epochs=epochs, attrs=ATTRS, block=2)
    there = run.epochs("student", "fc1")
    for epoch_index, block_index in run.missing("student", "fc1"):
        rows = slice(2 * block_index, 2 * block_index + 2)
        block = make_block(samples, there[epoch_index], rows)
        run.write_block("student", "fc1", epoch_index, block_index, block)


def test_create_group__adds_epochs_and_keeps_what_is_written(fresh: Run) -> None:
    expected = expected_dataset(make_samples())
    add_epochs(fresh, [2])
    per_epoch = xr.DataArray([0.5], {"epoch": [2]}, "epoch", "accuracy")
    fresh.write_variable("student", "fc1", per_epoch)
    fresh.write_variable("student", "fc1", per_epoch.rename("weight_distance"))
    by_sample = xr.DataArray(np.arange(5.0), {"sample": fresh.samples["sample"].values}, "sample", "mine")
    fresh.write_variable("student", "fc1", by_sample)
    fresh.create_group("student", "fc1", epochs=[0, 5], attrs=ATTRS, block=2)
    assert fresh.epochs("student", "fc1") == [0, 2, 5]
    assert fresh.missing("student", "fc1") == [(k, block) for k in (0, 2) for block in range(3)]
    before = fresh.dataset("student", "fc1", partial=True)
    assert before["epoch"].values.tolist() == [2] and before["accuracy"].values.tolist() == [0.5]
    add_epochs(fresh, [0])
    ds = fresh.dataset("student", "fc1")
    for name in schema.MEASURED:
        np.testing.assert_array_equal(ds[name], expected[name], err_msg=name)
    np.testing.assert_array_equal(ds["accuracy"], [np.nan, 0.5, np.nan])
    assert "weight_distance" not in ds, "it is to be written again"
    np.testing.assert_array_equal(ds["mine"], np.arange(5.0))
    fresh.write_variable("student", "fc1", xr.DataArray([0.75], {"epoch": [5]}, "epoch", "accuracy"))
    np.testing.assert_array_equal(fresh.dataset("student", "fc1")["accuracy"], [np.nan, 0.5, 0.75])


def test_dataset__read_while_epochs_are_added_is_whole(tmp_path: Path) -> None:
    path, samples = tmp_path / "run.zarr", make_samples()
    add_epochs(create_run(path, samples=samples), [5])
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from kdviz.store import open_run; import test_store\n"
        f"run = open_run({str(path)!r})\n"
        "for epoch in (3, 9, 1, 7, 0, 8, 2, 6, 4): test_store.add_epochs(run, [epoch])"
    )
    expected = {epoch: make_block(samples, epoch, slice(0, 5)) for epoch in range(10)}
    seen, run = set(), open_run(path)
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            ds = run.dataset("student", "fc1", partial=True)
            seen.add(ds.sizes["epoch"])
            for position, epoch in enumerate(ds["epoch"].values.tolist()):
                for name in ("gain", "converged", "linearity"):
                    np.testing.assert_array_equal(ds[name][position], expected[epoch][name][0])
    assert writer.returncode == 0
    assert len(seen) > 1 and run.dataset("student", "fc1").sizes["epoch"] == 10


def test_write_variable__large_one_is_read_in_chunks_of_its_own(tmp_path: Path) -> None:
    samples, epochs = make_samples(16, 4096), list(range(16))
    run = create_run(tmp_path / "run.zarr", samples=samples)
    run.create_group("student", "fc1", epochs=epochs, attrs=ATTRS, block=16, variables=["converged"])
    converged = xr.DataArray(np.ones((1, 16), bool), dims=("epoch", "sample"), name="converged")
    for epoch in epochs:
        block = samples[["valid"]].assign(converged=converged).assign_coords(epoch=[epoch])
        run.write_block("student", "fc1", epoch, 0, block)
    values = (np.random.default_rng(0).random((16, 16, 4096)) > 0.5) & samples["valid"].values
    coords = {"epoch": epochs, "sample": samples["sample"], "unit": samples["unit"]}
    points = xr.DataArray(values, coords, ("epoch", "sample", "unit"), "knowledge_point")
    run.write_variable("student", "fc1", points)
    chunks = sorted((run.path / "points/student/fc1/knowledge_point/c").rglob("*/*/*"))
    assert chunks[-1].match("c/1/1/0")  # the format chose chunks, and not those of the blocks
    np.testing.assert_array_equal(run.dataset("student", "fc1")["knowledge_point"].values, values)

    chunks[-1].unlink()
    with pytest.raises(
        StoreError, match=r"chunk knowledge_point/c/1/1/0 is missing; Run.write_variable mends it"
    ):
        run.dataset("student", "fc1")


def test_write_variable__lost_chunk_is_seen_before_any_block_is_done(fresh: Run) -> None:
    fresh.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=2)
    values = make_block(fresh.samples, 0, slice(None))["entropy"].isel(epoch=[0, 0, 0])
    fresh.write_variable("student", "fc1", values.assign_coords(epoch=EPOCHS).rename("mine"))
    with pytest.raises(StoreError, match="is unfinished: 9 of 9 blocks"):
        fresh.dataset("student", "fc1")
    (fresh.path / "points/student/fc1/mine/c/0/0/0").unlink()
    with pytest.raises(StoreError, match=r"chunk mine/c/0/0/0 is missing"):
        fresh.dataset("student", "fc1")


def test_dataset__other_chunks_than_blocks_are_damage(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    node = run.path / "points/student/fc1/gain/zarr.json"
    edit_node(node, lambda about: about["chunk_grid"]["configuration"].update(chunk_shape=[1, 1, 4]))
    with pytest.raises(StoreError, match=r"gain/zarr\.json is damaged: its chunks are not the blocks"):
        run.dataset("student", "fc1")


def test_write_result__keeps_samples_of_its_own(fresh: Run) -> None:
    ds = make_block(make_samples(7), 3, slice(None)).rename(entropy="mine")
    fresh.write_result("transfer/student/fc1", ds)
    assert fresh.results == ["transfer/student/fc1"]
    got = fresh.result("transfer/student/fc1")
    assert got["mine"].values.tobytes() == ds["mine"].values.tobytes()
    assert got["sample"].values.tolist() == ds["sample"].values.tolist()
    with pytest.raises(StoreError, match="already holds the result 'transfer/student/fc1'"):
        fresh.write_result("transfer/student/fc1", ds)
    with pytest.raises(StoreError, match="already holds the result 'transfer/student/fc1'"):
        fresh.write_result("transfer/student", ds, overwrite=True)
    fresh.write_result("transfer/student/fc1", ds.isel(sample=[0]), overwrite=True)
    assert fresh.result("transfer/student/fc1").sizes["sample"] == 1
    with pytest.raises(ValueError, match="'points' is for measured layers"):
        fresh.write_result("points/student", ds)
    shutil.rmtree(fresh.path / "transfer" / "student" / "fc1")  # by hand: what held it stays
    assert fresh.results == []
    fresh.write_result("transfer/student/fc1", ds)
    assert fresh.results == ["transfer/student/fc1"]
    with pytest.raises(
        StoreError, match="no result 'transfer/studnt/fc1'; did you mean 'transfer/student/fc1'"
    ):
        fresh.result("transfer/studnt/fc1")


def test_to_datatree__holds_what_dataset_and_result_return(fresh: Run, finished: Run) -> None:
    tree = finished.to_datatree()
    assert tree["points"].to_dataset().identical(finished.samples)
    assert list(tree["points"].children) == ["student"]
    for layer in ("features.9", "features.10"):
        found, expected = tree[f"points/student/{layer}"].to_dataset(), finished.dataset("student", layer)
        xr.testing.assert_identical(found, expected)
    maps = xr.Dataset({"foreground_share": ("sample", [0.25, 0.5])}, coords={"sample": ["other", "one"]})
    fresh.write_result("attribution/student", maps)
    xr.testing.assert_identical(
        fresh.to_datatree()["attribution/student"].to_dataset(), fresh.result("attribution/student")
    )


def test_to_datatree__of_an_unfinished_run(fresh: Run) -> None:
    fresh.create_group("student", "fc1", epochs=[0, 1], attrs={}, block=2)
    with pytest.raises(StoreError, match="unfinished"):
        fresh.to_datatree()


def test_run__names_near_names(finished: Run) -> None:
    with pytest.raises(StoreError, match=r"has no network 'studnet'; did you mean 'student'\?"):
        finished.layers("studnet")
    with pytest.raises(StoreError, match=r"no layer 'xyz'; allowed: features.9, features.10"):
        finished.dataset("student", "xyz")


def test_run__shows_itself_in_one_line(finished: Run, fresh: Run) -> None:
    assert repr(finished) == "<kdviz.Run run.zarr: 5 samples, 4 units; networks: student>"
    assert repr(fresh) == "<kdviz.Run run.zarr: 5 samples, 4 units; networks: none yet>"
    assert finished.catalogue()["student", "features.9"]["block"] == 2
    assert fresh.summary().empty and "done" in fresh.summary().columns
    fresh.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fresh.summary()["no_gain"].isna().all()  # nothing is measured yet


# -- one writer


@pytest.fixture
def other_writer(fresh: Run) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys, time; from kdviz.store import open_run\n"
        f"with open_run({str(fresh.path)!r}).writing(): print('locked', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_writing__refuses_a_second_writer_and_names_the_first(
    fresh: Run, other_writer: subprocess.Popen[str]
) -> None:
    message = rf"is being written by process {other_writer.pid} on \S+ since 20\d\d-\d\d-\d\dT\S+\+00:00"
    with pytest.raises(StoreError, match=message):
        fresh.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=2)
    with pytest.raises(StoreError, match=message):
        create_run(fresh.path, samples=make_samples())
    assert open_run(fresh.path).networks == []  # reading goes on


def test_writing__is_not_blocked_by_a_dead_writer(fresh: Run, other_writer: subprocess.Popen[str]) -> None:
    other_writer.kill()
    other_writer.wait()
    note = fresh.path.with_name("run.zarr.lock.json")
    assert json.loads(note.read_text())["pid"] == other_writer.pid  # left behind
    with fresh.writing():
        assert json.loads(note.read_text())["pid"] == os.getpid()
    assert not note.exists()


def test_writing__sweeps_what_a_killed_writer_left(fresh: Run) -> None:
    left = fresh.path / "points" / "valid" / "c.0123.partial"
    left.write_bytes(b"half")
    folder = fresh.path / "new.partial"
    folder.mkdir()
    (folder / "zarr.json.1.partial").write_bytes(b"half")
    with fresh.writing(), fresh.writing():
        assert not left.exists() and not folder.exists()


def test_writing__refuses_an_exported_file() -> None:
    with pytest.raises(StoreError, match="is an exported file and cannot be written"):
        open_run(GOLDEN).create_group("a", "b", epochs=[0], attrs={}, block=1)


# -- what is no run


def with_version(finished: Run, path: Path, version: int) -> Path:
    exported = finished.export(path / "run.nc")
    with netCDF4.Dataset(exported, "a") as file:
        file["points"].schema_version = version
    return exported


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (4, "has schema version 4, this kdviz reads 1 to 3: a later one needs a newer kdviz"),
        (0, "version 0, this kdviz reads 1 to 3"),
    ],
)
def test_open_run__refuses_other_schema_versions_naming_both(
    tmp_path: Path, finished: Run, version: int, message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        open_run(with_version(finished, tmp_path, version))


def test_open_run__refuses_what_is_no_run(tmp_path: Path, finished: Run) -> None:
    with pytest.raises(StoreError, match="there is no run at"):
        open_run(tmp_path / "nothing")
    with pytest.raises(StoreError, match="there is no run at"):
        open_run(GOLDEN / "below")
    with pytest.raises(StoreError, match="is a folder but not a run"):
        open_run(tmp_path)
    garbage = tmp_path / "garbage.nc"
    garbage.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(range(256)) * 8)
    with pytest.raises(StoreError, match="cannot read 'points' of"):
        open_run(garbage)
    truncated = tmp_path / "truncated.nc"
    truncated.write_bytes(GOLDEN.read_bytes()[:5000])
    with pytest.raises(StoreError, match="cannot read 'points' of"):
        open_run(truncated)
    foreign = tmp_path / "foreign.nc"
    make_samples().to_netcdf(foreign, group="points", engine="netcdf4")
    with pytest.raises(SchemaError, match="is not a kdviz run: its attribute 'schema' is None"):
        open_run(foreign)


def test_open_run__names_a_damaged_chunk_and_a_damaged_node(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    chunk = run.path / "points" / "student" / "fc1" / "gain" / "c" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:7])
    with pytest.raises(StoreError, match="cannot read 'points/student/fc1' of"):
        run.dataset("student", "fc1")
    (run.path / "points" / "student" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match=r"student.zarr\.json is damaged"):
        run.networks  # noqa: B018


def test_is_whole__only_if_every_file_holds_what_it_should(tmp_path: Path) -> None:
    run, group = measure_all(tmp_path / "run.zarr"), "points/student/fc1"
    assert run.is_whole(group, {}) and not run.is_whole(group, {"variables": ["lost"]})
    for name, change in {
        "gain/c/0/0/0": lambda held: Zstd(checksum=True).encode(Zstd().decode(held)[:-8]),  # too few
        "gain/c/1/0/0": lambda held: held[:-3] + bytes([held[-3] ^ 4]) + held[-2:],
        "zarr.json": lambda held: held.replace(b'"seed": 3', b'"seed": 4'),
        "gain/zarr.json": lambda held: held.replace(b'"float32"', b'"float64"'),
    }.items():
        file = run.path / group / name
        held = file.read_bytes()
        file.write_bytes(change(held))
        assert file.read_bytes() != held and not run.is_whole(group, {}), name
        file.write_bytes(held)
    assert run.is_whole(group, {})
    shutil.rmtree(run.path / group)
    assert not run.is_whole(group, {})


def test_is_whole__not_of_a_layer_that_lost_an_array(tmp_path: Path) -> None:
    """Of those that it was made with; of a layer of an older version, which does not tell, none is known."""
    run, group = measure_all(tmp_path / "run.zarr"), "points/student/fc1"
    expected, made = run.dataset("student", "fc1"), ["epoch", "quartile", *schema.MEASURED]
    assert list_made(run.path / group) == made
    for name in made:
        folder = run.path / group / name
        folder.rename(tmp_path / name)
        assert not run.is_whole(group, {}), name
        with pytest.raises(StoreError, match=f"cannot read '{group}' of .*: {name} is missing; "):
            run.dataset("student", "fc1")
        if name != "epoch":
            assert run.lacks(group) == name and f"student (fc1: {name})" in run.gaps()
            assert run.summary()["done"].tolist() == [1.0], "flags of a layer are read without the rest"
        assert run.mend("student", "fc1") == [f"{name} is missing"]
        assert run.missing("student", "fc1") == [*product(range(3), range(3))]
        (tmp_path / name).rename(folder)
    assert run.is_whole(group, {}) and run.gaps() == ""
    xr.testing.assert_identical(run.dataset("student", "fc1"), expected)
    del zarr.open_array(SealedStore(run.path / group / "done"), mode="r+").attrs[MADE_WITH]
    shutil.rmtree(run.path / group / "gain_error")
    assert run.is_whole(group, {}) and run.gaps() == ""
    assert "gain_error" not in run.dataset("student", "fc1")


def test_read_group__vanished_while_it_is_read_is_one_error(fresh: Run) -> None:
    with pytest.raises(StoreError, match="cannot read 'points/student/fc1' of"):
        read_group(fresh.path, "points/student/fc1")


def test_create_run__refuses_impossible_places(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    with pytest.raises(StoreError, match=r"cannot make a run at .*file"):
        create_run(file / "run.zarr", samples=make_samples())
    with pytest.raises(StoreError, match="it is a file"):
        create_run(file, samples=make_samples())
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match="is a folder but not a run"):
        create_run(tmp_path / "folder", samples=make_samples())


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write into read-only folders")
def test_create_run__refuses_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        create_run(tmp_path / "run.zarr", samples=make_samples())


def test_create_run__says_so_when_the_system_forbids_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbid(*arguments: object, **rest: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbid)
    with pytest.raises(StoreError, match=r"cannot lock .*run\.zarr for writing: .*Permission denied"):
        create_run(tmp_path / "run.zarr", samples=make_samples())


# -- names that mean something inside of a run


@pytest.mark.parametrize(
    "name", ["done", "c", "points", "new", "contents", "epoch", "gain", "sample", "foreground", "void"]
)
def test_names__any_is_refused_at_once_or_used_to_the_end(tmp_path: Path, name: str) -> None:
    samples = make_samples()
    run = create_run(tmp_path / "run.zarr", samples=samples.drop_vars("foreground"))
    used = []
    for network, layer in ((name, "fc1"), ("other", name)):
        try:
            run.create_group(network, layer, epochs=[0], attrs=ATTRS, block=5)
        except ValueError as error:
            assert network == name and "is a variable of the samples" in str(error)
            continue
        run.write_block(network, layer, 0, 0, make_block(samples, 0, slice(None)))
        used.append((network, layer))
    if name != "points":
        run.write_result(name, make_block(samples, 0, slice(None)))
    assert ("other", name) in used
    run = add_masks(run.path, samples["foreground"].values)
    exported = open_run(run.export(tmp_path / "run.nc"))
    for opened in (open_run(run.path), exported):
        assert sorted(opened.catalogue()) == sorted(used)
        assert opened.summary()["done"].tolist() == [1.0] * len(used)
        for network, layer in used:
            expected = make_block(samples, 0, slice(None))["gain"]
            np.testing.assert_array_equal(opened.dataset(network, layer)["gain"], expected)
        assert opened.results == ([name] if name != "points" else [])


def test_writing__through_a_link_meets_the_same_lock(tmp_path: Path, fresh: Run) -> None:
    (tmp_path / "link.zarr").symlink_to(fresh.path)
    (tmp_path / "folder").symlink_to(tmp_path)
    for path in (tmp_path / "link.zarr", tmp_path / "folder" / "run.zarr"):
        with fresh.writing(), pytest.raises(StoreError, match=rf"is being written by process {os.getpid()}"):
            open_run(path).create_group("student", "fc1", epochs=[0], attrs={}, block=2)
        with open_run(path).writing(), pytest.raises(StoreError, match="is being written by process"):
            fresh.create_group("student", "fc1", epochs=[0], attrs={}, block=2)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"run.zarr", "run.zarr.lock", "link.zarr", "folder"}


# -- kills between two renames, and readers meanwhile


@pytest.mark.parametrize("kind", ["layer", "variable", "result"])
def test_run__half_replaced_is_read_as_it_was(tmp_path: Path, kind: str) -> None:
    """As a kill leaves it between the two renames: nobody concludes that something is missing."""
    run = measure_all(tmp_path / "run.zarr")
    run.write_result("maps/student", make_block(make_samples(), 0, slice(None)))

    def look(run: Run) -> list[object]:
        run = open_run(run.path)
        return [run.catalogue(), run.networks, run.layers("student"), run.results, run.summary().to_dict()]

    before, held = look(run), run.dataset("student", "fc1")
    folder = {"layer": "points/student/fc1", "variable": "points/student/fc1/gain", "result": "maps/student"}
    path = run.path / folder[kind]
    path.rename(path.with_name(f"{path.name}.old.partial"))
    shutil.copytree(path.with_name(f"{path.name}.old.partial"), run.path / "new.partial")
    assert look(run) == before and run.missing("student", "fc1") == []
    assert run.dataset("student", "fc1").identical(held)
    assert run.result("maps/student").sizes == make_block(make_samples(), 0, slice(None)).sizes
    exported = open_run(run.export(tmp_path / "run.nc"))
    assert exported.dataset("student", "fc1").identical(held) and exported.results == ["maps/student"]
    run.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=2)
    assert look(run) == before and not list(run.path.rglob("*.partial"))


def test_run__a_group_that_lost_its_node_is_one_still(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr", layers=("fc1", "fc2"))
    run.write_result("maps/student", make_block(make_samples(), 0, slice(None)))
    held = run.dataset("student", "fc1")
    for name in ("points/student", "maps", ""):
        (run.path / name / "zarr.json").unlink()
    again = open_run(run.path)
    assert again.networks == ["student"] and again.layers("student") == ["fc1", "fc2"]
    assert again.results == ["maps/student"] and again.dataset("student", "fc1").identical(held)
    with pytest.raises(StoreError, match="already holds the result 'maps/student'"):
        again.write_result("maps/student", make_block(make_samples(), 0, slice(None)))
    again.create_group("student", "fc1", epochs=EPOCHS, attrs=ATTRS, block=2)
    assert again.missing("student", "fc1") == []


def test_write_variable__is_replaced_whole_for_every_reader(tmp_path: Path) -> None:
    run, enough = measure_all(tmp_path / "run.zarr"), tmp_path / "enough"
    code = (
        "import itertools, pathlib, numpy as np, xarray as xr; from kdviz.store import open_run\n"
        f"run, enough = open_run({str(run.path)!r}), pathlib.Path({str(enough)!r})\n"
        "for at in itertools.takewhile(lambda at: not enough.exists(), range(100_000)):\n"
        "    values = np.full(3, at, 'float32')\n"
        "    moved = xr.DataArray(values, {'epoch': [0, 2, 5]}, 'epoch', 'weight_distance', {'turn': at})\n"
        "    run.write_variable('student', 'fc1', moved)\n"
    )
    run.write_variable("student", "fc1", run.dataset("student", "fc1")["weight_distance"] * 0)
    seen = set()
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            moved = run.dataset("student", "fc1")["weight_distance"]
            (value,) = set(moved.values.tolist())
            assert moved.attrs.get("turn", value) == value
            seen.add(value)
            if len(seen) > 2:
                enough.touch()
    assert writer.returncode == 0 and len(seen) > 2
