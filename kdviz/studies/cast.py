"""What those have to know of networks who ask them, such as transfer and UniCAM, whoever trained them."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from kdviz.errors import StoreError
from kdviz.sources import Prepared, SampleSet, Source
from kdviz.store import Run
from kdviz.studies.tasks import Subject


class Cast(Protocol):
    """Finished networks of one run and the samples to ask them about.

    Those of a study are a `Workshop`, others `OwnNetworks`.
    """

    device: str | None

    @property
    def run(self) -> Run:
        """Where answers are kept."""

    @property
    def progress(self) -> bool:
        """Whether to show progress bars."""

    @property
    def source(self) -> Source:
        """How the samples are read."""

    @property
    def subjects(self) -> list[Subject]:
        """The networks, a teacher first."""

    @property
    def measured_set(self) -> SampleSet:
        """The samples that are measured."""

    @property
    def measured(self) -> Prepared:
        """The same, as networks and measuring take them."""

    def ask(self, count: int) -> SampleSet:
        """Return so many samples to ask about, or all there are."""

    def as_tensors(self, samples: SampleSet) -> tuple[Tensor, Tensor]:
        """Return samples as networks take them, and their labels."""

    def build_for(self, subject: Subject) -> Callable[[], nn.Module]:
        """Return what makes an untrained network of this kind."""

    def load(self, subject: Subject, network: nn.Module, checkpoint: Path) -> dict[str, Any]:
        """Put weights of a network into one that was built for it, and return them as `load_weights` does."""

    def feature_of(self, subject: Subject) -> str:
        """Say which feature of its layers is measured."""

    def modules(self, subject: Subject) -> list[str]:
        """Name the layers at which a network is measured."""

    def checkpoints(self, subject: Subject) -> dict[int, Path]:
        """Return the weights of a network by the epochs at which it is measured."""

    def finished(self, subject: Subject) -> tuple[int, Path]:
        """Return a network's last epoch, and weights with which its logits mean something."""

    def is_taught_whole(self, student: Subject) -> bool:
        """Tell whether a student learned from its teacher up to where maps are drawn."""

    def compared(self, student: Subject) -> list[str]:
        """Name the layers at which a student is compared with its baseline."""

    def in_teacher(self, module: str) -> str:
        """Name a layer of students as the teacher has it."""


def read_before(run: Run, names: str) -> xr.Dataset | None:
    """Read the first result whose name begins so, if there is one; what is damaged is asked anew."""
    for name in run.results:
        if name.startswith(names):
            with suppress(StoreError):
                return run.result(name)
    return None


def place_evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """Choose so many of `count` positions from the first to the last, or all there are."""
    return np.unique(np.linspace(0, count - 1, max(0, min(wanted, count))).round().astype(np.int64))
