"""Ask which properties of a study's teacher its networks share."""

from typing import Any

import numpy as np
from torch import Tensor, nn

from kdviz import transfer
from kdviz.networks import load_weights
from kdviz.sources import DOMAINS, ImageSet, cue_conflict, make_domain
from kdviz.sources.text import TextSource
from kdviz.store import Run
from kdviz.studies.work import Workshop


def share(workshop: Workshop, samples: int) -> Run:
    """Ask for the properties of all finished networks, on held-out samples; keep the answers in the run."""
    held_out = workshop.held_out_set
    asked = held_out.select(np.arange(min(samples, len(held_out))))
    inputs, labels = workshop.as_tensors(asked)
    more: dict[str, Any] = {}
    if isinstance(asked, ImageSet):
        more = {"pixels": transfer.Pixels(), **_show_otherwise(workshop, asked)}  # sources normalise so
    elif isinstance(workshop.plan.data, TextSource):
        more = {"settings": {"invariance": describe_words(workshop.plan.data)}}
    subjects = list(workshop.study.subjects())
    networks: dict[str, nn.Module] = {}
    for subject in subjects:
        network = networks[subject.name] = workshop.build_for(subject)()
        load_weights(network, workshop.finished(subject)[1])
    transfer.report(
        networks,
        inputs,
        labels.numpy(),
        teacher="teacher",
        independent=[subject.name for subject in subjects if subject.role == "baseline"],
        sample_ids=asked.sample_ids,
        store=workshop.run,
        device=workshop.device,
        progress=workshop.study.progress,
        **more,
    )
    return workshop.run


class _Domain:
    """A domain of images, as networks take it: each is drawn when it is read."""

    def __init__(self, workshop: Workshop, images: ImageSet, name: str) -> None:
        self.workshop, self.images, self.name = workshop, images, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        inputs, _ = self.workshop.as_tensors(make_domain(self.images.select([row]), self.name))
        return inputs[0]


def _show_otherwise(workshop: Workshop, images: ImageSet) -> dict[str, Any]:
    """Offer other domains of images, and make images of two minds where masks are known."""
    known = [name for name in DOMAINS if images.masks is not None or name != "silhouette"]
    domains = {name: _Domain(workshop, images, name) for name in known}
    if images.masks is None:
        return {"domains": domains}
    conflicting, textures = cue_conflict(images, seed=0)
    inputs, shapes = workshop.as_tensors(conflicting)
    return {"domains": domains, "cue_conflict": (inputs, shapes.numpy(), textures)}


def describe_words(source: TextSource) -> dict[str, Any]:
    """Tell which tokens no change of texts may touch, and which stands for a word left out."""
    tokenizer = source.load_tokenizer()
    known = {"special_ids": tokenizer.all_special_ids, "mask_id": tokenizer.mask_token_id}
    return known if tokenizer.mask_token_id is not None else known | {"changes": ("order",)}
