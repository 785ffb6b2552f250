"""Have the tasks of a study done by an engine, and keep what comes back.

Networks are trained whole and leave everything in the study's folder. A measurement is cut into blocks of
samples, which any worker does; this process alone writes them into the run, as soon as they come.
"""

import secrets
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from kdviz import measuring
from kdviz.errors import StoreError
from kdviz.files import exclusive, lock_beside
from kdviz.studies.engines import Call, Engine, Workers, engine_of
from kdviz.studies.plans import STUDY_FILE
from kdviz.studies.tasks import Layout, Task
from kdviz.studies.work import Workshop

_at_work: dict[str, Workshop] = {}  # of a process: one, by the session that it belongs to


def finish(study: Layout, tasks: Sequence[Task], workers: Workers | None = None) -> None:
    """Do tasks, or go on with them; those of a new study begin it.

    Raises
    ------
    StoreError
        If another process works on the study, or a worker does not see its folder.
    ValueError, MissingExtraError, ConnectionError, ChildProcessError
        As :func:`kdviz.studies.engines.engine_of` and what it gives.
    """
    session, path = secrets.token_hex(8), study.folder / STUDY_FILE
    try:
        workshop = _at_work[session] = Workshop(study)
        if not path.exists():
            workshop.begin()
        with exclusive(lock_beside(path), path), engine_of(workers) as engine:
            if (
                not engine.here
            ):  # where they run, nobody sees a bar, and another folder may be the current one
                there = Layout(study.folder.resolve(), study.plan, progress=False, device=study.device)
                tasks = [replace(task, study=there) for task in tasks]
            if whole := [task for task in tasks if not task.is_measurement]:
                _do_whole(engine, session, whole, study.progress)
            if blockwise := [task for task in tasks if task.is_measurement]:
                _measure(engine, session, blockwise, workshop)
    finally:
        _at_work.clear()


def _do_whole(engine: Engine, session: str, tasks: Sequence[Task], progress: bool) -> None:
    calls = [
        Call(
            f"{task.key}-{session}",
            do_whole,
            (session, task),
            tuple(f"{key}-{session}" for key in task.needs),
        )
        for task in tasks
    ]
    done = engine.run(calls)
    for _ in tqdm(done, total=len(calls), desc="networks", unit="task", disable=engine.here or not progress):
        pass


def do_whole(session: str, task: Task) -> None:
    """Do a task that leaves its results in the study's folder."""
    _workshop_of(session, task.study).do(task)


def do_block(session: str, task: Task, block: measuring.Task) -> measuring.Block:
    """Do one block of a measurement."""
    return _workshop_of(session, task.study).measurement_of(task).do(block)


def _workshop_of(session: str, study: Layout) -> Workshop:
    if session not in _at_work:
        if not (study.folder / STUDY_FILE).exists():
            raise StoreError(
                f"{study.folder} is not seen on {socket.gethostname()}: workers find a study under the path "
                "that it has here"
            )
        _at_work.clear()
        _at_work[session] = Workshop(study)
    return _at_work[session]


@dataclass
class _Open:
    """A measurement of which blocks are still to come."""

    task: Task
    measurement: measuring.Measurement
    keep: Callable[[measuring.Block], None]
    left: int


def _measure(engine: Engine, session: str, tasks: Sequence[Task], workshop: Workshop) -> None:
    """Measure block by block, network after network as far as there are workers; only this process writes."""
    run, owners = workshop.run, dict[str, _Open]()
    with run.writing(), ExitStack() as held:
        bar = held.enter_context(tqdm(unit="block", disable=not workshop.study.progress))
        bar.total = sum(workshop.count_blocks(task) for task in tasks)

        def plan() -> Iterator[Call]:
            for task in tasks:
                measurement = workshop.measurement_of(task)
                blocks = measurement.tasks(run)
                keep = held.enter_context(measurement.keeping(run))
                one = _Open(task, measurement, keep, len(blocks))
                bar.set_description(f"measuring {measurement.network}")
                bar.update(workshop.count_blocks(task) - len(blocks))
                if not blocks:
                    workshop.conclude(task, measurement)
                for block in blocks:
                    call = Call(
                        f"{task.key}-{block.epoch}-{block.block}-{session}", do_block, (session, task, block)
                    )
                    owners[call.key] = one
                    yield call

        for key, block in engine.run(plan()):
            one = owners.pop(key)
            one.keep(block)
            one.left -= 1
            bar.update()
            if not one.left:
                workshop.conclude(one.task, one.measurement)


def do(task: Task) -> None:
    """Do one task by itself, or go on with it."""
    finish(task.study, [task])
