"""ImageNet at hand: the detection task of ILSVRC 2013, and Tiny ImageNet."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from kdviz.arguments import name_some
from kdviz.errors import DataError
from kdviz.sources.corpora import Box, Corpus, Item, read_objects
from kdviz.sources.samples import Part, is_hidden

TERRESTRIAL_MAMMALS = {
    "n02419796": "antelope", "n02131653": "bear", "n02437136": "camel", "n02402425": "cattle",
    "n02121808": "domestic cat", "n02503517": "elephant", "n02118333": "fox", "n02374451": "horse",
    "n02129165": "lion", "n02411705": "sheep", "n02129604": "tiger", "n02391049": "zebra",
    "n02454379": "armadillo", "n02084071": "dog", "n02510455": "giant panda", "n02342885": "hamster",
    "n02398521": "hippopotamus", "n01882714": "koala bear", "n02484322": "monkey", "n02444819": "otter",
    "n02346627": "porcupine", "n02324045": "rabbit", "n02509815": "red panda", "n02445715": "skunk",
    "n02355227": "squirrel", "n02395003": "swine",
}  # fmt: skip
"""Names of the mammals that live on land among the 200 classes of ILSVRC 2013 DET, without people."""

_TWELVE = tuple(TERRESTRIAL_MAMMALS)[:12]
_FOLDERS = {"train": "train", "held-out": "val"}
_SYNSET = re.compile(r"n\d{8}")


class IlsvrcDet(Corpus):
    """Mammals of ILSVRC 2013 DET, each cropped at 1.5 times the width and height of its box.

    The archives of <https://image-net.org/challenges/LSVRC/2013/> (after registration) unpack to
    ``ILSVRC2013_DET_train``, with one archive a synset to be unpacked into a folder of its name,
    ``ILSVRC2013_DET_bbox_train``, ``ILSVRC2013_DET_val`` and ``ILSVRC2013_DET_bbox_val``. The layout of later
    years, ``ILSVRC/Data/DET/train``, ``ILSVRC/Annotations/DET/train`` and the same of ``val``, is read as
    well. Train is ``train``, held-out is ``val``; the official test images have no published boxes. Images
    without annotation, which show none of the classes, are not looked for.

    Every box of the classes is a sample, whatever folder its image lies in; the crop is clipped at the border
    of the image. There are no masks: what is inside the box is foreground. With whole crops and 16 x 16 units
    that is a square of 10 x 10, of which a unit has more than half of its pixels; the authors' code takes 12
    x 12. To list the samples every annotation is looked at, of which there are hundreds of thousands. Samples
    are named ``<image>-<k>`` by the k-th object of the annotation.

    The papers take terrestrial mammals, 12 in their code. Which ones is not known here: the default,
    the first twelve of `TERRESTRIAL_MAMMALS`, is our choice.

    References
    ----------
    .. [1] Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
    .. [2] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, section 4.1: 1.5 times the box, inside is foreground.
    """

    title: ClassVar[str] = "ILSVRC2013 DET"
    advice: ClassVar[str] = (
        "download ILSVRC2013_DET_train, ILSVRC2013_DET_bbox_train, ILSVRC2013_DET_val and "
        "ILSVRC2013_DET_bbox_val from https://image-net.org/challenges/LSVRC/2013/, unpack them, and the "
        "archives within, and give the folder that they lie in"
    )
    index: ClassVar[tuple[str, ...]] = ("ILSVRC2013_DET_bbox_train", "Annotations/DET/train")
    usual: ClassVar[str] = "ILSVRC"
    others: ClassVar[Mapping[str, str]] = {
        f"{place}CLS-LOC": "the classification task of ILSVRC, not DET" for place in ("Annotations/", "Data/")
    }
    crop: ClassVar[float] = 1.5

    kind: Literal["ilsvrc-det"] = "ilsvrc-det"
    classes: tuple[str, ...] = Field(
        default=_TWELVE, min_length=2, description="synsets, such as n02129165; labels follow their order"
    )

    @field_validator("classes")
    @classmethod
    def _check_classes(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if odd := [name for name in classes if not _SYNSET.fullmatch(name)]:
            raise ValueError(f"classes must be synsets, such as n02129165 (lion), got {name_some(odd)}")
        if len({*classes}) < len(classes):
            raise ValueError("classes names a synset twice")
        return classes

    def find(self, root: Path, part: Part) -> tuple[list[str], list[Item]]:
        """List the boxes of a part in the order of their files."""
        name = _FOLDERS[part]
        boxes, images = root / f"ILSVRC2013_DET_bbox_{name}", root / f"ILSVRC2013_DET_{name}"
        if not (root / self.index[0]).exists():
            boxes, images = root / "Annotations" / "DET" / name, root / "Data" / "DET" / name
        if not boxes.is_dir():
            raise self.miss(boxes)
        labels = {synset: label for label, synset in enumerate(self.classes)}
        wanted, items = re.compile("|".join(self.classes).encode()), []
        for path in sorted(boxes.rglob("*.xml")):
            place = path.relative_to(boxes)
            if any(map(is_hidden, (place, *place.parents))):
                continue
            image = (images / place).with_suffix(".JPEG")
            items += [
                Item(f"{path.stem}-{k}", labels[found.name], image, found.box)
                for k, found in enumerate(read_objects(path, first=0, among=wanted)[1], start=1)
                if found.name in labels and found.box.has_area
            ]
        counted = Counter(item.label for item in items)
        if empty := [synset for synset, label in labels.items() if not counted[label]]:
            raise DataError(
                f"{boxes} holds no object of {name_some(empty)}: leave these out of classes (data.classes), "
                f"or the annotations are not whole; {self.advice}"
            )
        return [TERRESTRIAL_MAMMALS.get(synset, synset) for synset in self.classes], items


class TinyImageNet(Corpus):
    """Images of 64 x 64 pixels of 200 classes, with a box around the object.

    ``tiny-imagenet-200.zip`` (<http://cs231n.stanford.edu/tiny-imagenet-200.zip>) unpacks to
    ``tiny-imagenet-200`` with ``wnids.txt``, ``words.txt``, ``train/<synset>/<synset>_boxes.txt``,
    ``train/<synset>/images``, ``val/val_annotations.txt`` and ``val/images``. Train is ``train``, held-out is
    ``val``; the test images have no published labels. The papers count points on the foreground of this
    corpus and name none: unless `foreground` says to take the boxes, there are no masks. Labels follow the
    synsets, sorted; classes are named by the first of their words, with the synset where two share it.
    Samples are named by their files.

    References
    ----------
    .. [1] Le and Yang, "Tiny ImageNet Visual Recognition Challenge", course CS 231N, Stanford University,
       2015.
    .. [2] Zhang et al., "Quantifying the Knowledge in a DNN to Explain Knowledge Distillation for
       Classification", TPAMI 2022, sections 4.2 and 4.5.
    """

    title: ClassVar[str] = "Tiny ImageNet"
    advice: ClassVar[str] = (
        "download http://cs231n.stanford.edu/tiny-imagenet-200.zip, unpack it whole and give the folder "
        "tiny-imagenet-200"
    )
    index: ClassVar[tuple[str, ...]] = ("wnids.txt",)
    usual: ClassVar[str] = "tiny-imagenet-200"

    kind: Literal["tiny-imagenet"] = "tiny-imagenet"
    size: int = Field(default=64, ge=16, le=512, description="height and width in pixels")
    foreground: Literal["box"] | None = Field(
        default=None, description="box: what is inside; none by default"
    )

    def find(self, root: Path, part: Part) -> tuple[list[str], list[Item]]:
        """List the images of a part."""
        train, table = root / "train", root / "val" / "val_annotations.txt"
        synsets = sorted(name for (name,) in self.read_lines(root / "wnids.txt", 1))
        folders = (path.name for path in train.glob("n*") if _SYNSET.fullmatch(path.name))
        self.compare(root / "wnids.txt", synsets, folders, "the folders in train")
        labels = {synset: label for label, synset in enumerate(synsets)}
        words = {synset: text.split(",")[0] for synset, text in self.read_lines(root / "words.txt", 2, "\t")}
        self.compare(root / "words.txt", words, synsets, "wnids.txt")
        spoken = Counter(words[synset] for synset in synsets)
        names = [words[s] if spoken[words[s]] == 1 else f"{words[s]} ({s})" for s in synsets]
        if part == "train":
            listed = [
                (path, synset, edges)
                for synset in synsets
                for path, *edges in self._read_table(train / synset / f"{synset}_boxes.txt", 5, synset)
            ]
        else:
            listed = [(path, synset, edges) for path, synset, *edges in self._read_table(table, 6, "val")]
            if strange := {synset for _, synset, _ in listed} - {*synsets}:
                raise DataError(f"{table} names synsets that wnids.txt has not: {name_some(sorted(strange))}")
        return names, [
            Item(path.stem, labels[synset], path, self._read_box(path, edges))
            for path, synset, edges in listed
        ]

    def _read_table(self, table: Path, columns: int, prefix: str) -> list[list[Any]]:
        """Read a table of images; all that lie beside it under its names must be listed."""
        rows, folder = self.read_lines(table, columns), table.parent / "images"
        numbered = re.compile(rf"{prefix}_\d+\.JPEG")
        there = (path.name for path in folder.glob("*") if numbered.fullmatch(path.name))
        self.compare(table, (row[0] for row in rows), there, "the images beside it")
        return [[folder / name, *rest] for name, *rest in rows]

    def _read_box(self, image: Path, edges: Sequence[str]) -> Box | None:
        """Read the first and last pixels of a box; None where it is not asked for."""
        if self.foreground is None:
            return None
        try:
            left, top, right, bottom = map(int, edges)
        except ValueError:
            raise DataError(
                f"the box of {image.name} is {edges}, not four numbers; unpack it again"
            ) from None
        return Box(left, top, right + 1, bottom + 1)
