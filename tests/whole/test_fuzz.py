"""Every reader on files with random damage: the right content or one error of kdviz, and nothing else.

Damage is drawn from seeds, so every run tries the same files. Each reader tries its files in a process of its
own, where a crash of a C library or an endless loop fails the test instead of ending it.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from made_corpora import LION, ZEBRA, make_coco, make_cub, make_ilsvrc, make_tiny, make_voc
from PIL import Image
from test_faults import in_child, train_small
from test_store import measure_all
from tiny_study import make_plan

from kdviz.errors import DataError, SchemaError, StoreError
from kdviz.networks.checkpoints import read_checkpoint
from kdviz.sources import (
    CocoTopTen,
    Cub,
    IlsvrcDet,
    TinyImageNet,
    Voc2012,
    fashion_composites,
    image_folder,
)
from kdviz.sources.corpora import Corpus
from kdviz.store import open_run
from kdviz.studies import StudyPlan
from kdviz.testing import small_cnn
from kdviz.training import TrainingRecord

REFUSALS = (DataError, StoreError, SchemaError)
SECONDS = 60  # for all files of a reader; they take a few


def damage(content: bytes, chance: random.Random) -> bytes:
    """Flip bits, cut the end off, take bytes out or overwrite them."""
    kind = chance.choice(["flip", "flip", "cut", "remove", "overwrite"])
    start, length = chance.randrange(len(content)), chance.randrange(1, 64)
    if kind == "cut":
        return content[:start]
    if kind == "remove":
        return content[:start] + content[start + length :]
    changed = bytearray(content)
    if kind == "overwrite":
        changed[start : start + length] = chance.randbytes(len(changed[start : start + length]))
    else:
        for _ in range(chance.choice([1, 1, 4, 16])):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def try_files(
    read: Callable[[], object],
    files: list[Path],
    count: int,
    *,
    checksummed: bool = True,
) -> Counter[str]:
    """Damage or remove one file at a time and read; what came of it, by how often.

    Without `checksummed`, another content is no fault.
    """
    right = read()

    def attempt() -> None:
        outcomes: Counter[str] = Counter()
        signal.alarm(SECONDS)
        for seed in range(count):
            chance = random.Random(seed)
            file = chance.choice(files)
            content = file.read_bytes()
            if seed % 20 == 19:
                file.unlink()
            else:
                file.write_bytes(damage(content, chance))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    same = read() == right
            except REFUSALS:
                outcomes["refused"] += 1
            except BaseException as error:
                print(f"seed {seed}, {file.name}: {type(error).__name__}: {error}")
                outcomes["escaped"] += 1
            else:
                outcomes["right" if same else "other"] += 1
                if checksummed and not same:
                    print(f"seed {seed}, {file.name}: read as something else")
            file.write_bytes(content)
        print(json.dumps(outcomes))

    status, told = in_child(attempt)
    *faults, last = told.splitlines() or [""]
    assert status == 0, f"the reader ended with status {status}: {told}"
    assert not faults, "\n".join(faults)
    outcomes = Counter(json.loads(last))
    assert outcomes["refused"] > 0 and outcomes.total() == count
    return outcomes


def as_text(arrays: dict[str, np.ndarray]) -> dict[str, tuple]:
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


# -- checkpoints


def describe_weights(path: Path) -> dict[str, tuple]:
    return as_text({name: tensor.numpy() for name, tensor in read_checkpoint(path).items()})


def test_read_checkpoint__stands_damaged_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(small_cnn(width=2, features=3).state_dict(), path)
    try_files(lambda: describe_weights(path), [path], 200, checksummed=False)


def test_read_checkpoint__stands_damaged_old_torch_files(tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    torch.save(small_cnn(width=2, features=3).state_dict(), path, _use_new_zipfile_serialization=False)
    try_files(lambda: describe_weights(path), [path], 200, checksummed=False)


def test_read_checkpoint__stands_damaged_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    safetensors.torch.save_file(small_cnn(width=2, features=3).state_dict(), path)
    try_files(lambda: describe_weights(path), [path], 200, checksummed=False)


# -- runs


def describe_run(path: Path) -> list:
    """Every number and attribute of a run."""
    run = open_run(path)
    found = [
        run.samples,
        *(run.dataset(network, layer) for network in run.networks for layer in run.layers(network)),
    ]
    found += [run.result(name) for name in run.results]
    run.summary()
    numbers = [
        as_text({n: a.values for n, a in ds.variables.items() if a.dtype.kind in "fiub"}) for ds in found
    ]
    about = [str([ds.attrs, *(array.attrs for array in ds.variables.values())]) for ds in found]
    return [numbers, about, run.contents]


def test_open_run__stands_damaged_chunks(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    chunks = [path for path in sorted(run.path.rglob("*")) if path.is_file() and path.name != "zarr.json"]
    outcomes = try_files(lambda: describe_run(run.path), chunks, 40)
    assert outcomes["refused"] > 30  # a few bits of a frame mean nothing


def test_open_run__stands_damaged_metadata(tmp_path: Path) -> None:
    run = measure_all(tmp_path / "run.zarr")
    nodes = sorted(run.path.rglob("zarr.json"))
    outcomes = try_files(lambda: describe_run(run.path), nodes, 60)
    assert outcomes["refused"] > 50


def test_open_run__stands_damaged_exports(tmp_path: Path) -> None:
    path = measure_all(tmp_path / "run.zarr").export(tmp_path / "run.nc")
    outcomes = try_files(lambda: describe_run(path), [path], 120)
    assert outcomes["refused"] > 80  # what hits only the checksum at the end leaves the content right


# -- images and data


def test_image_folder__stands_damaged_images_and_masks(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    for tree, suffixes in (
        ("images", ("png", "jpg", "bmp", "gif", "tiff", "webp", "ppm")),
        ("masks", ["png"] * 7),
    ):
        (tmp_path / tree / "cat").mkdir(parents=True)
        for index, suffix in enumerate(suffixes):
            picture = chance.integers(0, 2 if tree == "masks" else 255, (12, 10, 3)).astype(np.uint8)
            Image.fromarray(picture).save(tmp_path / tree / "cat" / f"{index}.{suffix}")

    def read() -> dict[str, tuple]:
        images = image_folder(tmp_path / "images", masks=tmp_path / "masks", size=8).read()
        return as_text({"images": images.images, "masks": images.masks})

    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    try_files(read, files, 200, checksummed=False)


@pytest.mark.parametrize(
    ("make", "corpus"),
    [
        (make_cub, Cub),
        (make_voc, Voc2012),
        (make_ilsvrc, partial(IlsvrcDet, classes=(LION, ZEBRA))),
        (make_coco, partial(CocoTopTen, min_area=50)),
        (make_tiny, TinyImageNet),
    ],
)
def test_corpora__stand_damaged_files(make: Callable, corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    root = make(tmp_path)

    def read() -> dict[str, tuple]:
        samples = corpus(folder=root, size=16).load("train").read()
        arrays = {"images": samples.images, "labels": samples.labels}
        return as_text(arrays | ({} if samples.masks is None else {"masks": samples.masks}))

    images = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".jpg", ".JPEG"))
    texts = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".txt", ".xml", ".json", ".png"))
    try_files(read, images[:3] + texts, 200, checksummed=False)


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of four items and two tiny photographs."""
    chance = np.random.default_rng(0)
    arrays = {
        "train_images": chance.integers(0, 255, (4, 28, 28)).astype(np.uint8),
        "train_labels": np.arange(4, dtype=np.uint8),
        "train_indices": np.arange(4),
    }
    np.savez_compressed(tmp_path / "fashion_items.npz", **arrays)
    (tmp_path / "photographs").mkdir()
    for name in ("a", "b"):
        picture = Image.fromarray(chance.integers(0, 255, (30, 30, 3)).astype(np.uint8))
        picture.save(tmp_path / "photographs" / f"{name}.png")
    listing = [{"name": name, "split": "train"} for name in ("a", "b")]
    (tmp_path / "photographs.json").write_text(json.dumps(listing))
    monkeypatch.setenv("KDVIZ_DATA", str(tmp_path))
    monkeypatch.setattr("kdviz.sources.files.shipped_folders", lambda _: [])  # nothing to fall back on
    list_checksums(tmp_path)
    return tmp_path


def list_checksums(folder: Path) -> None:
    files = sorted(path for path in folder.rglob("*.*") if path.name != "checksums.json")
    sums = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / "checksums.json").write_text(json.dumps(sums))


def test_fashion_composites__stands_damaged_data(data_folder: Path) -> None:
    def read() -> dict[str, tuple]:
        made = fashion_composites("train", canvas=28).read()
        return as_text({"images": made.images, "masks": made.masks, "labels": made.labels})

    files = sorted(path for path in data_folder.rglob("*") if path.is_file())
    outcomes = try_files(read, files, 40)
    assert outcomes["right"] < 4


# -- studies


def test_study_plan__stands_a_damaged_file(tmp_path: Path) -> None:
    make_plan({"images": tmp_path / "images", "masks": tmp_path / "masks"}).save(tmp_path)
    try_files(lambda: StudyPlan.load(tmp_path), [tmp_path / "study.yaml"], 150, checksummed=False)


def test_training_record__stands_damaged_files(tmp_path: Path) -> None:
    train_small(tmp_path)

    def read() -> tuple:
        record = TrainingRecord.open(tmp_path)
        moved = record.weight_distance("fc1").values.tolist()
        return record.history.to_dict(), moved, [path.read_bytes() for path in record.checkpoints.values()]

    assert try_files(read, [tmp_path / "history.json"], 150)["right"] < 4
    assert try_files(read, [*tmp_path.glob("*.safetensors")], 150)["right"] == 0


def test_training__stands_damaged_files_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr("kdviz.training.fitting._Run._commit", lambda self: 1 / 0)
        train_small(tmp_path / "begun")
    copy = tmp_path / "copy"

    def read() -> dict[str, bytes]:
        """Go on in a copy."""
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "begun", copy)
        train_small(copy)
        return {
            path.name: path.read_bytes()
            for path in copy.iterdir()
            if path.suffix in (".json", ".safetensors")
        }

    files = [tmp_path / "begun" / name for name in ("plan.json", "state.pt", "epoch-003.safetensors")]
    try_files(read, files, 30)


def test_try_files__notices_what_it_is_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness can fail: on a crash, a foreign error, other content, an endless loop."""
    path = tmp_path / "file"
    whole = bytes(100)
    monkeypatch.setattr("test_fuzz.SECONDS", 1)

    def is_whole() -> bool:
        return path.exists() and path.read_bytes() == whole

    def wait() -> bool:
        while not is_whole():
            pass
        return True

    readers: dict[str, Callable[[], object]] = {
        "status -9": lambda: is_whole() or os.kill(os.getpid(), signal.SIGKILL),
        "status -14": wait,
        "ZeroDivisionError": lambda: is_whole() or 1 / 0,
        "FileNotFoundError": lambda: path.read_bytes(),
        "read as something else": lambda: path.read_bytes() if path.exists() else b"",
    }
    for message, read in readers.items():
        path.write_bytes(whole)
        with pytest.raises(AssertionError, match=message):
            try_files(read, [path], 20)
