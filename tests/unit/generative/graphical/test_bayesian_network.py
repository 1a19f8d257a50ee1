"""Bayesian networks against loops over all joint states, and by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom.datasets.causes import SPRINKLER
from rayloom.errors import UserError
from rayloom_generative.graphical.bayesian_network import BayesianNetwork, BayesianNetworkConfig

EDGES = (("cloudy", "sprinkler"), ("cloudy", "rain"), ("sprinkler", "wet_grass"), ("rain", "wet_grass"))
BINARY = TensorSpec(shape=(), dtype=torch.int64, num_values=2)
SPEC = dict.fromkeys(("cloudy", "sprinkler", "rain", "wet_grass"), BINARY)


def network(edges: tuple[tuple[str, str], ...] = EDGES, spec: Any = SPEC, **settings: Any) -> BayesianNetwork:
    return BayesianNetwork(BayesianNetworkConfig(edges=edges, **settings), spec)


def true_sprinkler() -> BayesianNetwork:
    """The network with the published tables."""
    model = network()
    for name, (_, yes) in SPRINKLER.items():
        model.log_table(name).copy_(torch.stack((1 - yes, yes), dim=-1).log())
    return model


def counted(model: BayesianNetwork, data: dict[str, torch.Tensor]) -> BayesianNetwork:
    (rule,) = model.phases()
    count = len(next(iter(data.values())))
    rule.apply(rule.gather(data).sums, count)
    return model


def test_tables_are_relative_frequencies() -> None:
    spec = {"a": BINARY, "b": TensorSpec(shape=(), dtype=torch.int64, num_values=3)}
    data = {"a": torch.tensor([0, 0, 0, 0]), "b": torch.tensor([0, 1, 1, 1])}
    model = counted(network((("a", "b"),), spec), data)
    torch.testing.assert_close(model.log_table("b").exp()[0], torch.tensor([0.25, 0.75, 0.0], dtype=torch.float64))
    torch.testing.assert_close(model.log_table("b").exp()[1], torch.full((3,), 1 / 3, dtype=torch.float64))
    smoothed = counted(network((("a", "b"),), spec, smoothing=1.0), data)
    torch.testing.assert_close(
        smoothed.log_table("b").exp()[0], torch.tensor([2 / 7, 4 / 7, 1 / 7], dtype=torch.float64)
    )
    torch.testing.assert_close(smoothed.log_table("a").exp(), torch.tensor([5 / 6, 1 / 6], dtype=torch.float64))


def test_probabilities_of_all_states_sum_to_one() -> None:
    states = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    probability = true_sprinkler().log_probability(states).exp()
    assert float(probability.sum()) == pytest.approx(1.0, abs=1e-12)
    # cloudy, no sprinkler, rain, wet: 0.5 * 0.9 * 0.8 * 0.9
    assert float(probability[0b1011]) == pytest.approx(0.324, abs=1e-12)


def test_posteriors_equal_a_loop_over_all_states() -> None:
    model = true_sprinkler()
    states = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    probability = model.log_probability(states).exp()
    wet = states[:, 3] == 1
    rain = float(probability[wet & (states[:, 2] == 1)].sum() / probability[wet].sum())
    assert float(model.posterior("rain", {"wet_grass": 1})[1]) == pytest.approx(rain, abs=1e-12)
    # Murphy's tutorial gives 0.2781/0.6471 = 0.430 for the sprinkler; rain explains it away.
    assert float(model.posterior("sprinkler", {"wet_grass": 1})[1]) == pytest.approx(0.4298, abs=1e-4)
    assert float(model.posterior("sprinkler", {"wet_grass": 1, "rain": 1})[1]) == pytest.approx(0.1945, abs=1e-4)


def test_samples_have_the_marginals_of_the_network() -> None:
    model = true_sprinkler()
    drawn = model.draw(20_000, torch.Generator().manual_seed(0))
    for column, name in enumerate(model.names):
        assert abs(float(drawn[:, column].double().mean()) - float(model.posterior(name, {})[1])) < 0.015
    both = (drawn[:, 1] * drawn[:, 2]).bool()
    assert abs(float(drawn[both, 3].double().mean()) - 0.99) < 0.01


def test_counting_finds_the_tables_and_wrong_structure_costs_likelihood() -> None:
    data = datasets.load({"kind": "sprinkler", "train_size": 40_000}, 0)
    true, learnt = true_sprinkler(), counted(network(), dict(data.train.columns))
    for name in SPEC:
        torch.testing.assert_close(learnt.log_table(name).exp(), true.log_table(name).exp(), rtol=0, atol=0.02)
    held_out = dict(data.test.columns)
    independent = counted(network(()), dict(data.train.columns))
    models = {"true": true, "learnt": learnt, "independent": independent}
    values = {each: float(model.evaluate(held_out)["loss"][0].mean()) for each, model in models.items()}
    assert values["learnt"] < values["true"] + 0.005
    assert values["independent"] > values["true"] + 0.3


def test_impossible_examples_are_counted_apart() -> None:
    spec = {"a": BINARY}
    model = counted(network((), spec), {"a": torch.zeros(4, dtype=torch.int64)})
    found = model.evaluate({"a": torch.tensor([0, 1])})
    total, count = found["loss"]
    assert total.tolist() == [0, 0] and count.tolist() == [1, 0] and found["impossible"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ((("cloud", "rain"),), r"algorithm\.edges: there is no variable 'cloud'"),
        ((("rain", "cloudy"), ("cloudy", "rain")), "cycle among cloudy, rain"),
        ((("rain", "rain"),), "cycle"),
        ((("cloudy", "rain"), ("cloudy", "rain")), "twice"),
    ],
)
def test_a_wrong_structure_is_told(edges: tuple[tuple[str, str], ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        network(edges)


def test_wrong_variables_are_told() -> None:
    with pytest.raises(UserError, match=r"algorithm\.variables: there is no variable 'snow'"):
        network((), variables=("snow",))
    with pytest.raises(UserError, match="needs fields of categories"):
        network((), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    with pytest.raises(UserError, match="posterior: there is no variable"):
        true_sprinkler().posterior("rain", {"snow": 1})
