"""ILSVRC 2013 DET: boxes of mammals, wherever their images lie, in both layouts; and Tiny ImageNet."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_corpora import DOG, LION, SYNSETS, ZEBRA, corners, make_ilsvrc, make_tiny, write_annotation
from pydantic import ValidationError

from kdviz import units
from kdviz.errors import DataError
from kdviz.sources import TERRESTRIAL_MAMMALS, IlsvrcDet, TinyImageNet
from kdviz.sources.samples import Part

LATER = pytest.mark.parametrize("later", [False, True])


def load(root: Path, part: str = "train", size: int = 30, classes: tuple[str, ...] = (LION, ZEBRA)):
    return IlsvrcDet(folder=root, size=size, classes=classes).load(part)  # type: ignore[arg-type]


@LATER
def test_ilsvrc__boxes_of_the_classes_are_samples_wherever_they_lie(tmp_path: Path, later: bool) -> None:
    root = make_ilsvrc(tmp_path, later=later)
    train, held_out = load(root), load(root, "held-out")
    assert train.classes == held_out.classes == ("lion", "zebra")
    assert dict(zip(train.sample_ids, train.labels.tolist(), strict=True)) == {
        f"{LION}_0-1": 0,
        f"{LION}_1-2": 1,
    }
    assert {*held_out.sample_ids} == {"ILSVRC2012_val_00000000-1", "ILSVRC2012_val_00000001-2"}
    assert load(root, classes=(ZEBRA, DOG, LION)).classes == ("zebra", "dog", "lion")
    assert sorted(load(root, classes=(DOG, LION)).labels.tolist()) == [0, 0, 1]


@LATER
def test_ilsvrc__crop_is_1_5_times_the_box_and_inside_is_foreground(tmp_path: Path, later: bool) -> None:
    samples = load(make_ilsvrc(tmp_path, later=later))
    lion = samples.select([f"{LION}_0-1"])  # box 20..40 and 10..30, enlarged to 15..45 and 5..35
    assert corners(lion.images[0]) == (15, 5, 44, 34)
    inside = np.zeros((30, 30), np.int8)
    inside[5:25, 5:25] = 1
    np.testing.assert_array_equal(lion.masks[0], inside)


def test_ilsvrc__crop_is_clipped_at_the_border(tmp_path: Path) -> None:
    samples = load(make_ilsvrc(tmp_path), size=25)
    zebra = samples.select([f"{LION}_1-2"])  # box 0..20, enlarged to -5..25
    assert corners(zebra.images[0]) == (0, 0, 24, 24)
    inside = np.zeros((25, 25), np.int8)
    inside[:20, :20] = 1
    np.testing.assert_array_equal(zebra.masks[0], inside)


def test_ilsvrc__whole_crops_have_ten_by_ten_units_of_foreground(tmp_path: Path) -> None:
    marks = load(make_ilsvrc(tmp_path), size=224).select([f"{LION}_0-1"]).masks[:]
    cells = units.grid(16).reduce_mask(marks)[0].reshape(16, 16)
    expected = np.zeros((16, 16), bool)
    expected[3:13, 3:13] = True
    np.testing.assert_array_equal(cells, expected)


def test_ilsvrc__default_classes_are_twelve_mammals_of_the_listing() -> None:
    classes = IlsvrcDet(folder=Path()).classes
    assert len(classes) == 12 and {*classes} < {*TERRESTRIAL_MAMMALS} and len(TERRESTRIAL_MAMMALS) == 26
    assert TERRESTRIAL_MAMMALS[LION] == "lion" and TERRESTRIAL_MAMMALS[ZEBRA] == "zebra"


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("lion", ZEBRA), r"classes must be synsets, such as n02129165 \(lion\), got lion"),
        ((ZEBRA, ZEBRA), "classes names a synset twice"),
        ((ZEBRA,), "at least 2 items"),
    ],
)
def test_ilsvrc__refuses_classes_that_are_none(classes: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        IlsvrcDet(folder=Path(), classes=classes)


def test_ilsvrc__classes_without_a_name_here_are_named_by_synset(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    path = root / "ILSVRC2013_DET_bbox_train" / LION / f"{LION}_0.xml"
    write_annotation(path, [("n01503061", (20, 10, 39, 29), 0), (LION, (0, 0, 9, 9), 0)])
    assert load(root, classes=(LION, "n01503061")).classes == ("lion", "n01503061")


def test_ilsvrc__class_without_an_object_is_told(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    with pytest.raises(
        DataError, match=r"bbox_train holds no object of n02131653: leave these out of classes \(data"
    ):
        load(root, classes=(LION, "n02131653"))


def test_ilsvrc__boxes_not_unpacked_are_told(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    shutil.rmtree(root / "ILSVRC2013_DET_bbox_val")
    with pytest.raises(
        DataError, match=r"ILSVRC2013_DET_bbox_val of ILSVRC2013 DET is missing; download ILSVRC2013"
    ):
        load(root, "held-out")


def test_ilsvrc__archives_within_not_unpacked_are_told(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    shutil.rmtree(root / "ILSVRC2013_DET_train" / LION)
    (root / "ILSVRC2013_DET_train" / f"{LION}.tar").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"lacks 2 of 2 images .*unpack them, and the archives within, and give the"
    ):
        load(root)


def test_ilsvrc__damaged_annotation_of_a_class_is_named_others_are_not_parsed(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    boxes, known = root / "ILSVRC2013_DET_bbox_train" / LION, load(root).fingerprint
    (boxes / "other_train.xml").write_text("<annotation><name>n02510455<</annotation>")
    assert load(root).fingerprint == known
    (boxes / "other_train.xml").write_text("<annotation>")  # what it would have named is not known
    with pytest.raises(DataError, match=r"other_train\.xml is damaged: .*; unpack the annotations again"):
        load(root)
    (boxes / "other_train.xml").unlink()
    (boxes / f"{LION}_0.xml").write_text(f"<annotation><name>{LION}")
    with pytest.raises(DataError, match=rf"{LION}_0\.xml is damaged: .*; unpack the annotations again"):
        load(root)


# -- Tiny ImageNet


def tiny(root: Path, part: str = "train", size: int = 64):
    return TinyImageNet(folder=root, size=size).load(part)  # type: ignore[arg-type]


def test_tiny_imagenet__has_its_own_split_names_and_no_masks(tmp_path: Path) -> None:
    root = make_tiny(tmp_path)
    train, held_out = tiny(root), tiny(root, "held-out")
    synsets = sorted(SYNSETS)
    assert train.classes == held_out.classes == ("goldfish", "crane (n02000002)", "crane (n03000003)")
    assert {*train.sample_ids} == {f"{synset}_{k}" for synset in SYNSETS for k in (0, 1)}
    assert [synsets[label] for label in train.labels] == [name.split("_")[0] for name in train.sample_ids]
    assert dict(zip(held_out.sample_ids, held_out.labels.tolist(), strict=True)) == {
        f"val_{k}": synsets.index(synset) for k, synset in enumerate(SYNSETS)
    }
    assert train.masks is None and held_out.masks is None


def test_tiny_imagenet__shows_the_whole_image(tmp_path: Path) -> None:
    samples = tiny(make_tiny(tmp_path))
    for image, name in zip(samples.images[:], samples.sample_ids, strict=True):
        assert corners(image) == (0, 0, 63, 63)
        assert abs(image[..., 2].mean() - 80 * list(SYNSETS).index(name.split("_")[0])) < 2


@pytest.mark.parametrize(
    ("file", "text", "part", "message"),
    [
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn01443537\n",
            "held-out",
            r"line 1 must have 6 entries, got 'val_0",
        ),
        (
            "val/val_annotations.txt",
            "".join(f"val_{k}.JPEG\tn09\t0\t0\t1\t1\n" for k in range(3)),
            "held-out",
            r"names synsets that wnids\.txt has not: n09",
        ),
        (
            "train/n01443537/n01443537_boxes.txt",
            "a.JPEG 1 2\n",
            "train",
            r"boxes\.txt, line 1 must have 5 entries",
        ),
        (
            "train/n01443537/n01443537_boxes.txt",
            "n01443537_0.JPEG\t0\t10\t63\t58\n",
            "train",
            r"boxes\.txt lacks n01443537_1\.JPEG of the images beside it; unpack it again",
        ),
        (
            "val/val_annotations.txt",
            "val_0.JPEG\tn01443537\t0\t32\t44\t62\n",
            "held-out",
            r"val_annotations\.txt lacks val_1\.JPEG, val_2\.JPEG of the images beside it",
        ),
        (
            "words.txt",
            "n01443537\tgoldfish\n",
            "train",
            r"words\.txt lacks n02000002, n03000003 of wnids\.txt",
        ),
        ("words.txt", "n01443537\n", "train", r"words\.txt, line 1 must have 2 entries, got 'n01443537'"),
        (
            "train/n01443537/n01443537_boxes.txt",
            None,
            "train",
            r"n01443537_boxes\.txt of Tiny ImageNet is missing; dow",
        ),
        (
            "val/val_annotations.txt",
            None,
            "held-out",
            r"val_annotations\.txt of Tiny ImageNet is missing; download http",
        ),
        (
            "wnids.txt",
            "\n",
            "train",
            r"wnids\.txt lacks n01443537, n02000002, n03000003 of the folders in train; unpack it again",
        ),
    ],
)
def test_tiny_imagenet__damaged_index_files_are_named(
    tmp_path: Path, file: str, text: str | None, part: str, message: str
) -> None:
    root = make_tiny(tmp_path)
    (root / file).unlink()
    if text is not None:
        (root / file).write_text(text)
    with pytest.raises(DataError, match=message):
        tiny(root, part)


@pytest.mark.parametrize(("part", "box"), [("train", (0, 10, 63, 58)), ("held-out", (0, 32, 44, 62))])
def test_tiny_imagenet__takes_what_is_inside_the_box_for_the_object(
    tmp_path: Path, part: Part, box: tuple[int, ...]
) -> None:
    left, top, right, bottom = box  # the last pixels belong to it
    samples = TinyImageNet(folder=make_tiny(tmp_path), foreground="box").load(part)
    assert samples.masks is not None
    wanted = np.zeros((64, 64), np.int8)
    wanted[top : bottom + 1, left : right + 1] = 1
    for image, mask in zip(samples.images[:], samples.masks[:], strict=True):
        assert corners(image) == (0, 0, 63, 63)
        np.testing.assert_array_equal(mask, wanted)


def test_tiny_imagenet__box_that_is_none_is_named(tmp_path: Path) -> None:
    root = make_tiny(tmp_path)
    table = root / "val" / "val_annotations.txt"
    table.write_text(table.read_text().replace("\t32\t44", "\t32\tx"))
    with pytest.raises(DataError, match=r"the box of val_0.JPEG is .*, not four numbers"):
        TinyImageNet(folder=root, foreground="box").load("held-out")
