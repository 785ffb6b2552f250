"""MS COCO: the ten largest classes, outlines as masks, both years, damaged files."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_corpora import coco_object, corners, make_coco

from kdviz.errors import DataError, MissingExtraError
from kdviz.sources import CocoTopTen


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_coco(tmp_path)


def load(root: Path, part: str = "train", size: int = 24, **options: Any):
    return CocoTopTen(folder=root, size=size, **({"min_area": 50} | options)).load(part)  # type: ignore[arg-type]


def change(root: Path, edit: Callable[[dict[str, Any]], object], part: str = "train") -> Path:
    """Edit a file of annotations."""
    path = root / "annotations" / f"instances_{part}2014.json"
    contents = json.loads(path.read_text())
    edit(contents)
    path.write_text(json.dumps(contents))
    return path


def test_coco__classes_are_the_ten_with_most_objects_in_training(root: Path) -> None:
    train, held_out = load(root), load(root, "held-out")
    # 3 objects and 9 more of kind 90, k of kind k: kinds 1 and 2 are the smallest
    assert train.classes == held_out.classes == tuple(f"kind {k}" for k in (*range(3, 12), 90))
    assert np.bincount(train.labels).tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    assert train.sample_ids[0].startswith("COCO_train2014_000000000001-")
    change(root, lambda contents: contents["annotations"].clear(), "val")
    with pytest.raises(DataError, match="holds no samples of MS COCO to test with"):
        load(root, "held-out")


def test_coco__equal_counts_are_decided_by_number(root: Path) -> None:
    change(root, lambda contents: contents["annotations"].extend([coco_object(9000, 1, 2, (5, 5, 15, 15))]))
    assert load(root).classes[0] == "kind 2", "3 objects, as kind 3"


@pytest.mark.parametrize(
    ("number", "size", "shown"),
    [
        (7000, 24, (9, 9, 20, 20)),  # box 10..20, enlarged to 9..21
        (7001, 22, (29, 19, 39, 29)),  # in the lower right corner, clipped
    ],
)
def test_coco__crop_is_1_2_times_the_box_and_clipped(
    root: Path, number: int, size: int, shown: tuple
) -> None:
    sample = load(root, size=size).select([f"COCO_train2014_000000000001-{number}"])
    assert corners(sample.images[0]) == shown


def test_coco__mask_is_the_outline(root: Path) -> None:
    marks = load(root).select(["COCO_train2014_000000000001-7000"]).masks[0]
    crop = np.zeros((12, 12), np.int8)  # of columns and rows 9..21; the outline is 12..18 and 12..20
    crop[3:11, 3:9] = 1
    np.testing.assert_array_equal(marks, crop.repeat(2, 0).repeat(2, 1))


def test_coco__mask_may_be_run_lengths(root: Path) -> None:
    from pycocotools import mask

    known = np.zeros((11, 11), np.int8)
    known[:, :2] = 1  # 60 pixels, column by column, are two columns of 30
    known = known.repeat(2, 0).repeat(2, 1)
    name = "COCO_train2014_000000000001-7004"
    np.testing.assert_array_equal(load(root, size=22).select([name]).masks[0], known)
    pixels = np.zeros((30, 40), np.uint8, order="F")
    pixels[:, :2] = 1
    packed = mask.encode(pixels)
    packed["counts"] = packed["counts"].decode()

    def pack(contents: dict[str, Any]) -> None:
        next(o for o in contents["annotations"] if o["id"] == 7004)["segmentation"] = packed

    change(root, pack)
    np.testing.assert_array_equal(load(root, size=22).select([name]).masks[0], known)


def test_coco__crowds_small_objects_and_empty_outlines_are_left_out(root: Path) -> None:
    def spoil(contents: dict[str, Any]) -> None:
        contents["annotations"] += [
            coco_object(9000, 1, 90, (0, 0, 10, 10), segmentation=[]),
            coco_object(9001, 1, 90, (0, 0, 10, 10), segmentation=[[1, 2, 3, 4]]),
            coco_object(9002, 1, 90, (0, 0, 0, 10), area=70),
        ]

    change(root, spoil)
    numbers = {int(name.split("-")[1]) for name in load(root).sample_ids}
    assert {7000, 7001, 7004} < numbers and not {7002, 7003, 9000, 9001, 9002} & numbers
    assert 7003 in {int(name.split("-")[1]) for name in load(root, min_area=9).sample_ids}


def test_coco__small_objects_in_the_words_of_coco_are_left_out_by_default(root: Path) -> None:
    def enlarge(contents: dict[str, Any]) -> None:
        contents["annotations"] = [
            coco_object(9000, 1, 90, (0, 0, 32, 30), area=1024),
            coco_object(9001, 1, 90, (0, 0, 32, 30), area=1023.9),
        ]

    change(root, enlarge)
    assert CocoTopTen(folder=root).load("train").sample_ids == ("COCO_train2014_000000000001-9000",)


def test_coco__either_year_is_read_and_both_are_asked_for(tmp_path: Path) -> None:
    make_coco(tmp_path / "one", year=2017)
    root = tmp_path / "one" / "coco"
    assert load(root).sample_ids[0].startswith("000000000001-")
    with pytest.raises(
        DataError, match=r"holds MS COCO of 2017, year \(data\.year\) is 2014; download train2014"
    ):
        load(root, year=2014)
    make_coco(tmp_path / "one", year=2014)
    with pytest.raises(
        DataError, match=r"holds MS COCO of 2014 and of 2017: set year \(data\.year\) to one of them"
    ):
        load(root)
    assert load(root, year=2014).sample_ids[0].startswith("COCO_train2014_")
    assert load(root, year=2017).sample_ids[0].startswith("000000000001-")


def test_coco__annotations_of_the_other_part_are_asked_for(root: Path) -> None:
    (root / "annotations" / "instances_val2014.json").unlink()
    assert len(load(root))
    with pytest.raises(
        DataError, match=r"instances_val2014\.json of MS COCO is missing; download train2014.zip"
    ):
        load(root, "held-out")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda contents: contents.pop("images"),
            "is damaged: 'images' is missing; unpack the annotations again",
        ),
        (lambda contents: contents["annotations"][0].pop("bbox"), "is damaged: 'bbox' is missing"),
        (lambda contents: contents["annotations"][0].update(bbox=["a"] * 4), "is damaged: "),
        (lambda contents: contents["annotations"][0].update(image_id=77), "is damaged: 77 is missing"),
        (lambda contents: contents.update(categories=[]), "is damaged: 3 is missing"),
    ],
)
def test_coco__damaged_annotations_are_named(root: Path, edit: Callable, message: str) -> None:
    path = change(root, edit)
    with pytest.raises(DataError, match=f"{path.name} {message}"):
        load(root)


@pytest.mark.parametrize("text", ["", "[]", '{"images": [', "\xff"])
def test_coco__file_that_is_none_of_annotations_is_named(root: Path, text: str) -> None:
    path = root / "annotations" / "instances_train2014.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(
        DataError, match=r"instances_train2014\.json is damaged: .*; unpack the annotations again"
    ):
        load(root)


def test_coco__keeps_outlines_and_no_annotations(root: Path) -> None:
    items = CocoTopTen(folder=root, min_area=50).find(root, "train")[1]
    packed = next(item.shape for item in items if item.name.endswith("-7000"))
    assert [part.tolist() for part in packed] == [[12, 12, 18, 12, 18, 20, 12, 20]]
    assert packed[0].itemsize == 8


def test_coco__names_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(MissingExtraError, match=r"MS COCO needs pycocotools: install kdviz\[coco\]"):
        load(root)


def test_sources__import_no_pycocotools() -> None:
    code = "import sys, kdviz.sources; print('pycocotools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
