import numpy as np
import pytest
import torch
from torch import nn

import kdviz
from kdviz.distillation import Features
from kdviz.models import ArchitecturePreset, TextNetwork, text
from kdviz.sources import encode, movie_reviews, review_tokenizer
from kdviz.training import CrossEntropy, TrainingPlan, train

SHORT, LONG = [2, 17, 40, 3], [2, 9, 55, 71, 18, 33, 3]
# Attention sums over other numbers of terms, masked ones being exactly 0, in another order: float32 rounding.
TOLERANCE = 1e-6


def batch(*rows: list[int], length: int) -> torch.Tensor:
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])


@pytest.fixture
def network() -> TextNetwork:
    return text.build("small_bert", classes=2, vocabulary=100, seed=3).eval()


def read(network: nn.Module, layer: str, ids: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = network.get_submodule(layer).register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    with torch.no_grad():
        network(ids)
    hook.remove()
    return seen[0]


# --- sizes and weights ---------------------------------------------------------------------------------


def count_by_hand(
    *, width: int, layers: int, inner: int, vocabulary: int, positions: int, classes: int
) -> int:
    norm = 2 * width
    embeddings = (vocabulary + positions + 2) * width + norm  # words, positions, two token types
    attention = 4 * (width * width + width) + norm
    feedforward = (width * inner + inner) + (inner * width + width) + norm
    return embeddings + layers * (attention + feedforward) + width * classes + classes


def test_build__small_bert_has_the_parameters_of_its_description() -> None:
    network = text.build("small_bert", classes=2, vocabulary=4000, length=96)
    expected = count_by_hand(width=64, layers=2, inner=128, vocabulary=4000, positions=96, classes=2)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected == 329474
    assert (network.head.in_features, network.head.out_features) == (64, 2)


def test_build__minilm_has_the_published_size() -> None:
    """22.7 million with the pooler of 384 x 384 + 384, which is left out here."""
    network = text.build("minilm", classes=3, vocabulary=30522, length=512)
    encoder = sum(parameter.numel() for parameter in network.encoder.parameters())
    expected = count_by_hand(width=384, layers=6, inner=1536, vocabulary=30522, positions=512, classes=0)
    assert encoder == expected == 22_713_216 - (384 * 384 + 384)


def test_build__seed_decides_the_weights_and_nothing_global_moves() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, same, other = (text.build("small_bert", classes=2, vocabulary=50, seed=seed) for seed in (5, 5, 6))
    assert torch.equal(torch.get_rng_state(), before)
    weights = one.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in same.state_dict().items())
    assert not torch.equal(weights["head.weight"], other.state_dict()["head.weight"])
    assert one.training


def test_build__draws_the_initial_values_of_bert() -> None:
    network = text.build("small_bert", classes=2, vocabulary=4000)
    words = network.encoder.embeddings.word_embeddings.weight
    assert not words[0].any()  # padding
    # 256,000 values: the standard error of their standard deviation is 0.02 / sqrt(512,000) = 3e-5.
    assert float(words[1:].detach().std()) == pytest.approx(0.02, abs=1.2e-4)
    assert not network.head.bias.any()
    assert (network.encoder.embeddings.LayerNorm.weight == 1).all()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("bert", {}, "name is .bert."),
        ("small_bert", {"classes": 0}, "classes must be an integer of 1 or more, got 0"),
        ("small_bert", {"vocabulary": 0}, "vocabulary must be an integer of 1 or more, got 0"),
        ("small_bert", {"length": 0}, "length must be an integer of 1 or more, got 0"),
        ("small_bert", {"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_build__refuses_what_is_out_of_range(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text.build(name, **{"classes": 2, "vocabulary": 50} | arguments)


def test_presets__name_modules_that_exist(network) -> None:
    assert sorted(text.PRESETS) == ["minilm", "small_bert"]
    for name, layers in (("small_bert", 2), ("minilm", 6)):
        preset = text.PRESETS[name]
        assert isinstance(preset, ArchitecturePreset)
        assert (preset.modality, preset.feature, preset.weight, preset.threshold) == (
            "text",
            "identity",
            6.0,
            0.2,
        )
        assert preset.weights["hidden"] == f"encoder.encoder.layer.{layers - 1}.output.dense"
    preset = text.PRESETS["small_bert"]
    last = network.get_submodule(preset.weights[preset.layers["hidden"]])
    assert last.weight.shape == (64, 128)
    assert read(network, preset.entry, batch(SHORT, length=4)).shape == (1, 4, 64)


# --- padding and batch mates ---------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["hidden", "cls", "head"])
def test_forward__depends_on_neither_padding_nor_batch_mates(layer: str, network) -> None:
    alone = read(network, layer, batch(SHORT, length=4))
    for ids in (batch(SHORT, length=40), batch(SHORT, LONG, length=7), batch(LONG, SHORT, length=64).flip(0)):
        found = read(network, layer, ids)[:1]
        if layer == "hidden":
            assert found.shape[1] == ids.shape[1]
            assert not found[:, len(SHORT) :].any()  # exactly 0, so a matched feature cannot ask for more
            found = found[:, : len(SHORT)]
        torch.testing.assert_close(found, alone, rtol=0, atol=TOLERANCE)


def test_forward__only_what_is_filled_up_at_the_end_is_padding() -> None:
    """A tokenizer may fill up with the token that texts begin with, and text may name it."""
    network = text.build("small_bert", classes=2, vocabulary=100, seed=3, pad=2).eval()
    ids = torch.tensor([[2, 17, 2, 3], [2, 40, 2, 2]])
    states = network.encoder(ids[:1]).last_hidden_state
    torch.testing.assert_close(read(network, "hidden", ids)[:1], states, rtol=0, atol=TOLERANCE)
    alone = network.encoder(ids[1:, :2]).last_hidden_state
    torch.testing.assert_close(read(network, "hidden", ids)[1:, :2], alone, rtol=0, atol=TOLERANCE)
    assert not read(network, "hidden", ids)[1, 2:].any()


def test_forward__padding_alone_changes_no_bit(network) -> None:
    short, padded = batch(SHORT, LONG, length=7), batch(SHORT, LONG, length=50)
    with torch.no_grad():
        assert torch.equal(network(short), network(padded))


def test_forward__attention_to_padding_is_exactly_zero(network) -> None:
    weights = []
    for layer in network.encoder.encoder.layer:
        layer.attention.self.register_forward_hook(lambda *arguments: weights.append(arguments[2][1]))
    with torch.no_grad():
        network(batch(SHORT, LONG, length=9))
    assert [tensor.shape for tensor in weights] == [(2, 2, 7, 7)] * 2
    for tensor in weights:
        assert not tensor[0, :, :, len(SHORT) :].any()
        assert (tensor[0, :, : len(SHORT), : len(SHORT)] > 0).all()
        assert (tensor[1] > 0).all()


def test_forward__noise_on_padding_reaches_nothing(network) -> None:
    ids = batch(SHORT, LONG, length=7)
    with torch.no_grad():
        clean = network(ids)
        network.encoder.embeddings.register_forward_hook(
            lambda module, arguments, output: output + 5.0 * (ids == 0)[:, :, None]
        )
        assert torch.equal(network(ids), clean)


def test_forward__head_reads_the_first_token_of_the_hidden_layer(network) -> None:
    ids = batch(LONG, length=7)
    hidden, first = read(network, "hidden", ids), read(network, "cls", ids)
    assert torch.equal(first, hidden[:, 0])
    with torch.no_grad():
        assert torch.equal(network(ids), network.head(first))


def test_forward__reads_token_types_where_given(network) -> None:
    ids = batch(SHORT, LONG, length=7)
    types = torch.zeros_like(ids)
    with torch.no_grad():
        assert torch.equal(network(torch.stack([ids, types], dim=1)), network(ids))
        types[:, 2:] = 1
        assert not torch.allclose(network(torch.stack([ids, types], dim=1)), network(ids))


def test_forward__dropout_works_in_train_mode_only() -> None:
    network = text.build("small_bert", classes=2, vocabulary=100, dropout=0.3)
    assert {module.p for module in network.modules() if isinstance(module, nn.Dropout)} == {0.3}
    ids = batch(LONG, length=7)
    with torch.no_grad():
        assert not torch.equal(network(ids), network(ids))
        network.eval()
        assert torch.equal(network(ids), network(ids))
        still = text.build("small_bert", classes=2, vocabulary=100, dropout=0.0)
        assert torch.equal(still(ids), still(ids))


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_text_network__wraps_other_encoders(kind: str) -> None:
    # Here and not above: kdviz.models has to prepare torchvision first where it does not fit torch.
    from transformers import DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

    torch.manual_seed(0)
    if kind == "distilbert":
        settings = {"vocab_size": 60, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
        encoder, pad = DistilBertModel(DistilBertConfig(**settings)), 0
    else:
        settings = {"vocab_size": 60, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        encoder, pad = RobertaModel(RobertaConfig(intermediate_size=16, **settings)), 1
    network = TextNetwork(encoder, 3, pad=pad).eval()
    ids = torch.tensor([[2, 7, 9, 3], [2, 5, 3, pad]])
    with torch.no_grad():
        together, alone = network(ids), network(ids[1:, :3])
    torch.testing.assert_close(together[1:], alone, rtol=0, atol=TOLERANCE)
    assert not read(network, "hidden", ids)[1, 3].any()


def test_text_network__refuses_a_classifier_and_takes_the_encoder_inside() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    classifier = BertForSequenceClassification(BertConfig(vocab_size=60, **sizes))
    message = r"got BertForSequenceClassification; pass the encoder inside, such as classifier\.base_model"
    with pytest.raises(TypeError, match=message):
        TextNetwork(classifier, 2)
    network = TextNetwork(classifier.base_model, 2).eval()
    assert network.encoder is classifier.bert
    assert network(batch([*SHORT[:1], 17, 3], length=4)).isfinite().all()


def test_text_network__advice_for_a_tokenizer_without_padding_helps() -> None:
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    tokenizer = review_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    decoder = GPT2Model(GPT2Config(vocab_size=len(tokenizer), n_positions=32, n_embd=8, n_layer=1, n_head=2))
    message = r"pass pad=tokenizer\.pad_token_id, after tokenizer\.pad_token = tokenizer\.eos_token where"
    with pytest.raises(ValueError, match=message):
        TextNetwork(decoder, 2, pad=tokenizer.pad_token_id, pooling="last")
    tokenizer.pad_token = tokenizer.eos_token
    network = TextNetwork(decoder, 2, pad=tokenizer.pad_token_id, pooling="mean").eval()
    tokenizer.backend_tokenizer.post_processor = None  # as of GPT-2, no token after the text
    texts = movie_reviews(count=2)
    ids = torch.from_numpy(encode(texts, tokenizer, length=32).ids)
    own = tokenizer(texts.texts[0])["input_ids"]
    with torch.no_grad():
        alone = network.head(decoder(torch.tensor([own])).last_hidden_state.mean(1))
        torch.testing.assert_close(network(ids)[:1], alone)


# --- with the rest of kdviz ----------------------------------------------------------------------------


def test_measure__of_words_depends_on_neither_padding_nor_batch_mates() -> None:
    tokenizer = review_tokenizer()
    network = text.build("small_bert", classes=2, vocabulary=len(tokenizer)).eval()

    def measure_gain(names: list[str], padding: int = 0) -> np.ndarray:
        encoding = encode(movie_reviews("held-out").select(names), tokenizer)
        result = kdviz.measure(
            network,
            nn.functional.pad(torch.from_numpy(encoding.ids), (0, padding)),
            units=kdviz.units.tokens(
                encoding.texts.words,
                np.pad(encoding.word_of, ((0, 0), (0, padding)), constant_values=-1),
                encoding.lengths,
            ),
            layers="hidden",
            entry="encoder.embeddings",
            base_noise=0.01,
            probes=8,
            draws=2,
            method="gain",
            progress=False,
        )
        return result["gain"].isel(epoch=0, sample=0).values

    alone = measure_gain(["review-07649"])
    assert alone.shape == (13,)
    assert (alone > 0).all()
    together = measure_gain(["review-07649", "review-04541"])
    assert np.isnan(together[13:]).all()
    assert np.array_equal(together[:13], alone)
    assert np.array_equal(measure_gain(["review-07649"], padding=9), alone)


@pytest.fixture(scope="module")
def reviews() -> tuple[torch.Tensor, torch.Tensor]:
    texts = movie_reviews("train", count=200)
    return torch.from_numpy(encode(texts, review_tokenizer(), length=96).ids), torch.from_numpy(texts.labels)


def test_training__small_bert_learns_reviews_by_heart(reviews, tmp_path) -> None:
    network = text.build("small_bert", classes=2, vocabulary=4000, length=96)
    plan = TrainingPlan(epochs=8, learning_rate=3e-3, batch_size=16, weight_decay=0.0, optimiser="adamw")
    layer = text.PRESETS["small_bert"].weights["hidden"]
    record = train(network, *reviews, folder=tmp_path, plan=plan, tracked_layers=[layer], progress=False)
    assert record.history["accuracy"].iloc[0] < 0.7
    assert record.history["accuracy"].iloc[-1] > 0.95


def test_distillation__matches_hidden_tokens_and_leaves_the_head(reviews, tmp_path) -> None:
    student, teacher = (
        text.build("small_bert", classes=2, vocabulary=4000, length=96, seed=s) for s in (0, 1)
    )
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    plan = TrainingPlan(epochs=2, learning_rate=3e-3, batch_size=16, weight_decay=0.0, optimiser="adamw")
    ids, labels = reviews[0][:64], reviews[1][:64]
    record = train(
        student,
        ids,
        teacher=teacher,
        loss=Features("hidden"),
        folder=tmp_path / "body",
        plan=plan,
        tracked_layers=[],
        progress=False,
    )
    assert record.history["loss"].iloc[-1] < record.history["loss"].iloc[0]
    distilled = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    changed = {name for name in before if not torch.equal(before[name], distilled[name])}
    assert {name.split(".")[0] for name in changed} == {"encoder"}
    head = CrossEntropy(beyond="hidden")
    train(student, ids, labels, loss=head, folder=tmp_path / "head", plan=plan, progress=False)
    after = student.state_dict()
    assert {name for name in after if not torch.equal(distilled[name], after[name])} == {
        "head.weight",
        "head.bias",
    }
