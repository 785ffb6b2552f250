"""The smallest whole study: sixteen 16-pixel images of two classes, made once for all tests that read it."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdviz.studies import Study, StudyPlan

SIDE = 16


def draw_images(folder: Path, *, per_class: int = 8) -> dict[str, Path]:
    """Upright red bars and lying blue bars on noise, with masks; the paths as `ImageFolder` takes them."""
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


def make_plan(images: dict[str, Path], *, layers: tuple[str, ...] = ("fc1",), **changes: Any) -> StudyPlan:
    """Make the plan; changes of a part, such as ``training={"seeds": (0, 1)}``, are added to it."""
    parts: dict[str, dict[str, Any]] = {
        "data": {"kind": "image-folder", "size": SIDE, **images},
        "networks": {"layers": layers, "teacher": {"kind": "trained", "epochs": 2}},
        "training": {"count": 10, "epochs": 2},
        "measurement": {"samples": 4, "grid": 8},
    }
    merged = {name: part | changes.pop(name, {}) for name, part in parts.items()}
    return StudyPlan.model_validate(merged | changes)


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


_LIGHT = """
import sys
from kdviz import cli

sys.argv = ["kdviz", *sys.argv[1:]]
try:
    cli.main()
finally:
    heavy = {"torch", "torchvision", "transformers", "kdviz.measuring", "kdviz.studies.work", "papermill"}
    print("loaded", sorted(heavy & set(sys.modules)))
"""


def run_light(*arguments: str) -> str:
    """Run kdviz in a process of its own; what it prints, and last what it loaded of all that is heavy."""
    done = subprocess.run(
        [sys.executable, "-c", _LIGHT, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout
