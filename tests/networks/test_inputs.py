import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kdviz
from kdviz import schema, units
from kdviz.networks import prepare_inputs
from kdviz.testing import random_images, small_cnn

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
    with pytest.raises(ValueError, match="images, shift, of which 2 are floating point"):
        measure(Named(), {"images": IMAGES[:5], "shift": shift.float()}, layers="inner.fc1")


def test_measure__padding_of_every_tensor_is_cut_off():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.embeddings, self.hidden = nn.Embedding(9, 6), nn.Linear(6, 5)

        def forward(self, attention_mask, input_ids):
            assert attention_mask.all() and attention_mask.shape == input_ids.shape
            return self.hidden(self.embeddings(input_ids).tanh()).mean(1)

    words = units.tokens([["a", "b", "c"], ["d"]], [[0, 1, 2], [0, -1, -1]], [3, 1])
    ids = torch.tensor([[1, 2, 3], [4, 0, 0]])
    options = {"layers": "hidden", "units": words, "entry": "embeddings"}
    ds = measure(Masked(), {"input_ids": ids, "attention_mask": (ids > 0).long()}, **options)
    assert ds["gain"].notnull().sum() == 4
    assert ds["token"].values.tolist() == [["a", "b", "c"], ["d", "", ""]]
