"""Deep Q-network (Mnih et al. 2015) and what was added to it, each as a switch; all together: Rainbow.

Double Q-learning (van Hasselt et al. 2016), dueling heads (Wang et al. 2016), noisy networks (Fortunato et al. 2018),
categorical (C51, Bellemare et al. 2017) and quantile (QR-DQN, Dabney et al. 2018) distributions of returns are settings
of the algorithm; prioritised replay (Schaul et al. 2016) and n-step returns are settings of the source. Rainbow is
Hessel et al. 2018.

Departures from the papers: the target network may also follow slowly (`target_period: 1` with `target_rate` < 1);
exploration falls by a line over `exploration_steps`; the priority of a transition is the size of the error of its mean,
also where distributions are learnt. Actions that the observation's part `action_mask` forbids are never taken, neither
by exploration nor in the targets.

Ape-X DQN (Horgan et al. 2018, arXiv 1803.00933) is this algorithm with a prioritised source that runs ahead
(`in_flight`), n-step returns and `exploration_spread`. Departures from that paper: new transitions get the largest
priority so far instead of the actors' own temporal-difference errors, so that actors need no second network pass; each
learner has a replay shard of its own; no dueling network; the share of random actions may fall during the run, where
the paper's 0.4 is constant (`exploration_start` = `exploration_end`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor, nn

from rayloom.contract import (
    Action,
    Algorithm,
    Batch,
    Loss,
    Metric,
    Phase,
    Spec,
    TensorSpec,
    Trajectory,
    UserError,
    gather_parts,
)
from rayloom_agents.equations.distributions import categorical_projection, discounted_sums, quantile_huber
from rayloom_agents.equations.objectives import huber
from rayloom_agents.equations.returns import double_q_values, n_step_discounts, n_step_targets
from rayloom_agents.networks.encoder import MASK, ImageNetwork
from rayloom_agents.networks.feed_forward import Activation, NumpyForward, as_rows
from rayloom_agents.networks.noisy import Draw
from rayloom_agents.networks.q_network import QNetwork
from rayloom_agents.policies.epsilon_greedy import ExplorationConfig, exploration_share, uniform_actions


class DQN(Algorithm):
    """Deep Q-network."""

    sources = frozenset({"replay"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "q_value": Metric(unit="return", meaning="of the action taken"),
        "td_error": Metric(better="min", unit="return", meaning="size of the temporal-difference error"),
    }

    @dataclass(frozen=True, kw_only=True)
    class Config(ExplorationConfig):
        """Settings of DQN."""

        gamma: Annotated[float, Ge(0), Le(1)] = 0.99
        """Discount per step."""
        double: bool = True
        """Choose the bootstrap action by the online network."""
        target_period: Annotated[int, Ge(1)] = 500
        """Updates between two changes of the target network (unit: updates)."""
        target_rate: Annotated[float, Gt(0), Le(1)] = 1.0
        """How far the target network then moves to the online one; 1 copies it."""
        exploration_spread: Annotated[float, Ge(0)] = 0.0
        """alpha of Ape-X: environment i of N acts at random with the share raised to the power 1 + i / (N - 1) * alpha;
        0 treats all environments alike, the paper's value is 7."""
        huber_threshold: Annotated[float, Gt(0)] = 1.0
        """Error above which the loss is linear; the categorical distribution has none."""
        dueling: bool = False
        """Add the state's value to what each action is better than their mean."""
        noisy: bool = False
        """Learnt noise on all weights, which explores; then set exploration_start and exploration_end to 0."""
        distribution: Literal["none", "categorical", "quantile"] = "none"
        """What is learnt of the return: its mean, the probabilities of fixed values, or its quantiles."""
        atoms: Annotated[int, Ge(2)] = 51
        """Values or quantiles of a distribution."""
        value_range: tuple[float, float] = (-10.0, 10.0)
        """Least and largest return that a categorical distribution knows."""
        hidden_sizes: tuple[Annotated[int, Ge(1)], ...] = (128, 128)
        """Units of the hidden layers."""
        activation: Activation = "relu"
        """Activation of the hidden layers."""
        image_network: ImageNetwork = "nature"
        """Convolutions over images: of Mnih et al. 2015, or the deep residual ones of Espeholt et al. 2018 (slower)."""

        def __post_init__(self) -> None:
            """Refuse a range without values."""
            if not self.value_range[0] < self.value_range[1]:
                raise ValueError("value_range must be two numbers, the smaller one first")

    config: Config
    support: Tensor | None

    @classmethod
    def compiles_from(cls, config: Any) -> int | None:
        """Return what was measured on CartPole."""
        return 20_000

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build the online and the target network; the action space must be discrete."""
        super().__init__(config, spec)
        action = gather_parts(spec, "action")
        if not isinstance(action, TensorSpec) or not isinstance(action.num_values, int) or action.shape:
            raise UserError(
                "algorithm: DQN needs a discrete action space; for continuous actions use "
                "rayloom_agents.continuous.sac:SAC or rayloom_agents.policy_gradient.ppo:PPO"
            )
        self.num_actions = action.categories
        self.online = self._network()
        self.target = self._network().requires_grad_(False)
        self.target.load_state_dict(self.online.state_dict())
        support = torch.linspace(*config.value_range, config.atoms) if config.distribution == "categorical" else None
        self.register_buffer("support", support)
        self._fast: NumpyForward | None = None

    def _network(self) -> QNetwork:
        config = self.config
        return QNetwork(
            self.spec,
            self.num_actions,
            config.hidden_sizes,
            config.activation,
            dueling=config.dueling,
            noisy=config.noisy,
            atoms=0 if config.distribution == "none" else config.atoms,
            image_network=config.image_network,
        )

    def phases(self) -> list[Phase]:
        """Return the one phase of the online network."""
        return [Phase("online", self.loss, tuple(self.online.parameters()))]

    def after_update(self, update: int) -> None:
        """Move the target network every `target_period` updates."""
        if update % self.config.target_period == 0:
            rate = self.config.target_rate
            for target, online in zip(self.target.parameters(), self.online.parameters(), strict=True):
                target.lerp_(online, rate) if rate < 1.0 else target.copy_(online)

    # --- acting ----------------------------------------------------------------------------------------------------

    def after_publish(self) -> None:
        """Point the NumPy forward pass at the new weights."""
        on_cpu = next(self.online.parameters()).device.type == "cpu"
        plain = self.online.plain if self.online.is_plain_vector_network else None
        self._fast = NumpyForward(plain) if on_cpu and plain is not None else None

    def exploration_rate(self) -> float:
        """Return the present share of random actions."""
        return exploration_share(self.config, self.progress.env_steps)

    def _exploration_rates(self) -> float | Tensor:
        """Return the share of random actions, of each environment [N] where they differ."""
        rate, spread = self.exploration_rate(), self.config.exploration_spread
        if not spread or self.num_environments == 1:
            return rate
        place = torch.tensor(self.environments, dtype=torch.float32) / (self.num_environments - 1)
        return torch.pow(rate, 1.0 + spread * place)

    def act(self, observation: Any, state: Any, explore: torch.Generator | None) -> Action:
        """Take the best action, or with the exploration rate a uniformly random one of those that are allowed."""
        if self._fast is not None:
            action = torch.from_numpy(self._fast(as_rows(observation).numpy()).argmax(axis=1))
        else:
            action = self._best_action(observation, explore)
        if explore is not None:
            draws = torch.rand((2, len(action)), generator=explore)
            action = torch.where(draws[1] < self._exploration_rates(), self._any_action(observation, draws[0]), action)
        return Action(action)

    def _best_action(self, observation: Any, explore: torch.Generator | None) -> Tensor:
        def draw(rows: int, size: int) -> Tensor:
            noise = torch.randn((rows, size), generator=explore)
            return noise.to(next(self.online.parameters()).device)

        noisy = self.config.noisy and explore is not None
        with torch.no_grad():
            outputs = self.online(self._inputs(observation), draw if noisy else None)
            best: Tensor = self._allowed(self._means(outputs), observation).argmax(dim=1)
        return best.cpu()

    def _any_action(self, observation: Any, draws: Tensor) -> Tensor:
        """Return a uniformly random action for draws [N] in 0..1, of those that are allowed."""
        if not isinstance(observation, Mapping) or MASK not in observation:
            return uniform_actions(draws, self.num_actions)
        allowed = observation[MASK].cpu().reshape(len(draws), -1).to(torch.float32)
        number = allowed.sum(1)
        chosen = (draws * number).floor().clamp(max=number - 1)  # the how-manieth of the allowed ones
        found: Tensor = ((allowed.cumsum(1) > chosen.unsqueeze(1)) & (allowed > 0)).to(torch.uint8).argmax(dim=1)
        return found

    def _inputs(self, observation: Any) -> Any:
        return as_rows(observation) if self.online.encoder.bare else observation

    @staticmethod
    def _allowed(values: Tensor, observation: Any) -> Tensor:
        """Return the values [B, A] with minus infinity where the observation's mask forbids the action.

        What an episode ends with may forbid every action: it has no future, and 0 times minus infinity is no number.
        """
        if not isinstance(observation, Mapping) or MASK not in observation:
            return values
        mask: Tensor = observation[MASK].reshape(values.shape).to(torch.bool)
        mask = mask | ~mask.any(dim=1, keepdim=True)
        return values.masked_fill(~mask, -torch.inf)

    def _means(self, outputs: Tensor) -> Tensor:
        """Return the action values [B, A] of the network's outputs."""
        if self.config.distribution == "none":
            return outputs
        if self.support is None:
            return outputs.mean(2)
        return outputs.softmax(2) @ self.support

    # --- learning --------------------------------------------------------------------------------------------------

    def prepare(self, trajectory: Trajectory) -> Batch:
        """Return sampled segments, vectors as rows; the targets need fresh networks and belong to the loss."""
        if not self.online.encoder.bare or "observation" not in trajectory:
            return dict(trajectory)
        return {
            **trajectory,
            "observation": as_rows(trajectory["observation"]),
            "next_observation": as_rows(trajectory["next_observation"]),
        }

    def _draw(self) -> Draw | None:
        """Return where a forward pass of the loss has its noise from: each pass other numbers."""
        return self.noise.normal if self.config.noisy else None

    def targets(self, batch: Batch) -> Tensor:
        """Return the n-step, optionally double, Q-learning targets [B]; of distributions the targets' means."""
        successor = gather_parts(batch, "next_observation")
        target_next = self._allowed(self._means(self.target(successor, self._draw())), successor)
        if self.config.double:
            online_next = self._allowed(self._means(self.online(successor, self._draw())), successor)
            bootstrap = double_q_values(online_next, target_next)
        else:
            bootstrap = target_next.max(dim=1).values
        return n_step_targets(batch["reward"], batch["length"], batch["terminated"], bootstrap, self.config.gamma)

    def loss(self, batch: Batch) -> Loss:
        """Return the loss of the actions taken [B]: Huber's of the error, or that of the distribution."""
        outputs = self.online(gather_parts(batch, "observation"), self._draw())
        if self.config.distribution == "none":
            with torch.no_grad():
                targets = self.targets(batch)
            chosen = outputs.gather(1, batch["action"].unsqueeze(1)).squeeze(1)
            loss = huber(chosen - targets, self.config.huber_threshold)
        else:
            loss, chosen, targets = self._distributional(batch, outputs)
        size = (chosen - targets).detach().abs()
        return Loss(loss, {"q_value": chosen.detach(), "td_error": size}, priorities=size)

    def _distributional(self, batch: Batch, outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss [B], the means of the actions taken [B] and those of the targets [B]."""
        config = self.config
        with torch.no_grad():
            successor = gather_parts(batch, "next_observation")
            following = self.target(successor, self._draw())
            judge = self.online(successor, self._draw()) if config.double else following
            best = self._allowed(self._means(judge), successor).argmax(dim=1)
            following = _of_actions(following, best)  # [B, K]
            returns = discounted_sums(batch["reward"], config.gamma)
            discounts = n_step_discounts(batch["length"], batch["terminated"], config.gamma)
        taken = _of_actions(outputs, batch["action"])
        if self.support is None:
            targets = returns.unsqueeze(1) + discounts.unsqueeze(1) * following
            return quantile_huber(taken, targets, config.huber_threshold), taken.mean(1), targets.mean(1)
        projected = categorical_projection(self.support, following.softmax(1), returns, discounts)
        loss = -(projected * taken.log_softmax(1)).sum(1)
        return loss, taken.softmax(1) @ self.support, projected @ self.support

    def inference_module(self) -> nn.Module | None:
        """Return the online network without noise: observations [B, ...] to action values [B, A]; None where nested."""
        return ActionValues(self) if "observation" in self.spec else None


class ActionValues(nn.Module):
    """The action values of a DQN; it shares the weights."""

    support: Tensor | None

    def __init__(self, algorithm: DQN) -> None:
        super().__init__()
        self.online = algorithm.online
        self._distribution = algorithm.config.distribution
        self.register_buffer("support", algorithm.support)

    def forward(self, observation: Tensor) -> Tensor:
        """Return the values [B, A] of observations [B, ...]."""
        rows = observation.flatten(1).to(torch.float32) if self.online.encoder.bare else observation
        outputs: Tensor = self.online(rows)
        if self._distribution == "none":
            return outputs
        return outputs.mean(2) if self.support is None else outputs.softmax(2) @ self.support


def _of_actions(outputs: Tensor, action: Tensor) -> Tensor:
    """Return the outputs [B, K] of actions [B], of [B, A, K]."""
    index = action.view(-1, 1, 1).expand(-1, 1, outputs.shape[2])
    return outputs.gather(1, index).squeeze(1)
