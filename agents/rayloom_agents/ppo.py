"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) for discrete and continuous actions.

Departures from the paper, each the usual practice of published implementations:
- policy and value are two networks that share nothing; orthogonal initialisation; Adam's eps is a setting;
- advantages are normalised once over the whole rollout, not per minibatch, so that K shards equal one batch;
- log-probabilities and values of a rollout are computed in one batch after it, with the weights that collected it;
- continuous actions: a Gaussian with a state-independent standard deviation, whose sample is clipped to the action
  range only on its way to the environment.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from rayloom.contract import Action, Algorithm, AlgorithmConfig, Batch, Loss, Phase, Spec, Trajectory, UserError
from rayloom_agents.networks import Activation, FeedForward, NumpyForward, as_rows, observation_size
from rayloom_agents.objectives import clipped_surrogate
from rayloom_agents.returns import generalized_advantages

_LOG_TWO_PI = math.log(2.0 * math.pi)


class PPO(Algorithm):
    """Proximal policy optimisation with a clipped surrogate."""

    sources = frozenset({"on_policy"})

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of PPO."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        lambda_: Annotated[float, Ge(0), Le(1)] = 0.95
        """Decay of GAE."""
        clip_range: Annotated[float, Gt(0)] = 0.2
        """Largest useful change of a probability ratio."""
        value_coefficient: Annotated[float, Ge(0)] = 0.5
        """Weight of the squared value error."""
        entropy_coefficient: Annotated[float, Ge(0)] = 0.0
        """Weight of the entropy bonus (per nat)."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (64, 64)
        """Units of the hidden layers of both networks."""
        activation: Activation = "tanh"
        """Activation of the hidden layers."""
        normalize_advantages: bool = True
        """Scale the advantages of each rollout to mean 0 and standard deviation 1."""

    config: Config
    low: Tensor
    high: Tensor

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build a policy and a value network for the environment's spec."""
        super().__init__(config, spec)
        observation, action = spec["observation"], spec["action"]
        inputs = observation_size(observation)
        self.discrete = action.num_values is not None
        if not self.discrete and len(action.shape) != 1:
            raise UserError(f"algorithm: PPO needs discrete or vector actions, not actions of shape {action.shape}")
        outputs = action.num_values if action.num_values is not None else action.shape[0]
        hidden, activation = config.hidden_sizes, config.activation
        self.policy = FeedForward((inputs, *hidden, outputs), activation, output_gain=0.01)
        self.value = FeedForward((inputs, *hidden, 1), activation, output_gain=1.0)
        self.log_std = None if self.discrete else nn.Parameter(torch.zeros(outputs))
        if not self.discrete:
            low = torch.tensor(action.low) if action.low is not None else torch.full((outputs,), -math.inf)
            high = torch.tensor(action.high) if action.high is not None else torch.full((outputs,), math.inf)
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self._fast: NumpyForward | None = None

    def phases(self) -> list[Phase]:
        """Return the one phase of policy and value together."""
        return [Phase("policy_and_value", self.loss, tuple(self.parameters()))]

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        on_cpu = next(self.policy.parameters()).device.type == "cpu"
        self._fast = NumpyForward(self.policy) if on_cpu else None

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Sample from the policy, or take its mode."""
        outputs = self._policy_outputs(observation)
        if self.discrete:
            if explore is not None:
                # Gumbel-max: argmax(logits + Gumbel noise) is a sample of the softmax.
                noise = torch.rand(outputs.shape, generator=explore)
                outputs = outputs - torch.log(-torch.log(noise))
            return Action(outputs.argmax(dim=1))
        assert self.log_std is not None
        if explore is None:
            return Action(self._clip_action(outputs), extras={"unclipped_action": outputs})
        noise = torch.randn(outputs.shape, generator=explore)
        unclipped = outputs + noise * self.log_std.detach().cpu().exp()
        return Action(self._clip_action(unclipped), extras={"unclipped_action": unclipped})

    def _policy_outputs(self, observation: Tensor) -> Tensor:
        rows = as_rows(observation)
        if self._fast is not None:
            return torch.from_numpy(self._fast(rows.numpy()))
        device = next(self.policy.parameters()).device
        with torch.no_grad():
            outputs: Tensor = self.policy(rows.to(device)).cpu()
        return outputs

    def _clip_action(self, action: Tensor) -> Tensor:
        return action.clamp(self.low.cpu(), self.high.cpu())

    # --- learning --------------------------------------------------------------------------------------------------

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Turn a rollout [T, N, ...] into rows with advantages, returns and behaviour log-probabilities."""
        config = self.config
        steps, number = trajectory["reward"].shape
        observation = as_rows(trajectory["observation"].flatten(0, 1))
        successor = as_rows(trajectory["next_observation"].flatten(0, 1))
        action = trajectory.get("unclipped_action", trajectory["action"]).flatten(0, 1)
        values = self.value(torch.cat((observation, successor))).reshape(2, steps, number)
        ended = trajectory["terminated"] | trajectory["truncated"]
        # A dead step of NEXT_STEP autoreset belongs to no episode: nothing flows through it.
        valid = trajectory["valid"]
        advantage = generalized_advantages(
            trajectory["reward"],
            config.gamma * (~trajectory["terminated"]).float(),
            values[0],
            values[1],
            (~ended & valid).float(),
            config.lambda_,
        )
        rows = {
            "observation": observation,
            "action": action,
            "log_probability": self._distribution(observation, action)[0],
            "advantage": advantage.flatten(),
            "return": (advantage + values[0]).flatten(),
        }
        if not bool(valid.all()):
            rows = {name: value[valid.flatten()] for name, value in rows.items()}
        if config.normalize_advantages:
            rows["advantage"] = self._normalize(rows["advantage"])
        return rows

    def _normalize(self, advantage: Tensor) -> Tensor:
        """Give the advantages of the whole rollout, over all learners, mean 0 and standard deviation 1."""
        totals = torch.stack((torch.full_like(advantage.sum(), len(advantage)), advantage.sum()))
        count, total = self.sum_over_learners(totals)
        centered = advantage - total / count
        variance = self.sum_over_learners(centered.square().sum()) / (count - 1)
        normalized: Tensor = centered / (variance.sqrt() + 1e-8)
        return normalized

    def _distribution(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi(action | observation) [B] and the entropy [B]."""
        outputs = self.policy(observation)
        if self.discrete:
            log_probabilities = torch.log_softmax(outputs, dim=1)
            chosen = log_probabilities.gather(1, action.unsqueeze(1)).squeeze(1)
            return chosen, -(log_probabilities.exp() * log_probabilities).sum(dim=1)
        assert self.log_std is not None
        deviation = (action - outputs) * torch.exp(-self.log_std)
        log_probability = -(0.5 * deviation.square() + self.log_std + 0.5 * _LOG_TWO_PI).sum(dim=1)
        entropy = (self.log_std + 0.5 * (1.0 + _LOG_TWO_PI)).sum().expand(len(outputs))
        return log_probability, entropy

    def loss(self, batch: Batch) -> Loss:
        """Return the negative surrogate plus value error minus entropy bonus, per example [B]."""
        config = self.config
        log_probability, entropy = self._distribution(batch["observation"], batch["action"])
        surrogate, ratio = clipped_surrogate(
            log_probability, batch["log_probability"], batch["advantage"], config.clip_range
        )
        value_error = (self.value(batch["observation"]).squeeze(1) - batch["return"]).square()
        per_example = config.value_coefficient * value_error - surrogate - config.entropy_coefficient * entropy
        with torch.no_grad():
            metrics = {
                "surrogate": surrogate.detach(),
                "value_loss": value_error.detach(),
                "entropy": entropy.detach(),
                "kl": (ratio - 1.0) - ratio.log(),
                "clip_fraction": ((ratio - 1.0).abs() > config.clip_range).float(),
            }
        return Loss(per_example, metrics)

    def inference_module(self) -> nn.Module:
        """Return the policy network: observations [B, D] to logits or mean actions."""
        return nn.Sequential(nn.Flatten(), self.policy)
