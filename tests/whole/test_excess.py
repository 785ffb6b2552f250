"""Small files that declare more than they can hold are refused before memory is asked for."""

import resource
from pathlib import Path

import netCDF4
import pytest
import zarr
from run_files import edit_node
from test_faults import in_child
from test_store import measure_all

from kdviz.errors import StoreError
from kdviz.store import open_run


def open_in_little_memory(path: Path) -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
    open_run(path)


def test_open_run__a_small_file_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.nc"
    with netCDF4.Dataset(path, "w") as file:
        points = file.createGroup("points")
        points.createDimension("sample", 100_000)
        points.createDimension("unit", 100_000)
        points.createVariable("noise", "f4", ("sample", "unit"), zlib=True, chunksizes=(1000, 1000))
    assert path.stat().st_size < 100_000
    _, told = in_child(lambda: open_in_little_memory(path))
    assert told.startswith("StoreError: cannot read 'points' of") and "\n" not in told
    assert "bomb.nc: it declares 37.3 GiB, more than 0.0 MiB on the disk can hold" in told


def test_open_run__a_small_folder_that_declares_gigabytes_is_refused(tmp_path: Path) -> None:
    points = zarr.open_group(tmp_path / "bomb.zarr", mode="w", zarr_format=3).create_group("points")
    size = (100_000, 100_000)
    points.create_array("noise", shape=size, chunks=size, dtype="f4", dimension_names=["sample", "unit"])
    _, told = in_child(lambda: open_in_little_memory(tmp_path / "bomb.zarr"))
    assert told.startswith("StoreError: cannot read 'points' of") and "\n" not in told
    assert "bomb.zarr: it declares 37.3 GiB, more than 0.0 MiB on the disk can hold" in told


def test_dataset__flags_that_declare_gigabytes_are_refused(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    node = run.path / "points" / "student" / "fc1" / "done" / "zarr.json"
    edit_node(node, lambda about: about.update(shape=[200_000, 200_000]))
    with pytest.raises(StoreError, match=r"no readable 'done': it declares 37\.3 GiB"):
        run.dataset("student", "fc1")
