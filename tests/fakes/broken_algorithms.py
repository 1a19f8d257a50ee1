"""Algorithms that each break one promise of the contract, as an author might by mistake."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.contract import Action, Batch, Loss, Spec
from rayloom_agents.policy_gradient.ppo import PPO
from rayloom_supervised.tasks.classification import Classifier


class Ascends(Classifier):
    """Has the sign of its loss wrong: the gradient is that of the negative loss."""

    def loss(self, batch: Batch) -> Loss:
        """Return a loss whose gradient points upwards."""
        right = super().loss(batch)
        return Loss(2.0 * right.per_example.detach() - right.per_example, right.metrics)


class MixesRows(Classifier):
    """Its example's loss depends on the other examples of the batch."""

    def loss(self, batch: Batch) -> Loss:
        """Return losses scaled by the batch's own mean."""
        right = super().loss(batch)
        return Loss(right.per_example / right.per_example.mean().detach().square(), right.metrics)


class ReadsTheHost(Classifier):
    """Looks at a number in its loss."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss, or none at all where it is small."""
        right = super().loss(batch)
        return right if right.per_example.mean().item() > 1e-9 else Loss(0.0 * right.per_example)


class StaysOnTheCPU(Classifier):
    """Makes a tensor without saying where."""

    def loss(self, batch: Batch) -> Loss:
        """Return losses that are weighed alike."""
        right = super().loss(batch)
        return Loss(right.per_example * torch.ones(len(right.per_example)), right.metrics)


class AlreadyReduced(Classifier):
    """Returns a mean where the losses of all examples belong."""

    def loss(self, batch: Batch) -> Loss:
        """Return one number."""
        return Loss(super().loss(batch).per_example.mean().unsqueeze(0))


class KeepsAttached(Classifier):
    """Reports a metric with its graph."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss, and once more as a metric."""
        right = super().loss(batch)
        return Loss(right.per_example, {"own": right.per_example})


class DrawsElsewhere(Classifier):
    """Draws from a generator that nobody seeded."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss times a random factor."""
        return Loss(super().loss(batch).per_example * float(np.random.default_rng().uniform(0.9, 1.1)))


class ForgetsItsState(Classifier):
    """Keeps a number in a plain attribute that belongs into a buffer."""

    def __init__(self, config: Any, spec: Spec) -> None:
        """Begin with a factor of 1."""
        super().__init__(config, spec)
        self.factor = torch.ones(())

    def loss(self, batch: Batch) -> Loss:
        """Return the loss times the factor."""
        right = super().loss(batch)
        return Loss(right.per_example * self.factor, right.metrics)

    def after_update(self, update: int) -> None:
        """Shrink the factor."""
        self.factor *= 0.9


class EvaluatesByChance(Classifier):
    """Draws in its evaluation from a generator that nobody seeded."""

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the metrics, and a random one."""
        return {**super().evaluate(batch), "luck": torch.tensor(np.random.default_rng().random())}


class LearnsFromEvaluations(Classifier):
    """Changes a weight in its evaluation."""

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the metrics, and shrink the weights."""
        for parameter in self.parameters():
            parameter.mul_(0.99)
        return super().evaluate(batch)


class ReportsNothing(Classifier):
    """Reports a metric that is not a number."""

    def loss(self, batch: Batch) -> Loss:
        """Return the loss, and 0 / 0."""
        right = super().loss(batch)
        return Loss(right.per_example, {"ratio": torch.zeros(()) / torch.zeros(())})


class ActsOnReals(PPO):
    """Returns the action's number as a real."""

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Act."""
        action = super().act(observation, state, explore)
        return action._replace(action=action.action.float())


class ActsOneTooHigh(PPO):
    """Counts its actions from 1."""

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Act."""
        action = super().act(observation, state, explore)
        return action._replace(action=action.action + 1)


class ActsByChance(PPO):
    """Draws from torch's global generator when it should act greedily."""

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Act."""
        action = super().act(observation, state, explore)
        return action if explore else action._replace(action=torch.randint(2, action.action.shape))


class IgnoresItsGenerator(PPO):
    """Explores with torch's global generator."""

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Act."""
        action = super().act(observation, state, explore)
        return action._replace(action=torch.randint(2, action.action.shape)) if explore else action


class LooksAround(PPO):
    """Its action for one environment depends on the other environments."""

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Act by the rank among all environments."""
        if explore is not None:
            return super().act(observation, state, explore)
        return Action((observation[:, 0] >= observation[:, 0].max()).long().flip(0))
