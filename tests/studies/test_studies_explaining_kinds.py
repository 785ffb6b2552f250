"""Scores of a study of texts and of one of clouds, against those of networks put together by hand."""

import numpy as np
import pytest
import torch
import xarray as xr

import kdviz
from kdviz import cli, models, sources, unicam
from kdviz.networks import read_checkpoint
from kdviz.studies import Study, StudyPlan

ASKED, EPOCHS, LENGTH = 24, 2, 96
STUDENT, BASE = "student-kl-s0", "baseline-s0"
NAMES = [STUDENT, BASE, "teacher"]
LAYERS = {"text": ["hidden", "cls"], "cloud": ["head.fc1", "head.fc2"]}


def write_reviews(path):
    """A fifth of these sentences is held out, class by class."""
    texts = sources.movie_reviews("train", count=5 * ASKED)
    rows = zip(texts.words, texts.labels, strict=True)
    lines = ["sentence\tlabel", *(f"{' '.join(words)}\t{label}" for words, label in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=list(LAYERS))
def explained(request, tmp_path_factory):
    """A tiny study, trained, and explained by the command line; its teacher trained in it, or built in."""
    folder = tmp_path_factory.mktemp(request.param)
    data, teacher = {"kind": "furniture", "points": 48, "background": 20, "count": 88}, {"kind": "built-in"}
    if request.param == "text":
        data = {"kind": "sst2", "file": write_reviews(folder / "own.tsv"), "length": LENGTH}
        teacher = {"kind": "trained", "epochs": 1}
    plan = StudyPlan(
        data=data,
        networks={"teacher": teacher},
        losses=[{"kind": "kl"}],
        training={"epochs": EPOCHS, "count": 64},
        measurement={"samples": 4},
    )
    study = Study(folder / "study", plan, progress=False)
    study.train()
    cli.app(["unicam", str(study.folder), "--samples", str(ASKED), "--no-progress"], standalone_mode=False)
    return study


def read_samples(study):
    """Read what is asked, and say how a network for it is made, by what sources and models offer to all."""
    if study.plan.data.modality == "cloud":
        clouds = sources.furniture("held-out", count=440, points=48, background=20).select(range(ASKED))
        inputs = torch.from_numpy(clouds.clouds[:])
        return inputs, clouds.labels, lambda: models.cloud.build("small_pointnet", classes=11)
    texts, tokenizer = study.plan.data.load("held-out"), sources.review_tokenizer()
    assert len(texts) == ASKED
    inputs = torch.from_numpy(sources.encode(texts, tokenizer, length=LENGTH).ids)
    about = {"vocabulary": len(tokenizer), "length": LENGTH, "pad": tokenizer.pad_token_id}
    return inputs, texts.labels, lambda: models.text.build("small_bert", classes=2, **about)


def score_by_hand(study, epoch):
    """Score the networks in the files of an epoch, the teacher being finished at each."""
    inputs, labels, build = read_samples(study)
    files = {name: study.folder / "networks" / name / f"epoch-{epoch:03d}.safetensors" for name in NAMES[:2]}
    files["teacher"] = study.folder / "networks" / "teacher" / "epoch-001.safetensors"
    if study.plan.networks.teacher.kind == "built-in":
        files["teacher"] = sources.find_data("runs/teacher-furniture.safetensors")
    networks = {name: build() for name in files}
    for name, file in files.items():
        networks[name].load_state_dict(read_checkpoint(file))
    return unicam.score(
        networks, inputs, labels, student=STUDENT, base=BASE, teacher="teacher",
        layers=LAYERS[study.plan.data.modality], resamples=50, epoch=epoch, progress=False,
    )  # fmt: skip


def assert_same_scores(found, expected):
    for name in ("rs", "rs_distilled", "rs_residual", "fss"):
        for part in (name, f"{name}_low", f"{name}_high"):
            xr.testing.assert_allclose(found[part].drop_attrs(), expected[part].drop_attrs(), rtol=1e-6)


def test_unicam__scores_texts_and_clouds_as_by_hand(explained):
    run = kdviz.open_run(explained.run_path)
    assert [*run.results] == [f"unicam-progress/{STUDENT}", f"unicam-scores/{STUDENT}"], "maps are of images"
    ds = run.result(f"unicam-scores/{STUDENT}")
    assert ds["network"].values.tolist() == NAMES and ds["input"].values.tolist() == ["plain"]
    assert np.isfinite(ds["rs"]).all() and np.isfinite(ds["rs_distilled"]).all()
    assert_same_scores(ds, score_by_hand(explained, EPOCHS))


def test_unicam__follows_texts_and_clouds_over_training(explained):
    ds = kdviz.open_run(explained.run_path).result(f"unicam-progress/{STUDENT}")
    assert ds["epoch"].values.tolist() == [0, 1, 2]
    for epoch in (0, 1):
        assert_same_scores(ds.sel(epoch=[epoch]), score_by_hand(explained, epoch))
    teacher, student = ds["rs"].sel(network="teacher"), ds["rs"].sel(network=STUDENT)
    assert (teacher == teacher.isel(epoch=0)).all() and (student.sel(epoch=2) != student.sel(epoch=0)).all()
    same = ds.sel(epoch=0, pair="student-base")
    np.testing.assert_allclose(same["fss"], 1, atol=1e-6)
    assert same["rs_distilled"].isnull().all(), "both begin with the same weights"
