"""The Boltzmann machine of six units against its 64 states."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.energy.bit_patterns import BarsAndStripesConfig, bars_and_stripes, patterns
from rayloom_generative.energy.boltzmann_machine import (
    BoltzmannMachine,
    BoltzmannMachineConfig,
    distance,
    frequencies,
)
from rayloom_generative.equations.boltzmann import all_states, state_index

POINTS = {"point": TensorSpec(shape=(6,), dtype=torch.float32)}


def machine(scale: float = 0.0, **changes: Any) -> BoltzmannMachine:
    torch.manual_seed(0)
    algorithm = BoltzmannMachine(BoltzmannMachineConfig(**changes), POINTS)
    with torch.no_grad():
        if scale:
            weight = (scale * torch.randn_like(algorithm.weight)).triu(1)
            algorithm.weight.copy_(weight + weight.T)
            algorithm.bias.copy_(scale * torch.randn_like(algorithm.bias))
    return algorithm


def by_hand(algorithm: BoltzmannMachine) -> torch.Tensor:
    """The distribution over the 64 states by a loop over pairs."""
    found = []
    for state in itertools.product((0, 1), repeat=len(algorithm.bias)):
        total = sum(float(algorithm.bias[i]) for i, on in enumerate(state) if on)
        total += sum(float(algorithm.weight[i, j]) for i in range(len(state)) for j in range(i) if state[i] * state[j])
        found.append(total)
    return torch.tensor(found, dtype=torch.float64).softmax(0)


def test_log_probabilities_equal_a_sum_over_pairs() -> None:
    algorithm = machine(1.0)
    with torch.no_grad():
        torch.testing.assert_close(algorithm.visible_log_probabilities().exp(), by_hand(algorithm), rtol=1e-5, atol=0)


def test_hidden_units_are_summed_out() -> None:
    algorithm = machine(1.0, hidden_units=2)
    with torch.no_grad():
        expected = by_hand(algorithm).reshape(64, 4).sum(1)
        torch.testing.assert_close(algorithm.visible_log_probabilities().exp(), expected, rtol=1e-5, atol=0)


def test_gibbs_marginals_equal_the_64_states() -> None:
    algorithm = machine(1.0, sample_sweeps=50)
    with torch.no_grad():
        exact = by_hand(algorithm)
        chains = itertools.islice(algorithm.gibbs(20_000, torch.Generator().manual_seed(1)), 30)
        found = frequencies(torch.cat([state_index(states) for states in chains]), 6)
    assert float(distance(exact, found)) <= 0.01
    assert float(distance(exact, torch.full((64,), 1 / 64, dtype=torch.float64))) > 0.2  # and it is no coin


def test_a_sweep_by_hand() -> None:
    algorithm = machine()
    with torch.no_grad():
        algorithm.weight.zero_()
        algorithm.weight[0, 1] = algorithm.weight[1, 0] = 50.0
        algorithm.bias.copy_(torch.tensor([50.0, -25.0, -50.0, 0.0, 0.0, 50.0]))
        uniform = torch.tensor([[0.5, 0.5, 0.5, 0.4, 0.6, 0.5]])
        # The second unit goes on only because the first did before it in the same sweep.
        assert algorithm.sweep(torch.zeros(1, 6), uniform).tolist() == [[1, 1, 0, 1, 0, 1]]
        held = algorithm.sweep(torch.zeros(1, 6), uniform[:, 2:], first=2)
        assert held.tolist() == [[0, 0, 0, 1, 0, 1]]


def test_learning_reaches_the_maximum_of_the_likelihood() -> None:
    data = bars_and_stripes(BarsAndStripesConfig(train_size=500), 0).train["point"]
    algorithm = machine(chains=1000, learning_rate=3.0)
    with torch.no_grad():
        for step in range(800):
            algorithm.progress.fraction = step / 800
            algorithm.change(algorithm.gather({"bits": data}).sums, float(len(data)))
        reached = float(-algorithm.visible_log_probabilities()[state_index(data)].mean())
    # The likelihood is concave: plain ascent of the enumerated one finds its maximum.
    states = all_states(6)
    features = torch.cat((states, (states[:, :, None] * states[:, None])[:, *torch.triu_indices(6, 6, 1)]), 1)
    parameters = torch.zeros(features.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=200)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = -(features @ parameters).log_softmax(0)[state_index(data)].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    best = float(closure().detach())
    assert best - 1e-4 < reached < best + 0.01
    assert torch.equal(algorithm.weight, algorithm.weight.T) and float(algorithm.weight.diagonal().abs().max()) == 0


def test_hidden_bits_run_while_the_data_are_held() -> None:
    algorithm = machine(1.0, hidden_units=2, clamped_sweeps=20)
    data = torch.tensor([[1.0, 0, 1, 0, 1, 0]]).expand(20_000, 6)
    with torch.no_grad():
        sums = algorithm.gather({"bits": data}).sums
        joint = by_hand(algorithm).reshape(64, 4)[0b101010]
    found = sums["data"][6:] / 20_000
    expected = (joint / joint.sum()).float() @ all_states(2)
    assert torch.equal(sums["data"][:6], data.sum(0))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.015)


def test_too_many_units() -> None:
    with pytest.raises(UserError, match=r"algorithm\.hidden_units: 21 units"):
        machine(hidden_units=15)


def test_bars_and_stripes() -> None:
    known = patterns(2, 3)
    assert len(known) == 2**2 + 2**3 - 2
    picture = known.reshape(-1, 2, 3)
    rows, columns = (picture == picture[:, :, :1]).all((1, 2)), (picture == picture[:, :1]).all((1, 2))
    assert bool((rows | columns).all())
    data = bars_and_stripes(BarsAndStripesConfig(flip=0.0, train_size=1000), 1)
    assert torch.equal(torch.unique(data.train["point"], dim=0), known)
    noisy = bars_and_stripes(BarsAndStripesConfig(), 1).train["point"]
    share = (torch.cdist(noisy, known).min(1).values < 0.5).float().mean()
    # Of a pattern that is left alone (0.95^6), or turned into another one.
    assert 0.95**6 < float(share) < 0.95**6 + 0.03
