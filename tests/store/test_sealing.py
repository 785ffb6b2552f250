"""What zarr says of a run's groups and arrays is what was written, or it is refused."""

import json
from pathlib import Path

import pytest
import xarray as xr
from run_files import edit_node
from test_store import measure_all

from kdviz.errors import StoreError
from kdviz.store import open_run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return measure_all(tmp_path_factory.mktemp("sealed") / "run.zarr").path


@pytest.mark.parametrize("node", ["points", "points/student/fc1", "points/student/fc1/gain", "points/label"])
def test_sealed__every_flipped_bit_of_a_description_is_refused(whole: Path, node: str) -> None:
    path = whole / node / "zarr.json"
    content = path.read_bytes()
    start = content.index(b'"attributes"')
    try:
        for at in range(start, len(content), max(1, (len(content) - start) // 40)):
            damaged = bytearray(content)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            if not means_the_same(content, bytes(damaged)):
                with pytest.raises(StoreError):
                    open_run(whole).dataset("student", "fc1")
    finally:
        path.write_bytes(content)


def means_the_same(one: bytes, other: bytes) -> bool:
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


def test_sealed__other_readers_see_one_more_attribute(whole: Path) -> None:
    with xr.open_zarr(whole, group="points/student/fc1", consolidated=False) as ds:
        assert ds.attrs["kdviz_checksum"].startswith("kdviz-sha256:") and "kdviz_checksum" in ds["gain"].attrs
    assert "kdviz_checksum" not in open_run(whole).dataset("student", "fc1").attrs
    assert "kdviz_checksum" not in open_run(whole).samples["label"].attrs


def test_sealed__what_an_older_kdviz_wrote_is_read(whole: Path) -> None:
    before = open_run(whole).dataset("student", "fc1")
    path = whole / "points/student/fc1/zarr.json"
    content = path.read_bytes()
    edit_node(path, lambda about: None)
    assert b"kdviz_checksum" not in path.read_bytes()
    xr.testing.assert_identical(open_run(whole).dataset("student", "fc1"), before)
    path.write_bytes(content)


def test_sealed__attributes_like_a_checksum_are_kept_or_refused(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    ds = xr.Dataset({"mine": ("thing", [1.0])}, attrs={"checksum": "mine", "source": "sha256:abcdef"})
    run.write_result("other", ds)
    assert (
        dict(open_run(run.path).result("other").attrs) | ds.attrs == open_run(run.path).result("other").attrs
    )
    with pytest.raises((StoreError, ValueError), match="attribute 'kdviz_checksum' is kept for the checksum"):
        run.write_result("more", ds.assign_attrs(kdviz_checksum="mine"))
