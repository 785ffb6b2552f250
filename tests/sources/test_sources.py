import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kdviz.errors import DataError, StoreError
from kdviz.sources import (
    FASHION_CLASSES,
    ImageSet,
    fashion_composites,
    find_data,
    image_folder,
    normalise,
)
from kdviz.sources.fashion import (
    _colour_item,
    _draw_background,
    _enlarge_item,
    _load_photographs,
    _outline_item,
)

DATA = Path(__file__).parents[2] / "data"
CHANCE = 0.1
TRAINED, TESTED = 2000, 1000
# Four standard errors of a share of TESTED answers that are right with probability CHANCE (0.038).
CHANCE_MARGIN = 4 * np.sqrt(CHANCE * (1 - CHANCE) / TESTED)


# --- files ---------------------------------------------------------------------------------------------


@pytest.fixture
def data_folder(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("intact")
    listed = {"sub/a.txt": hashlib.sha256(b"intact").hexdigest()}
    (tmp_path / "checksums.json").write_text(json.dumps(listed))
    monkeypatch.setenv("KDVIZ_DATA", str(tmp_path))
    return tmp_path


def test_find_data__prefers_the_folder_of_the_environment_and_falls_back_to_the_repository(data_folder):
    assert find_data("sub/a.txt") == data_folder / "sub" / "a.txt"
    assert find_data("photographs.json") == DATA / "photographs.json"


def test_find_data__notices_a_file_damaged_after_a_first_look(data_folder):
    path = find_data("sub/a.txt")
    path.write_text("damaged!")
    with pytest.raises(DataError, match="is damaged: SHA-256"):
        find_data("sub/a.txt")


def test_find_data__hashes_an_unchanged_file_once(data_folder, monkeypatch):
    find_data("sub/a.txt")
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("hashed again"))
    find_data("sub/a.txt")


def test_find_data__says_what_to_do_about_missing_and_unlisted_files(data_folder):
    with pytest.raises(DataError, match=r"'absent\.npz' is not in .* set KDVIZ_DATA"):
        find_data("absent.npz")
    (data_folder / "new.txt").write_text("new")
    with pytest.raises(DataError, match=r"does not list 'new\.txt'; run data/make_checksums\.py"):
        find_data("new.txt")
    (data_folder / "checksums.json").write_text("{")
    with pytest.raises(StoreError, match=r"cannot read .*checksums\.json"):
        find_data("sub/a.txt")
    (data_folder / "checksums.json").unlink()
    with pytest.raises(StoreError, match=r"cannot read .*checksums\.json"):
        find_data("sub/a.txt")


@pytest.mark.parametrize("name", ["../setup.cfg", "/etc/hostname", ""])
def test_find_data__refuses_paths_that_leave_the_folder(name):
    with pytest.raises(DataError, match=r"does not list|is not in"):
        find_data(name)


def test_run_page__names_the_hashes_of_its_files():
    rows = [line.split("|") for line in (DATA / "runs" / "README.md").read_text().splitlines()]
    named = {row[1].strip(" `"): row[3].strip(" `") for row in rows if len(row) == 5 and "`" in row[1]}
    listed = json.loads((DATA / "checksums.json").read_text())
    assert named == {
        name.removeprefix("runs/"): digest for name, digest in listed.items() if name.startswith("runs/")
    }


def test_data_folder__holds_what_checksums_and_readme_say():
    checksums = json.loads((DATA / "checksums.json").read_text())
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for name in ["fashion_items.npz", "photographs.json", *(f"photographs/{p.name}" for p in _pictures())]:
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == checksums[name], name
        assert f"`{name}`" in readme and checksums[name] in readme, name


def test_photographs__have_a_free_licence_and_an_author():
    listing = json.loads((DATA / "photographs.json").read_text(encoding="utf-8"))
    assert sorted(entry["name"] for entry in listing) == sorted(path.stem for path in _pictures())
    assert [entry["split"] for entry in listing].count("held-out") == 4 and len(listing) == 16
    for entry in listing:
        assert entry["licence"].split(" (")[0] in {"public domain", "CC0-1.0", "CC-BY-2.0"}
        assert entry["author"] and entry["origin"] and entry["package"]


def _pictures():
    return (DATA / "photographs").iterdir()


def test_sources__import_neither_torch_nor_the_packages_of_the_make_scripts():
    heavy = {"torch", "skimage", "sklearn", "transformers", "matplotlib"}
    code = f"import sys, kdviz.sources; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- ImageSet ------------------------------------------------------------------------------------------


def make_set(**changes):
    arguments = dict(
        images=np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3),
        masks=np.array([[[1, 0], [0, 0]]] * 3, dtype=bool),
        labels=np.array([0, 1, 0]),
        sample_ids=("a", "b", "c"),
        classes=("cat", "dog"),
        split=np.full(3, "train"),
        source="test",
    )
    return ImageSet(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"images": np.zeros((3, 2, 2, 3))}, TypeError, "images must be a NumPy array of uint8.*float64"),
        ({"images": np.zeros((3, 3, 2, 2), np.uint8)}, ValueError, r"\(N, H, W, 3\), got \(3, 3, 2, 2\)"),
        ({"masks": np.zeros((3, 2, 2))}, TypeError, "masks must be a NumPy array of bool"),
        ({"masks": np.zeros((3, 2, 1), bool)}, ValueError, r"masks must have shape \(3, 2, 2\)"),
        ({"labels": [0, 1, 0]}, TypeError, "labels must be a NumPy array of int64, got list"),
        ({"labels": np.array([0, 1])}, ValueError, r"labels must have shape \(3,\)"),
        ({"labels": np.array([0, 2, 0])}, ValueError, r"labels must lie in 0\.\.1.*got 0\.\.2"),
        ({"labels": np.array([0, -1, 0])}, ValueError, r"got -1\.\.0"),
        ({"split": np.full(2, "train")}, ValueError, r"split must have shape \(3,\)"),
        ({"sample_ids": ("a", "b")}, ValueError, "sample_ids must name 3 images, got 2"),
        ({"sample_ids": ("a", "b", "a")}, ValueError, "sample_ids must differ, repeated: a"),
    ],
)
def test_image_set__names_what_is_wrong(changes, error, message):
    with pytest.raises(error, match=message):
        make_set(**changes)


@pytest.mark.parametrize("chosen", [[2, 0], ["c", "a"], np.array([-1, 0])])
def test_select__keeps_every_field_with_its_image(chosen):
    whole = make_set()
    part = whole.select(chosen)
    assert part.sample_ids == ("c", "a") and len(part) == 2
    np.testing.assert_array_equal(part.images, whole.images[[2, 0]])
    np.testing.assert_array_equal(part.labels, [0, 0])
    assert part.classes == whole.classes and part.split.tolist() == ["train", "train"]


def test_select__takes_nothing_for_an_empty_choice():
    assert len(make_set().select([])) == 0


@pytest.mark.parametrize(
    ("chosen", "error", "message"),
    [
        (["a", "z"], ValueError, "not in the set: z"),
        ([0, 3], IndexError, "3 is out of bounds"),
        ([0, 0], ValueError, "repeated: a"),
        ("abc", TypeError, "must be a sequence of positions"),
        (np.array([True, False, True]), TypeError, "array of bool"),
        ([0.5], TypeError, "array of float64"),
    ],
)
def test_select__refuses(chosen, error, message):
    with pytest.raises(error, match=message):
        make_set().select(chosen)


def test_fingerprint__follows_the_content_and_nothing_else():
    first = make_set()
    changed = first.images.copy()
    changed[2, 1, 1, 2] += 1
    assert make_set(source="elsewhere").fingerprint == first.fingerprint
    others = [
        make_set(images=changed),
        make_set(masks=~first.masks),
        make_set(labels=np.array([0, 1, 1])),
        make_set(sample_ids=("a", "b", "d")),
        make_set(classes=("cat", "cow")),
    ]
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 6


def test_normalise__gives_imagenet_units_channels_first():
    images = np.zeros((1, 1, 2, 3), np.uint8)
    images[0, 0, 1] = 255
    expected = [[[-0.485 / 0.229, 0.515 / 0.229]], [[-0.456 / 0.224, 0.544 / 0.224]],
                [[-0.406 / 0.225, 0.594 / 0.225]]]  # fmt: skip
    inputs = normalise(images)
    assert inputs.dtype == np.float32 and inputs.flags.c_contiguous
    np.testing.assert_allclose(inputs[0], expected, rtol=1e-6)  # float32 rounds at 6e-8


# --- fashion composites --------------------------------------------------------------------------------


def test_outline_item__fills_dark_fabric_but_leaves_handles_open():
    pixels = np.zeros((2, 28, 28), np.uint8)
    pixels[:, 5:20, 5:20] = 200
    pixels[:, 8:12, 8:12] = 0
    pixels[:, 16, 16] = 0
    pixels[:, 2, 2] = 10
    labels = 0, FASHION_CLASSES.index("bag")
    shirt, bag = (_outline_item(item, label) for item, label in zip(pixels, labels, strict=True))
    assert shirt.sum() == 15 * 15 and not shirt[2, 2]
    assert bag.sum() == 15 * 15 - 4 * 4 and not bag[8:12, 8:12].any()


def test_enlarge_item__cuts_to_the_outline_and_keeps_the_dark_surround_out():
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:14, 10:15] = 200
    grey, outline = _enlarge_item(pixels, pixels > 0, longer_side=30)
    assert outline.shape == (30, 15) and outline.all()
    # 8-bit interpolation rounds the value and the coverage.
    np.testing.assert_allclose(grey, 200, atol=1)
    triangle = np.triu(np.full((28, 28), 200, np.uint8))
    grey, outline = _enlarge_item(triangle, triangle > 0, longer_side=42)
    # Half the square plus half a raw pixel along the diagonal of 28.
    assert outline.mean() == pytest.approx(0.5 + 0.5 / 28, abs=0.01)
    np.testing.assert_allclose(grey[outline], 200, atol=2)  # rounding at coverage 1/2 counts twice


def test_colour_item__mean_does_not_depend_on_the_item_but_its_pattern_does():
    dark = np.array([12.0] * 50 + [30.0] * 30 + [250.0] * 4)
    bright = np.array([200.0, 255.0] * 42)
    for seed in range(20):
        first, second = (_colour_item(item, np.random.default_rng(seed)) for item in (dark, bright))
        # Both means are the drawn level times the tint, up to rounding to whole values.
        np.testing.assert_allclose(first.mean(axis=0), second.mean(axis=0), atol=1)
        assert 80 * 0.5 - 1 <= first.mean(axis=0).min() and first.mean(axis=0).max() <= 190 + 1
        np.testing.assert_array_equal(np.argsort(second[:2], axis=0), [[0] * 3, [1] * 3])
        assert 20 * 0.5 - 1 <= second.std(axis=0).min() and second.std(axis=0).max() <= 45 + 1


@pytest.fixture(scope="module")
def composites():
    return fashion_composites(count=TRAINED).read()


@pytest.fixture(scope="module")
def held_out():
    return fashion_composites("held-out", count=TESTED).read()


def draw_backgrounds(split, count):
    """Draw what lies around and under the items of `fashion_composites`, ``(count, 48, 48, 3)``."""
    photographs = _load_photographs(split, 48)
    names = fashion_composites(split, count=count).sample_ids
    keys = [[0, split == "held-out", int(name.rpartition("-")[2])] for name in names]
    return np.array([_draw_background(photographs, 48, np.random.default_rng(key)) for key in keys])


@pytest.fixture(scope="module")
def backgrounds():
    return draw_backgrounds("train", TRAINED)


def test_fashion_composites__prefixes_are_balanced_and_independent_of_count(composites):
    few = fashion_composites(count=50)
    assert np.bincount(few.labels).tolist() == [5] * 10
    assert few.fingerprint == composites.select(range(50)).fingerprint
    assert few.classes == FASHION_CLASSES and set(few.split.tolist()) == {"train"}


def test_fashion_composites__another_seed_moves_and_recolours_the_same_items():
    first, second = fashion_composites(count=10), fashion_composites(count=10, seed=1)
    assert first.sample_ids == second.sample_ids
    assert all((a != b).any() for a, b in zip(first.masks, second.masks, strict=True))
    assert first.fingerprint != second.fingerprint


def test_fashion_composites__splits_share_neither_item_names_nor_photographs(composites, held_out):
    assert not set(composites.sample_ids) & set(held_out.sample_ids)
    listing = json.loads(find_data("photographs.json").read_text(encoding="utf-8"))
    by_split = {s: {e["name"] for e in listing if e["split"] == s} for s in ("train", "held-out")}
    assert not by_split["train"] & by_split["held-out"]


def test_fashion_composites__mask_is_exactly_what_the_item_replaced(composites, backgrounds):
    changed = (composites.images != backgrounds).any(axis=3)
    assert not (changed & ~composites.masks).any()
    # Grey over grey agrees by accident about once in 60 levels, coloured pixels hardly ever.
    assert changed[composites.masks].mean() > 0.98
    # Darkest possible mean: level 80 times the strongest tint 1/2.
    inside = (composites.images * composites.masks[..., None]).sum(axis=(1, 2))
    assert (inside / composites.masks.sum(axis=(1, 2))[:, None]).min() >= 39


def test_fashion_composites__items_take_a_sensible_part_of_the_canvas(composites):
    share = composites.masks.mean(axis=(1, 2))
    assert 0.15 < share.mean() < 0.4
    assert 0.03 < share.min() and share.max() < 0.85
    rows, columns = composites.masks.any(axis=2).sum(axis=1), composites.masks.any(axis=1).sum(axis=1)
    longer = np.maximum(rows, columns)
    assert longer.max() <= round(0.95 * 48) and longer.min() >= 0.9 * 0.6 * 48  # thin tips may fall below 1/2


def test_fashion_composites__honours_canvas():
    chosen = fashion_composites("held-out", count=10, canvas=64).read()
    assert chosen.images.shape == (10, 64, 64, 3)
    assert fashion_composites(count=1, canvas=128).masks[0].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"split": "test"}, ValueError, "split is 'test'"),
        ({"count": 0}, ValueError, r"count must be an integer in 1\.\.10000, got 0"),
        (
            {"split": "held-out", "count": 2001},
            ValueError,
            r"count must be an integer in 1\.\.2000, got 2001",
        ),
        ({"canvas": 27}, ValueError, r"canvas must be an integer in 28\.\.128, got 27"),
        ({"canvas": 48.0}, ValueError, r"canvas must be an integer in 28\.\.128, got 48\.0"),
        ({"seed": -1}, ValueError, "seed must be an integer of 0 or more, got -1"),
    ],
)
def test_fashion_composites__refuses(arguments, error, message):
    with pytest.raises(error, match=message):
        fashion_composites(**arguments)


def average_cells(values, cells=8):
    count, height, width = values.shape[:3]
    blocks = values.reshape(count, cells, height // cells, cells, width // cells, -1)
    return blocks.mean(axis=(2, 4)).reshape(count, -1)


def describe(images):
    """Colours of 8 x 8 cells, edge orientations of 8 x 8 cells and colour histograms."""
    rows, columns = np.gradient(images.mean(axis=3, dtype=np.float32), axis=(1, 2))
    direction = (np.arctan2(rows, columns) % np.pi / np.pi * 6).astype(int) % 6
    strength = np.hypot(rows, columns)
    edges = np.stack([strength * (direction == step) for step in range(6)], axis=3)
    bins = np.arange(len(images))[:, None, None, None] * 24 + np.arange(3) * 8 + (images >> 5)
    histogram = np.bincount(bins.ravel(), minlength=24 * len(images)).reshape(-1, 24)
    return np.concatenate([average_cells(images), np.sqrt(average_cells(edges)), histogram], axis=1)


def probe(train_features, train_labels, features, labels):
    """Held-out accuracy of a linear and of a nearest-neighbour classifier."""
    classifiers = [
        LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        KNeighborsClassifier(5),
    ]
    return [
        make_pipeline(StandardScaler(), classifier).fit(train_features, train_labels).score(features, labels)
        for classifier in classifiers
    ]


def test_fashion_composites__background_tells_nothing_of_the_class(composites, held_out, backgrounds):
    train, labels = describe(backgrounds), composites.labels
    unseen = describe(draw_backgrounds("held-out", TESTED))
    elsewhere = probe(train, labels, unseen, held_out.labels)
    # The same photographs again are the easier place to find a leak.
    half = TRAINED - TESTED
    at_home = probe(train[:half], labels[:half], train[half:], labels[half:])
    np.testing.assert_allclose(elsewhere + at_home, CHANCE, atol=CHANCE_MARGIN)


def test_fashion_composites__the_same_classifiers_recognise_the_items(composites, held_out):
    found = probe(describe(composites.images), composites.labels, describe(held_out.images), held_out.labels)
    assert min(found) > CHANCE + 2 * CHANCE_MARGIN


def test_fashion_composites__colour_of_the_item_tells_nothing_of_the_class(composites, held_out):
    def average_colour(image_set):
        inside = image_set.masks[..., None]
        return (image_set.images * inside).sum(axis=(1, 2)) / inside.sum(axis=(1, 2))

    found = probe(average_colour(composites), composites.labels, average_colour(held_out), held_out.labels)
    np.testing.assert_allclose(found, CHANCE, atol=CHANCE_MARGIN)


def test_fashion_items__raw_brightness_would_have_told_the_class():
    with np.load(find_data("fashion_items.npz")) as archive:
        pixels, labels = archive["train_images"][: TRAINED + TESTED], archive["train_labels"]
    brightness = np.array([item[item > 10].mean() for item in pixels])[:, None]
    split = np.s_[:TRAINED], np.s_[TRAINED : TRAINED + TESTED]
    found = probe(brightness[split[0]], labels[split[0]], brightness[split[1]], labels[split[1]])
    assert found[0] > CHANCE + CHANCE_MARGIN  # so the test above can fail


# --- image folders -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Two classes of 4 x 4 images, the left half foreground."""
    mask = np.zeros((4, 4), np.uint8)
    mask[:, :2] = 1
    for number, name in enumerate(["dog/one.png", "dog/two.png", "cat/one.png"]):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 10 * number, np.uint8)).save(tmp_path / "images" / name)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    return tmp_path


def read(folder, **arguments):
    found = image_folder(folder / "images", **({"masks": folder / "masks", "size": 4} | arguments))
    return found.read()


def test_image_folder__reads_images_masks_and_classes(folder):
    (folder / "images" / "dog" / ".hidden.png").write_text("no image")
    (folder / "images" / "dog" / "notes.txt").write_text("no image")
    found = read(folder)
    assert found.classes == ("cat", "dog") and found.sample_ids == ("cat/one", "dog/one", "dog/two")
    assert found.labels.tolist() == [0, 1, 1] and found.split.tolist() == ["all"] * 3
    assert found.images[:, 0, 0, 0].tolist() == [20, 0, 10]
    assert found.masks[1].tolist() == [[True, True, False, False]] * 4
    assert str(folder) not in found.source


def test_image_folder__resizes_to_the_size_asked(folder):
    found = read(folder, size=8)
    assert found.images.shape == (3, 8, 8, 3)
    assert found.masks[0].tolist() == [[True] * 4 + [False] * 4] * 8


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB", "RGBA", "I;16"])
def test_image_folder__reads_masks_of_every_common_kind(folder, mode):
    values = np.zeros((4, 4), np.uint8)
    values[0] = [0, 1, 2, 255]  # 255 is the border between classes
    if mode == "P":  # index 1 is painted black and index 0 white: the index counts, not the colour
        mask = Image.fromarray(values).convert("L")
        mask = Image.frombytes("P", mask.size, mask.tobytes())
        mask.putpalette([255, 255, 255, 0, 0, 0] + [9, 9, 9] * 254)
    elif mode in ("RGB", "RGBA"):
        blue = np.zeros((4, 4, len(mode)), np.uint8)
        blue[..., 2] = values
        blue[..., 3:] = 255
        mask = Image.fromarray(blue)
    elif mode == "1":
        mask = Image.fromarray(values > 0)
    else:
        mask = Image.fromarray(values.astype(np.uint16) if mode == "I;16" else values)
    assert mask.mode == mode
    mask.save(folder / "masks" / "cat" / "one.png")
    expected = [0, 1, 1, 1 if mode == "1" else -1]
    assert read(folder).masks[0].tolist() == [expected] + [[0] * 4] * 3


def test_image_folder__turns_images_as_exif_says(folder):
    lying = np.zeros((2, 4, 3), np.uint8)
    lying[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    path = folder / "images" / "cat" / "one.png"
    Image.fromarray(lying).save(path, exif=exif)
    with pytest.raises(
        DataError, match=r"one\.png is 4 x 4 pixels, its image one\.png is 2 x 4 as displayed"
    ):
        read(folder)
    Image.fromarray(np.eye(4, 2, dtype=np.uint8)).save(folder / "masks" / "cat" / "one.png")
    turned = read(folder).images[0].sum(axis=2)
    assert turned[0, 3] == 3 * 255 and not turned[1:, :2].any()  # white in the upper right corner


def test_image_folder__lists_missing_masks(folder):
    for path in sorted((folder / "masks" / "dog").iterdir()):
        path.unlink()
    with pytest.raises(DataError, match=r"lacks the masks of 2 images: dog/one\.png, dog/two\.png"):
        read(folder)


def test_image_folder__refuses_unreadable_and_deep_images(folder):
    path = folder / "images" / "cat" / "one.png"
    whole = path.read_bytes()
    for damaged in (b"not an image", whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cat/one\.png cannot be read as an image"):
            read(folder)
    Image.fromarray(np.zeros((2, 4), np.uint16)).save(path)
    with pytest.raises(DataError, match="mode I;16; convert it to 8 bits"):
        read(folder)


def test_image_folder__refuses_two_images_for_one_mask(folder):
    Image.new("RGB", (4, 2)).save(folder / "images" / "cat" / "one.jpg")
    with pytest.raises(ValueError, match="sample_ids must differ, repeated: cat/one"):
        read(folder)


def test_image_folder__refuses_folders_without_content(folder):
    with pytest.raises(DataError, match="root is not a folder"):
        image_folder(folder / "absent", masks=folder / "masks", size=4)
    with pytest.raises(DataError, match="absent lacks the masks of 3 images"):
        read(folder, masks=folder / "absent")
    with pytest.raises(DataError, match="holds no class folders"):
        image_folder(folder / "images" / "cat", masks=folder / "masks", size=4)
    (folder / "images" / "cow").mkdir()
    with pytest.raises(DataError, match="cow holds no images"):
        read(folder)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (0, "size must be an integer of 1 or more, got 0"),
        (4.0, "size must be an integer"),
        ((4, 4), "size must be an integer"),
    ],
)
def test_image_folder__refuses_other_sizes(folder, size, message):
    with pytest.raises(ValueError, match=message):
        read(folder, size=size)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_image_folder__turns_masks_as_it_turns_images(folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = np.arange(16, dtype=np.uint8).reshape(4, 4) == 1
    for tree in ("images", "masks"):
        Image.fromarray(255 * values.astype(np.uint8)).save(folder / tree / "cat" / "one.png", exif=exif)
    found = read(folder, threshold=1)
    assert found.masks[0].sum() == 1
    np.testing.assert_array_equal(found.images[0, ..., 0] == 255, found.masks[0] == 1)


def test_image_folder__understands_all_masks_together(folder):
    """{0, 255} alone would be an object; beside class numbers it is their border."""
    trimap = np.array([[1, 2, 3, 3]] * 4, np.uint8)
    border = np.array([[0, 255, 0, 0]] * 4, np.uint8)
    Image.fromarray(border).save(folder / "masks" / "cat" / "one.png")
    assert read(folder).masks[0].tolist() == [[0, -1, 0, 0]] * 4
    Image.fromarray(trimap).save(folder / "masks" / "cat" / "one.png")
    with pytest.raises(
        DataError, match=r"the masks in .*masks hold the values 0, 1, 2, 3.*foreground=\[1\], void=\[3\]"
    ):
        read(folder)
    assert read(folder, foreground=[1], void=[3]).masks[0].tolist() == [[1, 0, -1, -1]] * 4


def test_image_folder__reads_compressed_masks_and_instances(folder):
    for path in sorted((folder / "masks").glob("*/*.png")):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, :37] = 255
        path.unlink()
        Image.fromarray(mask).save(path.with_suffix(".jpg"), quality=40)
        name = folder / "images" / path.relative_to(folder / "masks")
        Image.new("RGB", (64, 64)).save(name)
    found = read(folder, size=64).masks[0]
    assert (found[:, :35] == 1).all() and not found[:, 39:].any()
    (folder / "masks" / "cat" / "one.jpg").unlink()
    Image.fromarray(np.array([[0, 1, 2, 1003]], np.uint16).repeat(4, 0)).save(
        folder / "masks" / "cat" / "one.png"
    )
    Image.new("RGB", (4, 4)).save(folder / "images" / "cat" / "one.png")
    assert read(folder, threshold=1).masks[0].tolist() == [[0, 1, 1, 1]] * 4


def test_image_folder__does_without_masks(folder):
    found = read(folder, masks=None)
    prepared = found.prepare(grid=2)
    assert found.masks is None and prepared.foreground is None
    assert "foreground" not in found.describe(prepared) and len(found.fingerprint) == 16
    assert found.select([1]).divide("train").masks is None
