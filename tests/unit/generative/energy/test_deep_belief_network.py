"""The deep belief network's bound against enumeration, and whose turn it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rayloom.contract import Progress, Rule, TensorSpec
from rayloom.errors import UserError
from rayloom_generative.energy.dbn import DBN, DBNConfig
from rayloom_generative.equations.boltzmann import all_states, restricted_log_partition
from rayloom_generative.equations.densities import bernoulli_log_density

POINTS = {"point": TensorSpec(shape=(4,), dtype=torch.float32)}
LABELLED = {**POINTS, "label": TensorSpec(shape=(), dtype=torch.int64, num_values=3)}


def small(spec: Any = POINTS, **changes: Any) -> DBN:
    torch.manual_seed(0)
    algorithm = DBN(DBNConfig(**{"hidden_sizes": (3, 2), "partition": "exact", **changes}), spec)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.normal_()
    return algorithm


def exact_log_likelihood(algorithm: DBN, visible: torch.Tensor) -> torch.Tensor:
    """log sum over h of p(v|h) p(h), where h are the bits that the two machines share."""
    low, top = algorithm.machine(0), algorithm.machine(1)
    codes = all_states(3)
    prior = -top.free_energy(codes) - restricted_log_partition(top.weight, top.visible_bias, top.hidden_bias)
    below = codes @ low.weight.T + low.visible_bias
    joint = bernoulli_log_density(visible[:, None], below.expand(len(visible), -1, -1)).double() + prior
    return joint.logsumexp(1)


def test_the_bound_is_the_expectation_over_codes_and_below_the_likelihood() -> None:
    algorithm = small()
    low, top = algorithm.machine(0), algorithm.machine(1)
    visible = all_states(4)
    with torch.no_grad():
        exact = exact_log_likelihood(algorithm, visible)
        codes, above = all_states(3), low.up(visible)
        recognised = bernoulli_log_density(codes[None], above.logit()[:, None].expand(-1, len(codes), -1))
        below = codes @ low.weight.T + low.visible_bias
        value = (
            bernoulli_log_density(visible[:, None], below.expand(len(visible), -1, -1))
            - top.free_energy(codes)
            - recognised
        )
        expected = (recognised.exp() * value).sum(1)
        found = torch.stack([algorithm.log_bound(visible) for _ in range(4000)]).mean(0)
        partition = restricted_log_partition(top.weight, top.visible_bias, top.hidden_bias)
    assert float(exact.exp().sum()) == pytest.approx(1, rel=1e-5)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.15)
    assert bool((expected.double() - partition < exact).all())


def test_one_machine_is_a_restricted_machine() -> None:
    algorithm = small(hidden_sizes=(3,))
    batch = algorithm.prepare({"point": all_states(4)})
    with torch.no_grad():
        outputs = algorithm.evaluate(batch)
        metrics, _ = algorithm.summarize({name: value for name, value in outputs.items() if name.startswith("_")})
        machine = algorithm.machine(0)
        partition = restricted_log_partition(machine.weight, machine.visible_bias, machine.hidden_bias)
        expected = (machine.free_energy(batch["bits"]) + partition).mean()
    assert float(metrics["nll_bound_exact_dynamic_bits"]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("fine_tuning", "fraction", "turn"),
    [(0.0, 0.0, 0), (0.0, 0.49, 0), (0.0, 0.5, 1), (0.0, 1.0, 1), (0.5, 0.24, 0), (0.5, 0.26, 1), (0.5, 0.51, 2)],
)
def test_turns(fine_tuning: float, fraction: float, turn: int) -> None:
    algorithm = small(LABELLED, fine_tuning=fine_tuning)
    takes_part = [step.when(Progress(fraction=fraction)) for step in algorithm.phases() if step.when]
    assert takes_part == [number == turn for number in range(len(takes_part))]


def test_a_machine_learns_alone_and_from_the_bits_below() -> None:
    algorithm = small()
    rule = algorithm.phases()[1]
    assert isinstance(rule, Rule)
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    with torch.no_grad():
        found = rule.gather(algorithm.prepare({"point": all_states(4)}))
        rule.apply(found.sums, 16.0)
    changed = {name for name, value in algorithm.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("machines.1.") for name in changed)
    assert found.sums["weight"].shape == (3, 2)


def test_samples_go_down_from_the_highest_machine() -> None:
    algorithm = small(sample_sweeps=80)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.mul_(0.5)
        expected = exact_log_likelihood(algorithm, all_states(4)).exp().float() @ all_states(4)
    drawn = algorithm.sample(20_000, torch.Generator().manual_seed(1))
    assert drawn.data is not None
    torch.testing.assert_close(drawn.data.mean(0), expected, rtol=0, atol=0.015)


def test_fine_tuning_needs_labels() -> None:
    with pytest.raises(UserError, match=r"algorithm\.fine_tuning: .* set it to 0"):
        DBN(DBNConfig(fine_tuning=0.5), POINTS)
