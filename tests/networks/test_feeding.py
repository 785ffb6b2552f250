"""Networks that take samples otherwise than sources prepare them: what they get, and where words enter."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kdviz.models  # before networks of transformers
from kdviz.errors import LayerError
from kdviz.networks.feeding import find_entry, name_tokens, turn_clouds

assert kdviz.models
SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
ROPE = {"num_key_value_heads": 2, "head_dim": 4}
NETWORKS: dict[str, tuple[str, dict[str, Any], str | None]] = {  # as docs/tutorials/words_and_points.md lists
    "Bert": ("ForSequenceClassification", SMALL, "bert.embeddings"),
    "Roberta": ("ForSequenceClassification", SMALL, "roberta.embeddings"),
    "DistilBert": (
        "ForSequenceClassification",
        {"n_layers": 1, "dim": 8, "n_heads": 2, "hidden_dim": 8},
        "distilbert.embeddings",
    ),
    "DebertaV2": ("ForSequenceClassification", SMALL, "deberta.embeddings"),
    "Electra": ("ForSequenceClassification", SMALL | {"embedding_size": 8}, "electra.embeddings"),
    "Albert": ("ForSequenceClassification", SMALL | {"embedding_size": 8}, "albert.embeddings"),
    "ModernBert": (
        "ForSequenceClassification",
        SMALL | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 0)
        | dict.fromkeys(("cls_token_id", "sep_token_id"), 1),
        "model.embeddings",
    ),
    "Llama": ("ForSequenceClassification", SMALL | ROPE | {"pad_token_id": 0}, "model.embed_tokens"),
    "GPT2": ("ForSequenceClassification", {"n_layer": 1, "n_embd": 8, "n_head": 2}, None),
}  # fmt: skip


def make(kind: str) -> nn.Module:
    import transformers

    head, sizes, _ = NETWORKS[kind]
    config = getattr(transformers, f"{kind}Config")(vocab_size=40, initializer_range=0.5, **sizes)
    torch.manual_seed(0)
    return getattr(transformers, f"{kind}{head}")(config).eval()


@pytest.mark.parametrize("kind", [kind for kind in NETWORKS if NETWORKS[kind][2]])
def test_find_entry__of_networks_of_transformers(kind: str) -> None:
    assert find_entry(make(kind)) == NETWORKS[kind][2]


def test_find_entry__of_other_networks() -> None:
    inner = kdviz.models.text.build("small_bert", classes=2, vocabulary=9)
    assert find_entry(inner) == "encoder.embeddings"
    assert find_entry(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))) == "0"
    lists = nn.ModuleDict({"embeddings": nn.Linear(2, 2), "words": nn.Embedding(9, 4)})
    assert find_entry(lists) == "words", "a module of that name without an embedding in it is none"


def test_find_entry__that_is_not_clear_is_asked_for() -> None:
    with pytest.raises(
        LayerError, match=r"of transformer\.wte, transformer\.wpe each embeds a part; pass en"
    ):
        find_entry(make("GPT2"))
    with pytest.raises(LayerError, match=r"it has no nn\.Embedding; pass entry, the name of the module"):
        find_entry(nn.Linear(2, 2))


def test_name_tokens__of_a_padded_batch_gives_what_each_text_gives_alone() -> None:
    ids = torch.tensor([[2, 17, 5, 9, 3], [2, 0, 21, 3, 0], [2, 30, 3, 0, 0]])  # 0: padding, at the end
    lengths = [5, 4, 3]
    network = make("DistilBert")
    alone = torch.cat([network(ids[[at], :length]).logits for at, length in enumerate(lengths)])
    unmasked = network(ids).logits
    before = {name: one.clone() for name, one in network.state_dict().items()}
    names = [name for name, _ in network.named_modules()]
    name_tokens(network, pad=0)
    torch.testing.assert_close(network(ids).logits, alone, rtol=1e-5, atol=1e-6)  # another batch: rounding
    assert (unmasked[1:] - alone[1:]).abs().min() > 1e-3, "padding would have been read"
    assert [name for name, _ in network.named_modules()] == names
    assert all(torch.equal(one, before[name]) for name, one in network.state_dict().items())


def test_name_tokens__gives_types_of_pairs_to_networks_that_know_them() -> None:
    pairs = torch.tensor([[[2, 7, 3, 8, 3], [0, 0, 0, 1, 1]], [[2, 9, 3, 3, 0], [0, 0, 0, 1, 0]]])
    ids, types = pairs.unbind(1)
    told = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 5, [1] * 4 + [0]])}
    typed, untyped = make("Bert"), make("DistilBert")
    expected = typed(**told, token_type_ids=types).logits, untyped(**told).logits
    assert not torch.equal(expected[0], typed(**told).logits)
    for network, logits in zip((typed, untyped), expected, strict=True):
        name_tokens(network, pad=0)
        assert torch.equal(network(pairs).logits, logits)


def test_name_tokens__leaves_others_as_they_are() -> None:
    network = nn.Sequential(nn.Embedding(9, 4))
    name_tokens(network, pad=0)
    assert not network._forward_pre_hooks
    assert network(torch.tensor([[1, 0]])).shape == (1, 2, 4)


class Points(nn.Module):
    """Takes clouds after they are turned as `turn` says."""

    def __init__(self, turn: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner, self.turn = nn.Linear(3, 5), turn

    def forward(self, clouds: Tensor) -> Tensor:
        return self.inner(self.turn(clouds)).amax(1)


def test_turn_clouds__only_for_a_network_that_takes_coordinates_first() -> None:
    clouds = torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0))
    network, turned = Points(lambda one: one), Points(lambda one: one.mT)
    turned.load_state_dict(network.state_dict())
    state = torch.get_rng_state()
    for one in (network, turned):
        one.train()
        turn_clouds(one, clouds[:1])
        assert one.training and all(parameter.requires_grad for parameter in one.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network._forward_pre_hooks and len(turned._forward_pre_hooks) == 1
    assert torch.equal(network(clouds), turned(clouds))


def test_turn_clouds__tries_where_the_network_lies() -> None:
    seen: list[str] = []

    def turn(clouds: Tensor) -> Tensor:
        seen.append(clouds.device.type)
        return clouds.mT

    network = Points(turn).to("meta")
    turn_clouds(network, torch.zeros(1, 7, 3))
    assert seen == ["meta", "meta"] and len(network._forward_pre_hooks) == 1


def test_turn_clouds__refuses_a_network_that_takes_neither() -> None:
    network = nn.Conv2d(3, 4, 1)
    with pytest.raises(ValueError, match="neither") as caught:
        turn_clouds(network, torch.zeros(1, 7, 3))
    told = str(caught.value)
    assert told.startswith("the network takes clouds neither with points first, (B, n, 3), nor with coordin")
    assert "of (1, 7, 3) it says 'Given groups=1" in told and "of (1, 3, 7) it says 'Given groups=1" in told
    assert not network._forward_pre_hooks


def test_turn_clouds__passes_want_of_memory_on() -> None:
    def fail(_: Tensor) -> Tensor:
        raise MemoryError("too little")

    with pytest.raises(MemoryError, match="too little"):
        turn_clouds(Points(fail), torch.zeros(1, 7, 3))
