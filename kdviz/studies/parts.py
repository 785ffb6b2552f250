"""The parts of a plan: the networks, what students learn by, training and measuring.

A stored plan is complete: reading its parts looks nothing up, so that it needs no torch.
"""

import inspect
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    field_validator,
    model_validator,
)

from kdviz.architectures import PRESETS
from kdviz.arguments import one_of
from kdviz.schema import choose_epochs
from kdviz.sources import Data
from kdviz.sources.samples import AbsolutePath

TEACHER_SEED = 100  # no student may start in the teacher's own valley
LOGITS = "fc3"  # the papers' name of the logits; of which nothing lies beyond
_LOSS_DEFAULTS: dict[str, dict[str, Any]] = {  # by kind of loss
    "attention": {"layer": "conv"},  # it reads maps
    "crd": {"weight": 0.1},  # 0.8, published for large networks, lets small ones diverge at these rates
}


class Part(BaseModel):
    """A part of a plan."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class BuiltInTeacher(Part):
    """The teacher that comes with the built-in data."""

    kind: Literal["built-in"] = "built-in"


class _OwnTeacher(Part):
    """A teacher that does not come with kdviz.

    Attributes
    ----------
    architecture
        From :data:`kdviz.models.PRESETS`; that of students and baselines if None.
    layers
        Its modules by the papers' names of layers; looked up from a named architecture.
    """

    architecture: str | None = None
    layers: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _name_layers(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("architecture") is None or values.get("layers"):
            return values
        preset = PRESETS[one_of("networks.teacher.architecture", values["architecture"], PRESETS)]
        return values | {"layers": dict(preset.layers)}


class TrainedTeacher(_OwnTeacher):
    """A teacher trained here, on all training samples.

    Attributes
    ----------
    encoder
        Of texts: folder of a pretrained encoder, as ``save_pretrained`` of transformers leaves it, from which
        the training starts; it gets a new linear layer.
    start
        File of weights of its architecture, such as torchvision's, from which the training starts; layers of
        another shape, such as the last one for other classes, are new.
    data
        What it is trained on, where that is not what the study is about: a teacher of other classes.
    epochs, seed
        30 epochs, or 4 of a pretrained encoder.
    """

    kind: Literal["trained"] = "trained"
    encoder: AbsolutePath | None = None
    start: AbsolutePath | None = None
    data: Data | None = None
    epochs: int = Field(default=30, ge=1)
    seed: NonNegativeInt = TEACHER_SEED

    @model_validator(mode="before")
    @classmethod
    def _train_less(cls, values: Any) -> Any:
        pretrained = isinstance(values, dict) and values.get("encoder") is not None
        return {"epochs": 4} | values if pretrained else values


class SavedTeacher(_OwnTeacher):
    """A teacher of the user's own.

    Attributes
    ----------
    file
        Its weights.
    epoch
        The epochs it was trained.
    classes
        How many it tells, where they are not those of the data; its accuracy is then unknown.
    """

    kind: Literal["checkpoint"] = "checkpoint"
    file: AbsolutePath
    epoch: NonNegativeInt = 0
    classes: int | None = Field(default=None, ge=1)


class Networks(Part):
    """The architecture of all networks, the layers to compare, and the teacher.

    Attributes
    ----------
    architecture
        From :data:`kdviz.models.PRESETS`; ``"encoder"``, the default with one, is that of the teacher's own
        encoder.
    depth
        How many layers of that encoder students and baselines have; all by default.
    layers
        Modules by the papers' names of layers; given as a list, names are looked up.
    teacher
        By default the built-in one for built-in data, else one trained here.
    """

    architecture: str
    depth: int | None = Field(default=None, ge=1)
    layers: dict[str, str] = Field(default={}, min_length=1)
    teacher: BuiltInTeacher | TrainedTeacher | SavedTeacher = Field(
        default=BuiltInTeacher(), discriminator="kind"
    )


class StudentLoss(BaseModel):
    """What one kind of student learns by; further fields are arguments of the loss.

    A `layer` among them, by the papers' name of it or its own, is read whichever layers are measured; of
    attention transfer it is the last convolution if nothing is said.

    Attributes
    ----------
    kind
        From :data:`kdviz.distillation.LOSSES`.
    layered
        Whether the loss reads one layer, and none is named: one student is trained for each that is measured.
    head
        Whether it trains up to that layer only: a head on the frozen feature then tells the accuracy, but for
        the logits, which tell it themselves.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    kind: str = "features"
    layered: bool
    head: bool

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict) or {"layered", "head"} <= values.keys():
            return values
        from kdviz.distillation import LOSSES

        options = {name: value for name, value in values.items() if name not in ("layered", "head")}
        kind = one_of("kind of loss", options.pop("kind", "features"), LOSSES)
        options = _LOSS_DEFAULTS.get(kind, {}) | options
        known = [*inspect.signature(LOSSES[kind]).parameters]
        for name in options:
            one_of(f"option of {kind}", name, known)
        layered = "layer" in known and "layer" not in options
        head = LOSSES[kind](**({"layer": "layer"} if layered else {}) | options).up_to is not None
        if head and not layered:
            raise ValueError(f"{kind} trains a student for each of networks.layers: leave its layer out")
        return {"kind": kind, "layered": layered, "head": head, **options}

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the loss."""
        return dict(self.model_extra or {})


FEATURES = StudentLoss(kind="features", layered=True, head=True)
"""The loss of the papers on knowledge points."""


class Recipe(Part):
    """What of a :class:`kdviz.training.TrainingPlan` is another than for the built-in data; see there."""

    batch_size: int | None = Field(default=None, ge=1)
    learning_rate: PositiveFloat | tuple[PositiveFloat, PositiveFloat] | None = None
    optimiser: Literal["sgd", "adamw"] | None = None
    momentum: float | None = Field(default=None, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    augment: bool | None = None


class Training(Part):
    """How baselines and students are trained.

    Attributes
    ----------
    seeds
        One baseline and one student per loss and layer for each: initial weights and data order.
    epochs, head_epochs
        Of baselines and of students; of the heads that tell a student's accuracy at every measured epoch.
    rate_factor
        Times the learning rates of the built-in data's plans, which were tried on the small networks only:
        larger ones want less. It may change later, for what is not trained yet alone. Of a training that
        diverges they are lowered by themselves, as :func:`kdviz.training.train` tells.
    count
        Training samples of students and baselines; the teacher sees all.
    checkpoints
        Epochs at which students and baselines are measured, 0 and the last among them, and of which weights
        are kept; by default every one is kept, and :func:`kdviz.schema.choose_epochs` measured.
    recipes
        What is trained otherwise than the plans of the built-in data say: of the ``"teacher"``, the
        ``"baseline"``, a ``"student"`` that learns a feature, its ``"head"``, one at a layer (``"fc1"``), or
        one of a kind of loss (``"kl"``).
    """

    seeds: tuple[NonNegativeInt, ...] = Field(default=(0,), min_length=1)
    epochs: int = Field(default=12, ge=2)
    head_epochs: int = Field(default=8, ge=1)
    rate_factor: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    count: int = Field(default=2000, ge=10)
    checkpoints: tuple[NonNegativeInt, ...] = ()
    recipes: dict[str, Recipe] = {}

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"training.seeds must be different ones, got {seeds}")
        return seeds

    @model_validator(mode="after")
    def _check_checkpoints(self) -> Self:
        saved = self.checkpoints
        if saved and (list(saved) != sorted({*saved}) or (saved[0], saved[-1]) != (0, self.epochs)):
            raise ValueError(f"training.checkpoints must rise from 0 to epochs={self.epochs}, got {saved}")
        return self

    @property
    def measured_epochs(self) -> tuple[int, ...]:
        """Epochs at which students and baselines are measured."""
        return self.checkpoints or choose_epochs(self.epochs)


class MeasurementPlan(Part):
    """What is measured, and how.

    Attributes
    ----------
    samples, part
        Number of measured samples, and where they come from: ``"train"`` as in the papers, or ``"held-out"``.
    grid
        Of images: units a side.
    method, probes, draws, seed
        As in :func:`kdviz.measure`; without a method that of the units.
    """

    samples: int = Field(default=50, ge=2)
    part: Literal["train", "held-out"] = "train"
    grid: int | None = Field(default=None, ge=1)
    method: Literal["auto", "gain", "path"] | None = None
    probes: int = Field(default=40, ge=2)
    draws: int = Field(default=4, ge=2)
    seed: NonNegativeInt = 0
