"""Have the tasks of a study done by an engine, and keep what comes back.

Networks are trained whole and leave everything in the study's folder. A measurement is cut into blocks of
samples, which any worker does; this process alone writes them into the run, as soon as they come.
"""

import re
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace

from tqdm.auto import tqdm

from kdviz import measuring
from kdviz.errors import KdvizWarning, LockedError, StoreError, naming
from kdviz.files import exclusive, lock_beside
from kdviz.studies.engines import Call, Cluster, Engine, Workers, engine_of
from kdviz.studies.plans import STUDY_FILE
from kdviz.studies.tasks import Layout, Task
from kdviz.studies.work import Workshop

Watch = Callable[[Task], None]
"""Hears of a task whenever something of it is done."""

_SHARED = 2  # studies that a worker holds at a time
_at_work: dict[str, Workshop] = {}  # of a process, by the session that it belongs to
_alone = threading.Lock()  # a network at work belongs to one call


def finish(
    study: Layout,
    tasks: Sequence[Task],
    workers: Workers | None = None,
    watch: Watch | None = None,
) -> None:
    """Do tasks, or go on with them; those of a new study begin it.

    Parameters
    ----------
    study, tasks, workers
        What is done, and by whom.
    watch
        Called with a task whenever something of it is done: the whole of it, or a block of a measurement.

    Raises
    ------
    StoreError
        If another process works on the study, or a worker does not see its folder.
    ValueError, MissingExtraError, ConnectionError, ChildProcessError
        As :func:`kdviz.studies.engines.engine_of` and what it gives.
    """
    session, path = secrets.token_hex(8), study.folder / STUDY_FILE
    if workers is not None and re.search(r":\d", study.device or study.plan.device or ""):
        raise ValueError("workers share out the GPUs by themselves: pass device cuda, without a number")
    with engine_of(workers) as engine:
        try:
            workshop = _at_work[session] = Workshop(study)
            if not path.exists():
                workshop.begin()
            with exclusive(lock_beside(path), study.folder):
                if not engine.here:
                    # where they run nobody sees a bar, another folder may be the current one, and nobody but
                    # this process writes down what the study was begun with
                    others = tuple(one.resolve() for one in study.others)
                    there = Layout(study.folder.resolve(), study.plan, False, study.device, others)
                    tasks = [replace(task, study=there) for task in tasks]
                    _ = workshop.training_set, workshop.held_out_set
                watch = watch or (lambda task: None)
                if whole := [task for task in tasks if not task.is_measurement]:
                    _do_whole(engine, session, whole, study.progress, watch)
                if blockwise := [task for task in tasks if task.is_measurement]:
                    _measure(engine, session, blockwise, workshop, watch)
        finally:
            _at_work.clear()
            if isinstance(engine, Cluster):
                with suppress(Exception):  # whatever ended the work tells more
                    engine.client.run(_forget, session, nanny=False)


def _do_whole(engine: Engine, session: str, tasks: Sequence[Task], progress: bool, watch: Watch) -> None:
    named = {f"{task.key}-{session}": task for task in tasks}
    calls = [
        Call(key, do_whole, (session, task, not engine.here), tuple(f"{one}-{session}" for one in task.needs))
        for key, task in named.items()
    ]
    done = engine.run(calls)
    hidden = engine.here or not progress
    for key, _ in tqdm(done, total=len(calls), desc="networks", unit="task", disable=hidden):
        watch(named[key])


def do_whole(session: str, task: Task, patient: bool = False) -> None:
    """Do a task that leaves its results in the study's folder.

    If `patient`, wait where another process is at it: one that was left behind by a scheduler or a command
    that died. What it does is what is asked for.
    """
    with _alone:
        workshop = _workshop_of(session, task.study)
        while True:
            try:
                with naming(task.subject.name):
                    return workshop.do(task)
            except LockedError:
                if not patient:
                    raise
            time.sleep(1)


def do_block(session: str, task: Task, block: measuring.Task) -> tuple[measuring.Block, list[str]]:
    """Do one block of a measurement; also return what a user of another process should hear of."""
    with _alone, warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", KdvizWarning)
        with naming(task.subject.name):
            done = _workshop_of(session, task.study).measurement_of(task).do(block)
    ours = [one for one in told if issubclass(one.category, KdvizWarning)]
    for other in (one for one in told if one not in ours):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return done, [str(one.message) for one in ours]


def _workshop_of(session: str, study: Layout) -> Workshop:
    if session not in _at_work:
        if not (study.folder / STUDY_FILE).exists():
            raise StoreError(
                f"{study.folder} is not seen on {socket.gethostname()}: workers find a study under the path "
                "that it has here"
            )
        while len(_at_work) >= _SHARED:
            del _at_work[next(iter(_at_work))]
        _at_work[session] = Workshop(study)
    return _at_work[session]


def _forget(session: str) -> None:
    _at_work.pop(session, None)


@dataclass
class _Open:
    """A measurement of which blocks are still to come."""

    task: Task
    measurement: measuring.Measurement
    left: int
    held: ExitStack
    keep: Callable[[measuring.Block], None]


def _measure(engine: Engine, session: str, tasks: Sequence[Task], workshop: Workshop, watch: Watch) -> None:
    """Measure block by block, network after network as far as there are workers; only this process writes."""
    run, owners = workshop.run, dict[str, _Open]()
    total = sum(workshop.count_blocks(task) for task in tasks)
    bar = tqdm(total=total, desc="measuring", unit="block", disable=not workshop.study.progress)
    unfinished = ExitStack()  # lets go of all that is held where the work is stopped

    def plan() -> Iterator[Call]:
        for task in tasks:
            with naming(task.subject.name):
                measurement, held = workshop.measurement_of(task), unfinished.enter_context(ExitStack())
                blocks = measurement.tasks(run)
            keep = held.enter_context(measurement.keeping(run))
            one = _Open(task, measurement, len(blocks), held, keep)
            bar.update(workshop.count_blocks(task) - len(blocks))
            if not blocks:
                _conclude(workshop, one)
            for block in blocks:
                key = f"{task.key}-{block.epoch}-{block.block}-{session}"
                owners[key] = one
                yield Call(key, do_block, (session, task, block))

    with run.writing(), bar, unfinished:
        for key, (block, told) in engine.run(plan()):
            one = owners.pop(key)
            bar.set_description(f"measuring {one.measurement.network}")
            for message in told:
                warnings.warn(message, KdvizWarning, stacklevel=2)
            one.keep(block)
            one.left -= 1
            bar.update()
            watch(one.task)
            if not one.left:
                _conclude(workshop, one)


def _conclude(workshop: Workshop, one: _Open) -> None:
    one.held.close()
    workshop.conclude(one.task, one.measurement)


def do(task: Task) -> None:
    """Do one task by itself, or go on with it."""
    finish(task.study, [task])
