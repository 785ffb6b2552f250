"""Text networks: a transformer encoder with a classifier on top, small from scratch or pretrained.

The encoders are those of ``transformers``. What is added makes padding harmless and gives names to the layers
that kdviz reads. This module knows nothing of words or training; token identifiers come from
``kdviz.sources.encode``.

Symbols: ``B`` texts, ``T`` tokens of the longest, ``K`` width of the encoder, ``C`` classes.
"""

from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdviz.arguments import one_of
from kdviz.errors import MissingExtraError
from kdviz.models.building import check_arguments, draw_weights
from kdviz.models.presets import ArchitecturePreset
from kdviz.models.torchvision_shim import prepare_torchvision

prepare_torchvision()  # transformers imports torchvision where it is installed


class HiddenTokens(nn.Module):
    """The last hidden layer: one vector a token, 0 at padding."""

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """Put states ``(B, t, K)`` of the first ``t`` tokens into ``(B, T, K)``; mask ``(B, T)``, bool."""
        missing = mask.shape[1] - states.shape[1]
        return nn.functional.pad(states, (0, 0, 0, missing)).masked_fill(~mask[:, :, None], 0.0)


class Pooling(nn.Module):
    """One vector a text: that of its first token (``"cls"``), of its last, or the mean of all."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Map ``(B, T, K)``, 0 at padding, to ``(B, K)``; mask ``(B, T)``, bool."""
        lengths = mask.sum(1)
        if self.kind == "mean":
            return hidden.sum(1) / lengths[:, None]
        return hidden[:, 0] if self.kind == "cls" else hidden[torch.arange(len(hidden)), lengths - 1]


class TextNetwork(nn.Module):
    """A classifier of texts: encoder, all token vectors, one of them or their mean, one linear layer.

    Columns that are padding in the whole batch are not computed, attention ignores the rest of the padding,
    and the hidden layer is 0 there. So a text's output depends on no other text and on no padding.

    Parameters
    ----------
    encoder
        A transformers encoder, whose output has ``last_hidden_state``: of ``AutoModel``, or the
        ``base_model`` of a network that has a classifier already.
    classes
        Number of logits ``C``.
    pad
        Token identifier of padding, at the end of texts; by default that of the encoder's config.
    pooling
        What the linear layer reads: ``"cls"``, the first token's vector; ``"last"``, that of the last, for
        decoders such as GPT-2 and Llama, whose first token sees no other; or the ``"mean"`` of all.
    dropout
        Probability with which an entry of that vector is set to 0 in training.

    Raises
    ------
    TypeError
        If `encoder` is a network with an encoder inside, such as a classifier.
    ValueError
        If neither `pad` nor the encoder's config says what padding is, or `pooling` is another one.

    Attributes
    ----------
    encoder
        As given; noise on words is added to the output of ``encoder.embeddings``.
    hidden
        Gives the token vectors of the last hidden layer, ``(B, T, K)``, 0 at padding.
    cls, last or mean
        Named as `pooling`; gives the vector that it says, ``(B, K)``.
    head
        ``nn.Linear`` from ``K`` to ``C``.
    """

    def __init__(
        self,
        encoder: Any,
        classes: int,
        *,
        pad: int | None = None,
        pooling: Literal["cls", "last", "mean"] = "cls",
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.pooling = one_of("pooling", pooling, ("cls", "last", "mean"))
        if getattr(encoder, "base_model", encoder) is not encoder:
            raise TypeError(
                f"encoder must be a transformers encoder without anything on top, got "
                f"{type(encoder).__name__}; pass the encoder inside, such as classifier.base_model"
            )
        self.pad = encoder.config.pad_token_id if pad is None else pad
        if self.pad is None:
            raise ValueError(
                "the encoder's config names no padding token; pass pad=tokenizer.pad_token_id, after "
                "tokenizer.pad_token = tokenizer.eos_token where it has none"
            )
        self.encoder = encoder
        self.hidden = HiddenTokens()
        self.add_module(pooling, Pooling(pooling))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Map identifiers ``(B, T)``, or identifiers and token types ``(B, 2, T)``, to logits ``(B, C)``."""
        types = {}
        if ids.ndim == 3:
            ids, types["token_type_ids"] = ids.unbind(1)
        mask = (ids != self.pad).flip(1).cumsum(1).flip(1) > 0  # only at the end is it padding
        longest = int(mask.sum(1).max())
        inputs = {"input_ids": ids, "attention_mask": mask.long(), **types}
        states = self.encoder(**{name: tensor[:, :longest] for name, tensor in inputs.items()})
        hidden = self.hidden(states.last_hidden_state, mask)
        return self.head(self.dropout(self.get_submodule(self.pooling)(hidden, mask)))


_SETTINGS: dict[str, dict[str, int]] = {
    "minilm": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
    "small_bert": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 128,
    },
}


def _preset(layers: int) -> ArchitecturePreset:
    last = f"encoder.encoder.layer.{layers - 1}.output.dense"
    return ArchitecturePreset(
        layers=MappingProxyType({"hidden": "hidden", "cls": "cls"}),
        weight=6.0,  # our choice; the paper's layer is BERT's last hidden one
        threshold=0.2,
        modality="text",
        entry="encoder.embeddings",
        feature="identity",
        weights=MappingProxyType({"hidden": last, "cls": last}),
    )


PRESETS = MappingProxyType({name: _preset(own["num_hidden_layers"]) for name, own in _SETTINGS.items()})


def build(
    name: str,
    *,
    classes: int,
    vocabulary: int,
    length: int = 64,
    pad: int = 0,
    seed: int = 0,
    dropout: float | None = None,
    device: str | torch.device = "cpu",
) -> TextNetwork:
    """Make an untrained text network.

    Parameters
    ----------
    name
        ``"small_bert"``: two layers, 64 wide, two heads, 128 inside; a minute of training on reviews.
        ``"minilm"``: the architecture of MiniLM with 6 layers, 384 wide [1]_, for students and baselines of
        a pretrained one, which ``TextNetwork(AutoModel.from_pretrained(...), classes)`` takes.
    classes
        Number of logits ``C``, at least 1.
    vocabulary
        Number of tokens, ``len(tokenizer)``.
    length
        Longest text in tokens that it can read; 512 of the published MiniLM.
    pad
        Token identifier of padding, ``tokenizer.pad_token_id``.
    seed
        Same seed, same weights; no global random state is changed.
    dropout
        Probability for every dropout layer, that of attention included; ``None``: 0.1.
    device
        Where the weights live.

    Returns
    -------
    TextNetwork
        In train mode, float32. ``PRESETS[name].layers`` names layers.

    Raises
    ------
    ValueError
        If `name` is unknown or a number is out of range.
    MissingExtraError
        If transformers is not installed.

    Notes
    -----
    Initial values follow BERT: weights and embeddings N(0, 0.02), biases 0. Attention is computed step by
    step, without fused kernels, so that it can be read and differentiated in any way.

    References
    ----------
    .. [1] Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
       Transformers", NeurIPS 2020.

    Examples
    --------
    >>> network = build("small_bert", classes=2, vocabulary=100)
    >>> tuple(network(torch.tensor([[2, 17, 3], [2, 3, 0]])).shape)
    (2, 2)
    """
    dropout = 0.1 if dropout is None else dropout
    check_arguments(name, PRESETS, dropout=dropout, classes=classes, vocabulary=vocabulary, length=length)
    try:
        from transformers import BertConfig, BertModel
    except ModuleNotFoundError:
        raise MissingExtraError("text networks need transformers: install kdviz[text]") from None
    options: dict[str, Any] = _SETTINGS[name] | {
        "vocab_size": vocabulary,
        "max_position_embeddings": length,
        "pad_token_id": pad,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
    }
    with torch.random.fork_rng(devices=[]):  # the layers draw values that are overwritten
        encoder: Any = BertModel(BertConfig(**options), add_pooling_layer=False)
        encoder.set_attn_implementation("eager")
        network = TextNetwork(encoder, classes, dropout=dropout)
    draw_weights(network, seed, std=0.02)
    return network.train().to(device)
