"""Dynamic programming: value iteration (Bellman 1957) and policy iteration (Howard 1960), as rules over a known model.

    ModelSource --rows of the model--> gather: new values of the learner's states --sum over learners--> apply

The rows of K learners together are the model, so that K learners do the same sweep as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rayloom.contract import Action, Algorithm, AlgorithmConfig, Batch, Gathered, Metric, Rule, Spec, UserError
from rayloom_agents.equations.finite_mdp import action_values, greedy, policy_values

_MODEL = ("state", "transitions", "rewards")


@dataclass(frozen=True, kw_only=True)
class PlanningConfig(AlgorithmConfig):
    """Settings of dynamic programming."""

    gamma: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Discount per step."""


class Planner(Algorithm):
    """Values [S] and a policy [S] of a known model, and how they act."""

    Config = PlanningConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "change": Metric(better="min", unit="return", meaning="largest change of a value in the sweep"),
        "changed": Metric(better="min", meaning="states whose action has changed"),
    }
    values: Tensor
    policy: Tensor

    def __init__(self, config: PlanningConfig, spec: Spec) -> None:
        """Begin with values of 0 and the first action everywhere."""
        super().__init__(config, spec)
        missing = [name for name in _MODEL if name not in spec]
        if missing:
            raise UserError(
                f"source: {type(self).__name__} needs the model of its environment; use source.import="
                "rayloom_agents.finite_mdp.model:ModelSource"
            )
        self.num_states, self.num_actions = spec["observation"].categories, spec["action"].categories
        self.register_buffer("values", torch.zeros(self.num_states, dtype=torch.float64))
        self.register_buffer("policy", torch.zeros(self.num_states, dtype=torch.int64))

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Take the policy's actions."""
        return Action(self.policy[observation.long()])

    def inference_module(self) -> nn.Module:
        """Return the policy as a table: states [B] to actions [B]."""
        return Table(self.policy)

    def _scattered(self, batch: Batch, values: Tensor) -> Tensor:
        """Return the rows [B, ...] in their places [S, ...]; those of other learners are 0."""
        return values.new_zeros(self.num_states, *values.shape[1:]).index_copy(0, batch["state"], values)

    def _backup(self, batch: Batch) -> Tensor:
        return action_values(batch["transitions"], batch["rewards"], self.values, self.config.gamma)


class ValueIteration(Planner):
    """v(s) <- max_a q(s, a) for all states at once (Sutton & Barto 2018, equation 4.10)."""

    def phases(self) -> list[Rule]:
        """Return the sweep."""
        return [Rule("sweep", self.look_ahead, self.take_over, (self.values, self.policy))]

    def look_ahead(self, batch: Batch) -> Gathered:
        """Return the best values and actions of the states at hand."""
        values = self._backup(batch)
        best = greedy(values)
        sums = {"values": self._scattered(batch, values.amax(1)), "policy": self._scattered(batch, best)}
        return Gathered(sums)

    def take_over(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Replace the values and the policy that is greedy for those before."""
        change = (sums["values"] - self.values).abs().max()
        changed = (sums["policy"] != self.policy).sum()
        self.values.copy_(sums["values"])
        self.policy.copy_(sums["policy"])
        return {"change": change, "changed": changed}


class PolicyIteration(Planner):
    """Values of the policy by linear equations, then the policy that is greedy for them, until nothing changes."""

    def phases(self) -> list[Rule]:
        """Return evaluation and improvement."""
        return [
            Rule("evaluate", self.read_policy, self.solve, (self.values,)),
            Rule("improve", self.look_ahead, self.improve, (self.policy,)),
        ]

    def read_policy(self, batch: Batch) -> Gathered:
        """Return the transitions [S, S] and rewards [S] under the policy, of the states at hand."""
        chosen = self.policy[batch["state"]]
        rows = torch.arange(len(chosen), device=chosen.device)
        return Gathered(
            {
                "transitions": self._scattered(batch, batch["transitions"][rows, chosen]),
                "rewards": self._scattered(batch, batch["rewards"][rows, chosen]),
            }
        )

    def solve(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Solve v = r + gamma P v."""
        values = policy_values(sums["transitions"], sums["rewards"], self.config.gamma)
        change = (values - self.values).abs().max()
        self.values.copy_(values)
        return {"change": change}

    def look_ahead(self, batch: Batch) -> Gathered:
        """Return the greedy policy [S, A], in ones, of the states at hand."""
        better = greedy(self._backup(batch), self.policy[batch["state"]])
        return Gathered({"policy": self._scattered(batch, one_hot(better, self.num_actions))})

    def improve(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Take over the greedy policy."""
        policy = sums["policy"].argmax(1)
        changed = (policy != self.policy).sum()
        self.policy.copy_(policy)
        return {"changed": changed}


class Table(nn.Module):
    """A policy as a table of actions [S]."""

    policy: Tensor

    def __init__(self, policy: Tensor) -> None:
        super().__init__()
        self.register_buffer("policy", policy)

    def forward(self, state: Tensor) -> Tensor:
        """Return the actions [B] of states [B]."""
        return self.policy[state.long()]
