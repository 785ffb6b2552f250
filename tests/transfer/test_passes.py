"""What all properties promise: bounded passes, networks left as found, and words and points beside images."""

import numpy as np
import pytest
import torch
from torch import nn

from kdviz import testing, transfer
from kdviz.transfer import Pixels

PROPERTIES = {
    "localization": {},
    "adversarial": {"attacked": ["alone"], "pixels": Pixels((0.5,) * 3, (0.25,) * 3)},
    "confidence": {},
    "boundary": {"triplets": 2, "resolution": 4},
    "representation": {"minibatch": 8},
}


class Counting(nn.Module):
    """Notes the most samples that came at once."""

    def __init__(self, network):
        super().__init__()
        self.network, self.most = network, 0

    def forward(self, images):
        self.most = max(self.most, len(images))
        return self.network(images)


@pytest.mark.parametrize("name", PROPERTIES)
def test_property__passes_no_more_than_max_batch_and_leaves_networks_as_found(name):
    networks = {
        one: Counting(testing.small_cnn(seed=seed))
        for seed, one in enumerate(["teacher", "alone", "student"])
    }
    before = {one: [value.clone() for value in network.parameters()] for one, network in networks.items()}
    images = testing.random_images(11).clamp(-2, 2)
    getattr(transfer, name)(
        networks, images, np.arange(11) % 4, teacher="teacher", independent="alone", max_batch=3,
        progress=False, **PROPERTIES[name],
    )  # fmt: skip
    for one, network in networks.items():
        assert network.most == 3
        assert network.training and all(value.requires_grad for value in network.parameters())
        assert all(map(torch.equal, before[one], network.parameters()))
        assert not any(module._forward_hooks for module in network.modules())


class Viewing(nn.Module):
    """Convolves, and tells how its input lay in memory; it may read its maps by ``view``."""

    def __init__(self, view):
        super().__init__()
        self.conv, self.view, self.lay = nn.Conv2d(3, 4, 3), view, []

    def forward(self, images):
        self.lay.append(images.is_contiguous(memory_format=torch.channels_last))
        maps = self.conv(images)
        return (maps.view(len(images), -1) if self.view else maps.flatten(1))[:, :4]


def test_answers__of_convolutions_are_taken_with_channels_last_where_the_network_can():
    torch.manual_seed(0)
    networks = {"teacher": Viewing(True), "student": Viewing(False)}
    networks["student"].load_state_dict(networks["teacher"].state_dict())
    ds = transfer.consensus(
        networks, testing.random_images(5), np.arange(5) % 4, teacher="teacher", max_batch=2, progress=False
    )
    assert ds["same_answer"].all()
    # one sample as it is, two as a trial, and all
    assert networks["teacher"].lay == [False, True, False, False, False]
    assert networks["student"].lay == [False, True, True, True, True]


class Words(nn.Module):
    """Logits of the mean of the embedded tokens that are no padding."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding.from_pretrained(torch.randn(20, 6, generator=generator))
        self.head = nn.Linear(6, 3, bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(3, 6, generator=generator))

    def forward(self, input_ids, attention_mask):
        weights = attention_mask[..., None].float()
        return self.head((self.embedding(input_ids) * weights).sum(1) / weights.sum(1))


def test_confidence_and_representation__take_texts():
    ids = torch.randint(0, 20, (12, 5), generator=torch.Generator().manual_seed(0))
    texts = {"input_ids": ids, "attention_mask": (torch.arange(5) < 4).long().expand(12, 5)}
    networks = {"teacher": Words(0), "copy": Words(0), "student": Words(1)}
    given = {"teacher": "teacher", "progress": False, "max_batch": 5}
    ds = transfer.confidence(networks, texts, np.arange(12) % 3, **given)
    assert (ds["divergence"].sel(network="copy") == 0).all() and (
        ds["divergence"].sel(network="student") > 0
    ).all()
    cka = transfer.representation(networks, texts, np.arange(12) % 3, **given)["cka"]
    assert cka["stage_layer"].values.tolist() == [["embedding", ""]] * 3
    np.testing.assert_allclose(cka.sel(network="copy", network_stage=1, teacher_stage=1), 1.0)
    assert cka.sel(network="student", network_stage=1, teacher_stage=1) < 0.9
