"""Policies and values of actor-critic methods, for discrete and continuous actions.

A discrete policy is a softmax over the network's outputs; one over a vector of categories (MultiDiscrete, MultiBinary)
is a softmax for each of them, independently. Actions that the observation's part `action_mask` forbids have the
probability 0. A continuous policy is a Gaussian around the outputs with a standard deviation that does not depend on
the state; its sample is clipped to the action range only on its way to the environment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Action, Algorithm, Spec, TensorSpec, UserError, gather_parts
from rayloom_agents.networks.encoder import MASK, Encoder, ImageNetwork
from rayloom_agents.networks.feed_forward import Activation, FeedForward, NumpyForward, as_rows
from rayloom_agents.networks.memory import Memory
from rayloom_agents.networks.normalization import ObservationNormalizer

_LOG_TWO_PI = math.log(2.0 * math.pi)
_NEVER = torch.finfo(torch.float32).min


class ActorCritic(Algorithm):
    """A policy and a value network, and how they act.

    They share nothing; with `memory_size` they share an encoder and a recurrent core of that size.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        config: Any,
        spec: Spec,
        hidden_sizes: tuple[int, ...],
        activation: Activation,
        memory_size: int = 0,
        normalize_observation: bool = False,
        image_network: ImageNetwork = "nature",
    ) -> None:
        """Build the networks for the environment's spec."""
        super().__init__(config, spec)
        action = gather_parts(spec, "action")
        if not isinstance(action, TensorSpec):
            raise UserError(
                f"algorithm: {type(self).__name__} needs one action space, and these are {', '.join(action)}; register "
                "a wrapped environment"
            )
        self.discrete = action.num_values is not None
        if not self.discrete and len(action.shape) != 1:
            raise UserError(
                f"algorithm: {type(self).__name__} needs discrete or vector actions, not actions of shape "
                f"{action.shape}"
            )
        numbers = action.num_values or ()
        self._numbers = [numbers] if isinstance(numbers, int) else list(numbers)  # of each category
        outputs = sum(self._numbers) or action.shape[0]
        self._masks = f"observation.{MASK}" in spec
        self._check_mask(outputs)
        self.normalizer = ObservationNormalizer(spec) if normalize_observation else None
        self.encoder = Encoder(spec, image_network)
        self.memory = Memory(self.encoder.size, memory_size) if memory_size else None
        inputs = memory_size or self.encoder.size
        self._bare = self.encoder.bare and not memory_size  # rows go straight into both networks
        self.policy = FeedForward((inputs, *hidden_sizes, outputs), activation, output_gain=0.01)
        self.value_encoder = None if memory_size else Encoder(spec, image_network)
        self.value = FeedForward((inputs, *hidden_sizes, 1), activation, output_gain=1.0)
        self.log_std = None if self.discrete else nn.Parameter(torch.zeros(outputs))
        if not self.discrete:
            low = torch.tensor(action.low) if action.low is not None else torch.full((outputs,), -math.inf)
            high = torch.tensor(action.high) if action.high is not None else torch.full((outputs,), math.inf)
            self.register_buffer("low", low)
            self.register_buffer("high", high)
        self._fast: NumpyForward | None = None

    def _check_mask(self, outputs: int) -> None:
        mask = self.spec.get(f"observation.{MASK}")
        if mask is not None and (not self.discrete or math.prod(mask.shape) != outputs):
            raise UserError(
                f"source.env: an action mask has one element for each discrete action, here {outputs}, and this one "
                f"has the shape {mask.shape}"
            )

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        on_cpu = next(self.policy.parameters()).device.type == "cpu"
        small = self.memory is None and not self.encoder.images
        self._fast = NumpyForward(self.policy) if on_cpu and small else None

    def initial_state(self, num_envs: int) -> Any:
        """Return the memory before an episode's first step [N, 2 * memory_size]; None without memory."""
        return None if self.memory is None else self.memory.initial_state(num_envs)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Sample from the policy, or take its mode."""
        outputs, after = self._policy_outputs(observation, state)
        chosen = self._choose(outputs, explore)
        if after is None:
            return chosen
        return chosen._replace(state=after, extras={**chosen.extras, "memory": state})

    def _choose(self, outputs: Tensor, explore: torch.Generator | None) -> Action:
        """Sample from the policy with these outputs, or take its mode."""
        if self.discrete:
            if explore is not None:
                # Gumbel-max: argmax(logits + Gumbel noise) is a sample of the softmax.
                noise = torch.rand(outputs.shape, generator=explore)
                if self._masks:
                    noise.clamp_(min=2.0**-25)  # a draw of exactly 0 would be as impossible as what is forbidden
                outputs = outputs - torch.log(-torch.log(noise))
            if len(self._numbers) == 1 and not self.spec["action"].shape:
                return Action(outputs.argmax(dim=1))
            best = torch.stack([part.argmax(dim=1) for part in torch.split(outputs, self._numbers, dim=1)], dim=1)
            return Action(best.reshape(len(best), *self.spec["action"].shape))
        assert self.log_std is not None
        if explore is None:
            return Action(self._clip_action(outputs), extras={"unclipped_action": outputs})
        noise = torch.randn(outputs.shape, generator=explore)
        unclipped = outputs + noise * self.log_std.detach().cpu().exp()
        return Action(self._clip_action(unclipped), extras={"unclipped_action": unclipped})

    def _policy_outputs(self, observation: Any, state: Any) -> tuple[Tensor, Any]:
        """Return the policy network's outputs on the CPU, and the memory after the step."""
        observation = self._normalized(observation)
        if self._bare and self._fast is not None:
            return torch.from_numpy(self._fast(as_rows(observation).numpy())), None
        with torch.no_grad():
            features = self.encoder(observation)
            if self.memory is not None:
                state = self.memory.step(features, state)
                features = state[:, : self.memory.size]
            if self._fast is not None:
                outputs = torch.from_numpy(self._fast(features.numpy()))
            else:
                outputs = self.policy(features)
            outputs = self._masked(outputs, observation, -math.inf).cpu()
        return outputs, state if self.memory is not None else None

    def _normalized(self, observation: Any) -> Any:
        """Return an observation [B, ...] by the running statistics, where there are some."""
        return observation if self.normalizer is None else self.normalizer(observation)

    @staticmethod
    def _masked(outputs: Tensor, observation: Any, never: float = _NEVER) -> Tensor:
        if not isinstance(observation, Mapping) or MASK not in observation:
            return outputs
        allowed = observation[MASK].reshape(outputs.shape).to(torch.bool)
        return outputs.masked_fill(~allowed, never)

    def _clip_action(self, action: Tensor) -> Tensor:
        return action.clamp(self.low.cpu(), self.high.cpu())

    # --- learning --------------------------------------------------------------------------------------------------

    def _steps(self, tensors: Mapping[str, Tensor], field: str) -> Any:
        """Return what a trajectory or batch [T, N, ...] has of a field as rows [T * N, ...]."""
        found = gather_parts(tensors, field)
        if isinstance(found, Mapping):
            return {name: value.flatten(0, 1) for name, value in found.items()}
        return as_rows(found.flatten(0, 1)) if self._bare else found.flatten(0, 1)

    def _outputs(self, observation: Any, memory: Tensor | None = None) -> Tensor:
        """Return the policy network's outputs [B, O], masked; `memory` [B, 2 * size] after the step, where there is."""
        return self._masked(self.policy(self._features(self.encoder, observation, memory)), observation)

    def _values(self, observation: Any, memory: Tensor | None = None) -> Tensor:
        """Return the values [B, 1]."""
        values: Tensor = self.value(self._features(self.value_encoder, observation, memory))
        return values

    def _features(self, encoder: Encoder | None, observation: Any, memory: Tensor | None) -> Tensor:
        if self.memory is not None:
            assert memory is not None
            return memory[:, : self.memory.size]
        if self._bare:
            rows: Tensor = observation
            return rows
        assert encoder is not None
        features: Tensor = encoder(observation)
        return features

    def _distribution(self, observation: Any, action: Tensor, memory: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return log pi(action | observation) [B] and the entropy [B]."""
        return self._of_outputs(self._outputs(observation, memory), action)

    def _of_outputs(self, outputs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability [B] of actions and the entropy [B] of the policy with these outputs."""
        if self.log_std is None:
            found = [self._of_category(*pair) for pair in self._categories(outputs, action)]
            if len(found) == 1:
                return found[0]
            log_probabilities, entropies = zip(*found, strict=True)
            return torch.stack(log_probabilities).sum(dim=0), torch.stack(entropies).sum(dim=0)
        log_std = self.log_std.to(outputs.device)
        entropy = (log_std + 0.5 * (1.0 + _LOG_TWO_PI)).sum().expand(len(outputs))
        return self._log_probability(outputs, action), entropy

    def _categories(self, outputs: Tensor, action: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return the logits [B, A] and the action [B] of each category."""
        columns = action.reshape(len(action), -1).unbind(dim=1)
        return list(zip(torch.split(outputs, self._numbers, dim=1), columns, strict=True))

    @staticmethod
    def _of_category(logits: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = torch.log_softmax(logits, dim=1)
        chosen = log_probabilities.gather(1, action.unsqueeze(1)).squeeze(1)
        return chosen, -(log_probabilities.exp() * log_probabilities).sum(dim=1)

    def _log_probability(self, outputs: Tensor, action: Tensor) -> Tensor:
        """Return the log-probability [B] of actions under the policy with these outputs."""
        if self.log_std is None:
            return self._of_outputs(outputs, action)[0]
        log_std = self.log_std.to(outputs.device)
        deviation = (action - outputs) * torch.exp(-log_std)
        return -(0.5 * deviation.square() + log_std + 0.5 * _LOG_TWO_PI).sum(dim=1)

    def inference_module(self) -> nn.Module | None:
        """Return the policy network: observations [B, D] to logits or mean actions; None where more goes in."""
        if self.memory is not None or "observation" not in self.spec:
            return None
        before = [] if self.normalizer is None else [self.normalizer]
        return nn.Sequential(*before, self.encoder if self.encoder.images else nn.Flatten(), self.policy)
