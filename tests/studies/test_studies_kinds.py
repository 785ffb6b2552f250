"""Studies of texts and clouds: the same steps as for images, on other material."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

import kdviz
from kdviz import analysis, sources
from kdviz.errors import DataError, StoreError
from kdviz.models import PRESETS
from kdviz.networks import load_weights
from kdviz.store import add_masks
from kdviz.studies import BUILT_IN_DATA, Study, StudyPlan
from kdviz.studies.work import Workshop
from kdviz.training import TrainingRecord

torch.set_num_threads(1)
KINDS: dict[str, tuple[dict, int]] = {  # the data, and how many train students
    "text": ({}, 64),
    "cloud": ({"points": 48, "background": 20, "count": 88}, 57),
}


def make_plan(
    modality: str,
    data: dict | None = None,
    *,
    teacher: dict | None = None,
    count: int = 0,
    **networks: object,
) -> StudyPlan:
    built_in, usual = KINDS[modality]
    return StudyPlan(
        data=data or {"kind": BUILT_IN_DATA[modality], **built_in},
        networks=networks | ({"teacher": teacher} if teacher else {}),
        training={"epochs": 2, "head_epochs": 1, "count": count or usual},
        measurement={"samples": 4, "probes": 8, "draws": 2},
    )


@pytest.fixture(scope="module", params=list(KINDS))
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Trained and measured; read only."""
    study = Study(tmp_path_factory.mktemp(request.param) / "study", make_plan(request.param), progress=False)
    study.train()
    study.measure()
    return study


def layer_of(study: Study) -> str:
    return next(iter(study.plan.networks.layers.values()))


def test_study__holds_what_a_comparison_needs(study: Study) -> None:
    run = kdviz.open_run(study.run_path)
    assert run.attrs["modality"] == study.plan.data.modality
    expected = {"teacher", "baseline-s0", "baseline-s0-repeat"}
    for layer in study.plan.networks.layers:
        expected |= {f"student-{layer}-s0", f"student-{layer}-s0-repeat"}
    assert set(run.networks) == expected
    for pair in analysis.pair_networks(run).values():
        assert pair.teacher is not None and set(pair.students) == set(pair.baselines) == {0}
    table = analysis.compare_layers(analysis.pair_networks(run))
    assert set(table["layer"]) == {*study.plan.networks.layers} and "rho" in set(table["metric"])


def test_study__stored_gains_are_those_of_the_kept_network(study: Study) -> None:
    """Measured anew from the checkpoint, by the public function."""
    layer, preset = layer_of(study), PRESETS[study.plan.networks.architecture]
    stored = kdviz.open_run(study.run_path).dataset("baseline-s0", layer).sel(epoch=[2])
    workshop = Workshop(study)
    samples, prepared, network = workshop.measured_set, workshop.measured, workshop.build(seed=9)
    record = TrainingRecord.open(study.folder / "networks" / "baseline-s0")
    load_weights(network, record.checkpoints[2])
    again = kdviz.measure(
        network, torch.from_numpy(prepared.inputs[:]), layers=layer, units=prepared.units, epoch=2,
        sample_ids=samples.sample_ids, entry=preset.entry, feature=preset.feature, weight=preset.weight,
        method=study.plan.measurement.method, probes=8, draws=2, progress=False,
    )  # fmt: skip
    np.testing.assert_array_equal(again["gain"].values, stored["gain"].values)
    np.testing.assert_array_equal(stored["foreground"].values, prepared.foreground)
    if study.plan.data.modality == "text":
        assert float(again["noise_unit"][0]) == float(stored["noise_unit"][0])


def test_study__distance_is_that_of_the_layers_weight(study: Study) -> None:
    layer, preset = layer_of(study), PRESETS[study.plan.networks.architecture]
    name = f"student-{next(iter(study.plan.networks.layers))}-s0"
    ds = kdviz.open_run(study.run_path).dataset(name, layer)
    folder = study.folder / "networks" / name / "features"
    expected = TrainingRecord.open(folder).weight_distance(preset.weights.get(layer, layer))
    np.testing.assert_array_equal(ds["weight_distance"], expected)
    assert (np.diff(ds["weight_distance"]) > 0).all()


def test_study__measured_again_adds_nothing_and_keeps_every_bit(study: Study) -> None:
    before = kdviz.open_run(study.run_path).dataset("teacher", layer_of(study)).load()
    Study(study.folder, StudyPlan.load(study.folder), progress=False).measure()
    after = kdviz.open_run(study.run_path).dataset("teacher", layer_of(study)).load()
    assert before.equals(after)


def test_study__attributes_images_only(study: Study) -> None:
    with pytest.raises(ValueError, match="attribution maps are drawn for images"):
        study.attribute()


def test_study__measured_texts_have_words_of_both_kinds(tmp_path: Path) -> None:
    plan = make_plan("text", count=500)
    plan = plan.model_copy(update={"measurement": plan.measurement.model_copy(update={"samples": 40})})
    workshop = Workshop(Study(tmp_path / "none", plan))
    without = [not mask.any() for mask in workshop.training_set.foreground[:50]]
    assert any(without)  # or there would be nothing to choose
    chosen = workshop.measured_set
    assert len(chosen) == 40
    assert all(mask.any() and not mask.all() for mask in chosen.foreground)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"kind": "sound"}}, "'sound'"),
        (
            {"data": {"kind": "movie-reviews"}, "measurement": {"grid": 4}},
            "grid cuts images into units, this",
        ),
        ({"data": {"kind": "fashion-composites", "points": 100}}, "points\n.*Extra inputs"),
        (
            {"data": {"kind": "movie-reviews"}, "networks": {"architecture": "small_vgg"}},
            "networks.architecture is 'small_vgg'; ",
        ),
        (
            {"data": {"kind": "furniture"}, "networks": {"architecture": "dgcnn"}},
            "small_pointnet for built-in data of the usual size; train one",
        ),
        (
            {"data": {"kind": "movie-reviews", "length": 32}},
            "a small_bert for built-in data of the usual size",
        ),
        (
            {"data": {"kind": "furniture"}, "networks": {"layers": ["fc4"]}},
            "networks.layers names 'fc4'; allowed of small_pointnet: ",
        ),
        (
            {"data": {"kind": "movie-reviews"}, "networks": {"layers": ["fc1"]}},
            "networks.layers names 'fc1'; allowed of small_bert: hidden, cls",
        ),
    ],
)
def test_plan__bad_value_is_refused_with_a_sentence(values: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        StudyPlan.model_validate(values)


def test_study__own_sentences(tmp_path: Path) -> None:
    """A teacher is trained on them; a fifth is held out, class by class."""
    reviews = sources.movie_reviews("train", count=60)
    lines = ["sentence\tlabel"]
    lines += [
        f"{' '.join(words)}\t{label}" for words, label in zip(reviews.words, reviews.labels, strict=True)
    ]
    (tmp_path / "own.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {"kind": "sst2", "file": tmp_path / "own.tsv"}
    plan = make_plan("text", data, teacher={"kind": "trained", "epochs": 1}, count=32)
    study = Study(tmp_path / "study", plan, progress=False)
    study.train()
    run = study.measure()
    assert len(TrainingRecord.open(study.folder / "networks" / "teacher").checkpoints) == 2
    training, held_out = (Workshop(study).plan.data.load(part) for part in ("train", "held-out"))
    assert (len(training), len(held_out)) == (48, 12)
    assert sorted(held_out.labels.tolist()) == [0] * 6 + [1] * 6
    assert not set(training.sample_ids) & set(held_out.sample_ids)
    assert run.summary()["done"].eq(1).all()


def test_study__own_clouds(tmp_path: Path) -> None:
    """Meshes as ModelNet40 has them; batches of 19 from 20 clouds leave no batch of one."""
    generator = np.random.default_rng(0)
    for label, height in (("flat", 0.2), ("tall", 3.0)):
        for part, count in (("train", 10), ("test", 3)):
            for index in range(count):
                corners = generator.random((8, 3)) * [1, 1, height]
                faces = [f"3 {a} {a + 1} {a + 2}" for a in range(6)]
                lines = ["OFF", "8 6 0", *(" ".join(map(str, corner)) for corner in corners), *faces]
                path = tmp_path / "own" / label / part / f"{label}_{index:04d}.off"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("\n".join(lines) + "\n")
    data = {"kind": "modelnet40", "folder": tmp_path / "own", "points": 48, "background": 20}
    teacher = {"kind": "trained", "epochs": 1}
    plan = make_plan("cloud", data, teacher=teacher, count=20, layers=("fc1",))
    study = Study(tmp_path / "study", plan, progress=False)
    study.train()
    run = study.measure()
    assert run.summary()["done"].eq(1).all()
    workshop = Workshop(study)
    assert (len(workshop.training_set), len(workshop.held_out_set)) == (20, 6)
    assert workshop.training_set.classes == ("flat", "tall")


def test_study__texts_without_words_of_both_kinds_are_refused_before_training(tmp_path: Path) -> None:
    lines = ["sentence\tlabel", *(f"the chair stood there {number}\t{number % 2}" for number in range(30))]
    (tmp_path / "plain.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    study = Study(
        tmp_path / "study",
        make_plan("text", {"kind": "sst2", "file": tmp_path / "plain.tsv"}),
        progress=False,
    )
    with pytest.raises(DataError, match="has foreground words and others to compare them with"):
        study.train()
    assert not (tmp_path / "study").exists()


def test_study__words_that_are_cut_off_do_not_count(tmp_path: Path) -> None:
    texts = [f"{'so ' * 20}good {number}\t{number % 2}" for number in range(15)]
    texts += [f"a good film {number}\t{number % 2}" for number in range(15)]
    (tmp_path / "long.tsv").write_text("\n".join(["sentence\tlabel", *texts]) + "\n", encoding="utf-8")
    plan = make_plan("text", {"kind": "sst2", "file": tmp_path / "long.tsv", "length": 12})
    plan = plan.model_copy(update={"measurement": plan.measurement.model_copy(update={"samples": 20})})
    with pytest.warns(kdviz.errors.KdvizWarning):
        chosen = Workshop(Study(tmp_path / "none", plan)).measured_set
    assert all(words[:2] == ("a", "good") for words in chosen.words)


def test_study__missing_texts_leave_nothing(tmp_path: Path) -> None:
    study = Study(
        tmp_path / "study", make_plan("text", {"kind": "sst2", "file": tmp_path / "none.tsv"}), progress=False
    )
    with pytest.raises(DataError, match=r"none\.tsv"):
        study.train()
    assert not (tmp_path / "study").exists()


def test_study__other_plan_in_the_folder_is_refused(study: Study) -> None:
    other = "cloud" if study.plan.data.modality == "text" else "text"
    with pytest.raises(StoreError, match=f"data.kind {study.plan.data.kind}, now {BUILT_IN_DATA[other]}"):
        Study(study.folder, make_plan(other), progress=False).train()


def test_study__images_without_masks_and_trimaps_that_must_be_explained(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for label in ("red", "blue"):
        for tree in ("images", "masks"):
            (tmp_path / tree / label).mkdir(parents=True)
        for index in range(14):
            pixels = generator.integers(0, 255, (16, 16, 3)).astype(np.uint8)
            pixels[4:12, 4:12] = (200, 30, 30) if label == "red" else (30, 30, 200)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{index}.jpg")
            trimap = np.full((16, 16), 2, np.uint8)
            trimap[2:14, 2:14], trimap[4:12, 4:12] = 3, 1
            Image.fromarray(trimap).save(tmp_path / "masks" / label / f"{index}.png")
    images = {"kind": "image-folder", "images": tmp_path / "images", "size": 16}
    masked = images | {"masks": tmp_path / "masks"}

    def study(folder: str, data: dict) -> Study:
        plan = StudyPlan(
            data=data,
            networks={"layers": ("fc1",), "teacher": {"kind": "trained", "epochs": 1}},
            training={"epochs": 2, "head_epochs": 1, "count": 20},
            measurement={"samples": 4, "grid": 8, "probes": 8, "draws": 2},
        )
        return Study(tmp_path / folder, plan, progress=False)

    with pytest.raises(DataError, match=r"hold the values 1, 2, 3.*foreground=\[1\], void=\[3\]"):
        study("masked", masked).train()
    assert not (tmp_path / "masked" / "study.yaml").exists()  # so that what the message says can be done
    runs = {}
    for folder, data in (("bare", images), ("masked", masked | {"foreground": [1], "void": [3]})):
        study(folder, data).train()
        runs[folder] = study(folder, data).measure()
    assert "foreground" not in runs["bare"].samples
    masks = runs["masked"].samples
    assert (masks["foreground"].sum("unit") == 16).all() and (masks["void"].sum("unit") == 20).all()
    marks = masks["foreground"].astype(np.int8) - masks["void"]
    add_masks(runs["bare"], marks.values)
    again = study("bare", images).measure()  # finished, and the added masks stay
    one, other = (kdviz.analysis.pair_networks(run)["fc1"].students[0] for run in (again, runs["masked"]))
    assert kdviz.count_points(one).drop_attrs().equals(kdviz.count_points(other).drop_attrs())
