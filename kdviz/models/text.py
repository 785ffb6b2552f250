"""Text networks: a transformer encoder with a linear layer on top, small from scratch or pretrained.

The encoders are those of ``transformers``. What is added makes padding harmless and gives names to the layers
that kdviz reads. This module knows nothing of words or training; token identifiers come from
``kdviz.sources.encode``.

Symbols: ``B`` texts, ``T`` tokens of the longest, ``K`` width of the encoder, ``C`` classes.
"""

from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdviz.arguments import one_of, whole_number
from kdviz.errors import MissingExtraError
from kdviz.models.building import check_arguments, draw_weights
from kdviz.models.presets import ArchitecturePreset
from kdviz.models.torchvision_shim import prepare_torchvision

prepare_torchvision()  # transformers imports torchvision where it is installed

# Logit of a token that cannot be an answer: no chance in float32, and finite, for 0 * -inf is NaN.
_NEVER = -1e4


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


class _OnEncoder(nn.Module):
    """What text networks share: the encoder, all token vectors, and one linear layer somewhere beyond."""

    def __init__(
        self, encoder: Any, outputs: int, pad: int | None, dropout: float, **between: nn.Module
    ) -> None:
        super().__init__()
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
        for name, module in between.items():
            self.add_module(name, module)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, outputs)

    def _read(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return what `hidden` gives, where there is no padding, and token types ``(B, T)`` of pairs."""
        types = {}
        if ids.ndim == 3:
            ids, types["token_type_ids"] = ids.unbind(1)
        mask = (ids != self.pad).flip(1).cumsum(1).flip(1) > 0  # only at the end is it padding
        longest = int(mask.sum(1).max())
        inputs = {"input_ids": ids, "attention_mask": mask.long(), **types}
        states = self.encoder(**{name: tensor[:, :longest] for name, tensor in inputs.items()})
        return self.hidden(states.last_hidden_state, mask), mask, types.get("token_type_ids")


class TextNetwork(_OnEncoder):
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
        one_of("pooling", pooling, ("cls", "last", "mean"))
        super().__init__(encoder, classes, pad, dropout, **{pooling: Pooling(pooling)})
        self.pooling = pooling

    def forward(self, ids: Tensor) -> Tensor:
        """Map identifiers ``(B, T)``, or identifiers and token types ``(B, 2, T)``, to logits ``(B, C)``."""
        hidden, mask, _ = self._read(ids)
        return self.head(self.dropout(self.get_submodule(self.pooling)(hidden, mask)))


class SpanNetwork(_OnEncoder):
    """Finds the answer to a question in a passage: encoder, all token vectors, one linear layer on each.

    Logits are ``(B, T, 2)``: how likely a token is the first of the answer, and the last. Tokens are so the
    classes of two answers, and what is made for classifiers (cross-entropy, accuracy, Kullback-Leibler
    divergence, all over axis 1) does for spans with labels ``(B, 2)``. Padding changes nothing, as in
    `TextNetwork`.

    Parameters
    ----------
    encoder, pad, dropout
        As of `TextNetwork`; `dropout` of every token's vector.

    Raises
    ------
    TypeError, ValueError
        As `TextNetwork`.

    Attributes
    ----------
    encoder, hidden
        As of `TextNetwork`.
    head
        ``nn.Linear`` from ``K`` to 2.

    References
    ----------
    .. [1] Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding",
       NAACL 2019, section 4.2.
    """

    def __init__(self, encoder: Any, *, pad: int | None = None, dropout: float = 0.1) -> None:
        super().__init__(encoder, 2, pad, dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """Map identifiers and token types ``(B, 2, T)``, or identifiers ``(B, T)``, to ``(B, T, 2)``.

        Padding, and where types tell it from the passage the question, get a logit of -10,000.
        """
        hidden, mask, types = self._read(ids)
        if types is not None:  # of tokenizers without types all are 0: there any token may be the answer
            passage = types > 0
            mask = mask & (passage | ~passage.any(1, keepdim=True))
        return self.head(self.dropout(hidden)).masked_fill(~mask[:, :, None], _NEVER)


def put_on(
    encoder: Any, classes: int | None, *, pad: int | None = None, dropout: float = 0.1
) -> TextNetwork | SpanNetwork:
    """Put a classifier on an encoder or, without classes, what finds spans."""
    if classes is None:
        return SpanNetwork(encoder, pad=pad, dropout=dropout)
    return TextNetwork(encoder, classes, pad=pad, dropout=dropout)


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
    classes: int | None,
    vocabulary: int,
    length: int = 64,
    pad: int = 0,
    seed: int = 0,
    dropout: float | None = None,
    device: str | torch.device = "cpu",
) -> TextNetwork | SpanNetwork:
    """Make an untrained text network.

    Parameters
    ----------
    name
        ``"small_bert"``: two layers, 64 wide, two heads, 128 inside; a minute of training on reviews.
        ``"minilm"``: the architecture of MiniLM with 6 layers, 384 wide [1]_, for students and baselines of
        a pretrained one, which ``TextNetwork(AutoModel.from_pretrained(...), classes)`` takes.
    classes
        Number of logits ``C``, at least 1; None: a `SpanNetwork`, which finds answers in passages.
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
    TextNetwork or SpanNetwork
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
    check_arguments(name, PRESETS, dropout=dropout, vocabulary=vocabulary, length=length)
    if classes is not None:
        whole_number("classes", classes, 1)
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
        network = put_on(encoder, classes, dropout=dropout)
    draw_weights(network, seed, std=0.02)
    return network.train().to(device)
