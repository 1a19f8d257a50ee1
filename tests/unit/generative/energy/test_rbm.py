"""The restricted Boltzmann machine against gradients of the enumerated likelihood."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets import Dataset
from rayloom.errors import UserError
from rayloom_generative.energy.persistent_rbm import PersistentRBM, PersistentRBMConfig
from rayloom_generative.energy.rbm import RBM, RBMConfig
from rayloom_generative.equations.boltzmann import all_states, restricted_log_partition
from rayloom_generative.networks.restricted_boltzmann import RestrictedBoltzmannMachine

POINTS = {"point": TensorSpec(shape=(5,), dtype=torch.float32)}
IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def rough(machine: RestrictedBoltzmannMachine) -> None:
    with torch.no_grad():
        for parameter in machine.parameters():
            parameter.normal_()


def log_likelihood(algorithm: RBM, bits: torch.Tensor) -> torch.Tensor:
    machine = algorithm.machine
    partition = restricted_log_partition(machine.weight, machine.visible_bias, machine.hidden_bias)
    return (-machine.free_energy(bits) - partition).mean()


def points(values: torch.Tensor) -> Any:
    return Dataset({"point": values}, {"point": values}, {"point": values}, POINTS, "points").train


def test_the_statistics_are_the_gradient_of_the_likelihood() -> None:
    algorithm = RBM(RBMConfig(hidden_units=3), POINTS)
    rough(algorithm.machine)
    data = torch.bernoulli(torch.full((50, 5), 0.4))
    parameters = dict(algorithm.machine.named_parameters())
    expected = torch.autograd.grad(log_likelihood(algorithm, data), list(parameters.values()))
    states = all_states(5)
    with torch.no_grad():
        share = (-algorithm.machine.free_energy(states)).softmax(0)
        held = algorithm.machine.statistics(data)
        free = [algorithm.machine.statistics(state[None]) for state in states]
    for name, gradient in zip(parameters, expected, strict=True):
        model = sum(weight * statistics[name] for weight, statistics in zip(share, free, strict=True))
        torch.testing.assert_close(held[name] / 50 - model, gradient, rtol=1e-4, atol=1e-5)


def test_long_contrastive_divergence_follows_the_gradient() -> None:
    algorithm = RBM(RBMConfig(hidden_units=3, gibbs_steps=30, learning_rate=1.0, momentum=0.0), POINTS)
    with torch.no_grad():
        for parameter in algorithm.machine.parameters():
            parameter.normal_(0, 0.5)
    data = torch.bernoulli(torch.tensor([0.9, 0.8, 0.1, 0.5, 0.3]).expand(20_000, 5))
    parameters = list(algorithm.machine.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    expected = torch.autograd.grad(log_likelihood(algorithm, data), parameters)
    with torch.no_grad():
        algorithm.change(algorithm.gather({"bits": data}).sums, 20_000.0)
    for parameter, old, gradient in zip(parameters, before, expected, strict=True):
        torch.testing.assert_close(parameter.detach() - old, gradient, rtol=0, atol=0.015)


def test_climbing_by_hand() -> None:
    machine = RestrictedBoltzmannMachine(1, 1)
    gradient = {"weight": torch.ones(1, 1), "visible_bias": torch.ones(1), "hidden_bias": torch.zeros(1)}
    with torch.no_grad():
        machine.weight.fill_(2.0)
        for _ in range(2):
            machine.climb(gradient, rate=0.1, momentum=0.5, weight_decay=0.25)
    # First 0.1 * (1 - 0.5) = 0.05; then 0.5 * 0.05 + 0.1 * (1 - 0.25 * 2.05) = 0.07375. Biases do not decay.
    assert machine.weight.item() == pytest.approx(2.0 + 0.05 + 0.07375)
    assert machine.visible_bias.item() == pytest.approx(0.1 + 0.15)


def test_the_step_size_falls_to_its_end() -> None:
    algorithm = RBM(RBMConfig(learning_rate=1.0, final_learning_rate=0.5, momentum=0.0, hidden_units=1), POINTS)
    sums = {f"data_{name}": torch.ones_like(value) for name, value in algorithm.machine.named_parameters()}
    sums |= {f"model_{name}": torch.zeros_like(value) for name, value in algorithm.machine.named_parameters()}
    found = []
    for fraction in (0.0, 0.5, 1.0):
        before = algorithm.machine.visible_bias.detach().clone()
        algorithm.progress.fraction = fraction
        with torch.no_grad():
            algorithm.change({**sums, "states": torch.tensor(1.0)}, 1.0)
        found.append(float((algorithm.machine.visible_bias - before)[0]))
    assert found == pytest.approx([1.0, 0.75, 0.5])


def test_evaluations_report_the_exact_likelihood_in_the_named_way() -> None:
    algorithm = RBM(RBMConfig(hidden_units=4, partition="exact", binarize="threshold"), POINTS)
    rough(algorithm.machine)
    batch = algorithm.prepare({"point": torch.rand(30, 5)})
    with torch.no_grad():
        found = algorithm.evaluate(batch)
        metrics, _ = algorithm.summarize({"_free_energy": found["_free_energy"]})
        expected = -log_likelihood(algorithm, batch["bits"])
        sampled = RBM(RBMConfig(hidden_units=4, partition="ais"), POINTS)
        sampled.load_state_dict(algorithm.state_dict())
        near, _ = sampled.summarize({"_free_energy": found["_free_energy"]})
    assert set(metrics) == {"log_partition_exact", "nll_exact_threshold_bits"}
    assert float(metrics["nll_exact_threshold_bits"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(near["nll_ais_dynamic_bits"]) == pytest.approx(float(expected), abs=0.1)
    assert torch.equal(batch["bits"], (batch["point"] > 0.5).float())


def test_the_visible_biases_start_at_the_log_odds_of_the_data() -> None:
    algorithm = RBM(RBMConfig(), IMAGES)
    with torch.no_grad():
        algorithm.initialize(datasets.load("digits", 0).train)
    images = datasets.load("digits", 0).train["image"].flatten(1).float() / 255
    expected = images.mean(0).clamp(0.01, 0.99)
    torch.testing.assert_close(torch.sigmoid(algorithm.machine.visible_bias.detach()), expected, rtol=1e-4, atol=1e-6)


def test_samples_follow_the_model() -> None:
    algorithm = RBM(RBMConfig(hidden_units=3, sample_sweeps=60), POINTS)
    with torch.no_grad():
        for parameter in algorithm.machine.parameters():
            parameter.normal_(0, 0.7)
        share = (-algorithm.machine.free_energy(all_states(5))).softmax(0)
    drawn = algorithm.sample(20_000, torch.Generator().manual_seed(2))
    again = algorithm.sample(20_000, torch.Generator().manual_seed(2))
    assert drawn.data is not None and again.data is not None
    torch.testing.assert_close(drawn.data.mean(0), share @ all_states(5), rtol=0, atol=0.015)
    assert torch.equal(drawn.data, again.data)


def test_pictures_of_digits() -> None:
    algorithm = RBM(RBMConfig(hidden_units=70), IMAGES)
    batch = algorithm.prepare({"image": datasets.load("digits", 0).validation["image"][:20]})
    with torch.no_grad():
        shown = algorithm.figures(batch)
    assert shown["filters"].data.shape == (64, 1, 8, 8) and float(shown["filters"].data.min()) >= 0
    chains = shown["gibbs_chains"]
    assert (chains.columns, chains.data.shape) == (8, (64, 1, 8, 8))
    assert torch.equal(chains.data[::8].flatten(1), batch["bits"][:8])  # the first column are the starts


# --- persistent chains -----------------------------------------------------------------------------------------------


def persistent(chains: int = 8) -> PersistentRBM:
    algorithm = PersistentRBM(PersistentRBMConfig(hidden_units=3, chains=chains), POINTS)
    rough(algorithm.machine)
    with torch.no_grad():
        algorithm.chains.copy_(torch.bernoulli(torch.full((chains, 5), 0.5)))
    return algorithm


@pytest.mark.parametrize("chains", [3, 8, 20])
def test_the_chains_go_on_from_update_to_update(chains: int) -> None:
    algorithm = persistent(chains)
    before, bias = algorithm.chains.clone(), algorithm.machine.visible_bias.detach().clone()
    with torch.no_grad():
        found = algorithm.gather({"bits": torch.ones(8, 5)})
        assert torch.equal(algorithm.chains, before)  # gathering changes nothing
        algorithm.change(found.sums, 8.0)
    assert not torch.equal(algorithm.chains, before)
    assert float(found.sums["states"]) == chains
    assert torch.equal(found.sums["model_visible_bias"], algorithm.chains.sum(0))  # not those of the data, all ones
    change = 0.05 * (1 - algorithm.chains.mean(0))  # the averages, of 8 examples and of as many chains as there are
    torch.testing.assert_close(algorithm.machine.visible_bias.detach() - bias, change)


def test_persistent_chains_sample_the_model() -> None:
    algorithm = persistent(5000)
    with torch.no_grad():
        for parameter in algorithm.machine.parameters():
            parameter.mul_(0.5)
        for _ in range(60):
            algorithm.gather({"bits": torch.ones(100, 5)})
            algorithm.chains.copy_(algorithm._moved)
        share = (-algorithm.machine.free_energy(all_states(5))).softmax(0)
    torch.testing.assert_close(algorithm.chains.mean(0), share @ all_states(5), rtol=0, atol=0.03)


# --- bad input -------------------------------------------------------------------------------------------------------


def test_numbers_that_are_no_bits() -> None:
    with pytest.raises(UserError, match="must lie in"):
        RBM(RBMConfig(), POINTS).initialize(points(torch.full((3, 5), 1.5)))


def test_too_many_states_to_enumerate() -> None:
    with pytest.raises(UserError, match=r"algorithm\.partition: .* use ais"):
        RBM(RBMConfig(hidden_units=21, partition="exact"), IMAGES)
