"""Engines: the same bits in one process, in several, and where those are killed at random."""

import operator
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr
from tiny_study import draw_images, make_plan

import kdviz
from kdviz.errors import StoreError
from kdviz.files import exclusive, lock_beside
from kdviz.studies import Study, engines, running

dask = pytest.importorskip("dask")
pytest.importorskip("distributed")


def double(number: int) -> int:
    return 2 * number


def fail(number: int) -> None:
    raise ValueError(f"{number} will not do")


def die(number: int) -> None:
    os._exit(1)


def wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.05)


def read_environment(name: str) -> str | None:
    return os.environ.get(name)


def calls_of(function, *arguments):
    return [engines.Call(f"{function.__name__}-{value}", function, (value,)) for value in arguments]


# -- which


@pytest.mark.parametrize(
    ("given", "expected"),
    [(2, 2), ("3", 3), ("tcp://host:8786", "tcp://host:8786"), ("jobs.yaml", {"jobs": 2})],
)
def test_workers__are_a_number_an_address_or_a_file(given, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("jobs.yaml").write_text("jobs: 2")
    assert engines.read_workers(given) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        *((given, "workers must be ") for given in ("0", "many", "host:8786", True, "-1")),
        ("none.yaml", "workers: cannot read none.yaml: No such file or directory"),
        ("broken.yaml", "workers: cannot read broken.yaml: "),
        ("empty.yaml", "workers: empty.yaml holds no options of SLURM jobs"),
    ],
)
def test_workers__anything_else_is_refused(given, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("broken.yaml").write_text("jobs: [1")
    Path("empty.yaml").touch()
    with pytest.raises(ValueError, match=told), engines.engine_of(given):
        pass


def test_engine__without_dask_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"install kdviz\[cluster\]"), engines.engine_of(2):
        pass


def test_engine__of_no_scheduler_says_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    told = pytest.raises(ConnectionError, match=f"no dask scheduler answers at {address}")
    with told, dask.config.set({"distributed.comm.timeouts.connect": "1s"}), engines.engine_of(address):
        pass


def test_engine__worker_without_kdviz_is_refused(local):
    local.client.wait_for_workers(2)
    found = local.client.get_versions(packages=["kdviz", "torch"])
    assert len(found["workers"]) == 2
    engines.check_versions(found)
    found["workers"]["tcp://there"] = {"packages": found["client"]["packages"] | {"kdviz": None}}
    with pytest.raises(
        ValueError, match=r"worker at tcp://there has .*'kdviz': None.*, here is .*'kdviz': '\d.*'"
    ):
        engines.check_versions(found)


# -- calls


@pytest.fixture(scope="module")
def local():
    with engines.engine_of(2) as engine:
        yield engine


def test_here__calls_in_order_when_asked():
    asked = []

    def calls():
        for call in calls_of(double, 1, 2, 3):
            asked.append(call.key)
            yield call

    done = engines.Here().run(calls())
    assert (next(done), asked) == (("double-1", 2), ["double-1"])
    assert list(done) == [("double-2", 4), ("double-3", 6)]


def test_local__does_all_calls_and_hands_out_few_at_a_time(local):
    asked, most = [], 0

    def calls():
        for call in calls_of(double, *range(40)):
            asked.append(call.key)
            yield call

    found = {}
    for key, value in local.run(calls()):
        most = max(most, len(asked) - len(found))
        found[key] = value
    assert found == {f"double-{number}": 2 * number for number in range(40)}
    assert most <= 2 * 3


def test_local__error_of_a_call_is_that_of_the_caller(local):
    with pytest.raises(ValueError, match="7 will not do"):
        list(local.run(calls_of(fail, 7)))


def test_local__call_that_kills_its_workers_is_named(local):
    assert local.client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == 10
    local.client.run_on_scheduler(lambda dask_scheduler: setattr(dask_scheduler, "allowed_failures", 1))
    with pytest.raises(ChildProcessError, match="workers died again and again while they did die-0"):
        list(local.run(calls_of(die, 0)))


def test_local__call_that_ends_its_thread_is_told(local):
    with pytest.raises(ChildProcessError, match=r"a worker was told to stop: SystemExit\(3\)"):
        list(local.run(calls_of(sys.exit, 3)))


def test_local__what_waits_for_others_keeps_nobody_waiting(local, tmp_path):
    """A slow teacher, more students than are handed out at a time, and something free that ends the wait."""
    go = tmp_path / "go"
    teacher = engines.Call("teacher", wait_for, (go,))
    students = [engines.Call(f"student-{k}", double, (k,), ("teacher",)) for k in range(20)]
    free = engines.Call("free", Path.touch, (go,))
    done = [key for key, _ in local.run([teacher, *students, free])]
    assert done[0] == "free" and len(done) == 22


def test_engine__of_workers_with_threads_is_refused(tmp_path):
    from distributed import LocalCluster

    cluster = LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None)
    with cluster, pytest.raises(ValueError, match="has several threads; start it with --nthreads 1"):
        with engines.engine_of(cluster.scheduler_address):
            pass


def test_engine__of_a_scheduler_without_workers_says_so(monkeypatch):
    from distributed import LocalCluster

    monkeypatch.setattr(engines, "_PATIENCE", 1.0)
    with LocalCluster(n_workers=0, dashboard_address=None) as cluster:
        with pytest.raises(ConnectionError, match="has no workers; start some"):
            with engines.engine_of(cluster.scheduler_address):
                pass


def test_local__workers_that_are_all_gone_are_missed(monkeypatch):
    monkeypatch.setattr(engines, "_PATIENCE", 1.0)
    with engines.engine_of(1) as engine:
        engine.client.cluster.scale(0)
        while engine.client.nthreads():
            time.sleep(0.05)
        with pytest.raises(ConnectionError, match="no worker left, and none came within 1 s"):
            list(engine.run(calls_of(double, 1)))


def test_local__workers_share_out_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with engines.engine_of(2) as engine:
        found = engine.client.run(read_environment, "CUDA_VISIBLE_DEVICES")
    assert sorted(found.values()) == ["3", "5"]


# -- SLURM


def test_slurm__job_is_one_process_of_one_thread_and_all_cores(tmp_path, fake_slurm):
    options = {"cores": 4, "memory": "8GB", "queue": "gpu", "job_extra_directives": ["--gres=gpu:1"]}
    with engines.open_slurm(options) as cluster:
        script = cluster.job_script()
    for line in (
        "#SBATCH -p gpu",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --gres=gpu:1",
        "export OMP_NUM_THREADS=4",
    ):
        assert line in script.splitlines()
    (command,) = [line for line in script.splitlines() if "distributed.cli.dask_worker" in line]
    assert "--nthreads 1 " in command and "--nworkers" not in command


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"gpus": 2}, r"options of SLURM jobs .* got \['gpus'\]"),
        ({"walltime": 43200}, 'walltime must be in quotes, as "12:00:00", got 43200'),
        ({"job_script_prologue": "module load cuda"}, "job_script_prologue must be a list of lines"),
        ({"jobs": 0}, "jobs must be an integer of 1 or more, got 0"),
    ],
)
def test_slurm__options_are_checked(options, told, fake_slurm):
    with pytest.raises(ValueError, match=told):
        engines.open_slurm(options)


def test_slurm__is_missed_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConnectionError, match="there is no sbatch"):
        engines.open_slurm({})


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Commands of SLURM that start a job here at once."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" "{tmp_path}/job.sh"\nsh "{tmp_path}/job.sh" >"{tmp_path}/job.log" 2>&1 &\n'
        'echo "Submitted batch job $!"\n'
    )
    (folder / "scancel").write_text('#!/bin/sh\nkill "$1"\n')
    for name in ("sbatch", "scancel"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_slurm__jobs_do_calls(fake_slurm):
    Path("jobs.yaml").write_text("jobs: 1\nmemory: 1GB\ninterface: lo\n")
    with engines.engine_of("jobs.yaml") as engine:
        assert dict(engine.run(calls_of(operator.neg, 4))) == {"neg-4": -4}  # known wherever a job runs


# -- studies


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("images"), per_class=16)


def plan_of(images):
    return make_plan(images, training={"count": 20, "seeds": (0, 1)}, measurement={"samples": 20})


@pytest.fixture(scope="module")
def plain(images, tmp_path_factory):
    """A study that one process trained and measured."""
    study = Study(tmp_path_factory.mktemp("plain") / "study", plan_of(images), progress=False)
    study.train()
    study.measure()
    return study


def assert_same(ours: Study, theirs: Study) -> None:
    files = sorted(
        path.relative_to(theirs.folder) for path in theirs.folder.glob("networks/**/*.safetensors")
    )
    assert len(files) > 10
    for path in files:
        assert (ours.folder / path).read_bytes() == (theirs.folder / path).read_bytes(), path
    one, other = kdviz.open_run(ours.run_path), kdviz.open_run(theirs.run_path)
    assert one.catalogue().keys() == other.catalogue().keys() and len(one.catalogue()) == 9
    for network, layer in other.catalogue():
        xr.testing.assert_identical(
            one.dataset(network, layer).drop_attrs(deep=False),
            other.dataset(network, layer).drop_attrs(deep=False),
        )
    assert not one.gaps()


@pytest.mark.slow
def test_study__two_workers_give_the_bits_of_one_process(images, plain, tmp_path):
    study = Study(tmp_path / "study", plan_of(images), progress=False)
    study.train(workers=2)
    study.measure(workers=2)
    assert_same(study, plain)


def test_study__finished_starts_no_workers(plain, monkeypatch):
    monkeypatch.setattr(running, "engine_of", lambda *_: pytest.fail("workers were started"))
    plain.train(workers=2)
    plain.measure(workers=2)


def test_study__second_client_is_refused(images, tmp_path):
    study = Study(tmp_path / "study", plan_of(images), progress=False)
    study.plan.save(study.folder)
    path = study.folder / "study.yaml"
    with exclusive(lock_beside(path), path):
        with pytest.raises(StoreError, match=f"study is being written by process {os.getpid()} on"):
            Study(study.folder, study.plan, progress=False).train()


def test_worker__that_does_not_see_the_study_says_so(images, tmp_path):
    study = Study(tmp_path / "elsewhere", plan_of(images), progress=False)
    with pytest.raises(
        StoreError, match=f"elsewhere is not seen on {socket.gethostname()}: workers find a study"
    ):
        running.do_whole("session", study.tasks("train")[0])


@pytest.mark.slow
def test_study__stopped_from_the_terminal_says_one_sentence_and_goes_on(images, plain, tmp_path):
    study = Study(tmp_path / "study", plan_of(images), progress=False)
    shutil.copytree(plain.folder, study.folder)
    shutil.rmtree(study.run_path)
    arguments = [
        sys.executable,
        "-m",
        "kdviz",
        "measure",
        str(study.folder),
        "--workers",
        "2",
        "--no-progress",
    ]
    client = subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_until((study.run_path / "points").is_dir, client)
    os.killpg(client.pid, signal.SIGINT)  # to workers, too
    _, said = client.communicate(timeout=60)
    assert client.returncode in (-signal.SIGINT, 130)
    assert "kdviz: stopped; nothing is lost, call the same command again\n" in said
    assert "Traceback" not in said and len(said.splitlines()) <= 4, said  # Python counts what is left over
    study.measure(workers=2)
    assert_same(study, plain)


# -- chaos

COUNT_BLOCKS = """
import os
from kdviz.measuring import measurement

if not hasattr(measurement, "uncounted"):  # this file is run more than once
    measurement.uncounted = measurement.measure_block

def measure_block(*arguments):
    with open({log!r}, "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    return measurement.uncounted(*arguments)

measurement.measure_block = measure_block
"""


class Machines:
    """A scheduler and two workers as processes of their own, to be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.log, preload = folder / "blocks.txt", folder / "preload.py"
        preload.write_text(COUNT_BLOCKS.format(log=str(self.log)))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.output = (folder / "machines.log").open("w")
        self.scheduler_command = ["scheduler", "--host", self.address, "--no-dashboard"]
        worker = ["worker", self.address, "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"]
        self.worker_command = [*worker, "--no-nanny", "--death-timeout", "60", "--preload", str(preload)]
        self.scheduler = self.start(self.scheduler_command)
        self.workers = [self.start(self.worker_command) for _ in range(2)]
        self.orphans: list[subprocess.Popen] = []

    def start(self, command):
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        arguments = [sys.executable, "-m", "dask", *command]
        return subprocess.Popen(arguments, stdout=self.output, stderr=self.output, env=environment)

    def kill_worker(self, number: int) -> None:
        kill(self.workers[number])
        self.workers[number] = self.start(self.worker_command)

    def kill_scheduler(self) -> None:
        """Its workers live on for a while, and others come."""
        kill(self.scheduler)
        self.scheduler = self.start(self.scheduler_command)
        self.orphans += self.workers
        self.workers = [self.start(self.worker_command) for _ in range(2)]

    def count(self) -> int:
        return len(self.log.read_text().splitlines()) if self.log.exists() else 0

    def stop(self) -> None:
        for process in (*self.orphans, *self.workers, self.scheduler):
            kill(process)
        self.output.close()


def kill(process) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def run_client(folder: Path, command: str, machines: Machines):
    arguments = [
        sys.executable,
        "-m",
        "kdviz",
        command,
        str(folder),
        "--workers",
        machines.address,
        "--no-progress",
    ]
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def wait_until(condition, client) -> None:
    """Wait for something that happens while a client is at work."""
    while not condition():
        assert client.poll() is None, client.communicate()
        time.sleep(0.05)


@pytest.mark.slow
def test_chaos__loses_nothing_and_ends_with_the_same_bits(images, plain, tmp_path):
    study = Study(tmp_path / "study", plan_of(images), progress=False)
    study.plan.save(study.folder)
    chance, machines = random.Random(0), Machines(tmp_path)
    networks = study.folder / "networks"
    try:
        client = run_client(study.folder, "train", machines)
        wait_until((networks / "teacher" / "plan.json").exists, client)
        machines.kill_worker(0)
        machines.kill_worker(1)
        wait_until((networks / "teacher" / "history.json").exists, client)
        kill(client)  # its workers go on with what they were at
        client = run_client(study.folder, "train", machines)
        _, said = client.communicate(timeout=300)
        assert client.returncode == 0, said[-2000:]

        client = run_client(study.folder, "measure", machines)
        wait_until(lambda: machines.count() >= 2, client)
        machines.kill_worker(chance.randrange(2))
        wait_until(lambda: machines.count() >= 8, client)
        client.send_signal(signal.SIGSTOP)  # so that it is not done before it is asked after
        second = run_client(study.folder, "measure", machines)
        _, said = second.communicate(timeout=120)
        assert second.returncode == 1 and f"study is being written by process {client.pid} on" in said
        client.send_signal(signal.SIGCONT)
        machines.kill_scheduler()
        wait_until(lambda: machines.count() >= 16, client)
        kill(client)
        client = run_client(study.folder, "measure", machines)
        wait_until(lambda: machines.count() >= 24, client)
        machines.kill_worker(chance.randrange(2))
        _, said = client.communicate(timeout=300)
        assert client.returncode == 0, said[-2000:]
    finally:
        machines.stop()
    assert_same(study, plain)
    blocks = sum(len(plain_ids(study, *key)) for key in kdviz.open_run(study.run_path).catalogue())
    deaths = 1 + 2 + 2 + 1  # of workers; of a scheduler or a client what both workers had
    assert blocks <= machines.count() <= blocks + 3 * deaths  # what is handed out to one worker at a time


def plain_ids(study, network, layer):
    run = kdviz.open_run(study.run_path)
    return [(epoch, block) for epoch in run.epochs(network, layer) for block in range(2)]
