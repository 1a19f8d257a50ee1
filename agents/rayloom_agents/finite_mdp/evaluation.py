"""What a policy is worth in an environment whose model is known: no episode is played, and nothing is estimated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn.functional import one_hot

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    UserError,
)
from rayloom_agents.equations.finite_mdp import optimal_values, policy_values, under_policy
from rayloom_agents.finite_mdp.model import make_finite, read_model

_ARROWS = {"FrozenLake": "←↓→↑", "CliffWalking": "↑→↓←"}
"""What the actions of the grid worlds do, in their order."""


@dataclass(frozen=True, kw_only=True)
class PolicyValueConfig(EvaluationConfig):
    """The exact value of the greedy policy, and what is missing to the best one."""

    gamma: Annotated[float, Ge(0), Lt(1)] = 0.99
    """Discount per step; take the algorithm's."""


class PolicyValue(Evaluation):
    """Solves the linear equations of the greedy policy's values in the environment of the run's source."""

    Config = PolicyValueConfig
    metrics: ClassVar[Mapping[str, Metric]] = {
        "start_value": Metric(better="max", unit="discounted return", meaning="expected, of the greedy policy"),
        "regret": Metric(better="min", unit="discounted return", meaning="what the best policy has more at the start"),
        "largest_regret": Metric(better="min", unit="discounted return", meaning="the same in the worst state"),
    }

    def __init__(self, config: PolicyValueConfig, context: EvaluationContext) -> None:
        """Read the model and solve it."""
        super().__init__(config, context)
        if getattr(context.source, "env", None) is None:
            raise UserError("evaluate.import: PolicyValue needs a source with an environment")
        env = make_finite(context.source.env, context.source.env_options)
        self._model = read_model(env)
        grid = getattr(getattr(env.unwrapped, "desc", None), "shape", None) or getattr(env.unwrapped, "shape", None)
        name = env.spec.id if env.spec is not None else ""
        env.close()
        states = len(self._model.rewards)
        self._grid = tuple(grid) if grid and len(grid) == 2 and grid[0] * grid[1] == states else None
        self._arrows = next((arrows for known, arrows in _ARROWS.items() if name.startswith(known)), None)
        self._best = optimal_values(self._model.transitions, self._model.rewards, config.gamma)

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Return the value of the policy's greedy actions, and a picture of values and actions for a grid world."""
        model = self._model
        states = torch.arange(len(model.rewards))
        actions = torch.as_tensor(policy.act(states, policy.initial_state(len(states)), None).action).cpu()
        chosen = one_hot(actions, model.rewards.shape[1]).double()
        values = policy_values(*under_policy(model.transitions, model.rewards, chosen), self.config.gamma)
        budget.done()
        behind = self._best - values
        metrics = {
            "start_value": float(model.start @ values),
            "regret": float(model.start @ behind),
            "largest_regret": float(behind.max()),
        }
        return Findings(metrics, {} if self._grid is None else self._figures(values, actions))

    def _figures(self, values: Tensor, actions: Tensor) -> dict[str, Figure]:
        assert self._grid is not None
        rows, columns = self._grid
        signs = [self._arrows[int(a)] if self._arrows else str(int(a)) for a in actions]
        text = "\n".join(" ".join(signs[row * columns : (row + 1) * columns]) for row in range(rows))
        names = (tuple(map(str, range(rows))), tuple(map(str, range(columns))))
        table = Figure("matrix", values.float().view(rows, columns), labels=names[0], column_labels=names[1])
        return {"values": table, "policy": Figure("text", text=text)}
