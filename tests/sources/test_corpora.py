"""What the readers of all corpora share: where one lies, what is missing of it, crops, order, laziness."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_corpora import LION, ZEBRA, draw, make_coco, make_cub, make_ilsvrc, make_tiny, make_voc
from PIL import Image
from pydantic import ValidationError

from kdviz.errors import DataError
from kdviz.sources import CocoTopTen, Cub, IlsvrcDet, TinyImageNet, Voc2012
from kdviz.sources.corpora import Box, Corpus

CORPORA = {
    "cub200": (make_cub, Cub, {}),
    "voc2012": (make_voc, Voc2012, {}),
    "ilsvrc-det": (make_ilsvrc, IlsvrcDet, {"classes": (LION, ZEBRA)}),
    "coco": (make_coco, CocoTopTen, {"min_area": 50}),
    "tiny-imagenet": (make_tiny, TinyImageNet, {}),
}
PAGES = {
    "cub200": "https://data.caltech.edu/records/65de6-vp158",
    "voc2012": "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    "ilsvrc-det": "https://image-net.org/challenges/LSVRC/2013/",
    "coco": "https://cocodataset.org/#download",
    "tiny-imagenet": "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
}
SPECIFIC = {  # a folder in the corpus, and the size that is the default
    "cub200": ("images", 224),
    "voc2012": ("ImageSets", 224),
    "ilsvrc-det": ("ILSVRC2013_DET_train", 224),
    "coco": ("annotations", 224),
    "tiny-imagenet": ("train", 64),
}

kinds = pytest.mark.parametrize("kind", CORPORA)


def make(kind: str, folder: Path, **changes: object) -> tuple[Path, Corpus]:
    maker, reader, options = CORPORA[kind]
    root = maker(folder)
    return root, reader(**({"folder": root, "size": 16} | options | changes))


# -- crops


@pytest.mark.parametrize(
    ("factor", "cut"),
    [
        (1.0, (10, 10, 30, 20)),
        (1.2, (8, 9, 32, 21)),
        (1.5, (5, 8, 35, 23)),  # 7.5 and 22.5, halves go up
        (3.0, (0, 0, 40, 25)),  # clipped on all sides
    ],
)
def test_box__is_enlarged_about_its_centre_and_clipped(factor: float, cut: tuple) -> None:
    assert Box(10, 10, 30, 20).cut(40, 25, factor) == cut


def test_box__without_area_has_none() -> None:
    assert Box(0, 0, 1, 1).has_area
    assert not Box(5, 0, 5, 1).has_area and not Box(0, 6, 1, 5).has_area


# -- where a corpus lies


@kinds
def test_corpus__is_found_from_one_level_above_or_below(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    known = corpus.load("train").fingerprint
    assert pickle.loads(pickle.dumps(corpus)).load("train").fingerprint == known
    for folder in (root.parent, root / SPECIFIC[kind][0]):
        assert corpus.model_copy(update={"folder": folder}).load("train").fingerprint == known, folder


@kinds
def test_corpus__missing_says_what_to_download(kind: str, tmp_path: Path) -> None:
    _, corpus = make(kind, tmp_path / "there")
    absent, empty = tmp_path / "absent", tmp_path / "around" / "empty"
    empty.mkdir(parents=True)
    for folder, found in (
        (absent, f"is not a folder: {absent}"),
        (empty, f"{empty} holds no {corpus.title}: "),
    ):
        with pytest.raises(DataError) as caught:
            corpus.model_copy(update={"folder": folder}).load("train")
        message = str(caught.value)
        assert message.startswith("folder (data.folder) ") and found in message and PAGES[kind] in message
        assert "give the folder" in message or "give that" in message


@kinds
def test_corpus__twice_in_a_folder_is_asked_for(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path / "all")
    for copy in ("one", "two"):
        shutil.copytree(root, tmp_path / "all" / copy / root.name)
    shutil.rmtree(root)
    pattern = rf"holds {corpus.title} 2 times: .*all/one/.*all/two/.*; give one of these"
    with pytest.raises(DataError, match=pattern):
        corpus.model_copy(update={"folder": tmp_path / "all"}).load("train")


@kinds
def test_corpus__passes_over_files_that_are_not_its_own(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    known = corpus.load("train").fingerprint
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / "Thumbs.db").write_bytes(b"\0")
        (folder / "._notes.xml").write_bytes(b"\0")
        (folder / "extra.jpg").write_bytes(b"\0")
    assert corpus.load("train").fingerprint == known


# -- archives unpacked in part


@kinds
def test_corpus__half_unpacked_is_told_when_it_is_loaded(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    images = sorted({*root.rglob("*.jpg"), *root.rglob("*.JPEG")})
    used = {str(item.image) for item in corpus.find(root, "train")[1]}
    first = next(path for path in images if str(path) in used)
    first.unlink()
    with pytest.raises(DataError) as caught:
        corpus.load("train")
    message = str(caught.value)
    assert f"{root} lacks 1 of {len(used)} images of {corpus.title}: {first.relative_to(root)}; " in message
    assert PAGES[kind] in message
    shutil.rmtree(first.parent)
    lost = sum(Path(path).parent == first.parent for path in used)
    with pytest.raises(DataError, match=f"lacks {lost} of {len(used)} images"):
        corpus.load("train")


@kinds
def test_corpus__reads_others_when_an_image_is_gone_or_damaged(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    samples = corpus.load("train")
    before = samples.images[:]
    by_image: dict[Path, list[int]] = {}
    for row, name in enumerate(samples.sample_ids):
        item = next(item for item in corpus.find(root, "train")[1] if item.name == name)
        by_image.setdefault(item.image, []).append(row)
    (gone, rows), *others = by_image.items()
    gone.write_bytes(gone.read_bytes()[:200])
    for row in rows:
        with pytest.raises(DataError, match=f"{gone.name} cannot be read as an image"):
            samples.images[row]
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name} is not a file"):
        samples.images[rows[0]]
    for _, intact in others:
        np.testing.assert_array_equal(samples.images[intact], before[intact])
    draw(gone, 64, 64, blue=255)
    assert samples.images[rows[0]][..., 2].mean() > 200, "nothing was kept in memory"


@pytest.mark.parametrize("kind", ["voc2012", "tiny-imagenet"])
def test_corpus__sample_listed_twice_is_refused(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    lists = {
        "voc2012": "ImageSets/Segmentation/train.txt",
        "tiny-imagenet": "train/n01443537/n01443537_boxes.txt",
    }
    path = root / lists[kind]
    path.write_text(path.read_text() + path.read_text().splitlines()[0])
    with pytest.raises(
        DataError, match=rf"index files of .* list samples of {corpus.title} twice: .*; unpack them"
    ):
        corpus.load("train")


# -- order and names


@kinds
def test_corpus__is_shuffled_always_alike(kind: str, tmp_path: Path) -> None:
    root, corpus = make(kind, tmp_path)
    first, second = corpus.load("train"), corpus.load("train")
    assert first.sample_ids == second.sample_ids and first.fingerprint == second.fingerprint
    listed = [item.name for item in corpus.find(root, "train")[1]]
    assert sorted(first.sample_ids) == sorted(listed)
    order = np.random.default_rng(0).permutation(len(listed))
    assert list(first.sample_ids) == [listed[k] for k in order]


@kinds
def test_corpus__parts_share_no_sample(kind: str, tmp_path: Path) -> None:
    _, corpus = make(kind, tmp_path)
    train, held_out = corpus.load("train"), corpus.load("held-out")
    assert not {*train.sample_ids} & {*held_out.sample_ids}
    assert set(train.split) == {"train"} and set(held_out.split) == {"held-out"}
    assert train.classes == held_out.classes and train.fingerprint != held_out.fingerprint
    with pytest.raises(ValueError, match="part is 'test'"):
        corpus.load("test")  # type: ignore[arg-type]


@kinds
def test_corpus__takes_no_more_of_a_class_than_asked_for(kind: str, tmp_path: Path) -> None:
    _, corpus = make(kind, tmp_path)
    whole, few = corpus.load("train"), corpus.model_copy(update={"per_class": 1}).load("train")
    assert sorted(few.labels) == sorted(set(whole.labels))
    place = [whole.sample_ids.index(name) for name in few.sample_ids]
    assert place == [whole.labels.tolist().index(label) for label in few.labels]


@kinds
def test_corpus__size_is_checked_and_has_a_default(kind: str, tmp_path: Path) -> None:
    _, reader, _ = CORPORA[kind]
    assert reader(folder=tmp_path).size == SPECIFIC[kind][1]
    for size in (15, 513):
        with pytest.raises(ValidationError, match="size"):
            reader(folder=tmp_path, size=size)
    with pytest.raises(ValidationError, match="Extra inputs"):
        reader(folder=tmp_path, masks=tmp_path)


@kinds
def test_corpus__is_prepared_for_networks(kind: str, tmp_path: Path) -> None:
    _, corpus = make(kind, tmp_path, size=24)
    samples = corpus.choose(corpus.load("train"), 2)
    prepared = corpus.prepare(samples, grid=12)
    assert prepared.inputs[:].shape == (2, 3, 24, 24) and prepared.inputs.dtype == np.float32
    described = samples.describe(prepared)
    assert described.sizes["unit"] == 144 and described["thumbnail"].shape == (2, 24, 24, 3)
    assert ("foreground" in described) == (kind != "tiny-imagenet")
    assert (samples.masks is None) == (kind == "tiny-imagenet")


def test_corpus__counts_pixels_as_they_are_stored(tmp_path: Path) -> None:
    root, corpus = make("voc2012", tmp_path)
    before = corpus.load("train").images[:]
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn, which boxes and masks do not take part in
    for k in range(2):
        draw(root / "JPEGImages" / f"2007_{k:06d}.jpg", 40, 30, blue=20 * k, exif=exif)
    np.testing.assert_array_equal(corpus.load("train").images[:], before)
    assert corpus.load("train").masks[:].any()


def test_corpus__grey_images_are_read(tmp_path: Path) -> None:
    root, corpus = make("tiny-imagenet", tmp_path)
    for path in root.rglob("*.JPEG"):
        Image.new("L", (64, 64), 77).save(path)
    assert np.abs(corpus.load("train").images[:].astype(int) - 77).max() <= 1
