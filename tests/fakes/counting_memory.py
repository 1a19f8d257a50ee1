"""An algorithm whose memory counts the steps of the episode, and which knows how it was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import Action, Algorithm, AlgorithmConfig, Batch, Loss, Phase, Spec, Trajectory


class CountingMemory(Algorithm):
    """Counts the steps since each environment's episode began, in a state of two levels, and acts at random.

    The extras of a step tell the count before it; `seen` and `modes` tell what `collected` and `act` were given.
    """

    sources = frozenset({"on_policy", "replay", "asynchronous"})

    @dataclass(frozen=True, kw_only=True)
    class Config(AlgorithmConfig):
        """No settings."""

    def __init__(self, config: Any, spec: Spec) -> None:
        super().__init__(config, spec)
        self.body = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
        self.modes: set[bool] = set()
        self.seen: list[Trajectory] = []
        self.evaluated: list[tuple[float, float]] = []

    def phases(self) -> list[Phase]:
        return [Phase("body", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        return Loss(self.body(batch["observation"][:, :3]).square().sum(dim=1))

    def initial_state(self, num_envs: int) -> Any:
        return {"steps": torch.zeros(num_envs), "deeper": (torch.zeros(num_envs, 2, dtype=torch.int64),)}

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        self.modes |= {module.training for module in self.modules()}
        count = state["steps"]
        assert (state["deeper"][0] == count[:, None]).all()
        if explore is None:
            self.evaluated += zip(count.tolist(), observation[:, 2].tolist(), strict=True)
            return Action(torch.zeros(len(count)).long(), {"steps": count + 1, "deeper": (state["deeper"][0] + 1,)})
        action = torch.randint(2, (len(count),), generator=explore)
        return Action(action, {"steps": count + 1, "deeper": (state["deeper"][0] + 1,)}, {"count": count})

    def collected(self, trajectory: Trajectory) -> None:
        assert not torch.is_grad_enabled()
        self.seen.append({name: value.clone() for name, value in trajectory.items()})

    def prepare(self, trajectory: Trajectory) -> Batch:
        observation = trajectory["observation"]
        return {"observation": observation.flatten(0, 1) if "first" in trajectory else observation}


class CountingMemoryOfRows(CountingMemory):
    """The same for an asynchronous source, whose rows are one environment's trajectory."""

    def prepare(self, trajectory: Trajectory) -> Batch:
        return {"observation": trajectory["observation"][0]}
