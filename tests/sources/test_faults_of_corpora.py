"""What a newcomer does wrong with a published corpus: one sentence, whatever the reader, before any work."""

import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from made_corpora import LION, ZEBRA, make_coco, make_cub, make_ilsvrc, make_tiny, make_voc

from kdviz import cli
from kdviz.errors import DataError, KdvizWarning
from kdviz.sources import CocoTopTen, Cub, IlsvrcDet, ModelNet40, Source, Squad, Sst2, TinyImageNet, Voc2012
from kdviz.studies.series import _find_fault

TETRAHEDRON = "OFF\n4 4 6\n0 0 0\n1 0 0\n0 1 0\n0 0 1\n3 0 1 2\n3 0 1 3\n3 0 2 3\n3 1 2 3\n"


def make_sst2(folder: Path) -> Path:
    path = folder / "SST-2" / "train.tsv"
    path.parent.mkdir(parents=True)
    path.write_text("sentence\tlabel\n" + "".join(f"a good film {k} \t{k % 2}\n" for k in range(20)))
    return path


def make_squad(folder: Path) -> Path:
    path = folder / "squad" / "train-v1.1.json"
    path.parent.mkdir(parents=True)
    asked = {"question": "Where is it?", "answers": [{"text": "France", "answer_start": 18}]}
    paragraphs = [
        {"context": f"It is a region in France, {k}.", "qas": [{"id": str(k), **asked}]} for k in range(6)
    ]
    path.write_text(json.dumps({"data": [{"paragraphs": paragraphs}]}))
    return path


def make_modelnet(folder: Path) -> Path:
    root = folder / "ModelNet40"
    for number in range(40):
        for part in ("train", "test"):
            path = root / f"kind{number:02d}" / part / f"kind{number:02d}_0001.off"
            path.parent.mkdir(parents=True)
            path.write_text(TETRAHEDRON)
    return root


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Source], str]] = {
    "cub200": (make_cub, lambda at: Cub(folder=at), "CUB_200_2011.tgz"),
    "voc2012": (make_voc, lambda at: Voc2012(folder=at), "VOCtrainval_11-May-2012.tar"),
    "ilsvrc-det": (
        make_ilsvrc,
        lambda at: IlsvrcDet(folder=at, classes=(LION, ZEBRA)),
        "ILSVRC2013_DET_bbox_train.tgz",
    ),
    "coco": (make_coco, lambda at: CocoTopTen(folder=at, min_area=50), "annotations_trainval2014.zip"),
    "tiny-imagenet": (make_tiny, lambda at: TinyImageNet(folder=at), "tiny-imagenet-200.zip"),
    "sst2": (make_sst2, lambda at: Sst2(file=at), "SST-2.zip"),
    "squad": (make_squad, lambda at: Squad(file=at), "train-v1.1.zip"),
    "modelnet40": (
        make_modelnet,
        lambda at: ModelNet40(folder=at, points=8, background=5),
        "ModelNet40.zip",
    ),
}
NAMES = {
    "sst2": "path (data.file)",
    "squad": "path (data.file)",
    "modelnet40": "root (data.folder, --clouds)",
}

kinds = pytest.mark.parametrize("kind", READERS)


def fault(source: Source, part: str = "train") -> str:
    with pytest.raises(DataError) as caught:
        source.load(part)  # type: ignore[arg-type]
    return str(caught.value)


def sample_ids(source: Source) -> list[tuple[str, ...]]:
    return [source.load(part).sample_ids for part in ("train", "held-out")]  # type: ignore[arg-type]


@kinds
def test_reader__names_what_is_missing_and_what_to_download(kind: str, tmp_path: Path) -> None:
    make, read, _ = READERS[kind]
    root = make(tmp_path / "there")
    wanted = "file" if root.suffix else "folder"
    for at in (tmp_path / "gone" / root.name, tmp_path / "taken"):
        if at.name == "taken" and root.suffix:
            at.mkdir()
        elif at.name == "taken":
            at.write_text("")
        told = fault(read(at))
        assert told.startswith(NAMES.get(kind, "folder (data.folder)"))
        assert re.search(rf" is (not a|a folder, not a) {wanted}: {at}; download .*http.* give ", told)


@kinds
def test_reader__names_an_archive_that_is_not_unpacked(kind: str, tmp_path: Path) -> None:
    make, read, archive = READERS[kind]
    root = make(tmp_path / "there")
    shutil.rmtree(tmp_path / "there")
    folder = tmp_path / "packed"
    folder.mkdir()
    for name in (archive, "holidays.zip", f"._{archive}"):
        (folder / name).write_bytes(b"PK\3\4")
    for at in (folder, folder.parent, folder / root.name):
        told = fault(read(at / root.name if root.suffix and at == folder else at))
        shown = told.partition("not unpacked yet: ")[2].partition(";")[0]
        assert f"{folder / archive}" in shown and f"._{archive}" not in shown, told
        assert "holidays" not in shown
    told = fault(read(folder / archive))
    assert f": {folder / archive}; " in told and ("is packed" in told or "not unpacked yet: " in told)


@kinds
def test_reader__passes_over_what_systems_and_notebooks_leave(kind: str, tmp_path: Path) -> None:
    make, read, _ = READERS[kind]
    root = make(tmp_path)
    known = sample_ids(read(root))
    for folder in [tmp_path, *(path for path in tmp_path.rglob("*") if path.is_dir())]:
        copies = folder / ".ipynb_checkpoints"
        copies.mkdir()
        (folder / "__MACOSX").mkdir()
        for path in [path for path in folder.iterdir() if path.is_file()]:
            shutil.copy(path, copies / f"{path.stem}-checkpoint{path.suffix}")
            (folder / f"._{path.name}").write_bytes(b"\0\5\x16\7")
            (folder / "__MACOSX" / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        for name in (".DS_Store", "Thumbs.db", "README.txt"):
            (folder / name).write_bytes(b"\0")
    assert sample_ids(read(root)) == known


@pytest.mark.parametrize("kind", ["cub200", "voc2012", "modelnet40", "tiny-imagenet"])
def test_reader__finds_a_folder_unpacked_into_its_own_name(kind: str, tmp_path: Path) -> None:
    make, read, _ = READERS[kind]
    root = make(tmp_path / "all")
    known = sample_ids(read(root))
    assert sample_ids(read(root.parent)) == known
    root.rename(tmp_path / "inner")
    root.mkdir()
    (tmp_path / "inner").rename(root / root.name)
    assert sample_ids(read(root)) == known


@pytest.mark.parametrize(
    ("kind", "name", "lines", "message"),
    [
        (
            "cub200",
            "images.txt",
            4,
            r"images\.txt lacks 5, 6, 7, 8 of image_class_labels\.txt; unpack it again",
        ),
        ("tiny-imagenet", "wnids.txt", 1, r"wnids\.txt lacks n01443537, n03000003 of the folders in train; "),
        (
            "voc2012",
            "ImageSets/Segmentation/train.txt",
            1,
            r"val\.txt lacks 2007_000001 of trainval\.txt; unp",
        ),
        ("voc2012", "ImageSets/Segmentation/trainval.txt", 2, None),
        ("sst2", "", 0, r"train\.tsv holds no sentence; download https://dl\.fbaipublicfiles\.com/glue"),
        ("squad", "", 0, r"train-v1\.1\.json, top level: Invalid JSON: EOF .*; download train-v1\.1\.json"),
        ("modelnet40", "kind07/train/kind07_0001.off", 5, r"kind07_0001\.off is damaged, .*: it ends early"),
    ],
)
def test_reader__list_that_ends_early_drops_no_sample(
    kind: str, name: str, lines: int, message: str | None, tmp_path: Path
) -> None:
    make, read, _ = READERS[kind]
    root = make(tmp_path)
    if kind == "voc2012":
        lists = root / "ImageSets" / "Segmentation"
        both = "".join((lists / f"{part}.txt").read_text() for part in ("train", "val"))
        (lists / "trainval.txt").write_text(both)
    path = root / name if name else root
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:lines]))
    if message is None:
        assert sample_ids(read(root)), "the lists that are read are whole"
        return
    with pytest.raises(DataError, match=message):
        read(root).load("train").read()


@pytest.mark.parametrize(
    ("kind", "left", "added", "message"),
    [
        (
            "cub200",
            "images",
            "lists/files.txt",
            "holds no CUB-200-2011: this is CUB-200 of 2010, which has no m",
        ),
        ("voc2012", "JPEGImages", "ImageSets/Main/train.txt", "this is PASCAL VOC without ImageSets/Segment"),
        (
            "ilsvrc-det",
            None,
            "Annotations/CLS-LOC/a.xml",
            "this is the classification task of ILSVRC, not DET",
        ),
        (
            "coco",
            "train2014",
            "annotations/captions_train2014.json",
            "annotations/instances_train2014.json or",
        ),
        (
            "tiny-imagenet",
            "train",
            "LOC_val_solution.csv",
            "holds no Tiny ImageNet: wnids.txt is not in it; d",
        ),
        (
            "modelnet40",
            None,
            "modelnet40_train.txt",
            "holds no <class>/train; download ModelNet40.zip from htt",
        ),
    ],
)
def test_reader__knows_another_release(
    kind: str, left: str | None, added: str, message: str, tmp_path: Path
) -> None:
    make, read, _ = READERS[kind]
    root = make(tmp_path)
    for path in list(root.iterdir()):
        if path.name != left:
            path.unlink() if path.is_file() else shutil.rmtree(path)
    (root / added).parent.mkdir(parents=True, exist_ok=True)
    (root / added).write_text("1")
    assert message in fault(read(root))


def test_sst2__another_file_of_it_is_told(tmp_path: Path) -> None:
    path = make_sst2(tmp_path)
    path.write_text("index\tsentence\n0\tgood\n")
    message = "line 1: the header must be sentence<TAB>label, got index<TAB>sentence; download https://dl."
    assert message in fault(Sst2(file=path)) and fault(Sst2(file=path)).endswith("its train.tsv or dev.tsv")


def test_cub__masks_are_found_where_they_are_and_named_where_they_are_packed(tmp_path: Path) -> None:
    root = make_cub(tmp_path)
    known = sample_ids(Cub(folder=root))
    (root / "segmentations").mkdir()  # empty: those beside it count
    assert sample_ids(Cub(folder=root)) == known
    shutil.rmtree(tmp_path / "segmentations")
    (root / "segmentations.tgz").write_bytes(b"")
    assert f"not unpacked yet: {root / 'segmentations.tgz'}; download CUB" in fault(Cub(folder=root))


def test_ilsvrc__archive_of_a_class_is_named(tmp_path: Path) -> None:
    root = make_ilsvrc(tmp_path)
    images = root / "ILSVRC2013_DET_train"
    shutil.rmtree(images / LION)
    (images / f"{LION}.tar").write_bytes(b"")
    assert f"_1.JPEG; not unpacked yet: {images / LION}.tar; d" in fault(READERS["ilsvrc-det"][1](root))


def test_index__folder_in_place_of_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    root = make_cub(tmp_path)
    (root / "classes.txt").unlink()
    (root / "classes.txt").mkdir()
    assert f"{root / 'classes.txt'} of CUB-200-2011 is not a file; download" in fault(Cub(folder=root))
    root = make_ilsvrc(tmp_path)
    boxes = root / "ILSVRC2013_DET_bbox_train"
    shutil.rmtree(boxes)
    boxes.write_text("")
    assert f"{boxes} of ILSVRC2013 DET is not a folder; download" in fault(READERS["ilsvrc-det"][1](root))


def test_modelnet40__other_numbers_of_classes_are_noted(tmp_path: Path) -> None:
    root = make_modelnet(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(ModelNet40(folder=root).load("train").classes) == 40
    for number in range(10, 40):
        shutil.rmtree(root / f"kind{number}")
    ten = root.rename(tmp_path / "ModelNet10")
    with pytest.warns(KdvizWarning, match=r"ModelNet10 holds 10 classes, ModelNet40 has 40: those there are"):
        ModelNet40(folder=ten).load("train")
    for number in range(1, 10):
        shutil.rmtree(ten / f"kind0{number}")
    mine = ten.rename(tmp_path / "mine")
    assert f"{mine} holds one class, kind00, and backgrounds are" in fault(ModelNet40(folder=mine))


@kinds
def test_shell__says_so_before_anything_is_kept(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, read, _ = READERS[kind]
    source = read(make(tmp_path))
    option = "file" if kind in ("sst2", "squad") else "folder"
    gone, plan = tmp_path / "gone", tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"data": {"kind": kind, option: str(gone)}}))
    told = fault(source.model_copy(update={option: gone}))
    assert train(plan, monkeypatch) == f"kdviz: {told}"


def test_shell__held_out_data_are_listed_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, plan = make_voc(tmp_path), tmp_path / "plan.yaml"
    for image in (root / "JPEGImages").iterdir():
        image.write_bytes(b"")
    (root / "ImageSets" / "Segmentation" / "val.txt").unlink()
    plan.write_text(json.dumps({"data": {"kind": "voc2012", "folder": str(root)}}))
    told = fault(Voc2012(folder=root), "held-out")
    assert "val.txt of PASCAL VOC 2012 is missing; download" in told
    assert train(plan, monkeypatch) == f"kdviz: {told}"
    assert _find_fault(Voc2012(folder=root)) == told, "what `kdviz study plan` says"


def train(plan: Path, monkeypatch: pytest.MonkeyPatch) -> str | int | None:
    """Say how `kdviz train` ends; nothing is kept."""
    folder = plan.parent / "out"
    monkeypatch.delenv("KDVIZ_STRICT", raising=False)
    monkeypatch.setattr("sys.argv", ["kdviz", "train", str(folder), "--plan", str(plan)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not (folder / "study.yaml").exists()
    return ended.value.code
