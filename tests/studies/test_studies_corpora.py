"""A study about a published corpus, from its folders to a measured run."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from made_corpora import LION, ZEBRA, make_coco, make_cub, make_ilsvrc, make_tiny, make_voc

import kdviz
from kdviz.sources import Voc2012
from kdviz.studies import Study, StudyPlan

SMALL = {
    "networks": {"layers": ["fc1"], "teacher": {"kind": "trained", "epochs": 1}},
    "training": {"count": 10, "epochs": 2, "head_epochs": 1},
    "measurement": {"samples": 2, "grid": 12, "probes": 4, "draws": 2},
}


def test_study__of_a_corpus_is_trained_and_measured(tmp_path: Path) -> None:
    root = make_voc(tmp_path, train=4, val=2)
    plan = StudyPlan.model_validate(SMALL | {"data": {"kind": "voc2012", "folder": root, "size": 24}})
    study = Study(tmp_path / "study", plan, progress=False)
    study.train()
    study.measure()
    stored = kdviz.open_run(study.run_path).samples
    samples = Voc2012(folder=root, size=24).load("train")
    assert stored["sample"].values.tolist() == list(samples.sample_ids[:2])
    np.testing.assert_array_equal(stored["thumbnail"], samples.images[:2])
    np.testing.assert_array_equal(stored["label"], samples.labels[:2])
    assert stored["foreground"].values.any() and not stored["foreground"].values.all()
    assert set(stored["split"].values) == {"train"}
    again = yaml.safe_load((study.folder / "study.yaml").read_text())["data"]
    assert again == {"kind": "voc2012", "folder": str(root), "size": 24, "per_class": None}


@pytest.mark.parametrize(
    ("make", "data"),
    [
        (make_cub, {"kind": "cub200"}),
        (make_ilsvrc, {"kind": "ilsvrc-det", "classes": [LION, ZEBRA]}),
        (make_coco, {"kind": "coco", "min_area": 50}),
        (make_tiny, {"kind": "tiny-imagenet"}),
    ],
)
def test_plan__takes_every_corpus_and_is_read_back(make, data: dict, tmp_path: Path) -> None:
    root = make(tmp_path)
    plan = StudyPlan.model_validate(SMALL | {"data": data | {"folder": root, "size": 24}})
    plan.save(tmp_path / "study")
    again = StudyPlan.load(tmp_path / "study")
    assert again.data == plan.data and again.data.kind == data["kind"]
    prepared = again.data.prepare(again.data.choose(again.data.load("train"), 2), grid=12)
    assert prepared.inputs[:].shape == (2, 3, 24, 24)
