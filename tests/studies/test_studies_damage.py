"""Changed bits in the folder of a study: found before they are used, and mended as the sentence says."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from run_files import plain_files
from tiny_study import draw_images, make_plan

from kdviz.errors import KdvizWarning, StoreError
from kdviz.studies import STUDY_FILE, Study, StudyPlan

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


def test_plan__changed_since_it_was_written_is_noted_until_train_takes_it(
    study: Study, trained: Study
) -> None:
    """Which a user may, but a disk may not; what no network or measurement contradicts is only noted."""
    path = trained.folder / STUDY_FILE
    whole = path.read_text()
    path.write_text(whole.replace("probes: 40", "probes: 65"))
    with pytest.warns(KdvizWarning, match=r"study\.yaml was changed since kdviz wrote it; if not by you"):
        changed = StudyPlan.load(trained.folder)
    with pytest.warns(KdvizWarning, match="was changed since"):
        replace(trained, plan=changed).train()
    assert StudyPlan.load(trained.folder).measurement.probes == 65
    trained.plan.save(trained.folder / "new")
    assert (trained.folder / "new" / STUDY_FILE).read_text() == whole
    plain = "".join(line for line in whole.splitlines(keepends=True) if not line.startswith("#"))
    path.write_text(plain)
    assert StudyPlan.load(trained.folder) == study.plan, "a plan of before there were checksums"


@pytest.mark.parametrize("verb", ["train", "measure", "share"])
def test_plan__that_contradicts_trained_networks_is_refused(trained: Study, verb: str) -> None:
    training = trained.plan.training.model_copy(update={"count": 12})
    changed = replace(trained, plan=trained.plan.model_copy(update={"training": training}))
    (trained.folder / STUDY_FILE).unlink()
    changed.plan.save(trained.folder)
    for accuracy in trained.folder.rglob("accuracy.json"):
        accuracy.unlink()  # so that something is to be done
    told = (
        rf"study\.yaml: the study was begun with training\.count {trained.plan.training.count}, now 12; put"
    )
    with pytest.raises(StoreError, match=told):
        getattr(changed, verb)()


def test_teacher__of_a_file_that_became_another_is_refused(study: Study, tmp_path: Path) -> None:
    folder, mine = study.folder / "networks" / "teacher", tmp_path / "mine.safetensors"
    shutil.copy(folder / "epoch-002.safetensors", mine)
    teacher = {"kind": "checkpoint", "file": mine, "epoch": 2}
    begun = Study(tmp_path / "study", make_plan(draw_images(tmp_path), networks={"teacher": teacher}), False)
    begun.train()
    shutil.copy(folder / "epoch-000.safetensors", mine)
    told = r"mine\.safetensors is not the teacher that .*study was begun with; put it back"
    with pytest.raises(StoreError, match=told):
        begun.measure()
    shutil.copy(folder / "epoch-002.safetensors", mine)
    assert "teacher" in begun.measure().networks
