"""Networks that find spans: which tokens may be an answer, and what padding changes."""

import pytest
import torch

from kdviz.distillation import KL, LOGITS, Outputs
from kdviz.models import SpanNetwork, text
from kdviz.networks import read_layers

QUESTION, PASSAGE = [2, 17, 40, 3], [9, 55, 71, 18, 3]
# Attention sums over other numbers of terms, masked ones being exactly 0, in another order: float32 rounding.
TOLERANCE = 1e-6
NEVER = -10_000.0


def pair(question: list[int], passage: list[int], length: int) -> torch.Tensor:
    """Identifiers and token types of one pair, ``(1, 2, T)``."""
    missing = [0] * (length - len(question) - len(passage))
    ids, types = question + passage + missing, [0] * len(question) + [1] * len(passage) + missing
    return torch.tensor([[ids, types]])


@pytest.fixture
def network() -> SpanNetwork:
    return text.build("small_bert", classes=None, vocabulary=100, seed=3).eval()


@torch.no_grad()
def test_span_network__gives_logits_to_tokens_of_the_passage_alone(network) -> None:
    ids = pair(QUESTION, PASSAGE, 12)
    logits, hidden = network(ids), read_layers(network, ids, ["hidden"])["hidden"]
    assert tuple(logits.shape) == (1, 12, 2)
    assert (logits[:, :4] == NEVER).all() and (logits[:, 9:] == NEVER).all()
    weight, bias = network.head.weight, network.head.bias
    for token in range(4, 9):
        by_hand = torch.stack([(weight[end] * hidden[0, token]).sum() + bias[end] for end in (0, 1)])
        torch.testing.assert_close(logits[0, token], by_hand, atol=TOLERANCE, rtol=0)
    assert (hidden[0, 9:] == 0).all() and (hidden[0, :9] != 0).any(1).all()


@torch.no_grad()
def test_span_network__depends_on_neither_padding_nor_batch_mates(network) -> None:
    alone = network(pair(QUESTION, PASSAGE, 9))
    mates = torch.cat([pair([2, 5, 3], [7, 8, 3], 12), pair(QUESTION, PASSAGE, 12), pair([2, 3], [4, 3], 12)])
    together = network(mates)[1:2]
    torch.testing.assert_close(together[:, :9], alone, atol=TOLERANCE, rtol=0)
    assert (together[:, 9:] == NEVER).all()
    assert torch.equal(network(pair(QUESTION, PASSAGE, 14))[:, :12], network(pair(QUESTION, PASSAGE, 12)))


@torch.no_grad()
def test_span_network__without_types_any_token_but_padding_may_be_the_answer(network) -> None:
    """As of RoBERTa, whose tokenizer gives type 0 to both texts."""
    ids = pair(QUESTION, PASSAGE, 12)
    untyped = ids.clone()
    untyped[:, 1] = 0
    for given in (untyped, ids[:, 0]):
        logits = network(given)
        assert (logits[:, :9] != NEVER).all() and (logits[:, 9:] == NEVER).all()
    both = network(torch.cat([untyped, ids]))
    assert (both[1, :4] == NEVER).all() and (both[0, :4] != NEVER).all()


def test_span_network__masked_tokens_have_no_chance_no_gradient_and_no_nan(network) -> None:
    ids = torch.cat([pair(QUESTION, PASSAGE, 12), pair([2, 3], PASSAGE, 12)])
    labels = torch.tensor([[5, 6], [2, 2]])
    student, teacher = ({LOGITS: network(ids)} for _ in range(2))
    assert torch.equal(student[LOGITS].softmax(1)[0, :4], torch.zeros(4, 2))
    hidden = []
    network.hidden.register_forward_hook(lambda *given: hidden.append(given[2]) or given[2].retain_grad())
    student = {LOGITS: network(ids)}
    teacher = {LOGITS: student[LOGITS].detach() + torch.randn(2, 12, 2)}
    teacher[LOGITS][student[LOGITS] == NEVER] = NEVER
    loss = KL(temperature=4.0)(Outputs(student), Outputs(teacher), labels, torch.arange(2))
    assert torch.isfinite(loss)
    loss.backward()
    (found,) = hidden
    assert torch.equal(found.grad[0, :4], torch.zeros(4, 64)) and (found.grad[0, 4:9] != 0).any(1).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


def test_build__both_kinds_of_head_have_the_same_encoder(network) -> None:
    """Of one seed: the head is drawn last."""
    known = text.build("small_bert", classes=5, vocabulary=100, seed=3).encoder.state_dict()
    assert all(torch.equal(known[name], tensor) for name, tensor in network.encoder.state_dict().items())
    assert tuple(network.head.weight.shape) == (2, 64)
    assert [name for name, _ in network.named_children()] == ["encoder", "hidden", "dropout", "head"]


def test_span_network__refuses_what_a_text_network_refuses(network) -> None:
    with pytest.raises(TypeError, match="without anything on top, got SpanNetwork"):
        network.base_model = network.encoder
        SpanNetwork(network)
    network.encoder.config.pad_token_id = None
    with pytest.raises(ValueError, match="names no padding token"):
        SpanNetwork(network.encoder)
