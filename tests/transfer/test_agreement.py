"""Consensus and accuracy by group, against tables of answers."""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import testing, transfer


@pytest.mark.parametrize("max_batch", [1, 3, 64])
def test_consensus__is_what_the_tables_say(tables, numbered, labels, max_batch):
    ds = transfer.consensus(
        tables, numbered, labels, teacher="teacher", independent="alone",
        domain=["a"] * 4 + ["b"] * 4, max_batch=max_batch, progress=False,
    )  # fmt: skip
    by_domain = ds["same_answer"].groupby("domain").mean()
    np.testing.assert_array_equal(by_domain.sel(network="alone"), [1.0, 0.0])
    np.testing.assert_array_equal(by_domain.sel(network="student"), [1.0, 0.75])
    np.testing.assert_array_equal(ds["same_answer"].sel(network="teacher"), True)
    np.testing.assert_array_equal(ds["right"].mean("sample"), [7 / 8, 5 / 8, 6 / 8])
    assert ds["role"].values.tolist() == ["teacher", "independent", "student"]


def test_bias__is_the_accuracy_of_groups(tables, numbered, labels):
    ds = transfer.bias(tables, numbered, labels, teacher="teacher", group=list("xxxxyyyy"), progress=False)
    found = ds["right"].groupby("group").mean()
    np.testing.assert_array_equal(found.sel(group="y"), [0.75, 0.25, 0.5])
    np.testing.assert_array_equal(found.sel(group="x"), 1.0)


def test_question__says_what_is_wrong_before_any_work(tables, numbered, labels):
    def ask(networks=tables, inputs=numbered, given=labels, **options):
        return transfer.consensus(networks, inputs, given, **({"teacher": "teacher"} | options))

    with pytest.raises(ValueError, match="networks must map names to networks, the teacher and at least one"):
        ask({"teacher": tables["teacher"]})
    with pytest.raises(ValueError, match="teacher is 'techer'; did you mean 'teacher'"):
        ask(teacher="techer")
    with pytest.raises(ValueError, match="independent is 'teacher'; allowed: alone, student"):
        ask(independent="teacher")
    with pytest.raises(ValueError, match=r"labels must be 8 integers, got shape \(7,\)"):
        ask(given=labels[:7])
    with pytest.raises(ValueError, match=r"labels must lie in 0..2, the networks' classes, got 0..3"):
        ask(given=np.array([3, *labels[1:]]))
    with pytest.raises(ValueError, match=r"same classes, got teacher \(1, 3\), wide \(1, 5\)"):
        ask({"teacher": tables["teacher"], "wide": type(tables["teacher"])([0] * 8, classes=5)})
    with pytest.raises(ValueError, match="sample_ids must be 8 unique names, got 8, 1 different"):
        ask(sample_ids=["same"] * 8)
    with pytest.raises(ValueError, match="domain must name each of the 8 samples, got 2"):
        ask(domain=["a", "b"])
    with pytest.raises(ValueError, match="max_batch must be an integer of 1 or more, got 0"):
        ask(max_batch=0)


def test_question__says_which_inputs_no_network_takes():
    images = testing.random_images(4, size=8)
    networks = {name: testing.small_cnn(seed=seed) for seed, name in enumerate(("teacher", "alone"))}

    def ask(some, **changed):
        return transfer.ask(networks | changed, some, [0, 1, 2, 3], teacher="teacher")

    fine = "inputs must be floating point, normalised as in training; got torch.uint8. Token ids are int64"
    grey = (255 * images).byte()
    for some in (grey, grey.flatten(1), {"pixel_values": grey}):
        with pytest.raises(TypeError, match=fine):
            ask(some)
    fails = "network 'teacher' fails on inputs"
    last = r"channels seem to come last: pass inputs.permute\(0, 3, 1, 2\)$"
    with pytest.raises(ValueError, match=rf"{fails} \(samples, 8, 8, 3\): .*; {last}"):
        ask(images.permute(0, 2, 3, 1))
    with pytest.raises(ValueError, match=rf"{fails} \(samples, 2, 8, 8\): Given groups"):
        ask(images[:, :2])
    half = "network 'b' cannot be asked: 'conv1.weight' is torch.float16, too coarse for attacks and answers"
    with pytest.raises(ValueError, match=rf"^{half} that are close; pass network.float\(\)$"):
        ask(images, b=testing.small_cnn(seed=2).half())
    assert ask(images.half()).classes == 4


def test_diverged_network__is_named(tables, numbered, labels):
    lost = nn.Linear(4, 3)
    nn.init.constant_(lost.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="network 'lost' has diverged: its logits are not finite"):
        transfer.consensus({**tables, "lost": lost}, numbered, labels, teacher="teacher", progress=False)


def test_nan_in_inputs__is_not_blamed_on_a_network(tables, numbered, labels):
    networks = {name: nn.Linear(4, 3) for name in ("teacher", "alone")}
    ids = list("abcdefgh")

    def ask(inputs):
        transfer.confidence(
            networks, inputs, labels, teacher="teacher", sample_ids=ids, max_batch=3, progress=False
        )

    for row, name in ((0, "a"), (5, "f")):
        inputs = numbered.clone()
        inputs[row, 2] = torch.nan
        with pytest.raises(ValueError, match=f"^inputs hold NaN or infinite values, in samples {name}$"):
            ask(inputs)
        ask(inputs.nan_to_num())


def test_question__refuses_labels_of_another_order(tables, numbered, labels):
    pairs = [(one, int(label)) for one, label in zip(numbered, labels, strict=True)]
    loader = torch.utils.data.DataLoader(pairs, batch_size=4)
    ds = transfer.consensus(tables, loader, labels, teacher="teacher", progress=False)
    assert ds["right"].sel(network="teacher").sum() == 7
    with pytest.raises(ValueError, match="labels are not those that inputs come with, first among"):
        transfer.consensus(tables, loader, labels[::-1].copy(), teacher="teacher", progress=False)


def test_question__takes_networks_of_different_precision(tables, numbered, labels):
    tables["student"] = nn.Linear(4, 3).double()
    ds = transfer.consensus(tables, numbered, labels, teacher="teacher", progress=False)
    expected = tables["student"](numbered.double()).argmax(1).numpy() == labels
    np.testing.assert_array_equal(ds["right"].sel(network="student"), expected)
