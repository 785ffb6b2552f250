"""Ask which properties of a teacher the networks of a run share."""

from typing import Any

from torch import Tensor, nn

from kdviz import transfer
from kdviz.arguments import name_some
from kdviz.sources import DOMAINS, ImageSet, cue_conflict, make_domain
from kdviz.sources.text import TextSource
from kdviz.store import Run
from kdviz.studies.cast import Cast, read_before

_SAMPLES = 1000


def share(cast: Cast, samples: int | None) -> Run:
    """Ask for the properties of all finished networks; keep the answers in the run.

    Answers about another number of samples are replaced; by default it is that of before.

    Raises
    ------
    ValueError
        If there is not one teacher, or no baseline.
    """
    subjects = cast.subjects
    teachers, baselines = (
        [subject.name for subject in subjects if subject.role == role] for role in ("teacher", "baseline")
    )
    if len(teachers) != 1 or not baselines:
        raise ValueError(
            "kdviz transfer compares students with one teacher, and with baselines that had none; of role "
            f"teacher {cast.run.path} has {name_some(teachers) or 'none'}, of role baseline "
            f"{name_some(baselines) or 'none'}"
        )
    if samples is None:
        before = read_before(cast.run, "transfer/confidence")  # others may hold each sample several times
        samples = _SAMPLES if before is None else before.sizes["sample"]
    asked = cast.ask(samples)
    inputs, labels = cast.as_tensors(asked)
    more: dict[str, Any] = {}
    if isinstance(asked, ImageSet):
        more = {"pixels": transfer.Pixels(asked.mean, asked.std), **_show_otherwise(cast, asked)}
    elif isinstance(cast.source, TextSource):
        more = {"settings": {"invariance": describe_words(cast.source)}}
    networks: dict[str, nn.Module] = {}
    for subject in subjects:
        network = networks[subject.name] = cast.build_for(subject)()
        cast.load(subject, network, cast.finished(subject)[1])
    transfer.report(
        networks,
        inputs,
        labels.numpy(),
        teacher=teachers[0],
        independent=baselines,
        sample_ids=asked.sample_ids,
        store=cast.run,
        device=cast.device,
        progress=cast.progress,
        **more,
    )
    return cast.run


class _Domain:
    """A domain of images, as networks take it: each is drawn when it is read."""

    def __init__(self, cast: Cast, images: ImageSet, name: str) -> None:
        self.cast, self.images, self.name = cast, images, name

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        inputs, _ = self.cast.as_tensors(make_domain(self.images.select([row]), self.name))
        return inputs[0]


def _show_otherwise(cast: Cast, images: ImageSet) -> dict[str, Any]:
    """Offer other domains of images, and make images of two minds where masks are known."""
    known = [name for name in DOMAINS if images.masks is not None or name != "silhouette"]
    domains = {name: _Domain(cast, images, name) for name in known}
    if images.masks is None:
        return {"domains": domains}
    conflicting, textures = cue_conflict(images, seed=0)
    inputs, shapes = cast.as_tensors(conflicting)
    return {"domains": domains, "cue_conflict": (inputs, shapes.numpy(), textures)}


def describe_words(source: TextSource) -> dict[str, Any]:
    """Tell which tokens no change of texts may touch, and which stands for a word left out."""
    tokenizer = source.load_tokenizer()
    known = {"special_ids": tokenizer.all_special_ids, "mask_id": tokenizer.mask_token_id}
    return known if tokenizer.mask_token_id is not None else known | {"changes": ("order",)}
