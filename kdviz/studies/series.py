"""A named study in a folder: all its arms are trained, measured and asked, each in a folder of its own.

Arms of several studies lie side by side. Equal ones are one folder, and a network that two arms train alike
is trained once.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from kdviz import analysis
from kdviz.errors import DataError, StoreError
from kdviz.sources import Source
from kdviz.store import open_run
from kdviz.studies.engines import Workers
from kdviz.studies.forecast import Forecast
from kdviz.studies.named import Arm, NamedStudy
from kdviz.studies.plans import STUDY_FILE, StudyPlan
from kdviz.studies.studies import Study
from kdviz.studies.tasks import Action, Task

if TYPE_CHECKING:
    from kdviz.studies.costs import ArmCosts, Cost


@dataclass(frozen=True)
class Series:
    """The arms of a named study, by one preset, in a folder.

    Attributes
    ----------
    name, study
        What is compared.
    arms
        From :meth:`NamedStudy.arms`.
    folder
        Holds the folders of arms, of this and of other named studies.
    progress
        Show one bar for all of it; where nobody watches, lines.
    device
        Where to train and measure; that of the plans if None.
    """

    name: str
    study: NamedStudy
    arms: Sequence[Arm]
    folder: Path
    progress: bool = True
    device: str | None = None

    @cached_property
    def parts(self) -> list[tuple[Arm, Study]]:
        """Every arm with the study in its folder."""
        places = [self._place(arm) for arm in self.arms]
        others = tuple(dict.fromkeys([*places, *sorted(self.folder.glob("*/"))]))
        return [
            (arm, Study(place, _grown(place, arm.plan), False, self.device, others))
            for arm, place in zip(self.arms, places, strict=True)
        ]

    def _place(self, arm: Arm) -> Path:
        """Find the folder of an arm, which an equal one of another study may have begun.

        All of its plan counts but the device and the seeds, of which there may be more later.
        """
        told = arm.plan.as_json()
        del told["device"], told["training"]["seeds"]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:8]
        known = sorted(self.folder.glob(f"*-{digest}/"))
        plain = re.sub(r"[^a-z0-9]+", "-", arm.name.lower()).strip("-")
        return known[0] if known else self.folder / f"{plain or 'arm'}-{digest}"

    def run(self, workers: Workers | None = None) -> None:
        """Train, measure and ask whatever is not yet; goes on where it was stopped.

        Parameters
        ----------
        workers
            Who trains and measures, as for :meth:`Study.train`.

        Raises
        ------
        DataError
            If data of an arm are missing, before anything is trained.
        """
        for _, missing in self.missing():
            raise DataError(missing)
        left = self.left()
        with Forecast(self.name, left, shown=self.progress) as forecast:
            for arm, study in self.parts:
                if left[arm.name]:
                    watched = replace(study, watch=forecast.begin(arm.name))
                    watched.train(workers)
                    if "points" in self.study.chapters:
                        watched.measure(workers)
                if "transfer" in self.study.chapters:
                    study.share()
                if "unicam" in self.study.chapters:
                    study.explain()

    def left(self) -> dict[str, list[Task]]:
        """List what is left to train and measure, by arm."""
        actions: list[Action] = ["train", "accuracy"]
        if "points" in self.study.chapters:
            actions += ["measure", "repeat"]
        return {arm.name: self._left(study, *actions) for arm, study in self.parts}

    def _left(self, study: Study, *actions: Action) -> list[Task]:
        """List what is not done; what was once read whole is not read again, for that takes its time."""
        known = self._whole.setdefault(study.folder, set())
        tasks = [task for task in study.tasks(*actions) if task.key not in known]
        left = study.left(tasks)
        known.update(task.key for task in tasks if task not in left)
        return left

    @cached_property
    def _whole(self) -> dict[Path, set[str]]:
        return {}

    def estimate(self) -> pd.DataFrame:
        """Estimate what is left to train and measure, from a few passes of untrained networks.

        Returns
        -------
        DataFrame
            ``arm``, ``what``, ``networks`` (what arms train alike counts in the first); ``million passes``,
            ``hours`` of one process on this machine and ``PFLOP``, as ranges from all samples by gain to all
            by path; ``GB of memory`` at a time, which of training is not told; ``GB of disk``; a last row of
            all. What is asked beside points is not estimated.
        """
        from kdviz.studies.costs import Cost, sum_costs

        rows, everything = list[dict[str, Any]](), Cost()
        for arm, costs in zip(self.arms, self.list_costs(), strict=True):
            if costs.missing:
                rows.append({"arm": arm.name, "what": f"not estimated: {costs.missing}"})
            for what in ("train", "measure"):
                cost = sum_costs(costs.items, what)
                if cost.networks:
                    rows.append({"arm": arm.name, "what": what, **_say(cost)})
                everything += cost
        if everything.networks:
            rows.append({"arm": "all", "what": "", **_say(everything), "networks": ""})
        return pd.DataFrame(rows).fillna("")

    def list_costs(self) -> "list[ArmCosts]":
        """Estimate every training and measurement that is left, arm by arm."""
        from kdviz.studies.costs import estimate_costs

        left = self.left()
        parts = [(study, left[arm.name]) for arm, study in self.parts]
        return estimate_costs(parts, progress=self.progress)

    def missing(self) -> Iterator[tuple[Arm, str]]:
        """Tell of which arms data or weights are missing, and what to do about it."""
        find = cache(_find_fault)
        for arm, study in self.parts:
            if study.run_path.is_dir():
                continue
            teacher = study.plan.networks.teacher
            asked = filter(None, (study.plan.data, getattr(teacher, "data", None)))
            if fault := next(filter(None, map(find, asked)), None):
                yield arm, f"{arm.name}: {fault}"
            for name in ("start", "file", "encoder"):
                path = getattr(teacher, name, None)
                if path is not None and not path.exists():
                    yield arm, f"{arm.name}: networks.teacher.{name} is not there: {path}"

    def status(self) -> pd.DataFrame:
        """Count what is done of every arm.

        Returns
        -------
        DataFrame
            ``arm``; ``trained`` and ``measured``, as "2 of 7" networks, measurements repeated for the noise
            floor among them; ``folder``.
        """
        rows = []
        for arm, study in self.parts:
            row = {"arm": arm.name}
            kinds: dict[str, list[Action]] = {"trained": ["train"], "measured": ["measure", "repeat"]}
            for name, actions in kinds.items():
                count, left = len(study.tasks(*actions)), len(self._left(study, *actions))
                row[name] = f"{count - left} of {count}"
            rows.append(row | {"folder": str(study.folder)})
        return pd.DataFrame(rows)

    def unfinished(self) -> dict[str, str]:
        """Tell of the arms that are not measured to their end how far they are, by name."""
        told = {}
        for arm, study in self.parts:
            if left := len(self._left(study, "measure")):
                count = len(study.tasks("measure"))
                told[arm.name] = f"{count - left} of {count} networks are measured"
        return told

    def readings(self) -> list[analysis.Arm]:
        """List every reading of the arms that are measured, for :func:`kdviz.analysis.tabulate_arms`.

        Raises
        ------
        StoreError
            If no arm is measured to its end.
        """
        left, found = self.unfinished(), []
        for arm, study in self.parts:
            for reading, settings in arm.readings.items() if arm.name not in left else ():
                setting = ", ".join(filter(None, (arm.labels.get("setting"), reading)))
                labels = {**arm.labels, **({"setting": setting} if setting else {})}
                found.append(analysis.Arm(labels, open_run(study.run_path), settings))
        if not found:
            raise StoreError(f"nothing of {self.name} is measured in {self.folder} yet")
        return found


def _say(cost: "Cost") -> dict[str, Any]:
    def told(ends: Iterable[float], unit: float) -> str:
        return " to ".join(dict.fromkeys(f"{end / unit:,.{0 if end >= 10 * unit else 2}f}" for end in ends))

    return {
        "networks": cost.networks,
        "million passes": told(cost.passes, 1e6),
        "hours": told(cost.seconds, 3600),
        "PFLOP": told(cost.flops, 1e15),
        "GB of memory": told([cost.memory], 1e9) if cost.memory else "",
        "GB of disk": told([cost.disk], 1e9),
    }


def _grown(place: Path, plan: StudyPlan) -> StudyPlan:
    """Return a plan with the seeds that its folder has beside."""
    if not (place / STUDY_FILE).is_file():
        return plan
    seeds = dict.fromkeys([*StudyPlan.load(place).training.seeds, *plan.training.seeds])
    training = plan.training.model_copy(update={"seeds": tuple(seeds)})
    return plan.model_copy(update={"training": training})


def _find_fault(data: Source) -> str:
    """Say what is wrong with data that are to be trained on or tested with; nothing if they can be listed."""
    try:
        data.load("train")
        data.load("held-out")
    except DataError as error:
        return str(error)
    return ""
