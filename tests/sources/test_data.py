"""Data as a study writes it down, and samples that are read when they are indexed."""

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from kdviz import sources, units
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources import LazyArray

DATA = TypeAdapter(sources.Data)


@pytest.fixture
def folders(tmp_path):
    """Ten images of each of two classes, the left half foreground."""
    mask = np.zeros((16, 16), np.uint8)
    mask[:, :8] = 255
    for number, name in enumerate(f"{label}/{k}.png" for label in ("cat", "dog") for k in range(10)):
        for tree in ("images", "masks"):
            (tmp_path / tree / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 10 * number, np.uint8)).save(tmp_path / "images" / name)
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    return tmp_path


def write_sst2(path):
    lines = [f"{'good' if k % 2 else 'bad'} film number {k}\t{k % 2}" for k in range(20)]
    path.write_text("\n".join(["sentence\tlabel", *lines, "a film\t0"]) + "\n")
    return path


@pytest.mark.parametrize(
    ("kind", "modality", "class_count"),
    [("fashion-composites", "image", 10), ("movie-reviews", "text", 2), ("furniture", "cloud", 11)],
)
def test_data__built_in_kinds_load_and_are_prepared_alike(kind, modality, class_count):
    data = DATA.validate_python({"kind": kind})
    assert data.modality == modality
    samples = data.load("held-out")
    assert len(samples.classes) == class_count and set(samples.split) == {"held-out"}
    chosen = data.choose(samples, 3)
    prepared = data.prepare(chosen)
    assert len(chosen) == len(prepared.inputs) == len(prepared.foreground) == 3
    assert prepared.units.modality == modality
    described = chosen.describe(prepared)
    assert described.sizes == {**described.sizes, "sample": 3, "unit": prepared.units.count}
    assert ("thumbnail" in described) == (modality == "image")
    on_object = described["foreground"].values
    assert all(row.any() and not row.all() for row in on_object)


def test_data__comes_back_from_json_and_keeps_absolute_paths(folders, monkeypatch):
    monkeypatch.chdir(folders)
    data = DATA.validate_python({"kind": "image-folder", "images": "images", "masks": "masks", "size": 16})
    assert data.images == folders / "images"
    assert DATA.validate_json(data.model_dump_json()) == data and hash(data) == hash(data.model_copy())


@pytest.mark.parametrize(
    ("values", "subject"),
    [
        ({"kind": "photographs"}, "kind"),
        ({"kind": "furniture", "size": 48}, "size"),
        ({"kind": "fashion-composites", "size": 20}, "size"),
        ({"kind": "image-folder", "masks": "here"}, "images"),
    ],
)
def test_data__refuses_what_is_not_its_own(values, subject):
    with pytest.raises(ValidationError, match=subject):
        DATA.validate_python(values)


def test_image_folder__is_divided_by_class_and_read_when_indexed(folders):
    data = sources.ImageFolder(images=folders / "images", masks=folders / "masks", size=16)
    train, held_out = data.load("train"), data.load("held-out")
    assert not {*train.sample_ids} & {*held_out.sample_ids}
    assert np.bincount(train.labels).tolist() == [8, 8] and np.bincount(held_out.labels).tolist() == [2, 2]
    assert {*train.split} == {"train"}
    damaged = train.sample_ids[3]
    (folders / "images" / f"{damaged}.png").write_bytes(b"no image")
    prepared = data.prepare(train, grid=4)
    assert prepared.inputs[2].shape == (3, 16, 16) and prepared.units == units.grid(4)
    np.testing.assert_array_equal(prepared.inputs[[2]], sources.normalise(train.images[[2]]))
    with pytest.raises(DataError, match=f"{damaged}.png cannot be read"):
        prepared.inputs[3]


def test_select__reads_nothing():
    made = []

    def make(k):
        made.append(k)
        return np.full((2, 2, 3), k, np.uint8)

    mask = LazyArray(lambda k: np.eye(2, dtype=bool), 5, (2, 2), bool)
    images = sources.ImageSet(
        images=LazyArray(make, 5, (2, 2, 3), np.uint8),
        masks=mask,
        labels=np.zeros(5, np.int64),
        sample_ids=tuple("abcde"),
        classes=("one",),
        split=np.full(5, "all"),
        source="test",
    )
    chosen = images.select(["e", "b"]).select([1, 0])
    assert made == []
    assert chosen.images[1].max() == 4 and made == [4]
    assert chosen.images[-2:][:, 0, 0, 0].tolist() == [1, 4]
    assert chosen.fingerprint == chosen.read().fingerprint
    assert isinstance(chosen.read().images, np.ndarray)


def test_composites__are_the_same_one_by_one_and_together():
    images = sources.fashion_composites("held-out", count=12)
    together = images.read()
    for k in (11, 0, 5):
        np.testing.assert_array_equal(images.images[k], together.images[k])
    first = images.images[0]
    first[:] = 0  # the reader's own copy
    np.testing.assert_array_equal(images.images[0], together.images[0])


def test_sst2__chooses_texts_with_words_of_both_kinds(tmp_path):
    data = sources.Sst2(file=write_sst2(tmp_path / "train.tsv"), length=8)
    samples = data.load("train")
    with pytest.warns(KdvizWarning, match="have words of both kinds"):
        chosen = data.choose(samples, 30)
    assert 0 < len(chosen) <= len(samples)
    assert data.prepare(chosen).inputs.shape[1] <= 8


def test_choose__picks_evenly_on_demand_over_texts_that_can_be_measured(tmp_path):
    lines = [f"a {'good' if at % 3 else 'plain'} film\t{at % 2}" for at in range(30)]
    path = tmp_path / "films.tsv"
    path.write_text("\n".join(["text\tlabel", *lines]) + "\n")
    data = sources.LabelledTexts(file=path)
    everything = data.read()
    first, chosen = (data.choose(everything, 4, evenly=evenly) for evenly in (False, True))
    assert first.sample_ids == tuple(f"films-{at + 2:06d}" for at in (1, 2, 4, 5))
    assert chosen.sample_ids == tuple(f"films-{at + 2:06d}" for at in (2, 11, 20, 29))  # of twenty
    assert {*chosen.split} == {"films"} and len(everything) == 30
    assert {*data.load("train").sample_ids} | {*data.load("held-out").sample_ids} == {*everything.sample_ids}


@pytest.mark.parametrize(
    ("count", "rows"), [(2, [0, 31]), (3, [0, 31, 32]), (33, [*range(33)]), (99, [*range(33)])]
)
def test_pick_evenly__takes_samples_evenly_from_all_classes(count, rows):
    """Every second of 33 samples would be of one class."""
    texts = sources.TextSet.from_sentences(["good film"] * 33, [0, 1] * 16 + [0])
    assert texts.pick_evenly(count).sample_ids == tuple(f"sentence {row}" for row in rows)
    assert np.bincount(texts.pick_evenly(11).labels).tolist() == [6, 5]


def test_divide__holds_out_a_fifth_of_every_class():
    texts = sources.TextSet.from_sentences(["good film"] * 30, [0, 1, 1] * 10)
    parts = {part: texts.divide(part) for part in ("train", "held-out")}
    assert {part: np.bincount(chosen.labels).tolist() for part, chosen in parts.items()} == {
        "train": [8, 16],
        "held-out": [2, 4],
    }
    with pytest.raises(ValueError, match="part"):
        texts.divide("test")
