"""How long, how fast and on which schedule a network is trained. Values only: nothing here needs torch.

The named plans at the end are the ones used for the built-in data.
"""

import math
from itertools import pairwise
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

_MOST_EPOCHS = 1_000_000
_Rate = Annotated[FiniteFloat, Field(gt=0, le=1e30)]  # an end of what is spaced by logarithm
_Count = Annotated[int, Field(ge=1, le=2**31)]


class TrainingPlan(BaseModel):
    """Everything that decides the course of one training run, besides the network and the data.

    Attributes
    ----------
    epochs
        Passes over the data.
    batch_size, least_batch
        Samples a step. What is left at the end of an epoch is a smaller batch, or, below `least_batch`, joins
        the one before: a batch of one or two spoils batch normalisation.
    learning_rate
        One rate, or (first, last) spaced evenly in the logarithm over the epochs.
    optimiser
        ``"sgd"``, the papers', or ``"adamw"``, without which transformers hardly learn.
    momentum, weight_decay
        The defaults are the papers'. AdamW has no momentum to set, and decays weights apart from the
        gradient.
    seed
        Decides order, augmentation and dropout. Runs with one seed see the same batches, whatever the
        network.
    checkpoints
        Epochs after which the network is saved, from 0 (untrained) to `epochs`; every epoch by default.
        Networks that are to be compared need the same list. The papers' code trains for 150 epochs and saves
        (0, 2, 5, 10, 15, 20, 25, 30, 40, 50, 70, 90, 110, 130, 150).
    augment
        Random crop from a frame padded by 4 pixels of value 0 and random horizontal flip; images only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(ge=1, le=_MOST_EPOCHS)
    batch_size: _Count = 64
    least_batch: _Count = 1
    learning_rate: Annotated[FiniteFloat, Field(ge=0, le=1e30)] | tuple[_Rate, _Rate]
    optimiser: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0, le=1e30)
    seed: int = Field(default=0, ge=0, lt=2**63)
    checkpoints: tuple[int, ...] = ()
    augment: bool = False

    @model_validator(mode="before")
    @classmethod
    def _save_every_epoch(cls, values: dict) -> dict:
        known = isinstance(values, dict) and isinstance(values.get("epochs"), int)
        if not known or values.get("checkpoints") or values["epochs"] > _MOST_EPOCHS:
            return values
        return {**values, "checkpoints": tuple(range(values["epochs"] + 1))}

    @model_validator(mode="after")
    def _check(self) -> Self:
        saved = self.checkpoints
        rises = all(earlier < later for earlier, later in pairwise(saved))
        if not rises or (saved[0], saved[-1]) != (0, self.epochs):
            raise ValueError(f"checkpoints must rise from 0 to epochs={self.epochs}, got {saved}")
        return self

    def batch_sizes(self, samples: int) -> list[int]:
        """Return the sizes of the batches of an epoch over so many samples."""
        full, rest = divmod(samples, self.batch_size)
        sizes = [self.batch_size] * full
        if rest and (rest >= self.least_batch or not full):
            sizes.append(rest)
        elif rest:
            sizes[-1] += rest
        return sizes

    def rate(self, epoch: int) -> float:
        """Learning rate during epoch 1..`epochs`."""
        if not isinstance(self.learning_rate, tuple):
            return self.learning_rate
        first, last = self.learning_rate
        share = (epoch - 1) / (self.epochs - 1) if self.epochs > 1 else 0.0
        return math.exp(math.log(first) * (1 - share) + math.log(last) * share)

    def slowed(self, factor: float) -> Self:
        """Return the plan with all learning rates times a factor."""
        rates = self.learning_rate
        lower = tuple(rate * factor for rate in rates) if isinstance(rates, tuple) else rates * factor
        return self.model_copy(update={"learning_rate": lower})


def _name_plans(common: dict[str, Any], **plans: dict[str, Any]) -> MappingProxyType[str, TrainingPlan]:
    common = {"epochs": 12} | common
    return MappingProxyType({name: TrainingPlan(**common | options) for name, options in plans.items()})


_HEAD: dict[str, Any] = {"epochs": 8, "checkpoints": (0, 8)}

_TEXT = _name_plans(
    {"batch_size": 32, "optimiser": "adamw", "learning_rate": (1e-3, 1e-4), "weight_decay": 0.01},
    teacher={"epochs": 4, "seed": 100, "checkpoints": (0, 4)},
    fine_tuning={"epochs": 4, "seed": 100, "checkpoints": (0, 4), "learning_rate": (5e-5, 5e-6)},
    baseline={},
    student={"learning_rate": (3e-3, 3e-4), "weight_decay": 0.0},
    head={"learning_rate": (3e-3, 3e-4), **_HEAD},
)
_CLOUD = _name_plans(
    {
        "batch_size": 19,
        "least_batch": 10,
        "optimiser": "adamw",
        "learning_rate": (3e-3, 1.5e-4),
        "weight_decay": 0.01,
    },
    teacher={
        "epochs": 14,
        "batch_size": 38,
        "least_batch": 19,
        "optimiser": "sgd",
        "learning_rate": (0.05, 5e-4),
        "weight_decay": 1e-4,
        "seed": 100,
        "checkpoints": (0, 14),
    },
    baseline={},
    student={"learning_rate": (6e-3, 3e-4)},
    head=_HEAD,
)
_IMAGE = _name_plans(
    {"learning_rate": (0.03, 0.003)},
    teacher={
        "epochs": 16,
        "learning_rate": (0.03, 3e-4),
        "weight_decay": 5e-4,
        "augment": True,
        "seed": 100,
        "checkpoints": (0, 16),
    },
    baseline={},
    conv={},
    student={"learning_rate": (0.08, 0.008)},
    head=_HEAD,
)

PLANS = MappingProxyType({"image": _IMAGE, "text": _TEXT, "cloud": _CLOUD})
"""Plans for small networks on the built-in data, by modality: ``"teacher"``, ``"baseline"``, ``"student"``,
``"head"``, those of students at single layers, and of texts ``"fine_tuning"`` of a pretrained teacher. Of
another seed: ``plan.model_copy(update={"seed": seed})``."""
