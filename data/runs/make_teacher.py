"""Train the small VGG on all training items and store it as ``teacher-fashion.safetensors``.

python data/runs/make_teacher.py [FOLDER]

FOLDER keeps the training state; a run that was stopped continues there. One thread, because the number of
threads changes the last bits. Takes some minutes. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from kdviz.models import build
from kdviz.sources.image import fashion_composites, normalise
from kdviz.training import FASHION_PLANS, train_classifier
from kdviz.training.records import write_tensors

COMPOSITION_SEEDS = (0, 1, 2)  # each item at three places and scales, over three photographs
PLAN = FASHION_PLANS["teacher"]
TARGET = Path(__file__).with_name("teacher-fashion.safetensors")


def main(folder: Path) -> None:
    """Train in `folder`, write the weights with their held-out accuracy beside this script."""
    torch.set_num_threads(1)
    compositions = [fashion_composites("train", seed=seed) for seed in COMPOSITION_SEEDS]
    held_out = fashion_composites("held-out")
    options = {
        "classes": len(held_out.classes),
        "input_size": held_out.images.shape[1],
        "seed": PLAN.seed,
        "dropout": 0.2,
    }
    network = build("small_vgg", **options)
    record = train_classifier(
        network,
        torch.from_numpy(np.concatenate([normalise(composition.images) for composition in compositions])),
        torch.from_numpy(np.concatenate([composition.labels for composition in compositions])),
        folder=folder,
        plan=PLAN,
        tracked_layers=[],
        validation=(torch.from_numpy(normalise(held_out.images)), torch.from_numpy(held_out.labels)),
    )
    last = record.history.iloc[-1]
    metadata = {
        "network": {"name": "small_vgg", **options},
        "composition_seeds": COMPOSITION_SEEDS,
        "plan": PLAN.model_dump(mode="json"),
        "train_accuracy": round(float(last["accuracy"]), 4),
        "held_out_accuracy": round(float(last["validation_accuracy"]), 4),
        "licence": "MIT",
    }
    write_tensors(TARGET, network.state_dict(), metadata)
    print(f"held-out accuracy {last['validation_accuracy']:.4f}, training accuracy {last['accuracy']:.4f}")
    print(f"{TARGET.name}  SHA-256 {hashlib.sha256(TARGET.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    default = Path(tempfile.gettempdir()) / "kdviz-teacher-fashion"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
