"""Workers of a study: how much two do, beside two bare processes, and what one costs beside none."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks.reports import show_table, write_result
from kdviz.studies import Study, StudyPlan, running
from kdviz.studies.engines import Call, Engine, engine_of

SHARE, OVERHEAD = 0.95, 1.05  # goals: gain by a second worker over that by a second process; one over none
_LONE = """
import sys
from pathlib import Path
from benchmarks.workers import time_blocks
print(time_blocks(Path(sys.argv[1]), None, start=float(sys.argv[2])))
"""


@dataclass(frozen=True)
class WorkerPlan:
    """What is measured, and how often."""

    architecture: str = "small_vgg"
    samples: int = 48
    probes: int = 40
    repeats: int = 3
    count: int = 200


PLANS = {
    "small_vgg": WorkerPlan(),
    # eight blocks of six seconds an epoch, beside which planning, loading and writing are little
    "vgg11": WorkerPlan("vgg11", samples=128, probes=6, repeats=1, count=128),
}
QUICK = {"small_vgg": WorkerPlan(samples=20, probes=4, repeats=1, count=20)}


def run_workers(
    plans: Mapping[str, WorkerPlan], folder: Path | None = None, *, name: str = "workers"
) -> bool:
    """Measure a study of each network by all in turn, print and write rates; True if the goals are met."""
    met = [_run(plan, folder, name.replace("workers", f"workers-{one}")) for one, plan in plans.items()]
    return all(met)


def _run(plan: WorkerPlan, folder: Path | None, name: str) -> bool:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        study = Study(Path(place) / "study", _plan_study(plan), progress=False)
        study.train()
        kinds: dict[str, Callable[[], float]] = {
            "one process": lambda: time_blocks(study.folder, None),
            "one worker": lambda: time_blocks(study.folder, 1),
            "two processes": lambda: time_two(study.folder),
            "two workers": lambda: time_blocks(study.folder, 2),
        }
        rates = {kind: [measure() for _ in range(plan.repeats)] for kind, measure in kinds.items()}
    rows = [{"kind": kind, "blocks a second": median(found), "runs": found} for kind, found in rates.items()]
    show_table("blocks of 16 images a second, after those of the teacher", rows)
    alone, one, pair, two = (row["blocks a second"] for row in rows)
    share, overhead = two / one / (pair / alone), alone / one
    goals = [
        {"goal": "two workers over one, of two processes over one", "asked": SHARE, "reached": share},
        {"goal": "time of one worker over that of none", "asked": OVERHEAD, "reached": overhead},
    ]
    met = [share >= SHARE, overhead <= OVERHEAD]
    goals = [goal | {"met": fine} for goal, fine in zip(goals, met, strict=True)]
    show_table("goals", goals)
    write_result(name, asdict(plan), {"rates": rows, "goals": goals}, folder)
    return all(met)


def _plan_study(plan: WorkerPlan) -> StudyPlan:
    networks: dict[str, Any] = {"architecture": plan.architecture, "layers": ["fc1"]}
    loss = "features"
    if plan.architecture != "small_vgg":  # whose teacher is there
        networks["teacher"] = {"kind": "trained", "architecture": "small_vgg", "epochs": 1}
        loss = "kl"
    return StudyPlan.model_validate(
        {
            "networks": networks,
            "losses": [{"kind": loss}],
            "training": {"count": plan.count, "epochs": 2, "head_epochs": 1},
            "measurement": {"samples": plan.samples, "probes": plan.probes, "method": "gain"},
        }
    )


def time_two(folder: Path) -> float:
    """Let two processes that know nothing of each other measure the study, and add up their rates."""
    start = time.time() + 15  # both are up by then, and begin together
    with ExitStack() as held:
        places = [Path(held.enter_context(tempfile.TemporaryDirectory())) / "study" for _ in range(2)]
        lone = []
        for place in places:
            shutil.copytree(folder, place)
            command = [sys.executable, "-c", _LONE, str(place), str(start)]
            lone.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return sum(float(process.communicate()[0].splitlines()[-1]) for process in lone)


def time_blocks(folder: Path, workers: int | None, *, start: float = 0.0) -> float:
    """Measure a trained study anew, and return the rate of blocks after those of the teacher, the first.

    Writing is in it, and what starts workers and lets each load the samples is not: that takes as long for an
    hour's work as for a minute's.
    """
    torch.set_num_threads(1)
    for path in folder.glob("run.zarr*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    clock = _Clock()
    time.sleep(max(0.0, start - time.time()))
    with clock.listening():
        Study(folder, StudyPlan.load(folder), progress=False).measure(workers)
    taught = [clock.times[key] for key in clock.times if "-teacher-" in key]
    return (len(clock.times) - len(taught)) / (max(clock.times.values()) - max(taught))


class _Clock:
    """Notes when which results come out of an engine."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Put itself between studies and engines."""
        own = running.engine_of
        running.engine_of = self._engine_of
        try:
            yield
        finally:
            running.engine_of = own

    @contextmanager
    def _engine_of(self, workers: Any) -> Iterator[Engine]:
        with engine_of(workers) as engine:
            self.engine, self.here = engine, engine.here
            yield self

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[str, Any]]:
        """Pass results on."""
        for result in self.engine.run(calls):
            self.times[result[0]] = time.perf_counter()
            yield result
