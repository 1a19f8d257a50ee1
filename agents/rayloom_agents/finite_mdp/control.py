"""Control of finite Markov decision processes by sampled experience: a table of action values, and how it acts.

Monte Carlo control, SARSA (Rummery and Niranjan 1994), expected SARSA (van Seijen et al. 2009) and Q-learning (Watkins
1989), each with n-step or lambda-returns: Sutton & Barto 2018, chapters 5, 6, 7 and 12.

    on_policy: rollout [T, N] --prepare: returns from the table as it is--> rows --rule: q += rate * (return - q)

Departures from the book: rollouts are learnt from T steps at a time, by returns that are cut off and bootstrap at their
end; where several rows visit a pair, its value moves to the mean of their returns as by as many updates in a row. With
`num_envs: 1`, `rollout_steps: 1` and `learner.batch_size: 1` this is the book's update after every step, where SARSA
takes the expectation over its next action, since that is not drawn yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from rayloom.contract import (
    Action,
    Algorithm,
    Batch,
    Gathered,
    Metric,
    Rule,
    Spec,
    Trajectory,
    UserError,
)
from rayloom_agents.equations.finite_mdp import lambda_returns, n_step_returns
from rayloom_agents.finite_mdp.planning import Table
from rayloom_agents.policies.epsilon_greedy import ExplorationConfig, exploration_share, uniform_actions


@dataclass(frozen=True, kw_only=True)
class ControlConfig(ExplorationConfig):
    """Settings of tabular control."""

    gamma: Annotated[float, Ge(0), Le(1)] = 0.99
    """Discount per step."""
    step_size: Annotated[float, Gt(0), Le(1)] | None = 0.1
    """Share of the error that a visit corrects; null: 1 / number of visits, the mean of all returns so far."""
    n_step: Annotated[int, Ge(1)] = 1
    """Steps of a return before it bootstraps; not with lambda_."""
    lambda_: Annotated[float, Ge(0), Le(1)] = 0.0
    """Decay of longer returns: 0 bootstraps at once, 1 at the end of the episode or rollout."""
    initial_value: float = 0.0
    """Action values before the first visit; above what can be reached: optimistic, so that everything is tried."""

    def __post_init__(self) -> None:
        """Refuse two kinds of returns at once."""
        if self.n_step > 1 and self.lambda_ > 0:
            raise ValueError("n_step and lambda_ are two kinds of returns; leave one of them out")


class TabularControl(Algorithm):
    """Action values [S, A] and how they act and learn; subclasses say what a successor is worth."""

    Config = ControlConfig
    sources = frozenset({"on_policy"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="of the actions taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the error of the actions taken"),
    }
    config: ControlConfig
    q: Tensor
    visits: Tensor

    def __init__(self, config: ControlConfig, spec: Spec) -> None:
        """Make the table; states and actions must be numbered."""
        super().__init__(config, spec)
        spaces = [spec.get(name) for name in ("observation", "action")]
        if not all(space is not None and isinstance(space.num_values, int) and not space.shape for space in spaces):
            raise UserError(
                f"source.env: {type(self).__name__} keeps a table, which needs numbered states and actions (Discrete "
                "spaces); choose FrozenLake-v1, CliffWalking-v1 or Taxi-v4, or rayloom_agents.value_based.dqn:DQN"
            )
        shape = (spec["observation"].categories, spec["action"].categories)
        self.num_actions = shape[1]
        self.register_buffer("q", torch.full(shape, config.initial_value, dtype=torch.float64))
        self.register_buffer("visits", torch.zeros(shape, dtype=torch.int64))

    def phases(self) -> list[Rule]:
        """Return the one rule."""
        return [Rule("correct", self.errors, self.correct, (self.q, self.visits))]

    # --- acting ----------------------------------------------------------------------------------------------------

    def exploration_rate(self) -> float:
        """Return the present share of random actions."""
        return exploration_share(self.config, self.progress.env_steps)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Take the best action (of equal ones the first), or with the exploration rate a uniformly random one."""
        values = self.q[observation.long()]
        action = values.argmax(1)
        if explore is not None:
            draws = torch.rand((2, len(action)), generator=explore, device=explore.device).to(action.device)
            random_action = uniform_actions(draws[0], self.num_actions)
            action = torch.where(draws[1] < self.exploration_rate(), random_action, action)
        return Action(action)

    def inference_module(self) -> Table:
        """Return the greedy policy as a table: states [B] to actions [B]."""
        return Table(self.q.argmax(1))

    # --- learning --------------------------------------------------------------------------------------------------

    def successor_values(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Return what the successors are worth [T, N], and whether the next row's action may be counted [T, N]."""
        raise NotImplementedError

    def expectation(self, state: Tensor) -> Tensor:
        """Return the expected action value [...] of states [...] under the epsilon-greedy policy."""
        rate, values = self.exploration_rate(), self.q[state]
        return (1 - rate) * values.amax(-1) + rate * values.mean(-1)

    def taken_values(self, trajectory: Trajectory) -> Tensor:
        """Return the values of the actions taken [T, N]."""
        values = self.q[trajectory["observation"].long()]
        return values.gather(-1, trajectory["action"].long().unsqueeze(-1)).squeeze(-1)

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Return the pairs that were visited, with their returns."""
        config = self.config
        valid = trajectory["valid"]
        ended = trajectory["terminated"] | trajectory["truncated"]
        values, counted = self.successor_values(trajectory)
        discounts = config.gamma * (~trajectory["terminated"]).double()
        continues = (~ended & valid).double() * counted
        rewards = trajectory["reward"].double()
        returns = (
            n_step_returns(rewards, discounts, values, continues, config.n_step)
            if config.n_step > 1
            else lambda_returns(rewards, discounts, values, continues, config.lambda_)
        )
        rows = {
            "observation": trajectory["observation"].long(),
            "action": trajectory["action"].long(),
            "return": returns,
        }
        return {name: value[valid] for name, value in rows.items()}

    def errors(self, batch: Batch) -> Gathered:
        """Return the summed errors and the visits of every pair."""
        place = batch["observation"] * self.num_actions + batch["action"]
        value = self.q.flatten()[place]
        error = batch["return"] - value
        sums = {
            "error": torch.zeros_like(self.q).flatten().index_add_(0, place, error),
            "visits": torch.zeros_like(self.visits).flatten().index_add_(0, place, torch.ones_like(place)),
        }
        return Gathered(sums, {"q_value": value, "td_error": error.abs()})

    def correct(self, sums: dict[str, Tensor], count: float) -> None:
        """Move every visited value towards the mean of its returns."""
        visits = sums["visits"].view_as(self.visits)
        self.visits.add_(visits)
        mean = sums["error"].view_as(self.q) / visits.clamp(min=1)
        if self.config.step_size is None:
            rate = visits / self.visits.clamp(min=1)
        else:
            rate = 1 - (1 - self.config.step_size) ** visits.double()
        self.q.add_(rate * mean)


class QLearning(TabularControl):
    """A successor is worth its best action; returns end where an action was not the best (Watkins's Q(lambda))."""

    def successor_values(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Return max_a q(s', a), and whether the next action is greedy."""
        best = self.taken_values(trajectory) >= self.q[trajectory["observation"].long()].amax(-1)
        following = torch.cat((best[1:], torch.zeros_like(best[:1])))
        return self.q[trajectory["next_observation"].long()].amax(-1), following.double()


class ExpectedSarsa(TabularControl):
    """A successor is worth what the epsilon-greedy policy expects there."""

    def successor_values(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Return the expectation."""
        values = self.expectation(trajectory["next_observation"].long())
        return values, torch.ones_like(values)


class Sarsa(TabularControl):
    """A successor is worth the action that was taken there; what is not taken yet, the expectation."""

    def successor_values(self, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
        """Return q(s', a') where row t+1 goes on with the same episode."""
        values = self.expectation(trajectory["next_observation"].long())
        taken = self.taken_values(trajectory)
        goes_on = ~(trajectory["terminated"] | trajectory["truncated"])[:-1] & trajectory["valid"][1:]
        values[:-1] = torch.where(goes_on, taken[1:], values[:-1])
        return values, torch.ones_like(values)


@dataclass(frozen=True, kw_only=True)
class MonteCarloConfig(ControlConfig):
    """Settings of Monte Carlo control: returns to the end of the episode, each pair's value their mean."""

    lambda_: Annotated[float, Ge(0), Le(1)] = 1.0
    """Decay of longer returns; 1 follows the rewards to the end of the episode."""
    step_size: Annotated[float, Gt(0), Le(1)] | None = None
    """Share of the error that a visit corrects; null: 1 / number of visits, the mean of all returns so far."""


class MonteCarlo(ExpectedSarsa):
    """Every-visit Monte Carlo control; an episode that the rollout cuts off is completed by what the policy expects."""

    Config = MonteCarloConfig
