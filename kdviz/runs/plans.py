"""What a study compares, in one small file beside its results."""

import json
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    ValidationError,
    model_validator,
)

from kdviz.errors import StoreError
from kdviz.models import PRESETS
from kdviz.training.records import write_bytes

PLAN_FILE = "plan.json"
TEACHER_SEED = 100  # no student may start in the teacher's own valley
_GROWING = ("layers", "seeds")  # a study may be given more of these later

# Absolute, so that a study can be continued from any folder.
ResolvedPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]


class StudyPlan(BaseModel):
    """Teacher, baselines and one student per distilled layer and seed, on one set of images.

    Attributes
    ----------
    images, masks
        The user's own images and masks as :func:`kdviz.sources.image_folder` reads them; None for the
        built-in fashion composites and their committed teacher.
    size
        Height and width of the pictures in pixels.
    architecture
        Of all three networks, from :func:`kdviz.models.list_models`.
    layers
        The papers' names: a student is distilled at each, and it and the baseline are measured there.
    seeds
        One baseline and one student per layer for each: initial weights and data order.
    train_count
        Training images of students and baselines; the teacher sees all.
    teacher_epochs
        Of a teacher trained here; the built-in one is loaded.
    rate_factor
        Times the learning rates of :data:`kdviz.training.FASHION_PLANS`, which were tried on the small
        VGG only: larger networks want less.
    epochs, head_epochs
        Of baselines and of the students' first stage; of the students' second stage, and of the heads that
        tell its accuracy at every measured epoch.
    samples, evaluated
        Number of measured images, and where they come from: ``"train"`` as in the papers, or ``"held-out"``.
    grid
        Units a side.
    method, probes, draws, measurement_seed
        As in :func:`kdviz.measure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: ResolvedPath | None = None
    masks: ResolvedPath | None = None
    size: int = Field(default=48, ge=16, le=512)
    architecture: str = "small_vgg"
    layers: tuple[str, ...] = ("conv", "fc1", "fc2")
    seeds: tuple[NonNegativeInt, ...] = (0,)
    train_count: int = Field(default=4000, ge=10)
    teacher_epochs: int = Field(default=30, ge=1)
    rate_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    epochs: int = Field(default=12, ge=2)
    head_epochs: int = Field(default=8, ge=1)
    samples: int = Field(default=50, ge=2)
    evaluated: Literal["train", "held-out"] = "train"
    grid: int = Field(default=16, ge=1)
    method: Literal["auto", "gain", "path"] = "auto"
    probes: int = Field(default=64, ge=2)
    draws: int = Field(default=4, ge=2)
    measurement_seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.images is None) != (self.masks is None):
            raise ValueError("images and masks belong together: give both, or none for the built-in images")
        if self.architecture not in PRESETS:
            raise ValueError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(sorted(PRESETS))}"
            )
        if self.images is None and (self.architecture, self.size) != ("small_vgg", 48):
            raise ValueError(
                "the built-in teacher is a small_vgg for 48 pixels; give images for another network"
            )
        known = PRESETS[self.architecture].layers
        if unknown := [layer for layer in self.layers if layer not in known]:
            raise ValueError(
                f"unknown layers {', '.join(unknown)}; {self.architecture} has {', '.join(known)}"
            )
        *_, logits = known
        if logits in self.layers:
            raise ValueError(
                f"{logits} gives the logits: nothing lies above it that a student could train; "
                f"distil at {', '.join(layer for layer in known if layer != logits)}"
            )
        if self.grid > self.size:
            raise ValueError(
                f"a grid of {self.grid} units a side does not fit pictures of {self.size} pixels"
            )
        for name in _GROWING:
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{name} must hold at least one value, each once; got {values}")
        if TEACHER_SEED in self.seeds:
            raise ValueError(f"seed {TEACHER_SEED} is the teacher's; student and baseline need another")
        return self

    @property
    def measured_epochs(self) -> tuple[int, ...]:
        """Epochs at which students and baselines are measured: every one at first, every second later."""
        half = self.epochs // 2
        return (*range(half + 1), *range(half + 2, self.epochs, 2), self.epochs)

    def save(self, folder: Path) -> None:
        """Write the plan to a new study, or check it against the one that is there.

        Raises
        ------
        StoreError
            If the folder holds a study with another plan; seeds and layers may be added.
        """
        path = folder / PLAN_FILE
        if path.exists():
            stored = StudyPlan.load(folder)
            for name in type(self).model_fields:
                old, new = getattr(stored, name), getattr(self, name)
                if old != new and not (name in _GROWING and set(old) <= set(new)):
                    raise StoreError(
                        f"{folder} holds a study with {name} {old}, now {new}; choose another folder"
                    )
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make a study at {folder}: {error}") from error
        write_bytes(path, json.dumps(self.model_dump(mode="json"), indent=2).encode())

    @classmethod
    def load(cls, folder: Path) -> "StudyPlan":
        """Read the plan of a study.

        Raises
        ------
        StoreError
            If there is none, or it is damaged.
        """
        path = folder / PLAN_FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise StoreError(
                f"{folder} holds no study: there is no {PLAN_FILE}; begin with kdviz train"
            ) from None
        except OSError as error:
            raise StoreError(f"cannot read {path}: {error}") from error
        except ValidationError as error:
            raise StoreError(f"{path} is damaged: {error}") from error
