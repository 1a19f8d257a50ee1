"""Alarms of adversarial training, each tripped on purpose: a metric, a warning in the log, what to try."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from cases import case
from rayloom.contract import Findings
from rayloom.runs.learner_role import LearnerRole
from rayloom_generative.adversarial.alarms import critic_has_won, dead_critic, dead_penalty, divergence, mode_collapse

Break = Callable[[Any], None]


def evaluated(name: str, break_it: Break | None = None, **algorithm: Any) -> tuple[LearnerRole, Findings]:
    """Return a role of a case whose algorithm was broken, and what its evaluation found."""
    role = LearnerRole(case(name, algorithm=algorithm))
    with torch.no_grad():
        if break_it is not None:
            break_it(role.algorithm)
    role.algorithm.progress.updates = 500
    return role, role.evaluate()


def raised(found: Findings) -> set[str]:
    return {
        name.removeprefix("evaluate/alarm_")
        for name, value in found.metrics.items()
        if name.startswith("evaluate/alarm_") and value
    }


def spread_out(algorithm: Any) -> None:
    """Let the generator of points hand its codes on, as a model whose samples are diverse."""
    algorithm.generator = nn.Identity()
    algorithm.averaged = None


def collapse(algorithm: Any) -> None:
    for parameter in algorithm.generator.parameters():
        parameter.zero_()


def kill_critic(algorithm: Any) -> None:
    spread_out(algorithm)
    for parameter in algorithm.critic.parameters():
        parameter.zero_()


def let_critic_win(algorithm: Any) -> None:
    """Data lie in the square around 0, samples beyond it: a step in the first coordinate separates them."""
    algorithm.generator = Beyond()
    algorithm.critic = Step()


class Beyond(nn.Module):
    def forward(self, code: torch.Tensor) -> torch.Tensor:
        return code + torch.tensor([10.0, 0.0])


class Step(nn.Module):
    def forward(self, points: torch.Tensor) -> torch.Tensor:
        return 20 * (5 - points[:, 0]).sign()


def steepen(algorithm: Any) -> None:
    spread_out(algorithm)
    algorithm.critic.network.layers[-1].weight.mul_(100)


def flatten(algorithm: Any) -> None:
    spread_out(algorithm)
    algorithm.critic.network.layers[-1].weight.mul_(1e-2)


def scatter(algorithm: Any) -> None:
    for parameter in algorithm.generator.parameters():
        parameter.mul_(12)


_POINTS = {"latent_size": 2}
_PLAIN = {"average": None, "spectral_norm": False, **_POINTS}


@pytest.mark.parametrize(
    ("name", "settings", "break_it", "alarm", "seen", "remedy"),
    [
        ("wgan", _POINTS, collapse, "mode_collapse", "0 times as far apart", "try WGANGP"),
        (
            "wgan",
            {**_POINTS, "known_modes": "gaussian-ring"},
            collapse,
            "mode_collapse",
            "cover 0 of 8 modes",
            "WGANGP",
        ),
        (
            "wgan",
            _POINTS,
            kill_critic,
            "dead_critic",
            "gives every example the score 0",
            "algorithm.critic_learning_rate",
        ),
        (
            "gan_averaged",
            _PLAIN,
            let_critic_win,
            "critic_has_won",
            "with 1.0000 and samples with",
            "algorithm.loss: non_saturating",
        ),
        ("wgan_gp", _POINTS, steepen, "dead_penalty", "and not about 1", "raise algorithm.penalty_weight"),
        ("wgan_gp", _POINTS, flatten, "dead_penalty", "and not about 1", "lower algorithm.penalty_weight"),
        ("gan_averaged", _PLAIN, scatter, "divergence", "times as far apart", "learner.max_grad_norm"),
    ],
)
def test_an_alarm_is_a_metric_a_warning_and_a_text(
    name: str, settings: Any, break_it: Break, alarm: str, seen: str, remedy: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        role, found = evaluated(name, break_it, **settings)
        role.evaluate()
    assert raised(found) == {alarm}
    told = [record.getMessage() for record in caplog.records if record.name.startswith("rayloom_generative")]
    assert len(told) == 1, "once in a run"
    assert told[0].startswith(f"update 500, {alarm.replace('_', ' ')}: ")
    assert seen in told[0] and remedy in told[0]
    text = found.figures["alarms"]
    assert text.kind == "text" and text.text in told[0]
    role.close()


def test_a_model_that_is_well_raises_none(caplog: pytest.LogCaptureFixture) -> None:
    role, found = evaluated("wgan_gp", spread_out, **_POINTS)
    for _ in range(40):
        role.learner.phases[0].step(role.source.next())  # type: ignore[union-attr]
    found = role.evaluate()
    assert raised(found) == set() and "alarms" not in found.figures and not caplog.records
    assert {name for name in found.metrics if "alarm" in name} == {
        f"evaluate/alarm_{name}" for name in ("mode_collapse", "dead_critic", "dead_penalty", "divergence")
    }
    role.close()


def test_a_training_without_a_penalty_trips_its_alarm() -> None:
    config = case("wgan_gp", algorithm={"penalty_weight": 0.0}, learner={"optimizer": {"learning_rate": 1e-2}})
    role = LearnerRole(config)
    for _ in range(15):
        role.learner.update(role.source.next, role.source.feedback)
    assert "dead_penalty" in raised(role.evaluate())
    role.close()


def test_the_bounds_by_hand() -> None:
    scores = torch.tensor([1.0, 2.0])
    assert not mode_collapse(200, 0.61).raised and mode_collapse(200, 0.59).raised
    assert not mode_collapse(199, 0.59).raised, "an untrained generator has not collapsed"
    assert mode_collapse(200, 1.0, 11.0, 25).raised and not mode_collapse(200, 1.0, 13.0, 25).raised
    assert not dead_critic(scores, scores).raised
    assert dead_critic(torch.full((3,), 1e4), torch.full((3,), 1e4 + 0.05)).raised
    assert critic_has_won(0.999, 0.001).raised and not critic_has_won(0.98, 0.001).raised
    assert not dead_penalty(1.1).raised and dead_penalty(0.2).raised and dead_penalty(float("nan")).raised
    assert not divergence(9.0, scores, scores).raised and divergence(11.0, scores, scores).raised
    assert divergence(1.0, scores, 1e5 * scores).raised
    assert "not finite" in str(divergence(1.0, scores, scores * float("nan")))
