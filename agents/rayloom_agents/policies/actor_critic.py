"""Policies and values of actor-critic methods, for discrete and continuous actions.

A discrete policy is a softmax over the network's outputs. A continuous one is a Gaussian around them with a standard
deviation that does not depend on the state; its sample is clipped to the action range only on its way to the
environment.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Action, Algorithm, Spec, UserError
from rayloom_agents.networks.feed_forward import Activation, FeedForward, NumpyForward, as_rows, observation_size

_LOG_TWO_PI = math.log(2.0 * math.pi)


class ActorCritic(Algorithm):
    """A policy and a value network that share nothing, and how they act."""

    low: Tensor
    high: Tensor

    def __init__(self, config: Any, spec: Spec, hidden_sizes: tuple[int, ...], activation: Activation) -> None:
        """Build both networks for the environment's spec."""
        super().__init__(config, spec)
        observation, action = spec["observation"], spec["action"]
        inputs = observation_size(observation)
        self.discrete = action.num_values is not None
        if not self.discrete and len(action.shape) != 1:
            raise UserError(
                f"algorithm: {type(self).__name__} needs discrete or vector actions, not actions of shape "
                f"{action.shape}"
            )
        outputs = action.categories if action.num_values is not None else action.shape[0]
        self.policy = FeedForward((inputs, *hidden_sizes, outputs), activation, output_gain=0.01)
        self.value = FeedForward((inputs, *hidden_sizes, 1), activation, output_gain=1.0)
        self.log_std = None if self.discrete else nn.Parameter(torch.zeros(outputs))
        if not self.discrete:
            low = torch.tensor(action.low) if action.low is not None else torch.full((outputs,), -math.inf)
            high = torch.tensor(action.high) if action.high is not None else torch.full((outputs,), math.inf)
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self._fast: NumpyForward | None = None

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        on_cpu = next(self.policy.parameters()).device.type == "cpu"
        self._fast = NumpyForward(self.policy) if on_cpu else None

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Sample from the policy, or take its mode."""
        return self._choose(self._policy_outputs(observation), explore)

    def _choose(self, outputs: Tensor, explore: torch.Generator | None) -> Action:
        """Sample from the policy with these outputs, or take its mode."""
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

    def _distribution(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return log pi(action | observation) [B] and the entropy [B]."""
        return self._of_outputs(self.policy(observation), action)

    def _of_outputs(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability [B] of actions and the entropy [B] of the policy with these outputs."""
        if self.log_std is None:
            log_probabilities = torch.log_softmax(outputs, dim=1)
            chosen = log_probabilities.gather(1, action.unsqueeze(1)).squeeze(1)
            return chosen, -(log_probabilities.exp() * log_probabilities).sum(dim=1)
        log_std = self.log_std.to(outputs.device)
        entropy = (log_std + 0.5 * (1.0 + _LOG_TWO_PI)).sum().expand(len(outputs))
        return self._log_probability(outputs, action), entropy

    def _log_probability(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability [B] of actions under the policy with these outputs."""
        if self.log_std is None:
            return torch.log_softmax(outputs, dim=1).gather(1, action.unsqueeze(1)).squeeze(1)
        log_std = self.log_std.to(outputs.device)
        deviation = (action - outputs) * torch.exp(-log_std)
        return -(0.5 * deviation.square() + log_std + 0.5 * _LOG_TWO_PI).sum(dim=1)

    def inference_module(self) -> nn.Module:
        """Return the policy network: observations [B, D] to logits or mean actions."""
        return nn.Sequential(nn.Flatten(), self.policy)
