"""Make ``fashion_items.npz``: 12,000 raw Fashion-MNIST items, 1,000 + 200 of each class.

The first 1,000 items of every class in the training file and the first 200 of every class in the test
file ("held-out") are kept, interleaved so that any prefix is balanced: item k has class k modulo 10.
``*_indices`` is the position in the original file. NumPy only; the same input gives the same file.

    python data/make_fashion_items.py FOLDER

FOLDER holds the four ``*-ubyte.gz`` files of Fashion-MNIST.
"""

import argparse
import gzip
from pathlib import Path

import numpy as np

CLASS_COUNT = 10
KEPT = {"train": ("train", 1000), "held_out": ("t10k", 200)}  # our name: (name in the files, items per class)


def read_idx(path: Path, *, header: int) -> np.ndarray:
    """Read the bytes of a gzipped IDX file after its header."""
    return np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8, offset=header)


def choose_items(labels: np.ndarray, per_class: int) -> np.ndarray:
    """Positions of the first `per_class` items of every class, interleaved by class."""
    by_class = [np.flatnonzero(labels == label)[:per_class] for label in range(CLASS_COUNT)]
    return np.stack(by_class, axis=1).ravel()


def main() -> None:
    """Read the command line and write the file beside this script."""
    parser = argparse.ArgumentParser(description="Make fashion_items.npz from the Fashion-MNIST files.")
    parser.add_argument("folder", type=Path, help="folder with the four *-ubyte.gz files")
    folder = parser.parse_args().folder
    arrays = {}
    for split, (prefix, per_class) in KEPT.items():
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", header=16).reshape(-1, 28, 28)
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", header=8)
        kept = choose_items(labels, per_class)
        arrays[f"{split}_images"] = images[kept]
        arrays[f"{split}_labels"] = labels[kept]
        arrays[f"{split}_indices"] = kept.astype(np.uint16)
    np.savez_compressed(Path(__file__).parent / "fashion_items.npz", **arrays)


if __name__ == "__main__":
    main()
