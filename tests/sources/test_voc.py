"""PASCAL VOC 2012: one crop an object, its own pixels the foreground, borders void."""

from pathlib import Path

import numpy as np
import pytest
from made_corpora import corners, make_voc, save_mask, write_annotation
from PIL import Image

from kdviz.errors import DataError
from kdviz.sources import VOC_CLASSES, Voc2012


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path)


def load(root: Path, part: str = "train", size: int = 24):
    return Voc2012(folder=root, size=size).load(part)  # type: ignore[arg-type]


def test_voc__every_object_that_is_not_difficult_is_a_sample(root: Path) -> None:
    train, held_out = load(root), load(root, "held-out")
    assert {*train.sample_ids} == {f"2007_{image:06d}-{k}" for image in (0, 1) for k in (1, 3, 4)}
    assert {*held_out.sample_ids} == {f"2008_000000-{k}" for k in (1, 3, 4)}
    assert train.classes == VOC_CLASSES and len(VOC_CLASSES) == 20
    named = {"1": "dog", "3": "person", "4": "dog"}
    assert [VOC_CLASSES[label] for label in train.labels] == [named[name[-1]] for name in train.sample_ids]


@pytest.mark.parametrize(
    ("object_number", "size", "shown"),
    [
        (1, 24, (9, 9, 20, 20)),  # box 10..20, enlarged to 9..21
        (3, 22, (0, 0, 10, 10)),  # box 0..10, clipped on the left and above to 0..11
        (4, 22, (29, 19, 39, 29)),  # box 30..40 and 20..30, clipped on the right and below
    ],
)
def test_voc__crop_is_1_2_times_the_box_and_clipped(
    root: Path, object_number: int, size: int, shown: tuple
) -> None:
    sample = load(root, size=size).select([f"2007_000000-{object_number}"])
    assert corners(sample.images[0]) == shown


def test_voc__mask_is_the_object_and_borders_are_void(root: Path) -> None:
    samples = load(root, size=24)
    crop = np.zeros((12, 12), np.int8)  # of columns and rows 9..21, each drawn as 2 x 2 pixels
    crop[1:11, 1:11] = -1
    crop[3:9, 3:9] = 1
    marks = samples.select(["2007_000000-1"]).masks[0]
    np.testing.assert_array_equal(marks, crop.repeat(2, 0).repeat(2, 1))
    corner = (
        load(root, size=22).select(["2007_000000-3"]).masks[0]
    )  # 0..11, its own pixels are columns 0 and 1
    own = np.zeros((11, 11), np.int8)
    own[:10, :2] = 1
    own[10, 10] = -1  # the border of its neighbour
    np.testing.assert_array_equal(corner, own.repeat(2, 0).repeat(2, 1))


def test_voc__difficult_objects_count_when_objects_are_numbered(root: Path) -> None:
    marks = load(root, size=22).select(["2007_000000-4"]).masks[0]
    own = np.zeros((11, 11), np.int8)  # of columns 29..40 and rows 19..30
    own[3:, 2:] = 1
    own[0, 0] = 0
    np.testing.assert_array_equal(marks, own.repeat(2, 0).repeat(2, 1))


def test_voc__only_one_reading_of_palettes_and_greys(root: Path) -> None:
    known = load(root).masks[:]
    for path in (root / "SegmentationObject").iterdir():
        with Image.open(path) as mask:
            values = np.asarray(mask)
            assert mask.mode == "P"
        save_mask(path, values, "L")
    np.testing.assert_array_equal(load(root).masks[:], known)


def test_voc__another_year_is_refused(tmp_path: Path) -> None:
    older = make_voc(tmp_path, year=2007)
    for folder in (older, older.parent):
        with pytest.raises(
            DataError, match=r"folder \(data\.folder\) .*VOC2007 holds VOC2007, not VOC2012; download"
        ):
            load(folder)
    make_voc(tmp_path)
    assert len(load(older.parent)) == 6, "the right one is taken where both are there"


def test_voc__masks_that_are_missing_are_told_at_once(root: Path) -> None:
    (root / "SegmentationObject" / "2007_000001.png").unlink()
    with pytest.raises(
        DataError, match=r"lacks 1 of 2 masks of PASCAL VOC 2012: SegmentationObject/2007_000001\.png"
    ):
        load(root)


def test_voc__annotations_that_are_missing_are_told_at_once(root: Path) -> None:
    (root / "Annotations" / "2007_000001.xml").unlink()
    with pytest.raises(
        DataError, match=r"lacks 1 of 2 annotations of PASCAL VOC 2012: Annotations/2007_000001\.xml"
    ):
        load(root)


def test_voc__list_that_is_missing_is_named(root: Path) -> None:
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    assert len(load(root)) == 6
    with pytest.raises(
        DataError, match=r"val\.txt of PASCAL VOC 2012 is missing; download VOCtrainval_11-May-2012"
    ):
        load(root, "held-out")


def test_voc__empty_list_holds_no_samples(root: Path) -> None:
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n")
    with pytest.raises(DataError, match="holds no samples of PASCAL VOC 2012 to train on; download"):
        load(root)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "</annotation>",
            "",
            r"2007_000000\.xml is damaged: no element found.*; unpack the annotations again",
        ),
        ("<xmin>11</xmin>", "", r"2007_000000\.xml is damaged: could not convert string to float"),
        ("<xmin>11</xmin>", "<xmin>x</xmin>", r"damaged: could not convert string to float: 'x'"),
        (
            "<xmin>11</xmin>",
            "<xmin>nan</xmin>",
            r"damaged: an object has no name, or a box that is not finite",
        ),
        ("<name>dog</name>", "", r"damaged: an object has no name, or a box"),
        (
            "<name>dog</name>",
            "<name>dodo</name>",
            r"2007_000000\.xml names classes that VOC2012 has not: dodo",
        ),
    ],
)
def test_voc__damaged_annotations_are_named(root: Path, old: str, new: str, message: str) -> None:
    path = root / "Annotations" / "2007_000000.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        load(root)


def test_voc__boxes_without_area_are_passed_over_and_those_outside_told(root: Path) -> None:
    path = root / "Annotations" / "2007_000000.xml"
    write_annotation(
        path, [("dog", (9, 9, 8, 20), 0), ("cat", (90, 90, 95, 95), 0), ("cow", (5, 5, 9, 9), 0)]
    )
    samples = load(root)
    assert "2007_000000-1" not in samples.sample_ids
    row = samples.sample_ids.index("2007_000000-2")
    for array in (samples.images, samples.masks):
        with pytest.raises(
            DataError, match=r"the box of 2007_000000-2 lies outside of .*jpg, which is 40 x 30 pixels"
        ):
            array[row]
    assert samples.select(["2007_000000-3"]).images[0].any()


def test_voc__mask_of_another_size_is_told_when_it_is_read(root: Path) -> None:
    save_mask(root / "SegmentationObject" / "2007_000000.png", np.zeros((40, 30)), "P")
    samples = load(root)
    with pytest.raises(
        DataError, match=r"the mask of 2007_000000-1 is 30 x 40 pixels, its image .* is 40 x 30"
    ):
        samples.select(["2007_000000-1"]).masks[0]
    assert samples.select(["2007_000001-1"]).masks[0].any()
