"""Changed bits in the folder of a study: found before they are used, and mended as the sentence says."""

import json
import re
import shutil
from pathlib import Path

import pytest
from run_files import plain_files

from kdviz.errors import StoreError
from kdviz.studies import Study

STUDENT = "networks/student-fc1-s0"


@pytest.fixture
def trained(study: Study, tmp_path: Path) -> Study:
    """A copy to be measured again."""
    copy = Study(shutil.copytree(study.folder, tmp_path / "study"), study.plan, progress=False)
    shutil.rmtree(copy.run_path)
    return copy


def flip(path: Path, at: int) -> None:
    """Change one bit, the lowest, of the byte at a share of the length, in percent."""
    content = bytearray(path.read_bytes())
    content[len(content) * at // 100] ^= 1
    path.write_bytes(content)


def finish(study: Study) -> None:
    study.train()
    study.measure()


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("networks/teacher/epoch-002.safetensors", 90),
        ("networks/baseline-s0/epoch-001.safetensors", 50),
        ("networks/baseline-s0/epoch-000.safetensors", 5),  # its header
        ("networks/baseline-s0/history.json", 70),
        (f"{STUDENT}/features/epoch-002.safetensors", 70),
        (f"{STUDENT}/head/history.json", 50),
        (f"{STUDENT}/accuracy.json", 20),
        (f"{STUDENT}/probes/probes.json", 20),
        ("data.json", 50),
    ],
)
def test_study__a_changed_bit_is_found_and_mended_as_advised(
    study: Study, trained: Study, name: str, at: int
) -> None:
    path = trained.folder / name
    flip(path, at)
    if "probes" in name or "head" in name:
        trained.accuracy_file(list(trained.subjects())[-1]).unlink()  # else they are not asked
    with pytest.raises(StoreError, match=re.escape(str(path))) as raised:
        finish(trained)
    assert "put a backup of it back" in str(raised.value) and "\n" not in str(raised.value)
    advised = re.search(r"or remove (\S+) to (train anew|make it anew)$", str(raised.value))
    assert advised is not None, raised.value
    place = Path(advised[1])
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    finish(trained)
    assert plain_files(trained.folder / "networks") == plain_files(study.folder / "networks")


def test_study__a_backup_put_back_is_used(study: Study, trained: Study) -> None:
    name = "networks/baseline-s0/epoch-001.safetensors"
    (trained.folder / name).unlink()
    with pytest.raises(StoreError, match=r"epoch-001\.safetensors is missing; put a backup of it back"):
        finish(trained)
    shutil.copy(study.folder / name, trained.folder / name)
    finish(trained)
    assert plain_files(trained.folder / "networks") == plain_files(study.folder / "networks")


def test_study__without_checksums_as_of_old_is_read(trained: Study) -> None:
    for path in trained.folder.rglob("*.json"):
        contents = json.loads(path.read_bytes())
        for name in ("sha256", "files"):
            contents.pop(name, None)
        path.write_text(json.dumps(contents))
    finish(trained)
    assert len(trained.measure().networks) == 5
