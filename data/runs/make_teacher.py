"""Train a built-in teacher on all training samples of its kind and store it as ``teacher-*.safetensors``.

python data/runs/make_teacher.py image|text|cloud [FOLDER]

FOLDER keeps the training state; a run that was stopped continues there. One thread, because the number of
threads changes the last bits. Takes some minutes. Run ``data/make_checksums.py`` afterwards.
"""

import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdviz.models import build
from kdviz.sources.image import fashion_composites, normalise
from kdviz.studies import BUILT_IN_DATA, Study, StudyPlan
from kdviz.studies.plans import BUILT_IN_TEACHERS
from kdviz.studies.work import Workshop
from kdviz.training import PLANS, train
from kdviz.training.records import write_tensors

COMPOSITION_SEEDS = (0, 1, 2)  # each item at three places and scales, over three photographs
DROPOUT = {"image": 0.2, "cloud": 0.2}  # of teachers; a text network keeps its own


def make_image_teacher() -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    """Make the small VGG, with dropout, and composites of three seeds."""
    compositions = [fashion_composites("train", seed=seed) for seed in COMPOSITION_SEEDS]
    options = {
        "classes": 10,
        "input_size": compositions[0].images.shape[1],
        "seed": 100,
        "dropout": DROPOUT["image"],
    }
    inputs = np.concatenate([normalise(composition.images) for composition in compositions])
    labels = np.concatenate([composition.labels for composition in compositions])
    about = {"network": {"name": "small_vgg", **options}, "composition_seeds": COMPOSITION_SEEDS}
    return build("small_vgg", **options), torch.from_numpy(inputs), torch.from_numpy(labels), about


def make_other_teacher(workshop: Workshop) -> tuple[nn.Module, Tensor, Tensor, dict[str, Any]]:
    """Make the small network of a kind of input, and everything there is to train it on."""
    samples = workshop.training_set
    network = workshop.build(seed=100)
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = DROPOUT.get(workshop.plan.data.modality, module.p)
    about = {
        "network": {"name": workshop.plan.networks.architecture, "seed": 100},
        "samples": samples.source,
    }
    return network, *workshop.as_tensors(samples), about


def main(modality: str, folder: Path) -> None:
    """Train in `folder`, write the weights with their held-out accuracy beside this script."""
    torch.set_num_threads(1)
    kind = BUILT_IN_DATA[modality]
    workshop = Workshop(Study(folder, StudyPlan.model_validate({"data": {"kind": kind}})))
    plan = PLANS[modality]["teacher"]
    made = make_image_teacher() if modality == "image" else make_other_teacher(workshop)
    network, inputs, labels, about = made
    record = train(
        network,
        inputs,
        labels,
        folder=folder / "training",
        plan=plan,
        tracked_layers=[],
        validation=workshop.held_out_data,
    )
    last = record.history.iloc[-1]
    metadata = about | {
        "plan": plan.model_dump(mode="json"),
        "train_accuracy": round(float(last["accuracy"]), 4),
        "held_out_accuracy": round(float(last["validation_accuracy"]), 4),
        "licence": "MIT",
    }
    target = Path(__file__).parents[1] / BUILT_IN_TEACHERS[kind]
    write_tensors(target, network.state_dict(), metadata)
    print(f"held-out accuracy {last['validation_accuracy']:.4f}, training accuracy {last['accuracy']:.4f}")
    print(f"{target.name}  SHA-256 {hashlib.sha256(target.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    kind = sys.argv[1] if len(sys.argv) > 1 else "image"
    default = Path(tempfile.gettempdir()) / f"kdviz-teacher-{kind}"
    main(kind, Path(sys.argv[2]) if len(sys.argv) > 2 else default)
