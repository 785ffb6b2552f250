"""What a study of answers in passages cannot ask, because there is no class."""

from collections.abc import Collection, Mapping
from typing import Any

from kdviz.sources.samples import Source

_OF_TEXT = "cls"  # the layer that sums up a whole text
_OF_CLASSES = ("crd", "soft-labels")  # kinds of losses that ask for the class of a sample


def refuse_spans(source: Source, what: str) -> None:
    """Raise ValueError if networks find spans; `what` asks which class a sample is of."""
    if source.finds_spans:
        raise ValueError(f"{what} asks for the class of a sample, and this is a study of answers in passages")


def suit_layers(source: Source, layers: Mapping[str, str]) -> dict[str, str]:
    """Return the layers that a study of this data has by default: of spans, without that of a whole text."""
    return {name: at for name, at in layers.items() if not (source.finds_spans and at == _OF_TEXT)}


def check_layers(source: Source, layers: Collection[Any]) -> None:
    """Raise ValueError if networks find spans, and one of the layers sums up a whole text."""
    if source.finds_spans and _OF_TEXT in layers:
        other = "; or set data.task to answerable" if source.model_dump().get("kind") == "squad" else ""
        raise ValueError(
            f"{_OF_TEXT} is one vector of a whole text, and where an answer stands is read from those of all "
            f"tokens: name the layer hidden instead{other}"
        )


def check_loss(source: Source, kind: str, options: Mapping[str, Any]) -> None:
    """Raise ValueError if networks find spans, and the loss wants classes or the layer of a whole text."""
    if kind in _OF_CLASSES:
        refuse_spans(source, f"the loss {kind}")
    for name in options.keys() & {"layer", "teacher_layer"}:
        check_layers(source, options[name] if isinstance(options[name], (list, tuple)) else [options[name]])
