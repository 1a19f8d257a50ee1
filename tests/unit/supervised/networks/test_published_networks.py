"""The networks of the papers: numbers of parameters, layers against independent arithmetic, images that do not fit."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cases import case
from rayloom.config.schema import RunConfig
from rayloom.contract import TensorSpec, UserError
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing import CHECKS, small
from rayloom.testing.learners import SimulatedGroup, simulate
from rayloom_supervised.layers.batch_norm import GlobalBatchNorm, share_statistics
from rayloom_supervised.networks.alexnet import AlexNet
from rayloom_supervised.networks.inception import Inception
from rayloom_supervised.networks.kinds import NETWORKS, build_network
from rayloom_supervised.networks.lenet_1998 import (
    CONNECTIONS,
    LeNet51998,
    Prototypes,
    Subsampling,
    TableConvolution,
    prototype_codes,
    squash,
)
from rayloom_supervised.networks.residual import ResidualBlock, ResidualNetwork


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_lenet_5_has_the_paper_s_parameters_layer_by_layer() -> None:
    network = LeNet51998((1, 28, 28), 10)
    layers = [network.c1, network.s2, network.c3, network.s4, network.c5, network.f6]
    assert [count(layer) for layer in layers] == [156, 12, 1516, 32, 48120, 10164]
    assert count(network) == 60_000
    assert [len(seen) for seen in CONNECTIONS] == [3] * 6 + [4] * 9 + [6]
    # Every map of S2 feeds ten of C3, and no two maps of C3 see the same ones.
    assert [sum(seen in each for each in CONNECTIONS) for seen in range(6)] == [10] * 6
    assert len({frozenset(each) for each in CONNECTIONS}) == 16


def test_a_map_sees_only_what_the_table_connects() -> None:
    layer = TableConvolution(6, CONNECTIONS, 5)
    images = torch.randn(2, 6, 7, 7)
    found = layer(images)
    at = 0
    for output, connected in enumerate(CONNECTIONS):
        expected = layer.bias[output].expand(2, 3, 3)
        for seen in connected:
            kernel = layer.weight[at].view(1, 1, 5, 5)
            expected = expected + F.conv2d(images[:, seen : seen + 1], kernel).squeeze(1)
            at += 1
        torch.testing.assert_close(found[:, output], expected)


def test_subsampling_by_hand() -> None:
    layer = Subsampling(2)
    images = torch.arange(16.0).view(1, 2, 2, 4)
    sums = torch.tensor([[[0 + 1 + 4 + 5, 2 + 3 + 6 + 7]], [[8 + 9 + 12 + 13, 10 + 11 + 14 + 15]]], dtype=torch.float32)
    expected = squash(sums * layer.weight.view(2, 1, 1) + layer.bias.view(2, 1, 1))
    torch.testing.assert_close(layer(images)[0], expected)
    assert float(squash(torch.tensor(1.0))) == pytest.approx(1.0, abs=1e-4)


def test_scores_are_squared_distances_to_drawings_of_the_digits() -> None:
    prototypes, code = Prototypes(10), torch.randn(3, 84)
    expected = -torch.cdist(code, prototypes.codes).square()
    torch.testing.assert_close(prototypes(code), expected, rtol=1e-4, atol=1e-3)
    codes = prototype_codes(10)
    assert set(codes.flatten().tolist()) == {-1.0, 1.0} and len({tuple(code.tolist()) for code in codes}) == 10
    # The drawings of 3 and 8 resemble each other more than those of 1 and 8.
    assert (codes[3] != codes[8]).sum() < (codes[1] != codes[8]).sum()
    assert prototype_codes(7).shape == (7, 84) and torch.equal(prototype_codes(7), prototype_codes(7))
    # The cross-entropy of the scores is equation 9 of the paper without its constant.
    label, scores = torch.tensor([3, 1, 4]), prototypes(code)
    distance = -scores
    by_hand = distance[torch.arange(3), label] + torch.logsumexp(-distance, 1)
    torch.testing.assert_close(F.cross_entropy(scores, label, reduction="none"), by_hand)


def test_smaller_images_lie_in_the_middle() -> None:
    network, small = LeNet51998((1, 8, 8), 10), torch.zeros(1, 1, 8, 8)
    small[0, 0, 3, 4] = 1.0
    whole = torch.zeros(1, 1, 32, 32)
    whole[0, 0, 15, 16] = 1.0
    torch.testing.assert_close(network(small), LeNet51998.forward(_moved(network), whole))


def _moved(network: LeNet51998) -> LeNet51998:
    network._padding = (0, 0, 0, 0)
    return network


def test_resnet_20_has_the_paper_s_size_and_its_shortcut_has_none() -> None:
    network = ResidualNetwork((3, 32, 32), 10, blocks=3, channels=(16, 32, 64))
    assert sum(isinstance(layer, nn.Conv2d | nn.Linear) for layer in network.modules()) == 20
    assert count(network) == 269_722 + 0 and round(count(network) / 1e6, 2) == 0.27
    block = ResidualBlock(2, 4, stride=2)
    with torch.no_grad():
        block.second.weight.zero_()
    images = torch.rand(3, 2, 4, 4)
    found = block.eval()(images)
    assert not found[:, 0].any() and not found[:, 3].any()  # padded maps
    torch.testing.assert_close(found[:, 1:3], images[:, :, ::2, ::2])


def test_inception_joins_its_branches() -> None:
    block = Inception(3, ones=2, threes=(4, 5), fives=(2, 3), pooled=1)
    images = torch.randn(2, 3, 6, 6)
    found = block(images)
    assert found.shape == (2, 11, 6, 6) and block.outputs == 11
    torch.testing.assert_close(found[:, :2], block.ones(images))
    pooled = block.pooled[1](F.max_pool2d(F.pad(images, (1, 1, 1, 1), value=-torch.inf), 3, 1))
    torch.testing.assert_close(found[:, 10:], pooled)


def test_alexnet_pools_after_the_first_second_and_last_convolution() -> None:
    network = AlexNet((1, 28, 28), 10, (4, 6, 8, 8, 6), (16,), 0.5)
    names = [type(layer).__name__ for layer in network.features]
    normalized = ["Conv2d", "ReLU", "LocalResponseNorm", "MaxPool2d"]
    assert names == [*normalized, *normalized, *["Conv2d", "ReLU"] * 3, "MaxPool2d"]
    assert network.features(torch.zeros(1, 1, 28, 28)).shape == (1, 6, 4, 4)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_is_torch_s_own_also_where_learners_share(training: bool) -> None:
    torch.manual_seed(0)
    images = torch.randn(6, 3, 4, 4, dtype=torch.float64) * 3 + 1
    for shared in (False, True):
        oracle, layer = nn.BatchNorm2d(3).double().train(training), GlobalBatchNorm(3).double().train(training)
        if shared:
            share_statistics(layer, lambda tensor: tensor.clone())  # one learner that adds up with nobody
        gradients = []
        for each in (oracle, layer):
            given = images.clone().requires_grad_(True)
            each(given).square().mul(torch.arange(4.0)).sum().backward()
            gradients.append(given.grad)
        torch.testing.assert_close(layer(images), oracle(images))
        torch.testing.assert_close(gradients[1], gradients[0])
        torch.testing.assert_close(layer.running_mean, oracle.running_mean)
        torch.testing.assert_close(layer.running_variance, oracle.running_var)


def test_one_learner_of_a_run_takes_torch_s_kernel() -> None:
    role = LearnerRole(resnet())
    norm = role.algorithm.network.stem_norm
    out = norm(torch.randn(4, 4, 3, 3))
    assert out.grad_fn.name().startswith("NativeBatchNorm")  # on a GPU another name; these tests run on CPUs
    norm.total = lambda tensor: tensor * 2  # two learners with the same batch have its moments
    shared = norm(torch.randn(4, 4, 3, 3))
    assert not shared.grad_fn.name().startswith("NativeBatchNorm")


def test_shared_batch_norm_sums_bfloat16_in_full_and_has_zero_for_a_single_value() -> None:
    torch.manual_seed(0)
    images = (torch.randn(64, 2, 32, 32) + 20).bfloat16()
    oracle, layer = GlobalBatchNorm(2), GlobalBatchNorm(2)
    share_statistics(layer, lambda tensor: tensor.clone())
    assert layer(images).dtype == torch.bfloat16
    oracle(images.float())
    torch.testing.assert_close(layer.running_mean, oracle.running_mean, rtol=1e-5, atol=0)
    torch.testing.assert_close(layer.running_variance, oracle.running_variance, rtol=1e-5, atol=0)
    assert GlobalBatchNorm(3)(torch.randn(1, 3)).tolist() == [[0.0, 0.0, 0.0]]  # which torch's own refuses


def resnet(**learner: Any) -> RunConfig:
    network = {"kind": "resnet", "blocks": 1, "channels": [4, 8]}
    sgd = {"kind": "sgd", "learning_rate": 0.05}
    return case("cnn", algorithm={"network": network}, learner={"batch_size": 60, "optimizer": sgd, **learner})


def test_two_learners_train_a_resnet_as_one_does() -> None:
    alone = LearnerRole(resnet())
    for _ in range(4):
        alone.learner.update(alone.source.next, alone.source.feedback)
    building = threading.Lock()  # what is drawn at the start comes from torch's one generator

    def learn(group: SimulatedGroup) -> dict[str, torch.Tensor]:
        with building:
            role = LearnerRole(resnet(count=2), group=group)
        for _ in range(4):
            role.learner.update(role.source.next, role.source.feedback)
        return {name: value.clone() for name, value in role.algorithm.state_dict().items()}

    found = simulate(2, learn)
    for name, value in alone.algorithm.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], value, rtol=2e-3, atol=2e-5, msg=name)


def test_a_saved_resnet_goes_on_to_the_bit() -> None:
    for check in ("saved_runs_continue", "evaluations_change_nothing", "seeded_runs_agree", "losses_fall"):
        CHECKS[check](small(resnet()))


@pytest.mark.parametrize(
    ("kind", "settings", "shape", "message"),
    [
        ("lenet5_1998", {}, (3, 28, 28), "lenet5_1998 needs images of one channel and at most 32x32, not"),
        ("lenet5_1998", {}, (1, 33, 32), "lenet5_1998 needs images of one channel"),
        ("alexnet", {}, (1, 4, 28), "alexnet needs images .* with sides of 8 pixels or more"),
        ("resnet", {}, (10,), "resnet needs images"),
        ("inception", {}, (1, 2, 2), "inception needs images"),
    ],
)
def test_images_that_do_not_fit(kind: str, settings: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(NETWORKS.component(kind, **settings), TensorSpec(shape=shape, dtype=torch.float32), 10)


def test_a_stage_of_a_resnet_cannot_lose_maps() -> None:
    with pytest.raises(ValueError, match="may not have fewer channels than the one before"):
        NETWORKS.component("resnet", channels=(16, 8))
