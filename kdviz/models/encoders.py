"""Text networks on an encoder of the user's own: a folder as ``save_pretrained`` of transformers has it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdviz.architectures import ENCODER_PRESET
from kdviz.arguments import name_some
from kdviz.errors import DataError, KdvizWarning, MissingExtraError
from kdviz.models.text import SpanNetwork, TextNetwork, put_on


def build(
    folder: str | Path,
    *,
    classes: int | None,
    vocabulary: int = 1,
    length: int = 1,
    pad: int | None = None,
    depth: int | None = None,
    trained: bool = False,
    seed: int = 0,
) -> TextNetwork | SpanNetwork:
    """Make a text network on an encoder's architecture, untrained or with the encoder's weights.

    Parameters
    ----------
    folder
        Config and weights of a network of the kinds of BERT; a classifier's own head is left out, which for
        every kind of BERT is more than the linear layer that is put on top here.
    classes
        Number of logits; None: a `SpanNetwork`.
    vocabulary, length
        Tokens that it must know, and read at once.
    pad
        Token identifier of padding; that of the config by default.
    depth
        How many of its layers there are; all by default.
    trained
        Whether the encoder has the weights in the folder; the linear layer on top is new.
    seed
        Decides the weights that are new; no global random state is changed.

    Returns
    -------
    TextNetwork or SpanNetwork
        In train mode, float32.

    Raises
    ------
    MissingExtraError
        If transformers is not installed.
    DataError
        If there is no such network in the folder, weights are missing, or it is too small for the texts.

    Warns
    -----
    KdvizWarning
        If `trained` leaves out the head of a classifier, whatever its labels.
    """
    try:
        from transformers import AutoConfig, AutoModel
    except ModuleNotFoundError:
        raise MissingExtraError("text networks need transformers: install kdviz[text]") from None
    same: dict[str, Any] = {"attn_implementation": "eager", "dtype": torch.float32}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        if depth is not None:
            config.num_hidden_layers = depth
        with torch.random.fork_rng(devices=[]), _saying_errors_only():
            torch.manual_seed(seed)
            if trained:
                encoder, found = AutoModel.from_pretrained(
                    folder, config=config, local_files_only=True, output_loading_info=True, **same
                )
            else:
                encoder, found = AutoModel.from_config(config, **same), {"missing_keys": ()}
            if not hasattr(encoder, "embeddings"):
                raise ValueError(
                    f"a {type(encoder).__name__} has no module 'embeddings', where noise enters words"
                )
            if missing := sorted(name for name in found["missing_keys"] if "pooler" not in name):
                raise ValueError(
                    f"the weights lack {name_some(missing)}; save the encoder with its own save_pretrained"
                )
            network = put_on(encoder, classes, pad=pad)
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no encoder of the kinds of BERT: {error}") from error
    if trained and any(str(name).endswith("SequenceClassification") for name in config.architectures or ()):
        place = "every token's" if classes is None else "the first token's"
        warnings.warn(
            f"{folder} is a classifier ({name_some(config.id2label.values())}): its encoder is kept and its "
            f"head left out; a new one is trained, a linear layer on {place} vector",
            KdvizWarning,
            stacklevel=2,
        )
    positions = getattr(encoder.embeddings, "position_embeddings", None)
    unused = getattr(positions, "padding_idx", None)  # RoBERTa counts from the one after that of padding
    reads = getattr(config, "max_position_embeddings", length) - (0 if unused is None else unused + 1)
    if vocabulary > config.vocab_size:
        raise DataError(
            f"{folder} knows {config.vocab_size} tokens, the tokenizer has {vocabulary}; take the one it was "
            "trained with (data.tokenizer)"
        )
    if length > reads:
        raise DataError(
            f"{folder} reads {reads} tokens at once, data.length is {length}; set it to {reads}, which cuts "
            "longer texts"
        )
    return network.train()


@contextmanager
def _saying_errors_only() -> Iterator[None]:
    """Keep transformers from listing the weights that it leaves out, such as a classifier's own head."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def last_weights(network: TextNetwork | SpanNetwork) -> dict[str, str]:
    """Name the module whose weight stands for each layer of an encoder: the encoder's last linear one."""
    linear = [
        name
        for name, module in network.encoder.named_modules()
        if isinstance(module, nn.Linear) and "pooler" not in name
    ]
    return dict.fromkeys(ENCODER_PRESET.layers, f"encoder.{linear[-1]}")
