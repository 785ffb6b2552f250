"""Small trees in the formats of published corpora, drawn and written here; colours tell where a pixel was."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

STEP = 4  # of red from column to column, and of green from row to row


def draw(path: Path, width: int, height: int, blue: int = 0, **options: Any) -> None:
    """Save an image whose red tells the column and whose green tells the row."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([STEP * x, STEP * y, np.full_like(x, blue)], axis=-1).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="JPEG", quality=100, subsampling=0, **options)


def corners(image: np.ndarray) -> tuple[int, int, int, int]:
    """Read which column and row of the original the first and the last pixel show."""
    first, last = image[0, 0], image[-1, -1]
    return tuple(round(int(value) / STEP) for value in (first[0], first[1], last[0], last[1]))  # type: ignore[return-value]


def save_mask(path: Path, values: np.ndarray, mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        mask.putpalette([0, 0, 0] + [128, 0, 0] * 255)
    mask.save(path)


# -- CUB-200-2011

BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def make_cub(folder: Path) -> Path:
    """Two species of four images, 40 x 20, two of each to train on; the bird is the left half."""
    root = folder / "CUB_200_2011"
    rows: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    for number in range(1, 9):
        species = 1 + (number > 4)
        name = f"{BIRDS[species - 1]}/Bird_{number:04d}_77.jpg"
        draw(root / "images" / name, 40, 20, blue=10 * number)
        mask = np.zeros((20, 40))
        mask[:, :20], mask[:, 20:24] = 204, 102
        save_mask((folder / "segmentations" / name).with_suffix(".png"), mask)
        for table, entry in zip(rows, (name, species, number % 2), strict=True):
            rows[table].append(f"{number} {entry}\n")
    for table, lines in rows.items():
        (root / f"{table}.txt").write_text("".join(lines))
    (root / "classes.txt").write_text(f"1 {BIRDS[0]}\n2 {BIRDS[1]}\n")
    (root / "bounding_boxes.txt").write_text("1 0.0 0.0 20.0 20.0\n")
    (root / "README").write_text("birds")
    return root


# -- PASCAL VOC 2012, and annotations in its format

Object = tuple[str, tuple[float, float, float, float], int]


def write_annotation(path: Path, objects: Sequence[Object], folder: str = "VOC2012") -> None:
    """Write name, box and whether it is difficult of every object, and a part, as VOC has them."""
    entries = [
        f"<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>"
        f"<bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin><ymax>{box[3]}</ymax><ymin>{box[1]}</ymin></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
        for name, box, difficult in objects
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><folder>{folder}</folder>{''.join(entries)}</annotation>")


VOC_OBJECTS: list[Object] = [
    ("dog", (11, 11, 20, 20), 0),  # in the middle
    ("cat", (3, 3, 4, 4), 1),  # difficult
    ("person", (1, 1, 10.0, 10), 0),  # in the upper left corner
    ("dog", (31, 21, 40, 30), 0),  # in the lower right corner
]


def make_voc(folder: Path, *, train: int = 2, val: int = 1, year: int = 2012) -> Path:
    """Images of 40 x 30 pixels with `VOC_OBJECTS`; of the first, the middle is the object, around it void."""
    root = folder / "VOCdevkit" / f"VOC{year}"
    names = {
        "train": [f"2007_{k:06d}" for k in range(train)],
        "val": [f"2008_{k:06d}" for k in range(val)],
    }
    for part, listed in names.items():
        for k, name in enumerate(listed):
            draw(root / "JPEGImages" / f"{name}.jpg", 40, 30, blue=20 * k)
            write_annotation(root / "Annotations" / f"{name}.xml", VOC_OBJECTS, f"VOC{year}")
            mask = np.zeros((30, 40))
            mask[10:20, 10:20], mask[12:18, 12:18] = 255, 1
            mask[2:4, 2:4], mask[0:10, 0:2], mask[22:30, 31:40] = 2, 3, 4
            save_mask(root / "SegmentationObject" / f"{name}.png", mask, "P")
        (root / "ImageSets" / "Segmentation").mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / "Segmentation" / f"{part}.txt").write_text("".join(f"{n}\n" for n in listed))
    return root


# -- ILSVRC 2013 DET

LION, ZEBRA, DOG, PANDA = "n02129165", "n02391049", "n02084071", "n02510455"


def make_ilsvrc(folder: Path, *, later: bool = False) -> Path:
    """Images of 60 x 40 pixels: a lion amid one, a zebra in the corner of one that lies among the lions."""
    root = folder / "ILSVRC" if later else folder / "det"
    for part in ("train", "val"):
        boxes = root / ("Annotations/DET/" + part if later else f"ILSVRC2013_DET_bbox_{part}")
        images = root / ("Data/DET/" + part if later else f"ILSVRC2013_DET_{part}")
        sub = {"train": f"ILSVRC2013_train/{LION}/" if later else f"{LION}/", "val": ""}[part]
        for k, objects in enumerate(
            [
                [(LION, (20, 10, 39, 29), 0), (DOG, (0, 0, 9, 9), 0)],
                [(DOG, (0, 0, 9, 9), 0), (ZEBRA, (0, 0, 19, 19), 0), (LION, (5, 5, 5, 4), 0)],
            ]
        ):
            name = f"{sub}{LION}_{k}" if part == "train" else f"ILSVRC2012_val_{k:08d}"
            draw(images / f"{name}.JPEG", 60, 40)
            write_annotation(boxes / f"{name}.xml", objects, "x")
        # an annotation of none of the classes: its image is not there
        write_annotation(boxes / f"{sub}other_{part}.xml", [(PANDA, (0, 0, 9, 9), 0)])
    return root


# -- MS COCO


def rectangle(left: float, top: float, right: float, bottom: float) -> list[list[float]]:
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco_object(
    number: int, image: int, category: int, box: Sequence[float], **changes: Any
) -> dict[str, Any]:
    """An object whose outline is its box, of left, top, right and bottom."""
    left, top, right, bottom = box
    found = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
        "segmentation": rectangle(*box),
    }
    return found | changes


def make_coco(folder: Path, *, year: int = 2014) -> Path:
    """Twelve categories, the later the more objects; the objects to look at are of the last one."""
    root = folder / "coco"
    for part, first in (("train", 1), ("val", 101)):
        name = f"COCO_{part}{year}_{first:012d}.jpg" if year == 2014 else f"{first:012d}.jpg"
        draw(root / f"{part}{year}" / name, 40, 30)
        objects = [
            coco_object(7000, first, 90, (10, 10, 20, 20), segmentation=rectangle(12, 12, 18, 20)),
            coco_object(7001, first, 90, (30, 20, 40, 30)),
            coco_object(
                7002, first, 90, (0, 0, 10, 10), iscrowd=1, segmentation={"counts": [1200], "size": [30, 40]}
            ),
            coco_object(7003, first, 90, (0, 0, 3, 3)),
            coco_object(
                7004, first, 90, (0, 0, 10, 10), segmentation={"counts": [0, 60, 1140], "size": [30, 40]}
            ),
            *(
                coco_object(100 * category + k, first, category, (5, 5, 15, 15))
                for category in range(1, 12)
                for k in range(category)
            ),
        ]
        contents = {
            "images": [{"id": first, "file_name": name, "width": 40, "height": 30}],
            "annotations": objects + [coco_object(2000 + k, first, 90, (5, 5, 15, 15)) for k in range(9)],
            "categories": [{"id": k, "name": f"kind {k}"} for k in (*range(1, 12), 90)],
        }
        path = root / "annotations" / f"instances_{part}{year}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(contents))
    return root


# -- Tiny ImageNet

SYNSETS = {"n02000002": "crane, bird", "n01443537": "goldfish, Carassius auratus", "n03000003": "crane"}


def make_tiny(folder: Path) -> Path:
    """Three classes of two images to train on and one to test with, of 64 x 64 pixels."""
    root = folder / "tiny-imagenet-200"
    rows = []
    for k, synset in enumerate(SYNSETS):
        names = [f"{synset}_{number}.JPEG" for number in range(2)]
        for name in names:
            draw(root / "train" / synset / "images" / name, 64, 64, blue=80 * k)
        boxes = "".join(f"{name}\t0\t10\t63\t58\n" for name in names)
        (root / "train" / synset / f"{synset}_boxes.txt").write_text(boxes)
        draw(root / "val" / "images" / f"val_{k}.JPEG", 64, 64, blue=80 * k)
        rows.append(f"val_{k}.JPEG\t{synset}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("".join(f"{synset}\n" for synset in SYNSETS))
    words = SYNSETS | {"n00001740": "entity"}
    (root / "words.txt").write_text("".join(f"{synset}\t{text}\n" for synset, text in words.items()))
    return root
