"""Bad files, full disks, removed files and signals: one clear error, nothing run, nothing half-committed."""

import functools
import hashlib
import itertools
import json
import os
import pickle
import resource
import shutil
import signal
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import netCDF4
import numcodecs
import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from run_files import edit_node, plain_files
from test_store import (
    expected_dataset,
    let_go_on,
    make_block,
    make_samples,
    measure_all,
    start_writer,
)
from torch import nn

import kdviz
from kdviz.errors import DataError, SchemaError, StoreError
from kdviz.networks.checkpoints import load_weights, read_checkpoint
from kdviz.reports import notebooks, write_report
from kdviz.sources import fashion_composites, image_folder
from kdviz.store import Run, open_run
from kdviz.store.replacing import sweep
from kdviz.studies import Study
from kdviz.testing import random_images, small_cnn
from kdviz.training import TrainingPlan, TrainingRecord, train, weight_distance


class Hostile:
    """Unpickling one touches a file."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.trap,))


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """Path of the file that code from a hostile file makes; the trap itself works."""
    path = tmp_path / "code-was-run"
    pickle.loads(pickle.dumps(Hostile(path)))
    path.unlink()
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return measure_all(tmp_path_factory.mktemp("finished") / "run.zarr")


@pytest.fixture
def copied(finished: Run, tmp_path: Path) -> Run:
    return open_run(shutil.copytree(finished.path, tmp_path / "run.zarr"))


# -- checkpoints


def save_as_zip(path: Path, content: object) -> None:
    torch.save(content, path)


def save_as_old_file(path: Path, content: object) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_as_pickle(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("save", [save_as_zip, save_as_old_file, save_as_pickle])
def test_read_checkpoint__runs_no_pickled_code(
    tmp_path: Path, trap: Path, save: Callable, suffix: str
) -> None:
    path = tmp_path / f"hostile{suffix}"
    save(path, {"weight": torch.zeros(2), "extra": Hostile(trap)})
    with pytest.raises(DataError, match="cannot read the checkpoint"):
        read_checkpoint(path)
    assert not trap.exists()


def test_read_checkpoint__of_a_whole_network_is_one_sentence(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    named = r"\(torch\.nn\.modules\.linear\.Linear\)"
    message = rf"whole\.pt: it holds more than tensors and plain values {named}; save network\.state_dict\(\)"
    with pytest.raises(DataError, match=message) as error:
        read_checkpoint(tmp_path / "whole.pt")
    assert "\n" not in str(error.value) and "weights_only" not in str(error.value)


def test_read_checkpoint__torchscript_is_told_apart(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), tmp_path / "script.pt")
    with pytest.raises(DataError, match=r"plain values \(TorchScript\); save network\.state_dict\(\)"):
        read_checkpoint(tmp_path / "script.pt")


def test_read_checkpoint__names_the_tensors_of_a_record() -> None:
    weights = {"fc.weight": torch.ones(2), "fc._extra_state": {"scale": torch.ones(1)}}
    momentum = {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
    record = {"epoch": 3, "model": weights, "optimizer": momentum, "best": torch.tensor(0.5)}
    assert read_checkpoint(weights) == weights
    assert read_checkpoint(record, "model") == weights
    assert list(read_checkpoint(record)) == ["model.fc.weight", "model.fc._extra_state", "best"]
    for without in ({"epoch": 3, "optimizer": momentum}, {0: torch.ones(2)}, {"loss": torch.tensor(0.5)}):
        with pytest.raises(DataError, match=r"holds no weights .* save network\.state_dict\(\)"):
            read_checkpoint(without)


@pytest.mark.parametrize(
    "prefix", ["module.", "model._orig_mod.", "_orig_mod.module.", "net.", "student.backbone."]
)
def test_load_weights__knows_the_prefixes_of_wrappers(prefix: str) -> None:
    weights = small_cnn(seed=1).state_dict()
    wrapped = {f"{prefix}{name}": value for name, value in weights.items()}
    options = {"network": "n", "role": "student", "layers": "fc1", "units": kdviz.units.grid(4)}
    options |= {"method": "gain", "probes": 2, "draws": 2, "progress": False}
    ours, theirs = (
        kdviz.measure_checkpoints(small_cnn, {0: state}, random_images(1), **options)
        for state in (wrapped, weights)
    )
    np.testing.assert_array_equal(ours["gain"].values, theirs["gain"].values)
    states = {0: wrapped, 1: {name: 3 * value for name, value in wrapped.items()}}
    assert weight_distance(states, layer="fc1", initial=wrapped).values.tolist() == [0.0, 2.0]


def test_load_weights__of_an_averaged_model() -> None:
    averaged = torch.optim.swa_utils.AveragedModel(small_cnn(seed=1)).state_dict()
    assert averaged["n_averaged"] == 0
    network = small_cnn(seed=2)
    load_weights(network, averaged)
    for name, value in small_cnn(seed=1).state_dict().items():
        assert torch.equal(network.state_dict()[name], value)


def test_load_weights__that_do_not_fit_says_why_in_a_few_names() -> None:
    network, other = nn.ModuleList(nn.Linear(2, 2) for _ in range(9)), nn.ModuleList([nn.Linear(2, 3)])
    with pytest.raises(DataError) as raised:
        load_weights(network, other.state_dict())
    assert str(raised.value) == (
        "the state dict does not fit the network: 16 missing (1.weight, 1.bias, 2.weight, 2.bias, 3.weight "
        "and 11 more); 2 of another shape (0.weight (3, 2) for (2, 2), 0.bias (3,) for (2,))"
    )
    with pytest.raises(DataError, match=r"18 missing .*; 1 unknown \(weights\)$"):
        load_weights(network, {"weights": torch.ones(2)})


def test_load_weights__a_network_with_a_part_called_module_keeps_its_names() -> None:
    def wrapper() -> nn.Module:
        return nn.Sequential(nn.ModuleDict({"x": small_cnn(seed=1)})["x"])._modules["0"]

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = wrapper()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.module(x)

    state = Wrapper().state_dict()
    assert all(name.startswith("module.") for name in state)
    ds = kdviz.measure_checkpoints(
        Wrapper,
        {0: state},
        random_images(1),
        network="n",
        role="student",
        layers="module.fc1",
        units=kdviz.units.grid(4),
        method="gain",
        probes=2,
        draws=2,
        progress=False,
    )
    assert (ds["gain"] > 0).any()


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 99_000_000) + b"{" * 100,
        struct.pack("<Q", 68)
        + b'{"w":{"dtype":"F32","shape":[1000000,1000000],"data_offsets":[0,4]}}'
        + bytes(4),
        struct.pack("<Q", 66) + b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,99999999999]}}',
    ],
    ids=["beyond any file", "beyond this file", "shape beyond the data", "data beyond the file"],
)
def test_read_checkpoint__refuses_hostile_safetensors(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "x.safetensors").write_bytes(header)
    with pytest.raises(DataError, match=r"cannot read the checkpoint .*x\.safetensors: SafetensorError"):
        read_checkpoint(tmp_path / "x.safetensors")


def test_readers__do_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(DataError, match="there is no checkpoint at"):
        read_checkpoint(tmp_path / "pipe.pt")
    with pytest.raises(StoreError, match="there is no run at"):
        open_run(tmp_path / "pipe.pt")


# -- images and data files


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for tree in ("images", "masks"):
        (tmp_path / tree / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "images" / "cat" / "a.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 2:5] = 255
    Image.fromarray(mask).save(tmp_path / "masks" / "cat" / "a.png")
    return tmp_path


def read_images(folder: Path) -> None:
    image_folder(folder / "images", masks=folder / "masks", size=8).read()


def huge_png() -> bytes:
    """A valid header of 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zipfile.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("tree", ["images", "masks"])
def test_image_folder__refuses_an_absurd_size(images: Path, tree: str) -> None:
    (images / tree / "cat" / "a.png").write_bytes(huge_png())
    with pytest.raises(
        DataError, match=rf"{tree}/cat/a\.png cannot be read as an image: .*decompression bomb"
    ):
        read_images(images)


def test_image_folder__never_hands_a_file_to_another_program(images: Path) -> None:
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (images / "images" / "cat" / "a.png").write_bytes(postscript)
    with Image.open(images / "images" / "cat" / "a.png") as file:
        assert file.format == "EPS", "Pillow left to itself would start Ghostscript"
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: cannot identify"):
        read_images(images)


@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link"])
def test_image_folder__refuses_what_is_no_file(images: Path, kind: str) -> None:
    odd = images / "images" / "cat" / "b.png"
    {"pipe": os.mkfifo, "folder": os.mkdir, "broken link": lambda path: path.symlink_to("gone")}[kind](odd)
    shutil.copy(images / "masks" / "cat" / "a.png", images / "masks" / "cat" / "b.png")
    with pytest.raises(DataError, match=r"cat/b\.png is not a file"):
        read_images(images)


def test_fashion_composites__runs_no_pickled_code(
    tmp_path: Path, trap: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = np.array([Hostile(trap)], object)
    np.savez(
        tmp_path / "fashion_items.npz", train_images=objects, train_labels=objects, train_indices=objects
    )
    fill_data_folder(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
        fashion_composites("train", count=1)
    assert not trap.exists()


def fill_data_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take `folder` for the data folder, its checksums up to date."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.*")}
    (folder / "checksums.json").write_text(json.dumps(sums))
    monkeypatch.setenv("KDVIZ_DATA", str(folder))


@pytest.mark.parametrize("content", [b"[]", b"\xff\xfe", b'{"fashion_items.npz"', b"[" * 100_000])
def test_find_data__damaged_checksums_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    (tmp_path / "fashion_items.npz").write_bytes(b"")
    (tmp_path / "checksums.json").write_bytes(content)
    monkeypatch.setenv("KDVIZ_DATA", str(tmp_path))
    with pytest.raises(StoreError, match=r"checksums\.json"):
        fashion_composites("train", count=1)


# -- stores: removed and changed files


def chunks_of(run: Run, group: str) -> list[Path]:
    return sorted(path for path in (run.path / group).rglob("*") if "c" in path.parts and path.is_file())


def test_dataset__names_every_missing_chunk(copied: Run) -> None:
    """Not one may come back as NaN, False or 0 that nobody measured."""
    chunks = chunks_of(copied, "points/student/fc1")
    flags = [path for path in chunks if "/done/" in str(path)]
    assert len(flags) == 3 and len(chunks) > 100
    for chunk in set(chunks[::7]) - set(flags) | {chunk for chunk in chunks if "converged" in str(chunk)}:
        content = chunk.read_bytes()
        chunk.unlink()
        name = str(chunk.relative_to(copied.path / "points/student/fc1"))
        with pytest.raises(
            StoreError, match=f"cannot read 'points/student/fc1' of .*: chunk {name} is missing"
        ):
            copied.dataset("student", "fc1")
        with pytest.raises(StoreError, match=f"chunk {name} is missing"):
            copied.export(copied.path.with_suffix(".nc"))
        assert not copied.path.with_suffix(".nc").exists()
        chunk.write_bytes(content)
    copied.dataset("student", "fc1")
    (copied.path / "points/student/fc1/entropy/zarr.json").unlink()
    with pytest.raises(StoreError, match=r"entropy/zarr\.json is missing"):
        copied.dataset("student", "fc1")


def test_open_run__names_a_missing_chunk_of_the_samples(copied: Run) -> None:
    for chunk in chunks_of(copied, "points"):
        if "student" not in str(chunk):
            content = chunk.read_bytes()
            chunk.unlink()
            with pytest.raises(
                StoreError, match=f"chunk {chunk.relative_to(copied.path / 'points')} is missing"
            ):
                open_run(copied.path)
            chunk.write_bytes(content)
    assert open_run(copied.path).samples.identical(copied.samples)


def test_write_block__chunks_of_nothing_but_the_fill_value_are_not_missing(tmp_path: Path) -> None:
    samples = make_samples()
    samples["foreground"][:] = False  # as missing as `converged` and `gain_error` below, were they left out
    run = kdviz.store.create_run(tmp_path / "run.zarr", samples=samples)
    run.create_group("student", "fc1", epochs=[0], attrs={}, block=5)
    block = make_block(make_samples(), 0, slice(None)).drop_vars("foreground", errors="ignore")
    block["converged"][:] = False
    block["gain_error"][:] = np.nan
    run.write_block("student", "fc1", 0, 0, block)
    ds = open_run(run.path).dataset("student", "fc1")
    assert not ds["converged"].any() and ds["gain_error"].isnull().all() and not ds["foreground"].any()


def test_dataset__lost_flags_are_measured_again(copied: Run) -> None:
    (copied.path / "points/student/fc1/done/c/1/0").unlink()
    assert copied.missing("student", "fc1") == [(1, 0), (1, 1), (1, 2)]
    with pytest.raises(StoreError, match="is unfinished: 3 of 9 blocks are missing"):
        copied.dataset("student", "fc1")
    before = plain_files(copied.path)
    restored = plain_files(measure_all(copied.path).path)
    assert set(restored) - set(before) == {"points/student/fc1/done/c/1/0"}


def test_dataset__lost_flag_array_is_named(copied: Run) -> None:
    shutil.rmtree(copied.path / "points/student/fc1/done")
    for read in (copied.summary, lambda: copied.dataset("student", "fc1")):
        with pytest.raises(StoreError, match=r"student/fc1 of .*run\.zarr is damaged: .*'done'"):
            read()


def test_dataset__every_flipped_bit_of_a_chunk_is_noticed(copied: Run) -> None:
    """Zarr's own default has no checksum, and reads most of them as other numbers."""
    expected = copied.dataset("student", "fc1")
    chunk = copied.path / "points/student/fc1/entropy/c/1/0/0"
    content = chunk.read_bytes()
    errors = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        chunk.write_bytes(damaged)
        try:
            assert copied.dataset("student", "fc1").identical(expected)  # some bits of a frame mean nothing
        except StoreError as error:
            errors += 1
            assert "chunk entropy/c/1/0/0 is damaged" in str(error)
    assert errors >= len(content) - 2


def test_export__every_number_has_a_checksum(finished: Run, tmp_path: Path) -> None:
    with netCDF4.Dataset(finished.export(tmp_path / "run.nc")) as file:
        groups = [file["points"], file["points/student/fc1"]]
        numbers = [v for group in groups for v in group.variables.values() if v.ndim and v.dtype is not str]
        assert len(numbers) > 15 and all(variable.filters()["fletcher32"] for variable in numbers)


def test_export__any_change_is_noticed_but_that_of_a_writer(finished: Run, tmp_path: Path) -> None:
    path = finished.export(tmp_path / "run.nc")
    content = path.read_bytes()
    for position in np.linspace(0, len(content) - 1, 50).astype(int):
        damaged = bytearray(content)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        if position >= len(content) - 45 and not damaged.startswith(
            content[:-32]
        ):  # no seal to hold it against
            continue
        with pytest.raises(StoreError, match=r"run\.nc is damaged: its content is not what was exported"):
            open_run(path)
    path.write_bytes(content)
    with netCDF4.Dataset(path, "a") as file:
        file["points"].dataset_id = "renamed on purpose"
    assert open_run(path).attrs["dataset_id"] == "renamed on purpose"


def test_open_run__reads_no_old_format_whose_codec_is_pickle(tmp_path: Path, trap: Path) -> None:
    """Zarr 2 could hold pickled objects; such an array beside valid metadata is not looked at."""
    run = measure_all(tmp_path / "run.zarr")
    label = run.path / "points" / "label"
    shutil.rmtree(label)
    label.mkdir()
    metadata = {"zarr_format": 2, "shape": [5], "chunks": [5], "dtype": "|O", "order": "C", "fill_value": 0}
    metadata |= {"compressor": None, "filters": [{"id": "pickle", "protocol": 5}]}
    (label / ".zarray").write_text(json.dumps(metadata))
    (label / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": ["sample"]}))
    objects = np.array([Hostile(trap)] * 5, object)
    (label / "0").write_bytes(numcodecs.Pickle().encode(objects))
    (run.path / "points" / ".zgroup").write_text('{"zarr_format": 2}')
    assert "label" not in open_run(run.path).samples
    (run.path / "points" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="is a folder but not a run"):
        open_run(run.path)
    assert not trap.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [2**40, 2**20, 2**20]},
        {"data_type": "object"},
        {"codecs": [{"name": "numcodecs.pickle", "configuration": {}}]},
        {"codecs": [{"name": "no such codec"}]},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "/../../"}}},
        {"dimension_names": ["epoch", "sample", "../unit"]},
        {"fill_value": {"a": 1}},
        {"node_type": 7},
        {"shape": [-1, 5, 4]},
    ],
    ids=lambda change: f"{next(iter(change))}-{str(next(iter(change.values())))[:20]}",
)
def test_dataset__hostile_metadata_is_refused(copied: Run, change: dict) -> None:
    node = copied.path / "points/student/fc1/gain/zarr.json"
    edit_node(node, lambda about: about.update(change))
    with pytest.raises((StoreError, SchemaError)):
        copied.dataset("student", "fc1")


def test_open_run__newer_schema_of_a_folder_is_refused(copied: Run) -> None:
    node = copied.path / "points/zarr.json"
    edit_node(node, lambda about: about["attributes"].update(schema_version=99))
    with pytest.raises(SchemaError, match="has schema version 99, this kdviz reads 1 to 3"):
        open_run(copied.path)


def test_sweep__follows_no_link_out_of_the_run(copied: Run, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "kept.partial").write_text("mine")
    (copied.path / "out.partial").symlink_to(precious)
    (copied.path / "points" / "out").symlink_to(precious)
    sweep(copied.path)
    assert (precious / "kept.partial").read_text() == "mine"
    assert not (copied.path / "out.partial").exists()


@pytest.mark.parametrize("name", ["..", "../..", "student/../student", "/", ""])
def test_run__reads_nothing_outside_of_itself(copied: Run, name: str) -> None:
    with pytest.raises(StoreError, match="has no network"):
        copied.dataset(name, "fc1")
    with pytest.raises(StoreError, match="has no layer"):
        copied.dataset("student", name)
    with pytest.raises(StoreError, match="has no result"):
        copied.result(name)
    with pytest.raises(ValueError, match="is named"):
        copied.write_result(f"x/{name}", make_samples())


def test_write_block__store_replaced_by_a_file_is_an_error(copied: Run) -> None:
    shutil.rmtree(copied.path)
    copied.path.write_text("a file")
    with pytest.raises(StoreError, match=r"run\.zarr"):
        copied.write_block("student", "fc1", 0, 0, make_block(make_samples(), 0, slice(0, 2)))
    assert copied.path.read_text() == "a file"


def test_dataset__read_while_another_process_writes_is_whole_or_unfinished(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    expected = expected_dataset(make_samples())
    seen = set()
    with start_writer(path) as writer:
        assert writer.stdout is not None
        waits = False
        while writer.poll() is None:
            if waits:  # what is read next is read while it writes
                let_go_on(writer)
            else:
                writer.stdout.readline()
            waits = not waits
            try:
                ds = open_run(path).dataset("student", "fc1", partial=True)
            except StoreError as error:
                known = ("there is no run", "no network 'student'", "no layer 'fc1'", "no finished epoch yet")
                assert any(text in str(error) for text in known)
            else:
                seen.add(ds.sizes["epoch"])
                for name in ("gain", "converged", "linearity"):
                    np.testing.assert_array_equal(ds[name].values, expected[name].values[: ds.sizes["epoch"]])
    assert writer.returncode == 0
    assert {1, 2} <= seen, "it was read while it grew"


# -- full disks


def in_child(act: Callable[[], object], *, file_limit: int | None = None) -> tuple[int, str]:
    """Run in a copy of this process, on a disk that is full beyond `file_limit` bytes a file if given.

    Returns its exit status, negative for a signal, and what it told: printed lines, then the error.
    """
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        with os.fdopen(theirs, "w") as told:
            sys.stdout = sys.stderr = told
            try:
                if file_limit is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
                act()
                status = 0
            except SystemExit as ending:
                status = ending.code if isinstance(ending.code, int) else 1
            except BaseException as error:
                told.write(f"{type(error).__name__}: {error}")
        os._exit(status)
    os.close(theirs)
    with os.fdopen(ours) as told:
        text = told.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def test_full_disk__measuring_stops_and_goes_on_later(
    tmp_path: Path, finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, told = in_child(lambda: measure_all(tmp_path / "a.zarr"), file_limit=80)
    assert told.startswith("StoreError: cannot make a run at") and "File too large" in told
    assert not (tmp_path / "a.zarr").exists()
    put = zarr.storage._local._put

    def full_at_the_second_epoch(path: Path, *rest: object, **options: object) -> int:
        if "linearity" in path.parts and path.parts[-3:-1] == ("c", "1"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, 1))
        return put(path, *rest, **options)

    monkeypatch.setattr(zarr.storage._local, "_put", full_at_the_second_epoch)
    path = tmp_path / "b.zarr"
    _, told = in_child(lambda: measure_all(path))
    monkeypatch.undo()
    assert told.startswith("StoreError: cannot write") and "File too large" in told
    missing = open_run(path).missing("student", "fc1")
    assert missing == [(1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]
    assert plain_files(measure_all(path).path) == plain_files(finished.path)


@pytest.mark.parametrize("limit", [0, 5_000, 30_000])
def test_full_disk__export_keeps_the_old_file(tmp_path: Path, finished: Run, limit: int) -> None:
    target = tmp_path / "run.nc"
    target.write_text("old")
    assert finished.export(tmp_path / "whole.nc").stat().st_size > limit
    status, told = in_child(lambda: finished.export(target, overwrite=True), file_limit=limit)
    assert status == 1 and f"StoreError: cannot write {target}" in told
    assert target.read_text() == "old" and sorted(os.listdir(tmp_path)) == ["run.nc", "whole.nc"]


def train_small(folder: Path) -> TrainingRecord:
    images, labels = random_images(8, size=8), torch.arange(8) % 4
    plan = TrainingPlan(epochs=3, learning_rate=0.01, batch_size=4)
    return train(
        small_cnn(), images, labels, folder=folder, plan=plan, tracked_layers=["fc1"], progress=False
    )


@pytest.mark.parametrize("limit", [100, 8_000, 12_000])
def test_full_disk__training_names_the_file_and_goes_on_later(tmp_path: Path, limit: int) -> None:
    whole = train_small(tmp_path / "whole")
    folder = tmp_path / "training"
    _, told = in_child(lambda: train_small(folder), file_limit=limit)
    assert f"StoreError: cannot write {folder}/" in told and "File too large" in told
    assert not list(folder.glob(".*.tmp"))
    with pytest.raises(StoreError, match="no finished training run"):
        TrainingRecord.open(folder)
    record = train_small(folder)
    assert record.checkpoints[3].read_bytes() == whole.checkpoints[3].read_bytes()
    assert record.history.equals(whole.history)


def test_full_disk__report_is_not_left_half_written(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(notebook: Path, executed: Path, *rest: object, **options: object) -> None:
        nbformat.write(nbformat.v4.new_notebook(metadata={"papermill": {"start_time": "now"}}), executed)

    page = tmp_path / "report.html"
    page.write_text("old")
    act = functools.partial(write_report, study.run_path, folder=tmp_path, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(notebooks, "_execute", execute)
        _, told = in_child(act, file_limit=10_000)
    assert told.startswith(f"StoreError: cannot write {page}") and page.read_text() == "old"
    _, told = in_child(act, file_limit=100)
    assert f"StoreError: cannot write {tmp_path / 'report.ipynb'}" in told


def test_paths_below_a_file__are_refused_before_any_work(study: Study, tmp_path: Path, finished: Run) -> None:
    below = tmp_path / "file" / "below"
    below.parent.write_text("text")
    for act in (
        lambda: train_small(below),
        lambda: study.plan.save(below),
        lambda: finished.export(below / "run.nc"),
        lambda: write_report(study.run_path, folder=below, progress=False),
        lambda: measure_all(below),
    ):
        with pytest.raises(StoreError, match=rf"cannot .*{below}.*\[Errno"):
            act()
    assert below.parent.read_text() == "text"


# -- damaged study folders


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("history.json", b"{", r"cannot read .*history\.json"),
        ("history.json", b"[]", r"history\.json is damaged: it holds no names"),
        ("history.json", b"{}", r"history\.json is damaged.* no whole history"),
        ("plan.json", b"\xff", r"cannot read .*plan\.json"),
        ("plan.json", b"{}", "holds a run that differs in .*initial_weights"),
        ("epoch-003.safetensors", b"half", r"epoch-003\.safetensors is damaged: it is not what was"),
    ],
)
def test_training__damaged_file_is_named(tmp_path: Path, file: str, content: bytes, message: str) -> None:
    train_small(tmp_path / "training")
    (tmp_path / "training" / file).write_bytes(content)
    with pytest.raises(StoreError, match=message):
        _ = train_small(tmp_path / "training").checkpoints


def test_training__damaged_state_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdviz.training.fitting._Run._commit", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_small(tmp_path)
    network = {"fc1.weight": torch.zeros(3)}
    state = {"epoch": 1, "history": {}, "weight_distance": {}, "network": network}
    for damage in (lambda path: torch.save(state, path), lambda path: path.write_bytes(b"half")):
        damage(tmp_path / "state.pt")
        with pytest.raises(StoreError, match=r"state\.pt is damaged: .*remove .* to train anew"):
            train_small(tmp_path)


# -- kills


def test_export__killed_in_the_middle_keeps_the_old_file_and_blocks_nobody(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "run.nc"
    target.write_text("old")
    write, calls = xr.Dataset.to_netcdf, itertools.count()

    def write_and_be_killed(self: xr.Dataset, *arguments: object, **options: object) -> None:
        write(self, *arguments, **options)
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_netcdf", write_and_be_killed)
        status, _ = in_child(lambda: finished.export(target, overwrite=True))
    assert status == -signal.SIGKILL and target.read_text() == "old"
    (left,) = (path for path in tmp_path.iterdir() if path != target)
    assert left.name.startswith("run.nc.") and left.name.endswith(".partial")
    living = left.with_name(left.name.replace(left.name.split(".")[-2], str(os.getppid())))
    living.write_text("another export that goes on")
    opened = open_run(finished.export(target, overwrite=True))
    assert opened.samples.identical(finished.samples)
    assert sorted(tmp_path.iterdir()) == sorted([target, living])
