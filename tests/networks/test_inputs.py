import itertools
import pickle
import re
from collections import UserDict
from collections.abc import Iterator

import numpy as np
import pytest
import tokenizers
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import kdviz
import kdviz.models  # before transformers: makes torchvision importable beside a CPU build of torch
from kdviz import schema, units
from kdviz.errors import StoreError
from kdviz.networks import prepare_inputs
from kdviz.testing import random_images, small_cnn

transformers = pytest.importorskip("transformers")

GRID = units.grid(4)
IMAGES = random_images(40, seed=3)
LABELS = np.arange(40) % 4


class Images(Dataset):
    """Items as pairs, mappings or plain tensors; notes which were read."""

    def __init__(self, kind="pair", change=0.0):
        self.kind, self.change, self.read = kind, change, []

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        self.read.append(index)
        image = IMAGES[index] + self.change * len(self.read)
        return {"pair": (image, int(LABELS[index])), "plain": image, "named": {"images": image}}[self.kind]


class Named(nn.Module):
    """Takes its inputs by name, in another order than they are given."""

    def __init__(self):
        super().__init__()
        self.inner = small_cnn(seed=1)

    def forward(self, images, shift=None):
        return self.inner(images if shift is None else images + shift[:, None, None, None])


def measure(network, inputs, **options):
    options = {"layers": "fc1", "units": GRID, "probes": 4, "draws": 2, "progress": False} | options
    return kdviz.measure(network, inputs, **options)


def assert_equal(ours, theirs):
    for name in schema.MEASURED:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    assert ours["sample"].values.tolist() == theirs["sample"].values.tolist()
    assert ours.attrs["input_fingerprint"] == theirs.attrs["input_fingerprint"]


@pytest.mark.parametrize(
    "inputs",
    [
        Images("plain"),
        Images(),
        DataLoader(Images(), batch_size=7),
        list(IMAGES.split(9)),
        iter(IMAGES.split(9)),
    ],
    ids=["dataset", "pairs", "loader", "list", "iterator"],
)
def test_measure__every_form_of_inputs_gives_the_same_bits(inputs):
    ds = measure(small_cnn(seed=1), inputs)
    assert_equal(ds, measure(small_cnn(seed=1), IMAGES))
    has_classes = isinstance(inputs, DataLoader) or getattr(inputs, "kind", "") == "pair"
    assert ("label" in ds.coords) == has_classes
    if has_classes:
        np.testing.assert_array_equal(ds["label"], LABELS)


def test_inputs__are_read_block_by_block_and_pickled_without_being_held():
    dataset = Images("plain")
    inputs = prepare_inputs(dataset, GRID)
    assert dataset.read == list(range(40)), "once, for hashes and checks"
    dataset.read.clear()
    (_, batch), *_ = inputs.batches(range(16, 32), 16)
    assert torch.equal(batch, IMAGES[16:32])
    assert dataset.read == list(range(16, 32))
    assert len(pickle.dumps(inputs)) < IMAGES.nbytes
    loader = prepare_inputs(DataLoader(Images(), batch_size=7), GRID)
    copy = pickle.loads(pickle.dumps(loader))
    for rows in ([20, 21], [3], [39]):  # further on, back, and to the end
        assert torch.equal(copy.read(rows), IMAGES[rows])


def test_inputs__that_change_between_two_readings_are_refused():
    with pytest.raises(ValueError, match=r"inputs change between two readings, first sample .*augmentation"):
        measure(small_cnn(seed=1), Images("plain", change=0.01))


@pytest.mark.parametrize("named", [{"images": IMAGES}, Images("named")], ids=["mapping", "dataset"])
def test_measure__mapping_is_passed_by_name(named):
    ours = measure(Named(), named, layers="inner.fc1", sample_ids=[str(row) for row in range(40)])
    theirs = measure(small_cnn(seed=1), IMAGES, sample_ids=[str(row) for row in range(40)])
    for name in schema.MEASURED:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_measure__noise_falls_on_the_one_floating_point_tensor():
    shift = torch.arange(5)
    ids = list("abcde")
    given = {"shift": shift, "images": IMAGES[:5]}
    for options in ({"method": "gain"}, {"method": "path"}):
        ours = measure(Named(), given, layers="inner.fc1", sample_ids=ids, **options)
        theirs = measure(
            small_cnn(seed=1), IMAGES[:5] + shift[:, None, None, None], sample_ids=ids, **options
        )
        # the shift is added before the noise or after it: rounding of float32
        np.testing.assert_allclose(ours["gain"], theirs["gain"], rtol=1e-3)
    names = [set(prepare_inputs(given | {"shift": shift + by}, GRID).ids) for by in (0, 1)]
    assert names[0].isdisjoint(names[1]), "every tensor counts"


def test_measure__of_several_floating_point_tensors_noise_falls_on_what_the_units_fit_or_entry_names():
    class Added(Named):
        def forward(self, images, shift, mask):
            return self.inner((images + shift) * mask + 0 * images)

    options = {"layers": "inner.fc1", "sample_ids": list("abcde")}
    images, shift = IMAGES[:5], torch.zeros(5, 1, 1, 1)
    plain = measure(small_cnn(seed=1), images, **options | {"layers": "fc1"})
    given = {"mask": torch.ones(5, 1, 1, 1), "shift": shift, "images": images}
    ours = measure(Added(), given, **options)  # a grid of 4 x 4 fits the images only
    np.testing.assert_allclose(ours["gain"], plain["gain"], rtol=1e-3)
    assert '"input": "images"' in ours.attrs["config"]
    twice = given | {"shift": torch.zeros_like(images)}
    with pytest.raises(
        ValueError, match=r"mask, shift, images, of which 3 .* entry= the name of one of them"
    ):
        measure(Added(), twice, **options)
    by_images, by_shift = (measure(Added(), twice, **options, entry=name) for name in ("images", "shift"))
    np.testing.assert_array_equal(by_images["gain"], ours["gain"])
    np.testing.assert_allclose(by_shift["gain"], ours["gain"], rtol=1e-3)  # they are added
    assert '"input": "shift"' in by_shift.attrs["config"]
    by_layer = measure(Added(), twice, **options, entry="inner.conv1", method="gain")
    assert '"entry": "inner.conv1"' in by_layer.attrs["config"]


def test_measure__an_input_named_as_entry_has_the_sizes_of_its_units():
    grid = units.grid(3)  # of 8 x 8 pixels: cells of 4, 6 and 9
    options = {"layers": "inner.fc1", "units": grid, "sample_ids": list("abcde"), "calibration": 0.1}
    given = {"images": IMAGES[:5]}
    found, named = (measure(Named(), given, entry=entry, **options) for entry in (None, "images"))
    pixels = np.bincount(grid.index((1, *IMAGES.shape[2:])).ravel())
    assert len(set(pixels.tolist())) > 1
    np.testing.assert_array_equal(named["unit_size"], np.broadcast_to(pixels * IMAGES.shape[1], (5, 9)))
    assert named.attrs["unit_gain"] == "mean"
    np.testing.assert_array_equal(named["entropy"], found["entropy"])


def test_measure_checkpoints__goes_on_with_the_same_input_named_only(tmp_path):
    class Added(Named):
        def forward(self, images, other):
            return self.inner(images + other)

    given = {"images": IMAGES[:3], "other": IMAGES[3:6]}
    options = {
        "layers": "inner.fc1",
        "units": GRID,
        "method": "gain",
        "probes": 4,
        "draws": 2,
        "progress": False,
    }
    options |= {"network": "one", "role": "teacher", "store": tmp_path / "run.zarr"}
    states = {0: Added().state_dict()}
    ds = kdviz.measure_checkpoints(Added, states, given, entry="other", **options)
    assert '"input": "other"' in ds.attrs["config"]
    with pytest.raises(StoreError, match="config"):
        kdviz.measure_checkpoints(Added, states, given, entry="images", **options)


@pytest.mark.parametrize("name", ["label", "labels", "label_ids", "y", "target", "targets"])
def test_measure__classes_in_a_mapping_are_labels_and_are_not_passed_on(name):
    images, ids = IMAGES[:5], list("abcde")
    items = [{"images": image, name: at % 3, "text": "words"} for at, image in enumerate(images)]
    forms = [
        {"images": images, name: torch.arange(5) % 3},
        UserDict({"images": images, name: torch.arange(5) % 3}),
        items,
        DataLoader(items, batch_size=2),
        [({"images": images}, torch.arange(5) % 3)],
        TensorDict(items),
    ]
    expected = measure(small_cnn(seed=1), images, sample_ids=ids)
    for form in forms[:2] + forms[3:]:
        ds = measure(Named(), form, layers="inner.fc1", sample_ids=ids)
        np.testing.assert_array_equal(ds["gain"], expected["gain"])
        assert ds["label"].values.tolist() == [0, 1, 2, 0, 1]
    ds = measure(Named(), forms[0], layers="inner.fc1", sample_ids=ids, labels=[4, 3, 2, 1, 0])
    assert ds["label"].values.tolist() == [4, 3, 2, 1, 0], "those passed are taken"


class TensorDict(Dataset):
    """A dataset of mappings."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


@pytest.mark.parametrize(
    "target",
    [
        torch.rand(5),
        torch.rand(5, 3),
        torch.zeros(5, 8, 8, dtype=torch.int64),
        ["cat"] * 5,
        {"boxes": IMAGES},
    ],
    ids=["regression", "soft", "segmentation", "names", "boxes"],
)
def test_measure__other_targets_are_left_out(target):
    ds = measure(small_cnn(seed=1), [(IMAGES[:5], target)])
    assert_equal(ds, measure(small_cnn(seed=1), IMAGES[:5]))
    assert "label" not in ds.coords
    by_name = measure(Named(), {"images": IMAGES[:5], "labels": torch.rand(5)}, layers="inner.fc1")
    assert "label" not in by_name.coords


def test_measure__tuples_of_several_inputs_are_asked_for_by_name_and_the_advice_helps():
    shift, classes = torch.arange(5), torch.tensor([3, 1, 2, 0, 3])
    loader = DataLoader(TensorDataset(IMAGES[:5], torch.stack([shift, shift], 1), classes), batch_size=2)
    with pytest.raises(
        TypeError, match=r"tuples of 3, .* pass mappings .* \(\{'input_ids': ids, .* in loader\)"
    ):
        measure(Named(), loader, layers="inner.fc1")
    named = ({"images": images, "shift": two[:, 0], "labels": label} for images, two, label in loader)
    ds = measure(Named(), named, layers="inner.fc1")
    together = measure(Named(), {"images": IMAGES[:5], "shift": shift}, layers="inner.fc1")
    np.testing.assert_array_equal(ds["gain"], together["gain"])
    assert ds["label"].values.tolist() == classes.tolist()
    triples = [(IMAGES[:5], classes, torch.arange(5))]  # images, classes, positions in the data
    assert measure(small_cnn(seed=1), triples)["label"].values.tolist() == classes.tolist()


class Masked(nn.Module):
    """Reads ids and several masks, all of one length and without padding."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embeddings, self.hidden = nn.Embedding(9, 6), nn.Linear(6, 5)

    def forward(self, attention_mask, input_ids, square=None):
        assert attention_mask.all() and attention_mask.shape == input_ids.shape
        length = input_ids.shape[1]
        assert square is None or square.shape == (len(input_ids), 1, length, length)
        return self.hidden(self.embeddings(input_ids).tanh()).mean(1)


WORDS = units.tokens([["a", "b", "c"], ["d", "e"]], [[0, 1, 2], [0, 1, -1]], [3, 2])
IDS = torch.tensor([[1, 2, 3], [4, 5, 0]])
TEXTS = {"layers": "hidden", "units": WORDS, "entry": "embeddings", "sample_ids": ["one", "two"]}


def test_measure__padding_of_every_tensor_is_cut_off():
    given = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
    ds = measure(Masked(), given, **TEXTS)
    assert ds["gain"].notnull().sum() == 5
    assert ds["token"].values.tolist() == [["a", "b", "c"], ["d", "e", ""]]
    square = measure(Masked(), given | {"square": (IDS > 0)[:, None, None].expand(-1, 1, 3, -1)}, **TEXTS)
    np.testing.assert_array_equal(square["gain"], ds["gain"])
    batch = transformers.BatchEncoding(
        {name: tensor.tolist() for name, tensor in given.items()}, tensor_type="pt"
    )
    np.testing.assert_array_equal(measure(Masked(), batch, **TEXTS)["gain"], ds["gain"])
    with pytest.raises(
        TypeError, match=r"got one of list; .* return_tensors='pt' lets a tokenizer give tensors"
    ):
        measure(
            Masked(), transformers.BatchEncoding({"input_ids": [[1, 2]], "attention_mask": [[1, 1]]}), **TEXTS
        )


def test_measure__embeddings_are_cut_along_their_tokens():
    class Embedded(Masked):
        def forward(self, inputs_embeds, attention_mask):
            assert attention_mask.all() and attention_mask.shape == inputs_embeds.shape[:2]
            return self.hidden(inputs_embeds.tanh()).mean(1)

    network = Embedded()
    vectors = network.embeddings(IDS).detach()
    options = TEXTS | {"entry": "inputs_embeds", "base_noise": 0.01}
    masked = {"attention_mask": (IDS > 0).float()}  # floating point, and no place for noise on words
    ds = measure(network, masked | {"inputs_embeds": vectors}, **options)
    by_ids = {"input_ids": IDS, "attention_mask": (IDS > 0).long()}
    expected = measure(Masked(), by_ids, **TEXTS, base_noise=0.01)
    np.testing.assert_allclose(ds["gain"], expected["gain"], rtol=1e-5)


def test_measure__texts_padded_at_the_left_are_seen_and_the_advice_helps():
    flipped = torch.tensor([[1, 2, 3], [0, 4, 5]])
    mask = (flipped > 0).long()
    message = r"text 1 is not its first 2 tokens, .* tokenizer.padding_side = 'right'"
    with pytest.raises(ValueError, match=message):
        measure(Masked(), {"input_ids": flipped, "attention_mask": mask}, **TEXTS)
    with pytest.raises(ValueError, match="text 0 is not its first 1 tokens"):
        one = units.tokens([["a"]], [[0, -1, -1]], [1])
        measure(
            Masked(), torch.tensor([[0, 4, 5]]), **(TEXTS | {"units": one, "sample_ids": None})
        )  # padding is one id, alone
    with pytest.raises(ValueError, match=r"units are of texts of 3 tokens, padding included; .*\(4,\)"):
        measure(Masked(), torch.zeros(2, 4, dtype=torch.int64), **TEXTS)
    vocabulary = {"[PAD]": 0, **{word: at for at, word in enumerate("abcde", 1)}}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[PAD]"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", padding_side="left"
    )
    texts, options = (
        ["a b c", "d e"],
        {"padding": True, "return_tensors": "pt", "return_token_type_ids": False},
    )
    with pytest.raises(ValueError, match=message):
        measure(Masked(), tokenizer(texts, **options), **TEXTS)
    tokenizer.padding_side = "right"
    ds = measure(Masked(), tokenizer(texts, **options), **TEXTS)
    expected = measure(Masked(), {"input_ids": IDS, "attention_mask": (IDS > 0).long()}, **TEXTS)
    np.testing.assert_array_equal(ds["gain"], expected["gain"])


def test_measure__the_first_token_of_a_decoder_is_refused_and_the_advice_helps():
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    network = transformers.GPT2Model(config)
    options = TEXTS | {"layers": "h.1", "entry": "drop"}
    with pytest.raises(ValueError, match=r"moves with 1 of the 3 words .* feature='last' or feature='mean'"):
        measure(network, IDS, **options, feature="first")
    for feature in ("last", "mean"):
        ds = measure(network, IDS, **options, feature=feature)
        assert (ds["gain"].values[0, 0] > 0).all()
    own = kdviz.models.text.TextNetwork(network, 2, pad=0, pooling="last")
    by_name = measure(own, IDS, **(options | {"layers": "last", "entry": "encoder.drop"}))
    picked = measure(network, IDS, **(options | {"layers": "ln_f"}), feature="last")
    np.testing.assert_allclose(by_name["gain"], picked["gain"], rtol=1e-4)


# -- datasets, loaders and lists as people have them


class Streamed(IterableDataset):
    """Samples one after the other, with or without a length."""

    def __iter__(self):
        yield from zip(IMAGES, LABELS.tolist(), strict=True)


class Sized(Streamed):
    def __len__(self):
        return len(IMAGES)


class OfSizes(Dataset):
    """Images of several sizes."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.ones(3, 8, 8 + 2 * (index % 2)) * (1 + index), index


@pytest.mark.parametrize(
    "inputs",
    [
        list(IMAGES),
        tuple(IMAGES),
        iter(IMAGES),
        list(zip(IMAGES, LABELS.tolist(), strict=True)),
        [{"image": image, "label": label} for image, label in zip(IMAGES, LABELS.tolist(), strict=True)],
        DataLoader([{"image": image, "label": at % 4} for at, image in enumerate(IMAGES)], batch_size=7),
        Streamed(),
        Sized(),
        DataLoader(Streamed(), batch_size=9),
        DataLoader(Subset(Images(), range(40)), batch_size=7, num_workers=1),
    ],
    ids="list tuple iterator pairs mappings named streamed sized stream-loader worker".split(),
)
def test_measure__samples_one_by_one_give_the_bits_of_a_batch(inputs):
    has_classes = not isinstance(inputs, (tuple, Iterator)) and not isinstance(inputs, list)
    has_classes |= isinstance(inputs, list) and not isinstance(inputs[0], torch.Tensor)
    ids = [str(at) for at in range(40)]
    ds = measure(small_cnn(seed=1), inputs, sample_ids=ids, method="gain")
    expected = measure(small_cnn(seed=1), IMAGES, sample_ids=ids, method="gain")
    np.testing.assert_array_equal(ds["gain"], expected["gain"])
    assert ("label" in ds.coords) == has_classes
    if has_classes:
        np.testing.assert_array_equal(ds["label"], LABELS)


def test_attribute__takes_the_mappings_of_a_loader_and_given_labels_before_theirs():
    loader = DataLoader([{"image": image, "label": 1} for image in IMAGES[:4]], batch_size=3)
    options = {"units": GRID, "methods": ["input_gradient"], "progress": False}
    ours = kdviz.attribute(small_cnn(seed=1), loader, **options)
    theirs = kdviz.attribute(small_cnn(seed=1), IMAGES[:4], labels=[1] * 4, **options)
    np.testing.assert_array_equal(ours["attribution"], theirs["attribution"])
    given = kdviz.attribute(small_cnn(seed=1), loader, labels=[3, 2, 1, 0], **options)
    assert given["label"].values.tolist() == given["explained"].values.tolist() == [3, 2, 1, 0]


def test_measure__clouds_and_texts_come_in_lists_too():
    clouds = random_images(3, channels=6, size=3, seed=4)[:, :, 0]  # (3, 6, 3): three clouds of six points
    network = nn.Sequential(nn.Flatten(), nn.Linear(18, 5))
    options = {"layers": "1", "units": units.cloud(6), "sample_ids": list("abc"), "method": "gain"}
    listed, batches, together = (
        measure(network, form, **options) for form in (list(clouds), list(clouds.split(2)), clouds)
    )
    np.testing.assert_array_equal(listed["gain"], together["gain"])
    np.testing.assert_array_equal(batches["gain"], together["gain"])
    texts = [{"input_ids": ids, "attention_mask": (ids > 0).long()} for ids in IDS]
    listed = measure(Masked(), texts, **TEXTS)
    stacked = measure(Masked(), {"input_ids": IDS, "attention_mask": (IDS > 0).long()}, **TEXTS)
    np.testing.assert_array_equal(listed["gain"], stacked["gain"])


@pytest.mark.parametrize(
    "loader",
    [
        DataLoader(Images(), batch_size=7, shuffle=True),
        DataLoader(Images(), batch_size=7, sampler=WeightedRandomSampler([1.0] * 40, 40)),
        DataLoader(Images(), batch_sampler=BatchSampler(RandomSampler(Images()), 7, drop_last=False)),
        DataLoader(Images(), batch_size=7, sampler=DistributedSampler(Images(), 2, 0, shuffle=True)),
    ],
    ids=["shuffle", "sampler", "batch-sampler", "distributed"],
)
def test_measure__a_loader_that_shuffles_is_refused_and_the_advice_helps(loader):
    with pytest.raises(ValueError, match=r"DataLoader that shuffles \(\w+\): .* inputs=loader.dataset"):
        measure(small_cnn(seed=1), loader)
    ds = measure(small_cnn(seed=1), loader.dataset, method="gain")
    assert ds["label"].values.tolist() == LABELS.tolist()
    again = DataLoader(loader.dataset, batch_size=7, shuffle=False)
    assert measure(small_cnn(seed=1), again, method="gain")["label"].values.tolist() == LABELS.tolist()


class Forever(Sampler):
    def __iter__(self):
        return itertools.cycle(range(40))


class Unending(IterableDataset):
    def __iter__(self):
        return itertools.cycle(zip(IMAGES, LABELS, strict=True))


@pytest.mark.parametrize(
    "inputs",
    [
        itertools.cycle([IMAGES]),
        (IMAGES for _ in itertools.count()),
        DataLoader(Images(), batch_size=7, sampler=Forever()),
        DataLoader(Unending(), batch_size=50),
    ],
    ids=["cycle", "generator", "sampler", "stream"],
)
def test_measure__inputs_without_an_end_are_refused_and_the_advice_helps(inputs):
    with pytest.raises(ValueError, match=r"inputs seem to have no end \(.*list\(itertools.islice\(inputs"):
        measure(small_cnn(seed=1), inputs)
    some = list(itertools.islice(inputs, 2))
    assert measure(small_cnn(seed=1), some, method="gain").sizes["sample"] in (14, 80, 100)


@pytest.mark.parametrize(
    "inputs",
    [
        [image for image, _ in (OfSizes()[at] for at in range(4))],
        OfSizes(),
        DataLoader(OfSizes(), batch_size=3),
        DataLoader(OfSizes(), batch_size=1),
        DataLoader(OfSizes(), batch_size=4, num_workers=1),
    ],
    ids=["list", "dataset", "loader", "single", "worker"],
)
def test_measure__images_of_several_sizes_are_refused_and_the_advice_helps(inputs):
    with pytest.raises(ValueError, match=r"one shape, got samples of \(3, 8, 8\), \(3, 8, 10\); ") as caught:
        measure(small_cnn(seed=1), inputs)
    (advice,) = re.findall(r"such as (torch\.cat\(.*\))$", str(caught.value))
    images = eval(advice, {"torch": torch, "images": [OfSizes()[at][0] for at in range(4)]})
    # images of one value keep it, whatever they are resized to
    torch.testing.assert_close(images, torch.arange(1.0, 5)[:, None, None, None].expand(4, 3, 8, 8))
    assert measure(small_cnn(seed=1), images, method="gain").sizes["sample"] == 4


def test_measure__texts_of_several_lengths_are_told_to_be_padded():
    with pytest.raises(ValueError, match=r"samples of \(2,\), \(3,\); pad texts to one length"):
        measure(Masked(), [IDS[0], IDS[1, :2]], **TEXTS)
