from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from kdviz.models import cloud
from kdviz.models.cloud import PRESETS, build, neighbours
from kdviz.models.cloud.dgcnn import EdgeLayer
from kdviz.models.cloud.layers import NormalisedLinear, PointLayers
from kdviz.models.cloud.levels import BallLevel, PointConvolution
from kdviz.training import CrossEntropy, TrainingPlan, dividing, evaluate, train

CLASSES = 40


def layers(*widths):
    """Parameters of normalised layers of these widths: a weight, and scale and shift of the normalisation."""
    return sum(before * after + 2 * after for before, after in pairwise(widths))


def last(before, after):
    return before * after + after


def alignment(size):
    return layers(size, 64, 128, 1024, 512, 256) + last(256, size * size)


def head(size):
    return layers(size, 512, 256) + last(256, CLASSES)


def convolution(features, *widths):
    kernel, density = layers(3, 8, 8, 16), layers(1, 8, 8, 1)
    return layers(3 + features, *widths) + kernel + density + layers(16 * widths[-1], widths[-1])


PARAMETERS = {  # from the widths printed in the papers
    "pointnet": alignment(3) + layers(3, 64, 64) + alignment(64) + layers(64, 64, 128, 1024) + head(1024),
    "pointnet2": layers(3, 64, 64, 128)
    + layers(131, 128, 128, 256)
    + layers(259, 256, 512, 1024)
    + head(1024),
    "dgcnn": layers(2 * 3, 64)
    + layers(2 * 64, 64)
    + layers(2 * 64, 128)
    + layers(2 * 128, 256)
    + layers(64 + 64 + 128 + 256, 1024)
    + head(2 * 1024),
    "pointconv": convolution(0, 64, 64, 128)
    + convolution(128, 128, 128, 256)
    + convolution(256, 256, 512, 1024)
    + head(1024),
    "small_pointnet": layers(3, 32, 32, 64, 256) + layers(256, 128, 64) + last(64, CLASSES),
}
STAGES = {  # for two clouds of 600 points
    "pointnet": {
        "align_points.points": (2, 600, 1024),
        "align_points.hidden.linear1": (2, 512),
        "align_points.hidden": (2, 256),
        "align_points.matrix": (2, 9),
        "align_points": (2, 600, 3),
        "points1.linear1": (2, 600, 64),
        "points1": (2, 600, 64),
        "align_features.matrix": (2, 64 * 64),
        "align_features": (2, 600, 64),
        "points2.linear1": (2, 600, 64),
        "points2.linear2": (2, 600, 128),
        "points2": (2, 600, 1024),
    },
    "pointnet2": {
        "level1.layers.linear1": (2, 512, 32, 64),
        "level1.layers.linear2": (2, 512, 32, 64),
        "level1.layers": (2, 512, 32, 128),
        "level2.layers.linear1": (2, 128, 64, 128),
        "level2.layers.linear2": (2, 128, 64, 128),
        "level2.layers": (2, 128, 64, 256),
        "level3.linear1": (2, 128, 256),
        "level3.linear2": (2, 128, 512),
        "level3": (2, 128, 1024),
    },
    "dgcnn": {
        "edges.0": (2, 600, 64),
        "edges.1": (2, 600, 64),
        "edges.2": (2, 600, 128),
        "edges.3": (2, 600, 256),
        "points": (2, 600, 1024),
    },
    "pointconv": {
        "level1.layers": (2, 512, 32, 128),
        "level1.kernel": (2, 512, 32, 16),
        "level1.density": (2, 512, 32, 1),
        "level1.mix": (2, 512, 128),
        "level2.layers": (2, 128, 64, 256),
        "level2.mix": (2, 128, 256),
        "level3.layers": (2, 1, 128, 1024),
        "level3.mix": (2, 1, 1024),
    },
    "small_pointnet": {"points.linear3": (2, 600, 64), "points": (2, 600, 256)},
}


def draw_clouds(count, points, dtype=torch.float32, seed=0):
    """Draw points in the unit ball."""
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.randn(count, points, 3, generator=generator, dtype=torch.float64)
    return (clouds / clouds.norm(dim=-1).amax()).to(dtype)


def trained_looking(name, *, width, dtype=torch.float64, seed=1):
    """Build a network with no neutral parameter: random normalisations, biases and alignments."""
    network = build(name, classes=5, width=width, seed=seed).to(dtype).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=dtype)
    return network


def test_presets__name_the_papers_networks():
    assert sorted(PRESETS) == sorted(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_build__has_the_number_of_parameters_of_the_published_widths(name):
    network = build(name, classes=CLASSES, device="meta")
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_build__pointnet_costs_what_its_paper_prints():
    # table 6 of the paper: 3.5 million parameters, 440 million multiplications for a cloud of 1024 points
    network = build("pointnet", classes=CLASSES, device="meta").eval()
    with FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 1024, 3, device="meta"))
    assert PARAMETERS["pointnet"] / 1e6 == pytest.approx(3.5, abs=0.05)
    # how the paper counts is not said; leaving one alignment out would take away a third
    assert counter.get_total_flops() / 2e6 == pytest.approx(440, rel=0.025)


@pytest.mark.parametrize("name", STAGES)
def test_build__every_stage_has_the_published_shape(name):
    network = build(name, classes=CLASSES).eval()
    wide = {"dgcnn": 2048, "small_pointnet": 256}.get(name, 1024)
    hidden = (128, 64) if name == "small_pointnet" else (512, 256)
    expected = STAGES[name] | {
        "head.fc1": (2, hidden[0]),
        "head.fc2": (2, hidden[1]),
        "head.fc3": (2, CLASSES),
    }
    shapes = {}
    for stage in expected:
        network.get_submodule(stage).register_forward_hook(
            lambda module, args, output, stage=stage: shapes.update(
                {stage: tuple((output[1] if isinstance(output, tuple) else output).shape)}
            )
        )
    with torch.no_grad():
        assert network(draw_clouds(2, 600)).shape == (2, CLASSES)
    assert shapes == expected
    assert network.head.fc1.in_features == wide


@pytest.mark.parametrize("name", PRESETS)
def test_presets__name_normalised_layers_with_a_weight_that_meet_the_activation(name):
    network, order = build(name, classes=5, width=0.1), []
    for key, layer in PRESETS[name].layers.items():
        module = network.get_submodule(layer)
        assert isinstance(module.weight, nn.Parameter)
        module.register_forward_hook(lambda module, args, output, key=key: order.append((key, output)))
    with torch.no_grad():
        network(draw_clouds(8, 520))
    assert [key for key, _ in order] == ["fc1", "fc2", "fc3"]
    for _, output in order[:2]:
        # train mode brings every channel to mean 0 (float32 rounding), and its sign is still undecided
        assert output.mean(0).abs().max() < 1e-5
        assert output.min() < -0.5


def test_presets__hold_the_constants():
    assert {(preset.weight, preset.modality) for preset in PRESETS.values()} == {(4.0, "cloud")}
    thresholds = {name: preset.threshold for name, preset in PRESETS.items()}
    assert thresholds == dict(pointnet=0.5, small_pointnet=0.5, pointnet2=0.25, dgcnn=0.25, pointconv=0.25)


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__do_not_see_the_order_of_points(name):
    network = trained_looking(name, width=0.2)
    clouds = draw_clouds(2, 700, torch.float64)
    order = torch.randperm(700, generator=torch.Generator().manual_seed(3))
    logits, permuted = network(clouds), network(clouds[:, order])
    assert logits.std() > 1e-3
    # float64 sums in another order; a neighbour chosen differently would show from 1e-6 on
    assert (logits - permuted).abs().max() < 1e-11


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__see_the_same_cloud_in_any_order_with_every_point_doubled(name):
    network = trained_looking(name, width=0.2)
    clouds = draw_clouds(1, 300, torch.float64).repeat(1, 2, 1)
    order = torch.randperm(600, generator=torch.Generator().manual_seed(4))
    assert (network(clouds) - network(clouds[:, order])).abs().max() < 1e-11


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__treat_clouds_of_a_batch_apart(name):
    network = trained_looking(name, width=0.2)
    clouds = draw_clouds(3, 520, torch.float64)
    alone = torch.cat([network(cloud[None]) for cloud in clouds])
    assert (network(clouds) - alone).abs().max() < 1e-11


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__gradient_is_that_of_finite_differences(name):
    network = trained_looking(name, width=0.1)
    clouds = draw_clouds(1, 520, torch.float64, seed=5).requires_grad_()
    generator = torch.Generator().manual_seed(6)
    probe = torch.randn(5, generator=generator, dtype=torch.float64)
    direction = torch.randn(clouds.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((network(clouds) * probe).sum(), clouds)
    step = 1e-7  # small enough that no neighbour and no maximum changes at this seed
    with torch.no_grad():
        rise = ((network(clouds + step * direction) - network(clouds - step * direction)) * probe).sum()
    slope = (rise / (2 * step)).item()
    # rounding of the difference is about 1e-16 / 1e-7
    assert (gradient * direction).sum().item() == pytest.approx(slope, rel=1e-5, abs=1e-8)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("name", ["pointnet", "small_pointnet", "dgcnn"])
def test_networks__take_clouds_smaller_than_a_neighbourhood(name):
    network = trained_looking(name, width=0.1)
    assert network(draw_clouds(2, 7, torch.float64)).isfinite().all()
    assert network(torch.zeros(2, 1, 3, dtype=torch.float64)).isfinite().all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__take_a_cloud_whose_points_all_coincide(name):
    network = trained_looking(name, width=0.1)
    clouds = torch.full((2, 520, 3), 0.3, dtype=torch.float64, requires_grad=True)
    logits = network(clouds)
    logits.sum().backward()
    assert logits.isfinite().all() and clouds.grad.isfinite().all()


@pytest.mark.parametrize("name", PARAMETERS)
def test_networks__train_every_parameter(name):
    network = build(name, classes=5, width=0.1)
    with torch.no_grad():
        for module in network.modules():
            if hasattr(module, "start_at_identity"):
                module.matrix.weight.fill_(0.01)  # at its start, nothing reaches what lies below
    functional.cross_entropy(network(draw_clouds(4, 520)), torch.tensor([0, 1, 2, 3])).backward()
    assert not [key for key, parameter in network.named_parameters() if not parameter.grad.any()]


def test_pointnet__aligns_by_the_identity_at_first_and_by_its_matrix_later():
    network = build("pointnet", classes=5, width=0.1).eval()
    clouds = draw_clouds(2, 50)
    assert torch.equal(network.align_points(clouds), clouds)
    turn = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    with torch.no_grad():
        network.align_points.matrix.bias.copy_(turn.flatten())
    expected = torch.stack([-clouds[..., 1], clouds[..., 0], clouds[..., 2]], dim=-1)
    torch.testing.assert_close(network.align_points(clouds), expected)


def test_pointnet__leaves_most_points_of_a_random_network_without_gradient():
    network = build("pointnet", classes=40).eval()
    clouds = draw_clouds(1, 1524).requires_grad_()
    feature = functional.relu(network.head.fc1(network.describe(clouds)))
    weights = torch.randn(feature.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((feature * weights).sum(), clouds)
    assert 0.7 < (gradient == 0).all(-1).double().mean() < 0.95


def replica_edges(points, weight, norm, k):
    """Edge convolution as the paper writes it: one layer on (x_i, x_j - x_i), maximum over neighbours j."""
    rows = []
    for point in points:
        near = (points - point).norm(dim=-1).argsort()[:k]
        edges = torch.stack([torch.cat([point, points[j] - point]) for j in near])
        rows.append(functional.leaky_relu(norm(edges @ weight.T), 0.2).amax(0))
    return torch.stack(rows)


def test_edge_layer__is_the_papers_edge_convolution():
    layer = EdgeLayer(3, 6, neighbours=4).double().eval()
    layer.norm.running_mean.normal_(generator=torch.Generator().manual_seed(0))
    cloud = draw_clouds(1, 30, torch.float64)
    with torch.no_grad():
        layer.norm.weight[::2] *= -1  # a falling channel: its largest response is of the smallest product
        expected = replica_edges(cloud[0], layer.weight, layer.norm, 4)
        torch.testing.assert_close(layer(cloud)[0], expected)


def test_edge_layer__normalises_over_all_edges_of_the_batch_in_training():
    layer = EdgeLayer(3, 6, neighbours=4).double()
    clouds = draw_clouds(2, 30, torch.float64)
    sizes = []
    layer.norm.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape)))
    with torch.no_grad():
        responses = layer(clouds)
        # the statistics just taken, in the place of the running ones, give the same in eval mode
        near = (clouds[:, :, None] - clouds[:, None]).norm(dim=-1).argsort()[..., :4]
        edges = neighbours.gather(clouds, near) - clouds[:, :, None]
        edges = torch.cat([clouds[:, :, None].expand_as(edges), edges], dim=-1) @ layer.weight.T
        layer.norm.running_mean.copy_(edges.mean((0, 1, 2)))
        layer.norm.running_var.copy_(edges.var((0, 1, 2), unbiased=False))
        torch.testing.assert_close(layer.eval()(clouds), responses)
    assert sizes == [(2 * 30 * 4, 6)]


def test_ball_level__is_the_papers_pointnet_on_every_ball():
    level = BallLevel(5, 0.4, 8, PointLayers(3 + 2, 6, 7)).double().eval()
    cloud = draw_clouds(1, 60, torch.float64)
    features = draw_clouds(1, 60, torch.float64, seed=1)[..., :2]
    with torch.no_grad():
        centres, responses = level(cloud, features)
        sizes = []
        for centre, response in zip(centres[0], responses[0], strict=True):
            distance = (cloud[0] - centre).norm(dim=-1)
            ball = [j for j in distance.argsort()[:8] if distance[j] <= 0.4]
            known = torch.stack([torch.cat([cloud[0, j] - centre, features[0, j]]) for j in ball])
            hidden = functional.relu(level.layers.linear1(known))
            torch.testing.assert_close(response, functional.relu(level.layers.linear2(hidden)).amax(0))
            sizes.append(len(ball))
    assert min(sizes) < 8 == max(sizes)  # both an underfull and an overfull ball were seen


@pytest.mark.parametrize("everywhere", [False, True])
def test_point_convolution__is_the_papers_sum_with_a_full_kernel(everywhere):
    sizes = (None, None) if everywhere else (4, 6)
    level = PointConvolution(*sizes, 0.3, 2, (5, 7), 1.0).double().eval()
    cloud = draw_clouds(1, 40, torch.float64)
    features = draw_clouds(1, 40, torch.float64, seed=1)[..., :2]
    with torch.no_grad():
        centres, responses = level(cloud, features)
        spread = torch.stack(
            [torch.exp(-(cloud[0] - p).square().sum(-1) / (2 * 0.3**2)).mean() for p in cloud[0]]
        )
        for centre, response in zip(centres[0], responses[0], strict=True):
            near = range(40) if everywhere else (cloud[0] - centre).norm(dim=-1).argsort()[:6]
            rarest = max(1 / spread[j] for j in near)
            # the full kernel (outputs, inputs) at each neighbour's place, not its two factors
            total = torch.zeros(7, dtype=torch.float64)
            for j in near:
                place = cloud[0, j] - centre
                parts = functional.relu(level.kernel(place[None]))[0]
                kernel = level.mix.weight.unflatten(1, (7, 16)) @ parts
                known = functional.relu(level.layers(torch.cat([place, features[0, j]])[None]))[0]
                scale = torch.sigmoid(level.density((1 / spread[j] / rarest).reshape(1, 1)))[0]
                total += kernel @ (known * scale)
            torch.testing.assert_close(response, functional.relu(level.mix.norm(total[None]))[0])


def test_normalised_linear__runs_as_one_map_in_eval_mode():
    layer = NormalisedLinear(3, 5).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (layer.norm.running_mean, layer.norm.weight, layer.norm.bias):
            tensor.normal_(generator=generator)
        layer.norm.running_var.uniform_(0.1, 2, generator=generator)
        inputs = draw_clouds(2, 7, torch.float64)
        expected = layer.norm(functional.linear(inputs, layer.weight).flatten(0, 1)).unflatten(0, (2, 7))
        torch.testing.assert_close(layer(inputs), expected)


@pytest.mark.parametrize("name", ["pointnet", "small_pointnet"])
def test_networks__keep_learning_above_a_cut_that_was_traced_in_eval_mode(name, tmp_path):
    network = build(name, classes=2, width=0.2).eval()
    before = network.head.fc2.norm.running_mean.clone()
    plan = TrainingPlan(epochs=1, batch_size=6, learning_rate=0.05)
    clouds, labels = draw_clouds(12, 30), torch.arange(12) % 2
    assert dividing.cut(network, "head.fc1") is not None
    loss = CrossEntropy(beyond="head.fc1")
    train(network, clouds, labels, loss=loss, folder=tmp_path, plan=plan, progress=False)
    assert not torch.equal(network.head.fc2.norm.running_mean, before)


@pytest.fixture(params=[1, 100, neighbours.BLOCK])
def block(request, monkeypatch):
    """Hold this many distances at a time."""
    monkeypatch.setattr(neighbours, "BLOCK", request.param)


def test_distances__keep_to_the_block(monkeypatch):
    clouds = draw_clouds(2, 50)
    monkeypatch.setattr(neighbours, "BLOCK", 1000)
    assert [block.shape[1] for block in neighbours._split(clouds, clouds)] == [10] * 5
    monkeypatch.setattr(neighbours, "BLOCK", 1)
    assert [block.shape[1] for block in neighbours._split(clouds, clouds)] == [1] * 50


@pytest.mark.parametrize("name", ["pointnet2", "dgcnn", "pointconv"])
def test_networks__give_the_same_in_blocks_of_any_size(name, monkeypatch):
    network = build(name, classes=5, width=0.1).eval()
    clouds = draw_clouds(2, 530).requires_grad_()
    results = []
    for size in (2000, neighbours.BLOCK):
        monkeypatch.setattr(neighbours, "BLOCK", size)
        logits = network(clouds)
        results.append((logits.detach(), torch.autograd.grad(logits.sum(), clouds)[0]))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


@pytest.mark.usefixtures("block")
def test_find_nearest__sorts_by_distance_and_stops_at_the_number_of_points():
    points = torch.tensor([[[0.0, 0, 0], [3, 0, 0], [1, 0, 0], [7, 0, 0]]])
    queries = torch.tensor([[[0.9, 0, 0], [6, 0, 0]]])
    assert neighbours.find_nearest(queries, points, 2).tolist() == [[[2, 0], [3, 1]]]
    assert neighbours.find_nearest(queries, points, 9).tolist() == [[[2, 0, 1, 3], [3, 1, 2, 0]]]


@pytest.mark.usefixtures("block")
def test_find_nearest__agrees_with_sorting_all_differences_of_features():
    features = torch.randn(2, 40, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    distance = (features[:, :, None] - features[:, None]).norm(dim=-1)
    assert torch.equal(neighbours.find_nearest(features, features, 7), distance.argsort()[..., :7])


@pytest.mark.usefixtures("block")
def test_find_nearest__of_a_ball_keeps_the_nearest_and_fills_with_the_first():
    points = torch.tensor([[[0.0, 0, 0], [0.3, 0, 0], [0.1, 0, 0], [5, 0, 0]]])
    queries = torch.tensor([[[0.0, 0, 0], [4.9, 0, 0], [9, 0, 0]]])
    # an overfull ball, one with a single point, an empty one
    assert neighbours.find_nearest(queries, points, 2, 1.0).tolist() == [[[0, 2], [3, 3], [3, 3]]]
    assert neighbours.find_nearest(queries, points, 9, 0.2).tolist() == [
        [[0, 2, 0, 0], [3, 3, 3, 3], [3] * 4]
    ]


def test_find_centres__goes_to_the_farthest_point_each_time():
    points = torch.tensor([[[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [10, 0, 0], [4, 0, 0]]])
    # mean 3.4: starts at 10, then 0; 4 is 4 from the nearest of them, then 2, which is 2 away
    assert neighbours.find_centres(points, 4).tolist() == [[3, 0, 4, 2]]
    assert sorted(neighbours.find_centres(points, 99)[0].tolist()) == [0, 1, 2, 3, 4]


def test_find_centres__takes_the_same_places_in_any_order():
    clouds = draw_clouds(1, 200)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    picked = neighbours.gather(clouds, neighbours.find_centres(clouds, 50))
    assert torch.equal(
        picked, neighbours.gather(clouds[:, order], neighbours.find_centres(clouds[:, order], 50))
    )


def test_find_centres__falls_back_to_the_first_where_places_run_out():
    points = torch.tensor([[[0.0, 0, 0], [0, 0, 0], [1, 0, 0], [5, 0, 0], [5, 0, 0]]])
    places = neighbours.gather(points, neighbours.find_centres(points, 5))[0, :, 0]
    assert places.tolist() == [5, 0, 1, 5, 5]


def test_gather__takes_rows_of_each_cloud():
    values = torch.arange(12.0).reshape(2, 3, 2)
    indices = torch.tensor([[[2, 0]], [[1, 1]]])
    assert neighbours.gather(values, indices).tolist() == [[[[4, 5], [0, 1]]], [[[8, 9], [8, 9]]]]


@pytest.mark.usefixtures("block")
def test_estimate_density__is_the_mean_of_gaussians_with_its_gradient():
    clouds = draw_clouds(2, 12, torch.float64).requires_grad_()
    gaps = (clouds[:, :, None] - clouds[:, None]).square().sum(-1)
    expected = torch.exp(-gaps / (2 * 0.3**2)).mean(-1)
    torch.testing.assert_close(neighbours.estimate_density(clouds, 0.3), expected)
    assert torch.autograd.gradcheck(lambda points: neighbours.estimate_density(points, 0.3), clouds)


def test_build__same_seed_same_weights_and_other_seed_other_weights():
    first, again, other = (build("pointnet", classes=3, width=0.1, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.points1.linear1.weight, other.points1.linear1.weight)


def test_build__leaves_global_random_state_alone():
    before = torch.get_rng_state()
    for name in sorted(PRESETS):
        build(name, classes=3, width=0.05)
    assert torch.equal(torch.get_rng_state(), before)


def test_build__starts_with_kaiming_weights_and_neutral_normalisations():
    network = build("dgcnn", classes=40)
    # 512 * 2048 draws: 0.1 % standard error of the deviation
    assert network.head.fc1.weight.std().item() == pytest.approx((2 / 2048) ** 0.5, rel=0.005)
    assert not network.head.fc3.bias.any()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            assert (module.weight == 1).all() and not module.bias.any()
            assert not module.running_mean.any() and (module.running_var == 1).all()


def test_build__width_scales_every_layer_but_coordinates_and_classes():
    network = build("pointconv", classes=7, width=0.5, device="meta")
    shapes = {key: tuple(parameter.shape) for key, parameter in network.named_parameters()}
    assert shapes["level1.layers.linear1.weight"] == (32, 3)
    assert shapes["level2.layers.linear1.weight"] == (64, 64 + 3)
    assert shapes["level1.kernel.linear3.weight"] == (8, 4)
    assert shapes["level1.density.linear3.weight"] == (1, 4)
    assert shapes["level3.mix.weight"] == (512, 8 * 512)
    assert shapes["head.fc3.weight"] == (7, 128)
    assert tuple(
        build("pointnet", classes=7, width=0.5, device="meta").align_features.matrix.weight.shape
    ) == (
        32 * 32,
        128,
    )


def test_build__dropout_replaces_every_probability():
    def probabilities(name, **options):
        network = build(name, classes=3, device="meta", **options)
        return [module.p for module in network.modules() if isinstance(module, nn.Dropout)]

    assert probabilities("pointnet") == [0, 0.3]
    assert probabilities("pointnet2") == probabilities("dgcnn") == [0.5, 0.5]
    assert probabilities("pointconv") == [0.4, 0.4]
    assert probabilities("dgcnn", dropout=0.1) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pointnet3"}, "name is .pointnet3."),
        ({"classes": 0}, "classes must be an integer of 1 or more, got 0"),
        ({"width": 0.0}, "width must be a positive number, .* got 0.0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_build__refuses_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        build(**{"name": "dgcnn", "classes": 3, **options})


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("dgcnn", (2, 3, 1024), r"shape \(clouds, points, 3\), xyz last, .* got \(2, 3, 1024\)$"),
        ("dgcnn", (1024, 3), r"got \(1024, 3\)$"),
        ("small_pointnet", (2, 1024, 6), r"got \(2, 1024, 6\)$"),
        ("small_pointnet", (2, 0, 3), r"at least 1 points, got \(2, 0, 3\)$"),
        ("pointnet2", (2, 511, 3), r"at least 512 points, got \(2, 511, 3\)$"),
        ("pointconv", (2, 511, 3), r"at least 512 points, got \(2, 511, 3\)$"),
    ],
)
def test_networks__refuse_what_is_no_cloud(name, shape, message):
    with pytest.raises(ValueError, match=message):
        build(name, classes=3, width=0.1)(torch.zeros(shape))


@pytest.mark.parametrize("name", ["pointnet", "small_pointnet"])
def test_networks__are_trained_above_a_frozen_layer(name, tmp_path):
    clouds = draw_clouds(12, 30) * torch.linspace(0.2, 1, 12)[:, None, None]
    labels = (torch.arange(12) > 5).long()
    network = build(name, classes=2, width=0.2)
    before = network.head.fc1.weight.clone()
    plan = TrainingPlan(epochs=20, batch_size=6, learning_rate=0.05)
    loss = CrossEntropy(beyond="head.fc1")
    train(network, clouds, labels, loss=loss, folder=tmp_path, plan=plan, progress=False)
    assert torch.equal(network.head.fc1.weight, before)
    assert evaluate(network, clouds, labels) > 0.9


def test_cloud__is_offered_by_the_models_package():
    from kdviz import models

    assert models.cloud is cloud
