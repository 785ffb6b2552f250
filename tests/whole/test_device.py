"""The whole way on a device that is not the processor, which is pretended."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PRETENDED = Path(__file__).parents[1] / "pretended.py"


def run_trial(name: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, PRETENDED, name, folder], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_measure__on_a_device_has_the_bits_of_the_processor_and_waits_only_between_stages(
    tmp_path: Path,
) -> None:
    found = run_trial("measure", tmp_path)
    assert all(one["equal"] and one["device"] == "pretended:0" for one in found.values())
    few, many = (found[f"gain {probes}"]["waits"] for probes in (8, 64))
    assert 0 < few["losses"] == many["losses"] <= 40, "of two layers, however many the probes and pairs"
    assert 0 < many["probes"] <= few["probes"] <= 6 and few["descents"] == few["bench"] == 0
    by_path = found["path 8"]["waits"]
    assert 0 < by_path["losses"] <= 40
    assert 40 < by_path["descents"] < 120, "once a step, some 40 at each of two layers"


@pytest.mark.slow
@pytest.mark.parametrize("data", ["images", "movie-reviews", "furniture"])
def test_study__on_a_device_finds_what_the_processor_finds(data: str, tmp_path: Path) -> None:
    found = run_trial(data, tmp_path)
    assert {name for name, same in found.items() if not same} == set()
    rooms = {name.partition("/")[0] for name in found}
    asked = {"teacher", "transfer", "unicam-scores", *(("attribution", "unicam") if data == "images" else ())}
    assert rooms > asked
