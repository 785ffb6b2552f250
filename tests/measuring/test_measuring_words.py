"""Words: noise on the output of an embedding, pieces in one unit, nothing from padding or batch mates."""

import numpy as np
import pytest
import torch
from reference import sampled_optimum
from torch import nn

from kdviz import derive_entropy, find_points, measure, measure_checkpoints, open_run, units
from kdviz.errors import DegenerateWarning, LayerError, StoreError
from kdviz.measuring import Measurement, Settings, measurement
from kdviz.networks import prepare_inputs
from kdviz.sources import TextSet
from kdviz.store import Run

torch.set_num_threads(1)
PAD, VOCABULARY, WIDTH = 0, 20, 16


class Embedding(nn.Module):
    """Token and position vectors and LayerNorm, as in BERT."""

    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(VOCABULARY, WIDTH)
        self.place = nn.Embedding(32, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, ids):
        return self.norm(self.word(ids) + self.place.weight[: ids.shape[1]])


class Encoder(nn.Module):
    """A transformer layer after an embedding; padding is masked. ``hidden`` gives all tokens."""

    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embeddings = Embedding()
            self.hidden = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, dropout=0.1)
            self.head = nn.Linear(WIDTH, 2)
            nn.init.normal_(self.embeddings.norm.weight, 1.0, 0.3)

    def forward(self, ids):
        return self.head(self.hidden(self.embeddings(ids), src_key_padding_mask=ids == PAD)[:, 0])


class LinearOfWords(nn.Module):
    """A linear feature of all embedded numbers, two a token: its gains are known."""

    def __init__(self, weights):
        super().__init__()
        self.embeddings = nn.Embedding(VOCABULARY, 2)
        self.feature = nn.Linear(weights.shape[1], len(weights), bias=False)
        with torch.no_grad():
            self.feature.weight.copy_(torch.as_tensor(weights))

    def forward(self, ids):
        return self.feature(self.embeddings(ids).flatten(1))


TEXTS = (("a", "fine", "unlikely", "film"), ("bad",), ("so", "very", "good"))
PIECES = ((-1, 0, 1, 2, 2, 3, -1), (-1, 0, -1), (-1, 0, 1, 1, 2, -1))


def make_inputs(rows=(0, 1, 2), length=7):
    """Ids of some of the texts, padded to `length`, and their units."""
    generator = np.random.default_rng(7)
    ids = [generator.integers(1, VOCABULARY, len(pieces)) for pieces in PIECES]
    padded = torch.full((len(rows), length), PAD)
    word_of = np.full((len(rows), length), -1)
    for at, row in enumerate(rows):
        padded[at, : len(ids[row])] = torch.as_tensor(ids[row])
        word_of[at, : len(ids[row])] = PIECES[row]
    lengths = [len(ids[row]) for row in rows]
    return padded, units.tokens([TEXTS[row] for row in rows], word_of, lengths)


def run(network=None, rows=(0, 1, 2), length=7, **options):
    ids, words = make_inputs(rows, length)
    names = [f"text-{row}" for row in rows]
    settings = {"layers": "hidden", "entry": "embeddings", "progress": False, "sample_ids": names} | options
    return measure(network or Encoder(), ids, units=words, **settings)


def test_measure__linear_words_have_the_gain_of_the_formula():
    """Two pieces make one word, special tokens are no unit, and numbers are in units of the RMS."""
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    network = LinearOfWords(weights)
    ids, words = torch.tensor([[3, 5, 7, 9]]), units.tokens([["ab", "c"]], [[0, 0, 1, -1]], [4])
    ds = measure(network, ids, layers="feature", units=words, entry="embeddings", progress=False)
    embedded = network.embeddings(ids)[0, :3].detach().double()
    unit = float(embedded.square().mean().sqrt())
    assert float(ds["noise_unit"][0]) == pytest.approx(unit, rel=1e-6)
    by_token = weights.square().sum(0).view(4, 2).sum(1) / 3 * unit**2
    expected = [by_token[0] + by_token[1], by_token[2]]
    np.testing.assert_allclose(ds["gain"][0, 0], expected, rtol=1e-5)
    assert ds["token"].values.tolist() == [["ab", "c"]]
    assert (ds.attrs["modality"], ds.attrs["noise_space"], ds.attrs["base_noise"]) == (
        "text",
        "relative embedding",
        0.01,
    )


def test_measure__entropies_of_words_follow_from_gains_as_for_images():
    ds = run()
    derived = derive_entropy(ds)
    valid = ds["valid"].values[None]
    np.testing.assert_allclose(derived["entropy"].values[valid], ds["entropy"].values[valid], atol=2e-5)
    means = np.log(ds["noise_scale"] / 0.01).where(ds["valid"]).weighted(ds["unit_size"]).mean("unit")
    np.testing.assert_allclose(means, 0.386, atol=1e-4)
    assert np.isnan(ds["gain"].values[~valid]).all()
    assert ds["valid"].sum("unit").values.tolist() == [4, 1, 3]


@pytest.mark.parametrize("method", ["gain", "path"])
def test_measure__neither_padding_nor_batch_mates_change_a_bit(method):
    """By construction: every text is measured alone and without padding."""
    noise = {"base_noise": 0.01, "method": method, "draws": 4}
    together, longer = run(**noise), run(length=24, **noise)
    turned = run(rows=(2, 0, 1), **noise).sel(sample=together["sample"])
    for name in ("gain", "entropy", "feature_variance", "linearity", "gain_error"):
        for other in (longer, turned):
            np.testing.assert_array_equal(together[name].values, other[name].values, err_msg=name)
    for row, words in enumerate(TEXTS):
        alone = run(rows=(row,), **noise)
        ours = together["entropy"].values[0, row, : len(words)]
        np.testing.assert_array_equal(ours, alone["entropy"].values[0, 0])


def test_measure__unit_of_noise_does_not_depend_on_order_or_padding():
    units_of = [
        float(run(**options)["noise_unit"][0]) for options in ({}, {"length": 20}, {"rows": (2, 1, 0)})
    ]
    assert len(set(units_of)) == 1


def test_measure__input_hashes_ignore_padding():
    ids = [run(length=length, sample_ids=None)["sample"].values.tolist() for length in (7, 16)]
    assert ids[0] == ids[1]


def test_measure__scaling_an_embedding_and_what_reads_it_changes_no_entropy():
    """One unit of noise is the RMS, so the numbers of the embedding do not matter, only what they do."""
    weights = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    ids, words = torch.tensor([[3, 5, 7, 9]]), units.tokens([["ab", "c"]], [[0, 0, 1, -1]], [4])
    found = []
    for factor in (1.0, 4.0):
        network = LinearOfWords(weights)
        with torch.no_grad():
            network.embeddings.weight.copy_(torch.linspace(-1, 1, 2 * VOCABULARY).view(-1, 2) * factor)
            network.feature.weight.div_(factor)
        found.append(measure(network, ids, layers="feature", units=words, entry="embeddings", progress=False))
    np.testing.assert_allclose(found[0]["entropy"], found[1]["entropy"], atol=1e-6)
    assert float(found[1]["noise_unit"][0] / found[0]["noise_unit"][0]) == pytest.approx(4)


def test_measure__several_draws_in_a_pass_change_rounding_only():
    alone, together = run(max_batch=1), run(max_batch=16)
    np.testing.assert_allclose(alone["entropy"], together["entropy"], atol=1e-5)


def test_measure__optimum_of_the_gains_is_that_of_sampled_losses():
    ds = derive_entropy(run(draws=8, probes=256), solver="optimum", calibration=None, weight=1.0)
    ids, words = make_inputs()
    inputs = prepare_inputs(ids, words, sample_ids=[f"text-{row}" for row in range(3)], entry="embeddings")
    settings = Settings.for_units(words, entry="embeddings", weight=1.0)
    same = Measurement(Encoder, {0: None}, inputs, "hidden", settings)
    sampled = sampled_optimum.measure_entropy(same, steps=200)
    # where the sampled descent itself repeats to about 0.03
    assert float(abs(ds["entropy"][0] - sampled).mean()) < 0.05
    np.testing.assert_array_equal(np.isnan(sampled), ~ds["valid"])


def test_measure_checkpoints__stores_the_unit_of_noise_and_resumes_to_the_same_bits(tmp_path):
    checkpoints = {epoch: Encoder(seed=epoch).state_dict() for epoch in (0, 1)}
    ids, words = make_inputs()
    foreground = np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0]], bool)
    options = {"layers": "hidden", "units": words, "entry": "embeddings", "progress": False, "draws": 2}
    about = {"network": "student", "role": "student", "foreground": foreground}

    def measure_into(store):
        with pytest.warns(DegenerateWarning, match="no foreground"):
            return measure_checkpoints(Encoder, checkpoints, ids, store=store, **options, **about)

    first = measure_into(tmp_path / "run")
    again = measure_into(tmp_path / "run")  # nothing is missing, all of it comes from the disk
    plain = measure_into(None)
    for other in (again, plain):
        for name in ("gain", "noise_unit", "entropy"):
            np.testing.assert_array_equal(first[name].values, other[name].values, err_msg=name)
    assert first["noise_unit"].shape == (2,) and len(set(first["noise_unit"].values.tolist())) == 2
    opened = open_run(tmp_path / "run")
    assert opened.samples["token"].values.tolist()[1] == ["bad", "", "", ""]
    points = find_points(derive_entropy(opened.dataset("student", "hidden")))["knowledge_point"]
    assert not points.values[:, ~words.valid(3)].any()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"entry": None}, ValueError, "needs entry: the name of the module"),
        ({"entry": "embedding"}, LayerError, "unknown layer 'embedding'; did you mean 'embeddings'"),
        ({"entry": "head"}, ValueError, r"one vector a token, \(7, width\), where noise enters; got \(2,\)"),
        (
            {"foreground": np.ones((3, 4), bool)},
            ValueError,
            "'foreground' is True at 4 padded units",
        ),
        ({"foreground": np.ones((3, 7), bool)}, ValueError, r"allowed: \(3, 4\), one flag a unit"),
        (
            {"rows": (0, 1), "sample_ids": ["a"]},
            ValueError,
            "must be 2 unique names, got 1, 1 different",
        ),
    ],
)
def test_measure__bad_arguments(options, error, message):
    with pytest.raises(error, match=message):
        run(**options)


def test_measure__float_inputs_need_an_entry_too():
    ids, words = make_inputs()
    with pytest.raises(ValueError, match="needs entry: the name of the module"):
        measure(Encoder(), ids.float(), units=words, layers="hidden", progress=False)


def test_measure__texts_of_another_number_than_the_units():
    ids, words = make_inputs()
    with pytest.raises(ValueError, match="has the words of 3 texts, inputs are 2"):
        measure(Encoder(), ids[:2], units=words, layers="hidden", entry="embeddings", progress=False)


@pytest.mark.parametrize("base_noise", [None, 0.1])
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (VOCABULARY, "index out of range"),
        (None, r"The size of tensor a \(33\) must match .* \(32\)"),
    ],
    ids=["vocabulary", "positions"],
)
def test_measure__ids_that_the_embedding_does_not_hold(changed, reason, base_noise):
    ids, words = make_inputs()
    if changed is None:
        ids = torch.arange(1, VOCABULARY).repeat(2)[None, :33]
        words = units.tokens([["all"]], np.zeros((1, 33), int), [33])
    else:
        ids[0, 0], ids[0, 1] = 0, changed
    network = Encoder()
    message = f"entry 'embeddings' cannot embed these ids: {reason}.* come from another tokenizer"
    with pytest.raises(ValueError, match=message) as caught:
        measure(
            network, ids, units=words, layers="hidden", entry="embeddings", base_noise=base_noise,
            progress=False,
        )  # fmt: skip
    assert isinstance(caught.value.__cause__, (IndexError, RuntimeError))
    assert not network.embeddings._forward_hooks


@pytest.mark.parametrize("layer", ["embeddings.word", "embeddings"])
def test_measure__a_layer_in_front_of_the_entry(layer):
    message = f"no gradient connects layer '{layer}' with the output of entry 'embeddings'"
    with pytest.raises(ValueError, match=message):
        run(layers=layer)


def test_measure__half_precision_advice_leaves_token_ids_alone():
    with pytest.raises(
        ValueError, match=r"pass network\.float\(\), and inputs that are no token ids"
    ) as caught:
        run(Encoder().half())
    assert "inputs.float()" not in str(caught.value)


class Twice(Encoder):
    """Embeds its tokens twice."""

    def forward(self, ids):
        shifted = self.embeddings((ids + 1) % VOCABULARY)
        return self.head(self.hidden(self.embeddings(ids) - shifted)[:, 0])


def test_measure__entry_that_is_used_twice_is_refused():
    with pytest.raises(LayerError, match="'embeddings' is used 2 times in one forward pass"):
        run(Twice())


class Editing(Encoder):
    """Changes its input in place, as a careless forward pass may."""

    def forward(self, ids):
        return super().forward(ids.clamp_(max=4))


class Clamping(Encoder):
    def forward(self, ids):
        return super().forward(ids.clamp(max=4))


def test_measure__ids_of_the_user_are_not_changed_by_the_network():
    ids, words = make_inputs()
    before = ids.clone()
    options = {"units": words, "layers": "hidden", "entry": "embeddings", "progress": False}
    careless, careful = (measure(network(), ids, **options) for network in (Editing, Clamping))
    assert torch.equal(ids, before)
    np.testing.assert_array_equal(careless["gain"], careful["gain"])


def test_measure__entry_may_be_a_module():
    network = Encoder()
    np.testing.assert_array_equal(run(network, entry=network.embeddings)["gain"], run(network)["gain"])


@pytest.mark.parametrize("moment", ["second block", "after the last block"])
def test_measure_checkpoints__interrupted_goes_on_to_the_same_bits(tmp_path, monkeypatch, moment):
    checkpoints = {epoch: Encoder(seed=epoch).state_dict() for epoch in (0, 1)}
    ids, words = make_inputs()
    options = {"layers": "hidden", "units": words, "entry": "embeddings", "progress": False, "draws": 2}
    about = {"network": "student", "role": "student"}

    def measure_into(name):
        return measure_checkpoints(Encoder, checkpoints, ids, store=tmp_path / name, **options, **about)

    whole = measure_into("whole")
    owner, name = (measurement, "measure_block") if moment == "second block" else (Run, "write_variable")
    function, calls = getattr(owner, name), []

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == (2 if moment == "second block" else 1):
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        with pytest.raises(KeyboardInterrupt):
            measure_into("broken")
    continued = measure_into("broken")
    for variable in ("gain", "entropy", "noise_unit"):
        np.testing.assert_array_equal(whole[variable].values, continued[variable].values, err_msg=variable)


def test_measure_checkpoints__relative_noise_is_not_continued_with_absolute(tmp_path, monkeypatch):
    ids, words = make_inputs()
    options = {"layers": "hidden", "units": words, "entry": "embeddings", "progress": False, "draws": 2}
    options |= {"network": "one", "role": "teacher", "store": tmp_path / "run"}
    measure_checkpoints(Encoder, {0: Encoder().state_dict()}, ids, **options)
    with pytest.raises(StoreError, match="noise_space"):
        measure_checkpoints(Encoder, {0: Encoder().state_dict()}, ids, base_noise=0.01, **options)


def test_measure__network_is_left_as_found():
    network = Encoder().train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    run(network)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training and not network.embeddings._forward_hooks and not network.hidden._forward_hooks


def test_measure__another_cut_into_words_is_another_input(tmp_path):
    ids = torch.tensor([[3, 5, 7, 9]])
    options = {
        "layers": "hidden",
        "entry": "embeddings",
        "progress": False,
        "network": "one",
        "role": "teacher",
    }
    options |= {"store": tmp_path / "run", "sample_ids": ["a"], "draws": 2}
    weights = {0: Encoder().state_dict()}
    for word_of in ([[0, 0, 1, -1]], [[0, 1, 1, -1]]):
        words = units.tokens([["ab", "c"]], word_of, [4])
        if word_of[0][1] == 0:
            measure_checkpoints(Encoder, weights, ids, units=words, **options)
        else:
            with pytest.raises(StoreError, match="input_fingerprint"):
                measure_checkpoints(Encoder, weights, ids, units=words, **options)


# -- words of several pieces


def draw_words(pieces, seed=3):
    """Random ids of one text whose words have so many pieces each."""
    word_of = np.repeat(np.arange(len(pieces)), pieces)[None]
    ids = torch.randint(1, VOCABULARY, (1, word_of.size), generator=torch.Generator().manual_seed(seed))
    return ids, units.tokens([[f"w{at}" for at in range(len(pieces))]], word_of, [word_of.size])


@pytest.mark.parametrize("method", ["gain", "path"])
def test_unit_gain__pieces_that_weigh_alike_are_kept_alike(method):
    """A feature that adds up all pieces: by the mean, words of 1 to 4 pieces end at one entropy."""
    ids, words = draw_words([1, 2, 3, 4, 1, 1])
    weights = torch.ones(3, 2 * ids.shape[1])
    options = {"layers": "feature", "entry": "embeddings", "method": method, "progress": False}
    by = {
        unit_gain: measure(LinearOfWords(weights), ids, units=words, unit_gain=unit_gain, **options)
        for unit_gain in ("mean", "sum")
    }
    np.testing.assert_allclose(by["mean"]["entropy"], by["mean"]["entropy"][0, 0, 0], atol=0.02)
    assert by["mean"]["unit_size"].values.tolist() == [[1, 2, 3, 4, 1, 1]]
    one, four = by["sum"]["entropy"].values[0, 0, [0, 3]]
    assert one - four > 0.25
    for unit_gain, ds in by.items():
        derived = derive_entropy(ds, unit_gain=unit_gain)
        np.testing.assert_allclose(derived["entropy"], ds["entropy"], atol=1e-5)
        assert (derived["entropy"].attrs["unit_gain"], ds.attrs["unit_gain"]) == (unit_gain, unit_gain)
        assert derived["entropy"].attrs["extrapolated"] == 0
    other = derive_entropy(by["mean"], unit_gain="sum")
    assert other["entropy"].attrs["extrapolated"] == 1
    if method == "gain":
        np.testing.assert_allclose(other["entropy"], by["sum"]["entropy"], atol=0.02)


def test_unit_gain__no_point_comes_from_tokenisation_alone():
    """An untrained encoder, as it was made; by the sum, all points are words of three pieces."""
    ids, words = draw_words([1, 1, 3, 1, 2, 1, 1, 3, 1, 1])
    foreground = np.zeros((1, 10), bool)
    foreground[0, :2] = True
    ds = measure(
        Encoder(),
        ids,
        layers="hidden",
        units=words,
        entry="embeddings",
        foreground=foreground,
        progress=False,
    )
    kept = {
        unit_gain: find_points(derive_entropy(ds, unit_gain=unit_gain))["knowledge_point"].values[0, 0]
        for unit_gain in ("mean", "sum")
    }
    assert not kept["mean"].any()
    assert {7} <= {*np.flatnonzero(kept["sum"])} <= {2, 7}


def test_unit_gain__what_is_neither_is_refused():
    with pytest.raises(ValueError, match="unit_gain is 'median'; did you mean 'mean'"):
        run(unit_gain="median")
    with pytest.raises(ValueError, match="unit_gain is 'median'; did you mean 'mean'"):
        derive_entropy(run(), unit_gain="median")


def test_unit_gain__studies_and_measuring_describe_units_alike():
    """A run made by a study holds the sizes by which its entropies were solved."""
    texts = TextSet.from_sentences(["An unlikely film.", "Memorable."], [0, 1])
    prepared = texts.prepare()
    ours = texts.describe(prepared)
    theirs = prepare_inputs(torch.as_tensor(prepared.inputs), prepared.units, entry="embeddings").samples
    for name in ("valid", "unit_size", "token"):
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours["unit_size"].values.max() > 1
