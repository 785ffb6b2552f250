"""What a study compares, in one small file beside its results."""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal, Self

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
from kdviz.files import write_bytes
from kdviz.models import PRESETS

PLAN_FILE = "plan.json"
TEACHER_SEED = 100  # no student may start in the teacher's own valley
_LOGITS = "fc3"  # in every network of the papers that has this layer
_GROWING = ("layers", "seeds")  # a study may be given more of these later

# Absolute, so that a study can be continued from any folder.
ResolvedPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]


_DEFAULTS: dict[str, dict[str, Any]] = {
    "image": {
        "architecture": "small_vgg",
        "layers": ("conv", "fc1", "fc2"),
        "train_count": 4000,
        "samples": 50,
        "method": "auto",
    },
    "text": {
        "architecture": "small_bert",
        "layers": ("hidden", "cls"),
        "train_count": 2000,
        "samples": 50,
        "method": "auto",
    },
    "cloud": {
        "architecture": "small_pointnet",
        "layers": ("fc1", "fc2"),
        "train_count": 836,
        "samples": 22,
        "method": "path",
    },
}
_OWN = {  # fields that only one kind of input has, the path of the user's own samples first
    "image": ("images", "masks", "size", "grid"),
    "text": ("texts", "length"),
    "cloud": ("clouds", "points", "background", "composed"),
}


class StudyPlan(BaseModel):
    """Teacher, baselines and one student per distilled layer and seed, on one set of samples.

    Attributes
    ----------
    modality
        ``"image"``, ``"text"`` or ``"cloud"``. Decides the defaults of `architecture`, `layers`,
        `train_count` and `samples`.
    images, masks
        The user's own images and masks as :func:`kdviz.sources.image_folder` reads them; None for the
        built-in fashion composites and their committed teacher.
    size, grid
        Of images: height and width in pixels, and units a side.
    texts
        The user's own sentences as :func:`kdviz.sources.read_sst2` reads them; None for the built-in movie
        reviews and their committed teacher.
    length
        Of texts: the most tokens of one.
    clouds
        The user's own clouds as :func:`kdviz.sources.read_modelnet40` reads them; None for the built-in
        furniture and its committed teacher.
    points, background, composed
        Of clouds: points of the object and around it; how many are composed of the built-in models.
    architecture
        Of all three networks, from :func:`kdviz.models.list_models`.
    layers
        The papers' names: a student is distilled at each, and it and the baseline are measured there.
    seeds
        One baseline and one student per layer for each: initial weights and data order.
    train_count
        Training samples of students and baselines; the teacher sees all.
    teacher_epochs
        Of a teacher trained here; the built-in one is loaded.
    rate_factor
        Times the learning rates of the built-in data's plans, which were tried on the small networks only:
        larger ones want less.
    epochs, head_epochs
        Of baselines and of the students' first stage; of the students' second stage, and of the heads that
        tell its accuracy at every measured epoch.
    samples, evaluated
        Number of measured samples, and where they come from: ``"train"`` as in the papers, or ``"held-out"``.
    method, probes, draws, measurement_seed
        As in :func:`kdviz.measure`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    modality: Literal["image", "text", "cloud"] = "image"
    images: ResolvedPath | None = None
    masks: ResolvedPath | None = None
    size: int = Field(default=48, ge=16, le=512)
    grid: int = Field(default=16, ge=1)
    texts: ResolvedPath | None = None
    length: int = Field(default=96, ge=3, le=512)
    clouds: ResolvedPath | None = None
    points: int = Field(default=256, ge=2)
    background: int = Field(default=128, ge=1)
    composed: int = Field(default=5016, ge=22)
    architecture: str
    layers: tuple[str, ...]
    seeds: tuple[NonNegativeInt, ...] = (0,)
    train_count: int = Field(ge=10)
    teacher_epochs: int = Field(default=30, ge=1)
    rate_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    epochs: int = Field(default=12, ge=2)
    head_epochs: int = Field(default=8, ge=1)
    samples: int = Field(ge=2)
    evaluated: Literal["train", "held-out"] = "train"
    method: Literal["auto", "gain", "path"]
    probes: int = Field(default=64, ge=2)
    draws: int = Field(default=4, ge=2)
    measurement_seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Take what is not given from the defaults of the modality."""
        if not isinstance(values, dict):
            return values
        return {**_DEFAULTS.get(values.get("modality", "image"), {}), **values}

    @model_validator(mode="after")
    def _check(self) -> Self:
        others = {name: owner for owner, names in _OWN.items() for name in names if owner != self.modality}
        if foreign := sorted(self.model_fields_set & {*others}):
            raise ValueError(
                f"{foreign[0]} belongs to a study of {others[foreign[0]]}s, this is one of {self.modality}s; "
                "leave it out, or choose the modality"
            )
        if (self.images is None) != (self.masks is None):
            raise ValueError("images and masks belong together: give both, or none for the built-in images")
        if self.architecture not in PRESETS:
            raise ValueError(
                f"unknown architecture {self.architecture!r}; known: {', '.join(sorted(PRESETS))}"
            )
        preset = PRESETS[self.architecture]
        if preset.modality != self.modality:
            fitting = [name for name, other in PRESETS.items() if other.modality == self.modality]
            raise ValueError(
                f"{self.architecture} takes {preset.modality}s, this is a study of {self.modality}s; "
                f"choose {', '.join(sorted(fitting))}"
            )
        own, *_ = _OWN[self.modality]
        built_in = {"architecture": _DEFAULTS[self.modality]["architecture"], "size": 48, "length": 96}
        if getattr(self, own) is None and any(
            getattr(self, name) != value for name, value in built_in.items()
        ):
            detail = {"image": "48 pixels", "text": "96 tokens", "cloud": "clouds"}[self.modality]
            raise ValueError(
                f"the built-in teacher is a {built_in['architecture']} for {detail}; give {own} for another "
                "network"
            )
        known = preset.layers
        if unknown := [layer for layer in self.layers if layer not in known]:
            raise ValueError(
                f"unknown layers {', '.join(unknown)}; {self.architecture} has {', '.join(known)}"
            )
        if _LOGITS in self.layers:
            raise ValueError(
                f"{_LOGITS} gives the logits: nothing lies above it that a student could train; "
                f"distil at {', '.join(layer for layer in known if layer != _LOGITS)}"
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

    def as_json(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Give the plan as it is stored: without what belongs to other kinds of input, as older plans are."""
        foreign = {name for owner, names in _OWN.items() for name in names if owner != self.modality}
        foreign |= {"modality"} if self.modality == "image" else set()
        return self.model_dump(mode="json", exclude=foreign | {*exclude})

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
        write_bytes(path, json.dumps(self.as_json(), indent=2).encode())

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
