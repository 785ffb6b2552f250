"""Out of memory: what the message advises is done, under a real limit, until it works."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import re, resource, sys, torch, warnings
from torch import nn
import kdviz
from kdviz import units
torch.set_num_threads(1)
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4),
    nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 10),
).eval()
def used(peak=False):
    found = re.search(rf"Vm{'Peak' if peak else 'Size'}:\\s+(\\d+)", open("/proc/self/status").read())
    return int(found[1]) * 1024

def measure(count, size, layers, **options):
    options = {"units": units.grid(8), "draws": 2, "method": "gain", "progress": False} | options
    return kdviz.measure(network, torch.rand(count, 3, size, size), layers=layers, **options)

def attribute(count, size, **options):
    options = {"units": units.grid(8), "methods": ["input_gradient"], "progress": False} | options
    return kdviz.attribute(network, torch.rand(count, 3, size, size), **options)

def refuses(call, *arguments, **options):
    # what is said of too little memory, if anything
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", kdviz.errors.KdvizWarning)
        try:
            call(*arguments, **options)
        except MemoryError as error:
            return str(error)
    return "; ".join(str(one.message) for one in told)

def do_as_told(call, *arguments, **options):
    free = used()
    assert not refuses(call, *arguments, **options)
    limit = used(peak=True)  # what this machine's libraries hold is in it
    said = ""
    while not said and (limit := limit - (limit - free) // 5) > free:
        resource.setrlimit(resource.RLIMIT_AS, (limit, -1))
        said = refuses(call, *arguments, **options)
    for _ in range(8):
        print(said.splitlines()[0])
        if "going on with" in said:
            return print("done by itself")
        if found := re.search(r"pass (max_batch|probes)=(\\d+)", said):
            options[found[1]] = int(found[2])
        if "fewer layers" in said:
            arguments = (*arguments[:2], arguments[2][-1:])
        elif "smaller images" in said and not found:
            arguments = (arguments[0], arguments[1] // 2, *arguments[2:])
        if not (said := refuses(call, *arguments, **options)):
            return print("done with", options)
    sys.exit("no advice helped")

measure(1, 16, ["5"]), attribute(1, 16)  # everything is imported
exec(sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads how much memory a process has")
@pytest.mark.parametrize(
    ("call", "first", "done"),
    [
        ('do_as_told(measure, 16, 112, ["5"], probes=4)', "max_batch=16; going on with 8", "by itself"),
        ('do_as_told(measure, 1, 320, ["0", "2", "5"], max_batch=1, probes=4)', "fewer layers", "max_"),
        ('do_as_told(measure, 1, 256, ["5"], max_batch=1)', "pass probes=10", "probes"),
        ('do_as_told(attribute, 16, 224)', "pass max_batch=8", "max_batch"),
        ('do_as_told(attribute, 1, 640, max_batch=1)', "take smaller images", "max_batch"),
    ],
)  # fmt: skip
def test_out_of_memory__doing_as_told_works(call: str, first: str, done: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, call],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert first in said[0], said
    assert "done" in said[-1] and done in said[-1]
