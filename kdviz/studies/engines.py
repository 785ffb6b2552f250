"""Where calls are done: in this process, or in others, through dask.distributed.

An engine knows nothing of studies. What is finished is told by the disk, never by an engine: one that dies
loses what was in flight and nothing else.
"""

import inspect
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from kdviz import stopping
from kdviz.arguments import whole_number
from kdviz.errors import MissingExtraError
from kdviz.files import parse_yaml

if TYPE_CHECKING:
    from distributed import Client, Future, SpecCluster

_GLANCE = 0.5  # seconds between two looks whether somebody wants to stop
_PATIENCE = 60.0  # seconds to wait for a first worker, or for another one where all died
_DEATHS = 10  # of workers in one and the same call, beyond which it is the call that kills them
_AHEAD = 3  # calls a worker that are handed out before they are needed
_SAME = ["kdviz", "torch"]  # packages of which workers have the same version
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), 1)

Workers = int | str | Path
"""How many processes, the address of a dask scheduler, or a file about SLURM jobs."""


class Call(NamedTuple):
    """Something to do.

    Attributes
    ----------
    key
        Says everything that decides the result; no two calls have the same.
    function, arguments
        What to call, which other processes can import, and with what, which can be pickled.
    needs
        Keys of calls that must be done before, which came earlier.
    """

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: tuple[str, ...] = ()


class Engine(Protocol):
    """Does calls.

    Attributes
    ----------
    here
        Whether it does them in this process, one after the other.
    """

    here: bool

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[str, Any]]:
        """Do calls, and yield their keys and results as they come; calls are asked for when there is room."""


class Here:
    """Does calls in this process."""

    here = True

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[str, Any]]:
        """Do calls in their order."""
        for call in calls:
            yield call.key, call.function(*call.arguments)


class Cluster:
    """Workers of a dask scheduler."""

    here = False

    def __init__(self, client: "Client", *, queued: bool = False) -> None:
        self.client, self.queued = client, queued  # whether workers come as jobs, whenever there is room

    def run(self, calls: Iterable[Call]) -> Iterator[tuple[str, Any]]:
        """Do calls in any order that their needs allow; again where a worker or the scheduler died.

        Raises
        ------
        ConnectionError
            If the scheduler is gone and does not come back, or no worker comes.
        ChildProcessError
            If a call kills every worker that tries it.
        """
        coming = iter(calls)
        flying: dict[str, tuple[Call, Future]] = {}
        while True:
            room = self._count_room()
            while sum(flying.keys().isdisjoint(call.needs) for call, _ in flying.values()) < room:
                if (call := next(coming, None)) is None:
                    break
                flying[call.key] = call, self._submit(call, flying)
            if not flying:
                return
            for key in self._wait(flying):
                call, future = flying[key]
                try:
                    result = self._result(key, future)
                except _Lost:
                    flying[key] = call, self._submit(call, flying)
                else:
                    del flying[key]
                    yield key, result

    def _count_room(self) -> int:
        """Count the calls that may be handed out at a time, apart from those that wait for others."""
        self._reconnect()
        return _AHEAD * max(1, len(self._list_workers()))

    def _list_workers(self) -> dict[str, int]:
        """Return the threads of every worker; none where the scheduler does not answer."""
        try:
            return dict(self.client.nthreads())
        except (OSError, AttributeError):  # the latter where the client gave up
            return {}

    def _submit(self, call: Call, flying: "Mapping[str, tuple[Call, Future]]") -> "Future":
        before = [flying[key][1] for key in call.needs if key in flying]
        return self.client.submit(_do, call.function, call.arguments, before, key=call.key)

    def _wait(self, flying: "dict[str, tuple[Call, Future]]") -> list[str]:
        """Return the keys of calls that are done, one at least."""
        from distributed import wait
        from distributed.client import FuturesCancelledError

        alone = 0.0
        while True:
            stopping.check()
            try:
                futures = [future for _, future in flying.values()]
                done = wait(futures, timeout=_GLANCE, return_when="FIRST_COMPLETED").done
                return [future.key for future in done]
            except TimeoutError:
                alone = 0.0 if self.queued or self._list_workers() else alone + _GLANCE
                if alone > _PATIENCE:
                    raise ConnectionError(
                        f"the dask scheduler has no worker left, and none came within {_PATIENCE:.0f} s; "
                        "start some, and call the same command again"
                    ) from None
            except FuturesCancelledError:  # the scheduler forgot them: it is another one
                self._reconnect()
                for key, (call, future) in flying.items():
                    if future.cancelled():
                        flying[key] = call, self._submit(call, flying)

    def _reconnect(self) -> None:
        while self.client.status == "connecting":
            stopping.check()
            self.client.sync(_pause)
        if self.client.status != "running":
            raise ConnectionError(
                "the dask scheduler is gone and did not come back; start it, and call the same command again"
            )

    def _result(self, key: str, future: "Future") -> Any:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        try:
            return future.result()
        except KilledWorker as error:
            raise ChildProcessError(
                f"workers died again and again while they did {key}: {error}; for want of memory, take fewer "
                "workers or a smaller measurement"
            ) from error
        except (Exception, FutureCancelledError) as error:
            if future.status == "error":  # the call's own
                raise
            self._reconnect()
            raise _Lost from error


class _Lost(Exception):
    """A result went with the scheduler before it was fetched."""


def _do(function: Callable[..., Any], arguments: tuple[Any, ...], before: list[None]) -> Any:
    try:
        return function(*arguments)
    except (SystemExit, KeyboardInterrupt) as error:  # which would end the worker's thread and tell nobody
        raise ChildProcessError(f"a worker was told to stop: {error!r}") from error


async def _pause() -> None:
    import asyncio

    await asyncio.sleep(_GLANCE)


@contextmanager
def engine_of(workers: Workers | None, about: Callable[[str], object] = print) -> Iterator[Engine]:
    """Hold an engine, started and ended with the block where it is not there already.

    Parameters
    ----------
    workers
        None for this process; a number of processes here, each with a thread of its own and, in turn, one of
        the GPUs that are there; the address of a dask scheduler, whose workers have one thread each
        (``--nthreads 1``) and see the study under the same path; or a YAML file with ``jobs``, how many, and
        arguments of ``dask_jobqueue.SLURMCluster``.
    about
        Is told where dask's dashboard is, if there is one.

    Raises
    ------
    ValueError
        If it is none of these, or a worker has other versions of kdviz or torch, or several threads.
    MissingExtraError
        If dask is not installed.
    ConnectionError
        If there is no scheduler at the address, or it has no worker; or SLURM is not here.
    """
    if workers is None:
        yield Here()
        return
    place = read_workers(workers)
    try:
        import dask
        from distributed import Client
    except ModuleNotFoundError as error:
        raise MissingExtraError("workers: dask.distributed runs them, install kdviz[cluster]") from error
    with ExitStack() as stack:
        # dask's own environment also trims memory, which lets torch ask for the same memory over and over
        changes = {"scheduler.allowed-failures": _DEATHS, "nanny.pre-spawn-environ": _ENVIRONMENT}
        stack.enter_context(
            dask.config.set({f"distributed.{name}": value for name, value in changes.items()})
        )
        queued = isinstance(place, dict)
        if not isinstance(place, str):
            place = stack.enter_context(open_local(place) if isinstance(place, int) else open_slurm(place))
        try:
            client = stack.enter_context(Client(place, set_as_default=False))
            stack.enter_context(client.as_current())
            if not queued:
                client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError as error:
            raise ConnectionError(
                f"the scheduler at {workers} has no workers; start some: {error}"
            ) from error
        except OSError as error:
            raise ConnectionError(f"no dask scheduler answers at {place}: {error}") from error
        check_versions(client.get_versions(packages=_SAME))
        if several := [address for address, count in client.nthreads().items() if count != 1]:
            raise ValueError(f"the worker at {several[0]} has several threads; start it with --nthreads 1")
        if find_spec("bokeh") and "dashboard" in client.scheduler_info(n_workers=0)["services"]:
            about(f"dashboard  {client.dashboard_link}")
        yield Cluster(client, queued=queued)


def check_versions(found: Any) -> None:
    """Refuse workers that cannot do a study's calls, or would give other bits.

    Raises
    ------
    ValueError
        If versions, as dask's ``Client.get_versions`` finds them, of kdviz or torch differ.
    """
    ours = {name: found["client"]["packages"][name] for name in _SAME}
    for address, worker in found["workers"].items():
        theirs = {name: worker["packages"][name] for name in _SAME}
        if theirs != ours:
            raise ValueError(f"the worker at {address} has {theirs}, here is {ours}; install the same there")


def read_workers(workers: Workers) -> int | str | dict[str, Any]:
    """Tell a number of processes, an address and the options of SLURM jobs apart.

    Raises
    ------
    ValueError
        As `engine_of`.
    """
    text = str(workers)
    if text.isdecimal() and not isinstance(workers, bool):
        return whole_number("workers", int(text), 1)
    if "://" in text:
        return text
    if Path(text).suffix in (".yaml", ".yml"):
        try:
            options = parse_yaml(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())
            raise ValueError(f"workers: cannot read {text}: {reason}") from error
        if not isinstance(options, dict):
            raise ValueError(f"workers: {text} holds no options of SLURM jobs, such as jobs: 4")
        return options
    raise ValueError(
        "workers must be a number of processes, the address of a dask scheduler, such as tcp://host:8786, or "
        f"a file of options of SLURM jobs whose name ends in .yaml, got {text!r}"
    )


def open_local(count: int) -> "SpecCluster":
    """Start processes here, of one thread each, which share out the GPUs."""
    from distributed import Nanny, Scheduler, SpecCluster

    gpus = _list_gpus()
    workers = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": 1,
                "memory_limit": 0,  # measuring bounds its memory by itself
                "env": {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {},
                "silence_logs": "CRITICAL",
                "preload": ["kdviz.studies.unheeding"],
            },
        }
        for number in range(count)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs="CRITICAL")


def _list_gpus() -> list[str]:
    """Name the GPUs that this process may use, without touching any."""
    import os

    import torch

    known = os.environ.get("CUDA_VISIBLE_DEVICES")
    if known is not None:
        return [name for name in known.split(",") if name]
    return [str(number) for number in range(torch.cuda.device_count())]


def open_slurm(options: Mapping[str, Any]) -> "SpecCluster":
    """Ask SLURM for jobs of one process each.

    Parameters
    ----------
    options
        ``jobs``, how many, 1 if not given; ``cores`` of a job, all for its one thread of Python and torch's
        own; everything else goes to ``dask_jobqueue.SLURMCluster``: ``memory`` and ``walltime``, ``queue``,
        ``account``, ``job_extra_directives=["--gres=gpu:1"]``.

    Raises
    ------
    ValueError
        If an option is unknown, or SLURM's commands do not want one.
    ConnectionError
        If there is no SLURM here.
    MissingExtraError
        If dask-jobqueue is not installed.
    """
    if shutil.which("sbatch") is None:
        raise ConnectionError(
            "SLURM is not here: there is no sbatch; call the command where jobs are submitted"
        )
    try:
        from dask_jobqueue import SLURMCluster
        from dask_jobqueue.core import Job
        from dask_jobqueue.slurm import SLURMJob
    except ModuleNotFoundError as error:
        raise MissingExtraError("SLURM: dask-jobqueue asks it, install kdviz[cluster]") from error
    given: dict[str, Any] = {"jobs": 1, "cores": 1, "memory": "4GB"}
    given |= {"scheduler_options": {"dashboard_address": ":0"}} | dict(options)
    known = {
        "jobs",
        *(name for of in (SLURMCluster, SLURMJob, Job) for name in inspect.signature(of).parameters),
    }
    if unknown := sorted(given.keys() - known):
        raise ValueError(f"options of SLURM jobs are those of dask_jobqueue.SLURMCluster, got {unknown}")
    if not isinstance(given.get("walltime", ""), str):  # YAML takes 12:00:00 for a number of seconds
        raise ValueError(f'walltime must be in quotes, as "12:00:00", got {given["walltime"]!r}')
    if not isinstance(prologue := given.get("job_script_prologue", []), list):
        raise ValueError(f"job_script_prologue must be a list of lines, got {prologue!r}")
    jobs, cores = whole_number("jobs", given.pop("jobs"), 1), whole_number("cores", given.pop("cores"), 1)
    threads = f"export OMP_NUM_THREADS={cores}"
    fixed: dict[str, Any] = {"cores": 1, "processes": 1}  # one thread of Python in one process a job
    fixed["job_script_prologue"] = [threads, *prologue]
    cluster: Any = SLURMCluster(**{"job_cpu": cores} | given | fixed)
    cluster.adapt(minimum_jobs=jobs, maximum_jobs=jobs)  # a job whose time is over is asked for again
    return cluster
