"""AlphaGo's search (Silver et al. 2016, doi 10.1038/nature16961): prior, value network and rollouts in one leaf.

    prior(move) = supervised policy;    value(leaf) = (1 - mixing) * value network + mixing * outcome of a rollout

The three networks are those of earlier runs (`inputs: {policy: RUN, value: RUN, rollout: RUN}`). What is learnt here is
`mixing`, which the paper sets to 0.5: on recorded positions with outcome z, the squared error of the leaf's value is
least at

    mixing = sum((z - v)(r - v)) / sum((r - v)^2),    v the value network's, r the rollout's

Any tree search of this chapter uses it through `infer`. Departures: a leaf is rolled out when it is judged, once or a
few times, not on every visit; the rollout's chance follows from the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray
from torch import Tensor

from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Input, Metric, Rule, Spec, UserError
from rayloom_agents.alphago.go import patterns, playouts
from rayloom_agents.alphago.network import NetworkSize, PolicyValueNetwork
from rayloom_agents.alphago.search import Infer
from rayloom_agents.alphago.supervised_policy import ILLEGAL, check_expert_spec, take_weights

Judged = tuple[NDArray[np.float32], NDArray[np.float32]]
_PARTS = ("policy", "value", "rollout")


class AlphaGo(Algorithm):
    """Plays Go with three networks of earlier runs."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "value_loss": Metric(better="min", meaning="squared error of the value network"),
        "rollout_loss": Metric(better="min", meaning="squared error of the rollouts' outcome"),
        "mixed_loss": Metric(better="min", meaning="squared error of the leaf's value, with `mixing` as it is"),
        "mixing": Metric(meaning="weight of the rollouts"),
    }
    mixing: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """Settings of AlphaGo."""

        policy: NetworkSize = field(default_factory=NetworkSize)
        """Network of the input `policy`."""
        value: NetworkSize = field(default_factory=NetworkSize)
        """Network of the input `value`."""
        mixing: Annotated[float, Ge(0), Le(1)] | None = None
        """Weight of the rollouts in a leaf's value (lambda); null: learnt."""
        rollouts: Annotated[int, Ge(1)] = 1
        """Rollouts of each leaf."""

    config: Config

    def __init__(self, config: Config, spec: Spec) -> None:
        """Build both networks. UserError for another source."""
        super().__init__(config, spec)
        check_expert_spec(spec, "AlphaGo's mixing")
        for name in ("policy", "value"):
            size: NetworkSize = getattr(config, name)
            made = PolicyValueNetwork(size, spec["planes"].shape, spec["action"].categories)
            self.add_module(name, made.requires_grad_(False))
        self.register_buffer("rollout", torch.zeros(patterns.FEATURES))
        self.register_buffer("mixing", torch.tensor(0.5 if config.mixing is None else config.mixing))

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Take the networks of three earlier runs. UserError where one is missing or of another form."""
        missing = sorted(set(_PARTS) - set(inputs))
        if missing or len(inputs) > len(_PARTS):
            raise UserError(f"inputs: name the runs {', '.join(_PARTS)}, not {', '.join(sorted(inputs))}")
        for name in ("policy", "value"):
            take_weights(self.get_submodule(name), inputs[name], name)
        weight = inputs["rollout"].weights.get("weight")
        if weight is None or weight.shape != (patterns.FEATURES,):
            raise UserError(f"inputs.rollout: run {inputs['rollout'].run_id} has not trained a RolloutPolicy")
        self.get_buffer("rollout").copy_(weight)

    def phases(self) -> list[Rule]:
        """Return the rule that finds the mixing over all positions."""
        return [Rule("mixing", self.gather, self.apply_sums, changes=(self.mixing,), over="epoch")]

    def _values(self, planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the value network's values and the rollouts' mean outcomes [B]."""
        value = self.get_submodule("value")(planes)[1].float()
        return value, torch.from_numpy(self.roll_out(planes.float().cpu().numpy())).to(value)

    def gather(self, batch: Batch) -> Gathered:
        """Return the sums of the least-squares problem."""
        (value, rollout), outcome = self._values(batch["planes"]), batch["outcome"]
        apart = rollout - value
        sums = {"product": ((outcome - value) * apart).sum(), "square": apart.square().sum()}
        return Gathered(sums, self._errors(value, rollout, outcome))

    def _errors(self, value: Tensor, rollout: Tensor, outcome: Tensor) -> dict[str, Tensor]:
        mixed = torch.lerp(value, rollout, self.mixing)
        named = {"value_loss": value, "rollout_loss": rollout, "mixed_loss": mixed}
        return {name: (outcome - found).square() for name, found in named.items()}

    def apply_sums(self, sums: dict[str, Tensor], count: float) -> dict[str, Tensor]:
        """Set the mixing, unless it is given."""
        if self.config.mixing is None:
            best = sums["product"] / sums["square"].clamp_min(1e-12)
            self.mixing.copy_(best.clamp(0, 1))
        return {"mixing": self.mixing.clone()}

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the squared errors [B] of the leaf's value and of its parts."""
        return self._errors(*self._values(batch["planes"]), batch["outcome"])

    def roll_out(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean outcome of rollouts from positions [B], for whose turn it is; equal for equal positions."""
        factors = patterns.factors(self.get_buffer("rollout").cpu().numpy())
        return playouts.mean_outcomes(planes, factors, self.config.rollouts, planes[:, ILLEGAL] > 0.5)

    @torch.no_grad()
    def judge(self, planes: NDArray[np.float32], policy: bool, mixing: float | None) -> Judged:
        """Return logits [B, A], equal ones without the policy, and values [B]; without a mixing these are 0."""
        count = len(planes)
        given = torch.from_numpy(planes).to(self.mixing.device)
        logits = np.zeros((count, self.spec["action"].categories), np.float32)
        if policy:
            logits = self.get_submodule("policy")(given)[0].float().cpu().numpy()
        values = np.zeros(count, np.float32)
        if mixing is not None and mixing < 1:
            values += (1 - mixing) * self.get_submodule("value")(given)[1].float().cpu().numpy()
        if mixing is not None and mixing > 0:
            values += mixing * self.roll_out(planes)
        return logits, values

    def infer(self, planes: NDArray[np.float32]) -> Judged:
        """Return logits [B, A] and values [B] of the player to move, as the tree search asks for them."""
        return self.judge(planes, True, float(self.mixing))

    def variant(self, policy: bool, value: bool, rollouts: bool) -> Infer:
        """Return the same with some of the parts alone."""
        mixing = float(self.mixing) if value and rollouts else float(rollouts)
        return lambda planes: self.judge(planes, policy, mixing if value or rollouts else None)
