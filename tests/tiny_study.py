"""The smallest whole study: sixteen 16-pixel images of two classes, made once for all tests that read it."""

import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdviz.studies import Study, StudyPlan

SIDE = 16
OPTIONS = {"size": SIDE, "layers": ("fc1",), "train_count": 10, "epochs": 2, "teacher_epochs": 2}
OPTIONS |= {"samples": 4, "grid": 8}


def draw_images(folder: Path, *, per_class: int = 8) -> dict[str, Path]:
    """Upright red bars and lying blue bars on noise, with masks; the paths as `StudyPlan` takes them."""
    rng = np.random.default_rng(0)
    for kind, colour, (height, width) in (
        ("lying", (40, 60, 200), (4, 10)),
        ("upright", (200, 60, 40), (10, 4)),
    ):
        for index in range(per_class):
            picture = rng.integers(0, 90, (SIDE, SIDE, 3)).astype(np.uint8)
            top, left = rng.integers(0, SIDE - height + 1), rng.integers(0, SIDE - width + 1)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[top : top + height, left : left + width] = 255
            picture[mask > 0] = colour
            for tree, array in (("images", picture), ("masks", mask)):
                (folder / tree / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(folder / tree / kind / f"{index}.png")
    return {"images": folder / "images", "masks": folder / "masks"}


def make_plan(images: dict[str, Path], **changes: object) -> StudyPlan:
    return StudyPlan.model_validate({**OPTIONS, **images, **changes})


def finished_study(factory: pytest.TempPathFactory) -> Study:
    """A trained and measured study; read it, copy it, never write to it."""
    return _make(factory.getbasetemp())


@functools.cache
def _make(basetemp: Path) -> Study:
    folder = basetemp / "tiny"
    study = Study(folder / "study", make_plan(draw_images(folder)), progress=False)
    study.train()
    study.measure()
    return study
