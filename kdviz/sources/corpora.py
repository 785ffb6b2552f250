"""Published corpora of images as they are unpacked: what their readers share. NumPy and Pillow only.

A reader lists the samples of a part from index files; images and masks are read when they are indexed. Pixels
are those that are stored, whatever EXIF data say, because boxes and masks count these.

Symbols: ``H`` x ``W`` pixels of an image as stored.
"""

import math
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from re import Pattern
from typing import Any, ClassVar, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kdviz.arguments import name_some, one_of
from kdviz.errors import DataError
from kdviz.sources.image import (
    ImageSet,
    measure_stored,
    open_stored,
    read_values,
    resize_image,
    resize_marks,
)
from kdviz.sources.samples import (
    PARTS,
    AbsolutePath,
    LazyArray,
    Part,
    Source,
    advise,
    check_folder,
    read_text,
)
from kdviz.units.regions import MaskRule


class Box(NamedTuple):
    """Edges in pixels from the upper left corner of an image: the first pixel reaches from 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def has_area(self) -> bool:
        """Tell whether anything is in it."""
        return self.left < self.right and self.top < self.bottom

    def cut(self, width: int, height: int, factor: float = 1.0) -> tuple[int, int, int, int]:
        """Enlarge the box about its centre, round to whole pixels and clip at the border of the image.

        Returns
        -------
        tuple of int
            Left, top, right and bottom, as Pillow crops.
        """
        x, y = (self.left + self.right) / 2, (self.top + self.bottom) / 2
        across, down = factor * (self.right - self.left) / 2, factor * (self.bottom - self.top) / 2
        left, right = (min(max(math.floor(edge + 0.5), 0), width) for edge in (x - across, x + across))
        top, bottom = (min(max(math.floor(edge + 0.5), 0), height) for edge in (y - down, y + down))
        return left, top, right, bottom


class Item(NamedTuple):
    """One sample of a corpus: an image, or the surroundings of a box in it."""

    name: str
    label: int
    image: Path
    box: Box | None = None
    mask: Path | None = None
    shape: Any = None
    """What else a reader needs to know to mark the object."""


class Corpus(Source):
    """Images of a published corpus; a subclass says how it lies on disk.

    Attributes
    ----------
    title, advice
        Its name; what to download and where to put it, as the end of a message.
    index, usual
        Paths of which one is in its folder; the usual name of that folder.
    others
        Paths by which something else is known that may be taken for it.
    crop
        By how much the box of an object is enlarged, in width and height; None: the image is shown whole.
    """

    modality: ClassVar[str] = "image"
    title: ClassVar[str]
    advice: ClassVar[str]
    index: ClassVar[tuple[str, ...]]
    usual: ClassVar[str]
    others: ClassVar[Mapping[str, str]] = {}
    crop: ClassVar[float | None] = None

    folder: AbsolutePath = Field(description="folder of the corpus as unpacked, or the one around it")
    size: int = Field(default=224, ge=16, le=512, description="height and width in pixels")
    per_class: int | None = Field(
        default=None, ge=1, description="how many samples of a class to take at most; all by default"
    )

    def load(self, part: Part) -> ImageSet:
        """List the samples of a part; each is read when it is indexed.

        Returns
        -------
        ImageSet
            Images ``(N, size, size, 3)``, uint8, antialiased, the aspect ratio not kept; masks
            ``(N, size, size)``, int8, of the nearest pixels: 1 on the object, 0 beside it, -1 void, or None.
            In an order that is shuffled, always alike, so that the first samples are of all classes.

        Raises
        ------
        DataError
            If something is missing or damaged; on reading, if it is an image or a mask that is damaged,
            or whose sizes disagree.
        """
        one_of("part", part, PARTS)
        root = self.locate()
        classes, items = self.find(root, part)
        if not items:
            raise DataError(f"{root} holds no samples of {self.title} to {_PURPOSE[part]}; {self.advice}")
        counted = Counter(item.name for item in items)
        if repeated := [name for name, times in counted.items() if times > 1]:
            raise DataError(
                f"the index files of {root} list samples of {self.title} twice: {name_some(repeated)}; "
                "unpack them again"
            )
        self.require(root, (item.image for item in items), "images")
        self.require(root, (item.mask for item in items if item.mask), "masks")
        chosen, size = self._draw(items), self.size
        count = len(chosen)
        masks = LazyArray(lambda k: self._read_marks(chosen[k]), count, (size, size), np.int8)
        marked = any(item.box or item.mask for item in items)
        return ImageSet(
            images=LazyArray(lambda k: self._read_image(chosen[k]), count, (size, size, 3), np.uint8),
            masks=masks if marked else None,
            labels=np.array([item.label for item in chosen], dtype=np.int64),
            sample_ids=tuple(item.name for item in chosen),
            classes=tuple(classes),
            split=np.full(count, part),
            source=f"{self.title}, {size} x {size}",
        )

    @abstractmethod
    def find(self, root: Path, part: Part) -> tuple[Sequence[str], list[Item]]:
        """Return the names of the classes and the samples of a part, in the order of the corpus."""

    def mark(self, item: Item, width: int, height: int) -> NDArray[np.int8]:
        """Return the marks of a whole image, ``(H, W)``: 1 on the object, 0 beside it, -1 void.

        By default what is inside the box is the object.
        """
        assert item.box is not None
        marks = np.zeros((height, width), np.int8)
        left, top, right, bottom = item.box.cut(width, height)
        marks[top:bottom, left:right] = 1
        return marks

    def locate(self) -> Path:
        """Find the folder of the corpus: the one given, the one around it, or one in it.

        Raises
        ------
        DataError
            If there is none, or more than one.
        """
        folder = self.folder
        check_folder("folder (data.folder)", folder, self.advice)
        for place in (folder, folder.parent):
            if any((place / name).exists() for name in self.index):
                return place
        found = {
            path.parents[len(Path(name).parts) - 1]
            for name in self.index
            for depth in ("*", "*/*")
            for path in folder.glob(f"{depth}/{name}")
        }
        places = sorted(place for place in found if place.name == self.usual) or sorted(found)
        if not places:
            known = [
                what
                for path, what in self.others.items()
                if (folder / path).exists() or any(folder.glob(f"*/{path}"))
            ]
            why = f"this is {known[0]}" if known else f"{' or '.join(self.index)} is not in it"
            raise DataError(
                f"folder (data.folder) {folder} holds no {self.title}: {why}{advise(folder, self.advice)}"
            )
        if len(places) > 1:
            raise DataError(
                f"folder (data.folder) {folder} holds {self.title} {len(places)} times: {name_some(places)}; "
                "give one of these"
            )
        return places[0]

    def require(self, root: Path, paths: Iterable[Path], kind: str) -> None:
        """Refuse a corpus that lacks files, as one does that was unpacked in part; folders are listed once.

        Raises
        ------
        DataError
            If a file is missing.
        """
        wanted = list(dict.fromkeys(paths))
        here = {
            place: set(os.listdir(place)) if place.is_dir() else set() for place in {p.parent for p in wanted}
        }
        if missing := [path for path in wanted if path.name not in here[path.parent]]:
            shown = name_some((os.path.relpath(path, root) for path in missing), most=3)
            raise DataError(
                f"{root} lacks {len(missing)} of {len(wanted)} {kind} of {self.title}: {shown}"
                f"{advise(missing[0], self.advice)}"
            )

    def miss(self, path: Path) -> DataError:
        """Return what to raise where a file or folder is missing, or the one in place of the other."""
        fault = (
            "is missing" if not path.exists() else "is not a folder" if path.is_file() else "is not a file"
        )
        return DataError(f"{path} of {self.title} {fault}{advise(path, self.advice)}")

    def read_lines(self, path: Path, columns: int, separator: str | None = None) -> list[list[str]]:
        """Read an index file of so many columns; blank lines are passed over.

        The last column may hold separators.

        Raises
        ------
        DataError
            If the file is missing, or a line has fewer columns.
        """
        if not path.is_file():
            raise self.miss(path)
        rows = []
        for number, line in enumerate(read_text(path, "unpack the file again").splitlines(), start=1):
            if not line.strip():
                continue
            rows.append([entry.strip() for entry in line.strip().split(separator, columns - 1)])
            if len(rows[-1]) != columns or not all(rows[-1]):
                raise DataError(
                    f"{path}, line {number} must have {columns} entries, got {line.strip()[:60]!r}; "
                    "unpack the file again"
                )
        return rows

    def compare(self, path: Path, listed: Iterable[str], known: Iterable[str], where: str) -> None:
        """Refuse an index file that ends early: what is known from elsewhere must be listed.

        Raises
        ------
        DataError
            If something is not.
        """
        if lost := sorted({*known} - {*listed}):
            raise DataError(f"{path} lacks {name_some(lost)} of {where}; unpack it again")

    def _draw(self, items: Sequence[Item]) -> list[Item]:
        """Shuffle samples by nothing but their number, and take the first of every class."""
        taken, chosen = Counter[int](), []
        for item in (items[k] for k in np.random.default_rng(0).permutation(len(items)).tolist()):
            if self.per_class is None or taken[item.label] < self.per_class:
                taken[item.label] += 1
                chosen.append(item)
        return chosen

    def _cut(self, item: Item, width: int, height: int) -> tuple[int, int, int, int]:
        if item.box is None or self.crop is None:
            return 0, 0, width, height
        left, top, right, bottom = item.box.cut(width, height, self.crop)
        if left >= right or top >= bottom:
            raise DataError(
                f"the box of {item.name} lies outside of {item.image}, which is {width} x {height} pixels; "
                "unpack the image and its annotation again"
            )
        return left, top, right, bottom

    def _read_image(self, item: Item) -> NDArray[np.uint8]:
        image = open_stored(item.image)
        return resize_image(image.crop(self._cut(item, *image.size)), self.size, item.image)

    def _read_marks(self, item: Item) -> NDArray[np.int8]:
        width, height = measure_stored(item.image)
        left, top, right, bottom = self._cut(item, width, height)
        marks = self.mark(item, width, height)
        if marks.shape != (height, width):
            raise DataError(
                f"the mask of {item.name} is {marks.shape[1]} x {marks.shape[0]} pixels, its image "
                f"{item.image} is {width} x {height}; sizes must agree"
            )
        return resize_marks(marks[top:bottom, left:right], self.size)


_PURPOSE = {"train": "train on", "held-out": "test with"}


class Annotated(NamedTuple):
    """An object of an annotation in the format of PASCAL VOC."""

    name: str
    box: Box
    difficult: bool


def read_objects(
    path: Path, *, first: int, among: Pattern[bytes] | None = None
) -> tuple[str, list[Annotated]]:
    """Read an annotation in the format of PASCAL VOC.

    Parameters
    ----------
    path
        The XML file.
    first
        The number of the first pixel; the last pixel of a box belongs to it.
    among
        What a file that is of use holds; others, if whole, are not parsed, which takes ten times as long as
        reading.

    Returns
    -------
    tuple
        What the entry ``folder`` says, and the objects in the order of the file; nothing of a file of no use.

    Raises
    ------
    DataError
        If the file is damaged.
    """
    try:
        text, found = path.read_bytes(), []
        if among is not None and b"</annotation>" in text and not among.search(text):
            return "", []
        tree = ElementTree.fromstring(text)
        for entry in tree.findall("object"):
            numbers = [
                float(entry.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")
            ]
            if not all(map(math.isfinite, numbers)) or not (name := entry.findtext("name", "").strip()):
                raise ValueError("an object has no name, or a box that is not finite")
            left, top, right, bottom = (number - first for number in numbers)
            difficult = entry.findtext("difficult", "0").strip() == "1"
            found.append(Annotated(name, Box(left, top, right + 1, bottom + 1), difficult))
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}; unpack the annotations again") from error
    return tree.findtext("folder", "").strip(), found


def read_marks(path: Path, rule: MaskRule) -> NDArray[np.int8]:
    """Return the marks of a mask as it is stored, ``(H, W)``."""
    return rule.mark(read_values(open_stored(path)))
