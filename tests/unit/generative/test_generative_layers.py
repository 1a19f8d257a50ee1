"""Batch norm over all learners and spectral norm, against torch's layers and NumPy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cases import case
from rayloom.contract import TensorSpec, UserError, component
from rayloom.runs.learner_role import LearnerRole
from rayloom.testing import CHECKS, ConformanceError, small
from rayloom.testing.learners import SimulatedGroup, simulate
from rayloom_generative.layers.spectral_norm import SpectralNorm, add_spectral_norm, iterate_spectral_norms
from rayloom_supervised.layers.batch_norm import GlobalBatchNorm, couples_examples

PARTS = (5, 1, 6)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def pair(channels: int = 3) -> tuple[GlobalBatchNorm, nn.BatchNorm2d]:
    ours, theirs = GlobalBatchNorm(channels), nn.BatchNorm2d(channels)
    with torch.no_grad():
        for mine, other in ((ours.weight, theirs.weight), (ours.bias, theirs.bias)):
            mine.copy_(torch.randn(channels))
            other.copy_(mine)
    return ours, theirs


def run(layer: nn.Module, inputs: Tensor, slopes: Tensor) -> dict[str, Tensor]:
    """Return outputs, gradients and running averages after a pass."""
    inputs = inputs.clone().requires_grad_()
    outputs = layer(inputs)
    gradients = torch.autograd.grad((outputs * slopes).sum(), (inputs, *layer.parameters()))
    averages = [buffer for buffer in layer.buffers() if buffer.ndim]
    parts = ("outputs", "inputs", "weight", "bias", "mean", "variance")
    return dict(zip(parts, (outputs, *gradients, *averages), strict=True))


@pytest.mark.parametrize("size", [(12, 3, 4, 5), (12, 3)])
def test_one_learners_batch_norm_is_torchs(size: tuple[int, ...]) -> None:
    ours, theirs = pair()
    other: nn.Module = theirs
    if len(size) == 2:
        other = nn.BatchNorm1d(3)
        other.load_state_dict(theirs.state_dict())
    for _ in range(3):
        inputs, slopes = 3 * torch.randn(size) + 1, torch.randn(size)
        mine, expected = run(ours, inputs, slopes), run(other, inputs, slopes)
        for name, value in expected.items():
            torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5, msg=name)
    ours.eval(), other.eval()
    torch.testing.assert_close(ours(inputs), other(inputs), rtol=1e-4, atol=1e-5)


def test_three_learners_have_the_statistics_and_gradients_of_one() -> None:
    inputs, slopes = 3 * torch.randn(12, 3, 4, 4) + 1, torch.randn(12, 3, 4, 4)
    _, whole = pair()
    expected = run(whole, inputs, slopes)

    def learn(group: SimulatedGroup) -> dict[str, Tensor]:
        def total(tensor: Tensor) -> Tensor:
            summed = tensor.clone()
            group.all_reduce(summed)
            return summed

        layer = GlobalBatchNorm(3)
        layer.load_state_dict({"weight": whole.weight, "bias": whole.bias}, strict=False)
        layer.total = total
        start = sum(PARTS[: group.rank])
        rows = slice(start, start + PARTS[group.rank])
        return run(layer, inputs[rows], slopes[rows])

    found = simulate(3, learn)
    for name in ("outputs", "inputs"):
        joined = torch.cat([each[name] for each in found])
        torch.testing.assert_close(joined, expected[name], rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        torch.testing.assert_close(sum(each[name] for each in found), expected[name], rtol=1e-4, atol=1e-4)
    for name in ("mean", "variance"):
        for each in found:
            torch.testing.assert_close(each[name], expected[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(found[0][name], found[1][name]), "equal to the bit, as buffers must be"


def test_what_couples_examples() -> None:
    assert couples_examples(nn.Sequential(nn.Linear(2, 2), GlobalBatchNorm(2)))
    assert couples_examples(nn.BatchNorm1d(2)) and not couples_examples(nn.GroupNorm(1, 2))


# --- a whole DCGAN -------------------------------------------------------------------------------------------------

_MAPS = {"kind": "conv", "channels": 4, "normalization": "batch"}


def dcgan(generator: dict[str, Any] = _MAPS, critic: dict[str, Any] = _MAPS, **learner: Any) -> Any:
    algorithm = {"generator": generator, "critic": critic, "betas": None}
    sgd = {"kind": "sgd", "learning_rate": 0.05}
    return case("dcgan", algorithm=algorithm, learner={"batch_size": 60, "optimizer": sgd, **learner})


def test_two_learners_train_a_dcgan_as_one_does() -> None:
    alone = LearnerRole(dcgan())
    for _ in range(4):
        alone.learner.update(alone.source.next, alone.source.feedback)

    building = threading.Lock()  # what is drawn at the start comes from torch's one generator

    def learn(group: SimulatedGroup) -> dict[str, Tensor]:
        with building:
            role = LearnerRole(dcgan(count=2), group=group)
        for _ in range(4):
            role.learner.update(role.source.next, role.source.feedback)
        return {name: value.clone() for name, value in role.algorithm.state_dict().items()}

    found = simulate(2, learn)
    expected = alone.algorithm.state_dict()
    running = [name for name in expected if name.startswith("generator.") and "running" in name]
    assert len(running) == 4
    for name in running:
        averaged = name.replace("generator.", "averaged.")
        assert torch.equal(expected[name], expected[averaged]), "running averages are taken over as they are"
    for name, value in expected.items():
        assert torch.equal(found[0][name], found[1][name]), name
        torch.testing.assert_close(found[0][name], value, rtol=2e-3, atol=2e-5, msg=name)
    alone.close()


@component("generator")
def with_torchs_batch_norm(config: object, inputs: int, example: TensorSpec) -> nn.Module:
    """Return a generator whose statistics are those of each learner's own rows."""
    return nn.Sequential(nn.Linear(inputs, 64), nn.BatchNorm1d(64), nn.Unflatten(1, example.shape))


def test_a_network_with_torchs_own_batch_norm_is_refused_with_several_learners() -> None:
    own = {"import": f"{__name__}:with_torchs_batch_norm"}
    building = threading.Lock()

    def learn(group: SimulatedGroup) -> None:
        with building:
            role = LearnerRole(dcgan(count=2, generator=own), group=group)
        role.learner.update(role.source.next, role.source.feedback)

    with pytest.raises(UserError, match=r"the buffer '\S*running_mean' differs between the learners"):
        simulate(2, learn)


def test_shards_of_coupled_examples_add_up_only_where_the_loss_shares_its_statistics() -> None:
    skipped = CHECKS["shards_add_up"](small(dcgan()))
    assert skipped == "the loss of critic and generator itself adds up over learners (sum_over_learners)"
    own = {"import": f"{__name__}:with_torchs_batch_norm"}
    with pytest.raises(ConformanceError, match=r"the gradients of a batch's shards add up to something else"):
        CHECKS["shards_add_up"](small(dcgan(generator=own, critic={"kind": "conv", "channels": 4})))


# --- spectral norm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.Linear(5, 7), nn.Conv2d(3, 4, 3)])
def test_the_largest_singular_value_is_numpys(layer: nn.Linear | nn.Conv2d) -> None:
    weight = layer.weight.detach().clone()
    expected = np.linalg.svd(weight.flatten(1).numpy())[1][0]
    network = nn.Sequential(layer)
    add_spectral_norm(network)
    for _ in range(200):
        iterate_spectral_norms(network)
    torch.testing.assert_close(layer.weight, weight / float(expected), rtol=1e-4, atol=1e-5)
    assert np.linalg.svd(layer.weight.detach().flatten(1).numpy())[1][0] == pytest.approx(1.0, rel=1e-4)


def test_the_gradient_is_the_papers() -> None:
    weight = torch.randn(4, 3, dtype=torch.float64)
    norm = SpectralNorm(weight)
    for _ in range(300):
        norm.iterate(weight)
    u, s, v = np.linalg.svd(weight.numpy())
    upstream = torch.randn(4, 3, dtype=torch.float64)
    variable = weight.clone().requires_grad_()
    (norm(variable) * upstream).sum().backward()
    # Equation 12 of Miyato et al. (2018): (E[delta h'] - lambda u1 v1') / sigma, lambda = <delta, W / sigma>.
    weighed = float((upstream.numpy() * weight.numpy() / s[0]).sum())
    expected = (upstream.numpy() - weighed * np.outer(u[:, 0], v[0])) / s[0]
    np.testing.assert_allclose(variable.grad.numpy(), expected, atol=1e-8)


def test_a_loss_moves_no_vectors_and_a_step_does() -> None:
    role = LearnerRole(case("gan_averaged"))
    vectors = lambda: {k: v.clone() for k, v in role.algorithm.state_dict().items() if k.endswith(("left", "right"))}  # noqa: E731
    before = vectors()
    assert len(before) == 4, "two layers with two vectors each"
    critic = role.learner.phases[0]
    batch = role.source.next()
    role.algorithm.critic_loss(batch)
    assert all(torch.equal(value, before[name]) for name, value in vectors().items())
    critic.step(batch)
    moved = [name for name, value in vectors().items() if not torch.equal(value, before[name])]
    assert len(moved) == 3, "all but the left one of the last layer, which has a single number"
    role.close()
