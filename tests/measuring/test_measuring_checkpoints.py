"""Checkpoints to datasets and stores: the same as epoch by epoch, and what is refused."""

import json
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from small_measurements import (
    CHECKPOINTS,
    GRID,
    assert_equal_arrays,
    begin,
    changed_cnn,
    measure_cnn,
    measure_epochs,
)
from torch import nn

from kdviz import schema, units
from kdviz.errors import DataError, LayerError, StoreError
from kdviz.measuring.pictures import draw_inputs
from kdviz.networks.inputs import prepare_inputs
from kdviz.store import create_run, open_run
from kdviz.testing import random_images, small_cnn
from kdviz.training import weight_distance


def test_measure_checkpoints__equals_measuring_every_epoch(states):
    images = random_images(19, seed=3)  # two blocks
    together = measure_epochs(states, images)
    for position, (epoch, step) in enumerate(CHECKPOINTS.items()):
        alone = measure_cnn(changed_cnn(step), images, layers=["conv2", "fc1"], method="auto", epoch=epoch)
        for layer, ds in together.items():
            assert ds["epoch"][position] == epoch
            assert_equal_arrays(ds.isel(epoch=[position]), alone[layer])
    assert abs(together["fc1"]["entropy"].diff("epoch")).max() > 0.01


def test_measure_checkpoints__with_a_store_is_the_same(states, tmp_path):
    kept = measure_epochs(states, foreground=np.eye(5, 16, dtype=bool), labels=np.arange(5))
    stored = measure_epochs(
        states, foreground=np.eye(5, 16, dtype=bool), labels=np.arange(5), store=tmp_path / "run"
    )
    for layer in ("conv2", "fc1"):
        assert_equal_arrays(stored[layer], kept[layer], (*schema.MEASURED, "foreground", "label", "valid"))
        for name in ("weights_fingerprint", "input_fingerprint", "config", "seed", "network_role"):
            assert stored[layer].attrs[name] == kept[layer].attrs[name]
        assert open_run(tmp_path / "run").dataset("student", layer).equals(stored[layer])


def test_measure_checkpoints__stores_its_inputs_as_pictures(states, tmp_path):
    images = torch.zeros(2, 3, 8, 8)
    images[0, 0] = -1 + 3 * torch.arange(64.0).reshape(8, 8) / 63  # a ramp: -1 is black, 2 is white
    images[1, 2, 3, 4] = 0.51
    measure_epochs({0: states[0]}, images, store=tmp_path / "run")
    pictures = open_run(tmp_path / "run").samples["thumbnail"]
    assert pictures.dims == ("sample", "y_pixel", "x_pixel", "channel") and pictures.dtype == np.uint8
    ramp = np.rint(np.arange(64) * 255 / 63).reshape(8, 8)
    np.testing.assert_array_equal(pictures[0, :, :, 0], ramp)
    assert (pictures[0, :, :, 1:] == 85).all(), "0 is a third of the way from -1 to 2, in every image"
    assert pictures[1, 3, 4].values.tolist() == [85, 85, 128]  # 1.51 / 3 of 255 is 128.35


def test_draw_inputs__shrinks_large_images_and_leaves_out_other_channels():
    ramp = torch.arange(8.0).repeat_interleave(64).expand(1, 1, 256, 512)  # 8 steps of 64 columns
    pictures = draw_inputs(prepare_inputs(ramp, units.grid(1)))
    assert pictures.shape == (1, 64, 128, 1)
    expected = np.rint(np.arange(8) * 255 / 7).repeat(16)
    np.testing.assert_array_equal(pictures[0, :, :, 0], np.broadcast_to(expected, (64, 128)))
    assert draw_inputs(prepare_inputs(torch.zeros(1, 2, 8, 8), GRID)) is None
    flat = draw_inputs(prepare_inputs(torch.full((1, 3, 8, 8), 7.0), GRID))
    assert (flat == 0).all(), "one value has no range"


def test_measure_checkpoints__keeps_the_pictures_a_run_was_made_with(states, tmp_path):
    mine = np.arange(5 * 6, dtype=np.uint8).reshape(5, 2, 3)
    measure_epochs({0: states[0]}, store=tmp_path / "run", thumbnails=mine)
    measure_epochs({2: states[2]}, store=tmp_path / "run", network="baseline", role="baseline")
    np.testing.assert_array_equal(open_run(tmp_path / "run").samples["thumbnail"], mine[..., None])
    bare = prepare_inputs(random_images(5, seed=3), GRID).samples
    create_run(tmp_path / "bare", samples=bare)
    measure_epochs({0: states[0]}, store=tmp_path / "bare")
    assert "thumbnail" not in open_run(tmp_path / "bare").samples


def test_measure_checkpoints__takes_pictures_as_torchvision_has_them(states, tmp_path):
    bytes_ = np.random.default_rng(0).integers(0, 256, (5, 2, 4, 3), dtype=np.uint8)
    floats = torch.from_numpy(bytes_).permute(0, 3, 1, 2) / 255
    measure_epochs({0: states[0]}, store=tmp_path / "run", thumbnails=floats)
    np.testing.assert_array_equal(open_run(tmp_path / "run").samples["thumbnail"], bytes_)


@pytest.mark.parametrize(
    ("thumbnails", "message"),
    [
        (np.zeros((4, 8, 8, 3), np.uint8), r"thumbnails must have shape \(5, H, W, 3\).*got \(4, 8, 8, 3\)"),
        (np.zeros((5, 8, 8, 3)), "uint8, or .* of 0 to 1, got .* float64"),
        (np.zeros((5, 8, 8, 2), np.uint8), r"got \(5, 8, 8, 2\)"),
    ],
)
def test_measure_checkpoints__refuses_pictures_that_do_not_fit(states, tmp_path, thumbnails, message):
    with pytest.raises(ValueError, match=message):
        measure_epochs(states, store=tmp_path / "run", thumbnails=thumbnails)
    assert not (tmp_path / "run").exists()


def test_measure_checkpoints__pictures_need_a_store(states):
    with pytest.raises(ValueError, match="thumbnails are stored with a run: pass store"):
        measure_epochs(states, thumbnails=np.zeros((5, 8, 8), np.uint8))


def test_measure_checkpoints__reads_every_kind_of_checkpoint(states, tmp_path):
    paths = {0: tmp_path / "0.safetensors", 2: tmp_path / "2.pt", 5: states[5]}
    safetensors.torch.save_file(states[0], paths[0])
    torch.save(states[2], paths[2])
    from_files, from_memory = measure_epochs(paths), measure_epochs(states)
    for layer, ds in from_memory.items():
        assert_equal_arrays(from_files[layer], ds)
        assert from_files[layer].attrs["weights_fingerprint"] == ds.attrs["weights_fingerprint"]


def test_measure_checkpoints__finished_run_measures_nothing(states, tmp_path, monkeypatch):
    measure_epochs(states, store=tmp_path / "run")
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("measured again"))
    again = measure_epochs(states, store=tmp_path / "run")
    assert again["fc1"].sizes["epoch"] == 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"seed": 1}, StoreError, "seed"),
        ({"probes": 9}, StoreError, "probes"),
        ({"base_noise": 0.02}, StoreError, "base_noise"),
        ({"feature": "identity"}, StoreError, "feature"),
        ({"images": random_images(5, seed=4)}, StoreError, "other samples"),
        ({"images": random_images(4, seed=3)}, StoreError, "other samples"),
    ],
)
def test_measure_checkpoints__refuses_to_go_on_with_other_settings(states, tmp_path, change, error, message):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    with pytest.raises(error, match=message):
        measure_epochs(states, store=tmp_path / "run", layers="fc1", **change)


def test_measure_checkpoints__refuses_to_go_on_with_other_weights(states, tmp_path):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    states[5] = changed_cnn(3).state_dict()
    with pytest.raises(StoreError, match="weights_fingerprint"):
        measure_epochs(states, store=tmp_path / "run", layers="fc1")


NAMES = list("abcde")


MASKS = np.eye(5, 16, dtype=bool)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": random_images(5, seed=4)}, "other samples: input_fingerprint differ"),
        ({"foreground": ~MASKS}, "other samples: foreground"),
        ({"labels": np.arange(5)[::-1]}, "other samples: label differ"),
        ({"sample_ids": list("abcdf")}, "other samples: sample"),
    ],
)
@pytest.mark.parametrize("network", ["student", "another"])
def test_measure_checkpoints__refuses_a_run_of_other_inputs_before_any_work(
    states, tmp_path, monkeypatch, network, change, message
):
    options = {"sample_ids": NAMES, "layers": "fc1", "foreground": MASKS, "labels": np.arange(5)}
    measure_epochs(states, store=tmp_path / "run", **options)
    run = open_run(tmp_path / "run")
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("measured"))
    with pytest.raises(StoreError, match=message):
        measure_epochs(states, store=run, network=network, **(options | change))
    assert run.networks == ["student"]


def test_measure_checkpoints__refuses_masks_that_the_run_has_not(states, tmp_path):
    measure_epochs(states, store=tmp_path / "run", layers="fc1")
    with pytest.raises(StoreError, match="has no foreground: leave them out"):
        measure_epochs(states, store=open_run(tmp_path / "run"), layers="fc1", foreground=MASKS)


def test_measure_checkpoints__refuses_masks_without_the_void_that_the_run_has(states, tmp_path):
    void = np.where(~MASKS & (np.arange(MASKS.size).reshape(MASKS.shape) % 3 == 0), -1, MASKS.astype(int))
    options = {"store": tmp_path / "run", "layers": "fc1", "method": "gain"}
    done = measure_epochs({0: states[0]}, foreground=void, **options)
    np.testing.assert_array_equal(done["void"], void < 0)
    assert measure_epochs({0: states[0]}, foreground=void, **options).identical(done)
    with pytest.raises(StoreError, match="other samples: void differ"):
        measure_epochs({0: states[0]}, foreground=MASKS, **options)
    assert measure_epochs({0: states[0]}, **options).identical(done), "without masks those of the run stay"


def test_measure_checkpoints__goes_on_with_other_samples_in_a_pass(states, tmp_path, monkeypatch):
    whole = measure_epochs(states)
    begin(states, tmp_path / "run", monkeypatch, blocks=1)
    continued = measure_epochs(states, store=tmp_path / "run", max_batch=2)
    smaller = measure_epochs(states, max_batch=2)
    for layer in whole:
        first, rest = {"epoch": [0]}, {"epoch": [1, 2]}
        assert_equal_arrays(continued[layer].isel(first), whole[layer].isel(first))
        assert_equal_arrays(continued[layer].isel(rest), smaller[layer].isel(rest))
        assert json.loads(continued[layer].attrs["config"])["micro_batch"] == 16
        # kernels sum in another order for another batch: rounding of float32, which differences of features
        # and of a pair's gradients amplify, by path over 40 steps
        by_path = whole[layer]["method"] == schema.METHODS.index("path")
        for chosen, atol in ((~by_path, 2e-5), (by_path, 1e-4)):
            ours, theirs = (ds[layer]["entropy"].where(chosen) for ds in (continued, whole))
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)


class RunsCode:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def write_truncated(path):
    torch.save(small_cnn().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])


def write_truncated_safetensors(path):
    safetensors.torch.save_file(small_cnn().state_dict(), path)
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("0.pt", lambda path: None, "there is no checkpoint at"),
        ("0.pt", write_truncated, "cannot read the checkpoint"),
        ("0.pt", lambda path: path.write_bytes(b"garbage" * 100), "cannot read the checkpoint"),
        ("0.pt", lambda path: path.write_bytes(b""), "cannot read the checkpoint"),
        ("0.safetensors", write_truncated_safetensors, "cannot read the checkpoint"),
        ("0.safetensors", lambda path: path.write_bytes(b"garbage" * 100), "cannot read the checkpoint"),
        ("0.pt", lambda path: torch.save([1, 2], path), "holds no weights"),
        ("0.pt", lambda path: torch.save({"epoch": 3}, path), "holds no weights"),
        ("0.pt", lambda path: torch.save({"w": torch.ones(2)}, path), "does not fit the network"),
        ("0.pt", lambda path: torch.save(small_cnn(width=5).state_dict(), path), "does not fit the network"),
    ],
)
def test_measure_checkpoints__refuses_bad_files(tmp_path, name, write, message):
    path = tmp_path / name
    write(path)
    with pytest.raises(DataError, match=message):
        measure_epochs({0: path})


@pytest.mark.parametrize("state", [{}, {"epoch": 3}])
def test_measure_checkpoints__refuses_a_state_dict_that_is_none(state):
    with pytest.raises(DataError, match="the state dict holds no weights"):
        measure_epochs({0: state})


def test_weight_distance__refuses_bad_files(tmp_path):
    initial = small_cnn().state_dict()
    (tmp_path / "bad.pt").write_bytes(b"garbage" * 100)
    for name, message in (("none.safetensors", "there is no checkpoint at"), ("bad.pt", "cannot read the")):
        with pytest.raises(DataError, match=message):
            weight_distance({1: tmp_path / name}, layer="fc1", initial=initial)


def test_measure_checkpoints__refuses_untrained_weights_among_others(states, monkeypatch):
    monkeypatch.setattr("kdviz.measuring.measurement.measure_block", lambda *_: pytest.fail("work was begun"))
    with pytest.raises(TypeError, match="got None among several"):
        measure_epochs(states | {9: None})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": small_cnn().fc1}, LayerError, "layers and entry must be names, .* got a Linear"),
        ({"layers": ["fc1", small_cnn().fc2]}, LayerError, "must be names"),
        ({"entry": small_cnn().conv1}, LayerError, "must be names, .* got a Conv2d"),
        ({"probs": 3}, ValueError, "'probs'; did you mean 'probes'"),
        ({"micro_batch": 3}, ValueError, "'micro_batch'; allowed: method, probes"),
        ({"calibration": None}, ValueError, "calibration must be a positive number, .* got None"),
    ],
)
def test_measure_checkpoints__refuses_bad_options(states, options, error, message):
    with pytest.raises(error, match=message):
        measure_epochs(states, **options)


@pytest.mark.parametrize("checkpoint", [5, small_cnn()], ids=lambda value: type(value).__name__)
def test_measure_checkpoints__refuses_what_is_no_checkpoint(checkpoint):
    with pytest.raises(TypeError, match="must be a path or a state dict, got " + type(checkpoint).__name__):
        measure_epochs({0: checkpoint})


def test_measure_checkpoints__never_runs_pickled_code(tmp_path):
    torch.save({"w": RunsCode(tmp_path / "code-ran")}, tmp_path / "0.pt")
    with pytest.raises(DataError, match="holds no weights"):
        measure_epochs({0: tmp_path / "0.pt"})
    assert not (tmp_path / "code-ran").exists()
    torch.load(tmp_path / "0.pt", weights_only=False)["w"].close()
    assert (tmp_path / "code-ran").exists()  # the file would have done it


@pytest.mark.parametrize(
    ("checkpoints", "error", "message"),
    [
        ({}, TypeError, "checkpoints must map epochs to weights, got {}"),
        ({-1: {}}, ValueError, "epoch must be an integer of 0 or more, got -1"),
        ({True: {}}, ValueError, "epoch must be .* got True"),
        ({"1": {}, 2: {}}, ValueError, "epoch must be .* got '1'"),
        ({1.5: {}}, ValueError, "epoch must be .* got 1.5"),
        ([{}], TypeError, r"checkpoints must map epochs to weights, got \[{}\]"),
    ],
)
def test_measure_checkpoints__refuses_bad_epochs(checkpoints, error, message):
    with pytest.raises(error, match=message):
        measure_epochs(checkpoints)


def test_measure_checkpoints__names_the_epoch_whose_training_diverged(states):
    states[2]["conv1.weight"][:] = np.nan
    with pytest.raises(ValueError, match=r"layer 'conv2' gives NaN .* at epoch 2; .* training diverged"):
        measure_epochs(states)


class RootOfDistance(nn.Module):
    """Ends in a root, whose slope at zero is infinite: most features have a value and no gradient."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 5, bias=False)

    def forward(self, x):
        z = self.fc(x.flatten(1))
        return (z.relu() * (z > 1)).sqrt()


def test_measure__no_number_is_refused_before_the_work():
    network = nn.Sequential(OrderedDict(body=RootOfDistance(), root=nn.Identity()))
    with pytest.raises(ValueError, match="'root' gives NaN or infinite features or gradients, with small"):
        measure_cnn(network, random_images(3, seed=3), layers="root")


def test_measure__sample_without_a_number_is_named():
    images = random_images(3, seed=3)
    images[1] *= 1e8
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), fc=nn.Linear(192, 5)))
    with pytest.raises(ValueError, match=r"'fc' gives NaN or infinite .* for b; leave"):
        measure_cnn(
            network, images, layers="fc", sample_ids=list("abc"), feature=lambda out: (out + 1e3).sqrt()
        )
