"""CUB-200-2011: masks of several annotators, the official split, damaged index files."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_corpora import BIRDS, corners, make_cub, save_mask
from PIL import Image

from kdviz.errors import DataError
from kdviz.sources import Cub


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_cub(tmp_path)


def load(root: Path, part: str = "train", size: int = 20):
    return Cub(folder=root, size=size).load(part)  # type: ignore[arg-type]


def test_cub__has_the_official_split_classes_and_names(root: Path) -> None:
    train, held_out = load(root), load(root, "held-out")
    assert train.classes == held_out.classes == BIRDS
    assert {*train.sample_ids} == {f"{BIRDS[k > 4]}/Bird_{k:04d}_77" for k in (1, 3, 5, 7)}
    assert {*held_out.sample_ids} == {f"{BIRDS[k > 4]}/Bird_{k:04d}_77" for k in (2, 4, 6, 8)}
    for samples in (train, held_out):
        assert samples.labels.tolist() == [BIRDS.index(name.split("/")[0]) for name in samples.sample_ids]
    assert train.source == "CUB-200-2011, 20 x 20"


def test_cub__shows_the_whole_image(root: Path) -> None:
    samples = load(root, size=40)
    for image, name in zip(samples.images[:], samples.sample_ids, strict=True):
        assert corners(image) == (0, 0, 39, 19)
        number = int(name.split("_")[-2])
        assert abs(image[..., 2].mean() - 10 * number) < 2


def test_cub__foreground_is_what_the_majority_saw(root: Path) -> None:
    mask = np.zeros((20, 40))
    mask[:, 4:40] = np.repeat([51, 102, 127, 128, 153, 204, 255, 0, 0], 4)
    path = root.parent / "segmentations" / BIRDS[0] / "Bird_0001_77.png"
    save_mask(path, mask)
    marks = load(root, size=40).select([f"{BIRDS[0]}/Bird_0001_77"]).masks[0]
    assert marks.dtype == np.int8
    columns = np.repeat([0, 0, 0, 0, 1, 1, 1, 1, 0, 0], 4)
    np.testing.assert_array_equal(marks, np.broadcast_to(columns, (40, 40)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_cub__reads_masks_in_colours(root: Path, mode: str) -> None:
    known = load(root).masks[:]
    for path in (root.parent / "segmentations").rglob("*.png"):
        with Image.open(path) as mask:
            mask.convert(mode).save(path)
    np.testing.assert_array_equal(load(root).masks[:], known)
    assert known[0, :, :10].all() and not known[0, :, 10:].any()


def test_cub__masks_lie_beside_the_folder_or_in_it(root: Path) -> None:
    known = load(root).fingerprint
    shutil.move(root.parent / "segmentations", root / "segmentations")
    assert load(root).fingerprint == known


def test_cub__without_masks_says_what_to_download(root: Path) -> None:
    shutil.rmtree(root.parent / "segmentations")
    with pytest.raises(DataError) as caught:
        load(root)
    assert str(caught.value) == (
        f"{root} has no masks: no segmentations/<class>/<name>.png in it or beside it; download "
        "CUB_200_2011.tgz from https://data.caltech.edu/records/65de6-vp158 and segmentations.tgz from "
        "https://data.caltech.edu/records/w9d68-gec53, unpack both whole, side by side, and give the folder "
        "CUB_200_2011"
    )


def test_cub__lists_missing_masks(root: Path) -> None:
    shutil.rmtree(root.parent / "segmentations" / BIRDS[1])
    with pytest.raises(
        DataError, match=r"lacks 2 of 4 masks of CUB-200-2011: \.\./segmentations/002\..*0005_77"
    ):
        load(root)


def test_cub__mask_of_another_size_is_told_when_it_is_read(root: Path) -> None:
    path = root.parent / "segmentations" / BIRDS[0] / "Bird_0001_77.png"
    save_mask(path, np.zeros((40, 20)))
    samples = load(root)
    row = samples.sample_ids.index(f"{BIRDS[0]}/Bird_0001_77")
    with pytest.raises(
        DataError, match=r"Bird_0001_77 is 20 x 40 pixels, its image .*jpg is 40 x 20; sizes must"
    ):
        samples.masks[row]
    assert samples.masks[row - 1].any(), "others are read"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("images.txt", ("3 ", ""), r"images\.txt, line 3 must have 2 entries, got '001\.Black"),
        ("image_class_labels.txt", ("5 2\n", "5\n"), r"labels\.txt, line 5 must have 2 entries, got '5'"),
        (
            "image_class_labels.txt",
            ("5 2\n", ""),
            r"labels\.txt lacks 5 of images\.txt; unpack it again",
        ),
        ("train_test_split.txt", ("7 1\n", ""), r"split\.txt lacks 7 of images\.txt"),
        (
            "train_test_split.txt",
            ("7 1\n", "7 x\n"),
            r"image 7 of .* class '2' and split 'x'; allowed: a number",
        ),
        (
            "classes.txt",
            ("2 002.Laysan_Albatross\n", ""),
            r"image 5 of .* has class '2' and split '1'; allowed",
        ),
    ],
)
def test_cub__damaged_index_files_are_named(
    root: Path, file: str, change: tuple[str, str], message: str
) -> None:
    path = root / file
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change, 1))
    with pytest.raises(DataError, match=message):
        load(root)


@pytest.mark.parametrize("file", ["classes.txt", "image_class_labels.txt", "train_test_split.txt"])
def test_cub__missing_index_files_are_named(root: Path, file: str) -> None:
    (root / file).unlink()
    with pytest.raises(
        DataError, match=f"{file} of CUB-200-2011 is missing; download CUB_200_2011.tgz from https"
    ):
        load(root)


def test_cub__index_file_that_is_no_text_is_named(root: Path) -> None:
    (root / "images.txt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(DataError, match=r"images\.txt cannot be read: .*utf-8"):
        load(root)


def test_cub__blank_lines_and_windows_line_ends_are_passed_over(root: Path) -> None:
    known = load(root).fingerprint
    for path in root.glob("*.txt"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"\r\n\r\n")
    assert load(root).fingerprint == known
