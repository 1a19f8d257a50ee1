"""Games that a network plays against itself by tree search, as a source of the engine.

A worker plays `num_envs` games at once and hands over those that have ended, as compact records. The source keeps a
window of the last plies and draws batches from it, each ply about `reuse` times, under a random symmetry of the game.
Running games survive a barrier; their search trees do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from rayloom.contract import (
    Batch,
    Metric,
    ReshardContext,
    Source,
    SourceContext,
    Spec,
    TensorSpec,
    UserError,
    deal,
)
from rayloom_agents.alphago.records import Window, as_records, games_of, joined
from rayloom_agents.alphago.self_play_worker import SelfPlayConfig, SelfPlayWorker

__all__ = ["SelfPlay", "SelfPlayConfig", "SelfPlayWorker", "window_size"]


def window_size(config: SelfPlayConfig, plies: int) -> int:
    """Return how many of the latest plies batches are drawn from when there have been `plies`."""
    least, exponent = config.window, config.window_exponent
    if exponent is None or plies <= least:
        return least
    return int(least * (1 + config.window_slope * ((plies / least) ** exponent - 1) / exponent))


class SelfPlay(Source):
    """Batches of plies: planes, the search's policy, the outcome for whose turn it was, whether the search was full.

    In games where points have owners also these at the end, and the lead.
    """

    Config = SelfPlayConfig
    worker = SelfPlayWorker
    counts_own = True
    reports: ClassVar[Mapping[str, Metric]] = {
        "first_player_score": Metric(meaning="1 for a game that the first player has won, one half for a draw"),
        "game_length": Metric(unit="plies"),
        "evaluations_per_ply": Metric(meaning="positions that the network judged for a ply, by which rates are told"),
        "window": Metric(unit="plies", meaning="plies that batches are drawn from, of one learner"),
    }

    def __init__(self, config: SelfPlayConfig, context: SourceContext) -> None:
        self.config, self.context = config, context
        self.game = config.game.make()
        points, actions = (torch.from_numpy(each.copy()).to(context.device) for each in self.game.symmetries())
        self._points, self._actions = points, actions
        scale = self.game.plane_scale
        self._scale = None if scale is None else torch.from_numpy(scale.copy()).to(context.device)[:, None, None]
        self.window = Window(self.game, config.threads)
        self.total = dict.fromkeys(
            ("draws", "collected", "env_steps", "episodes", "samples", "rows", "evaluations", "told"), 0
        )
        self._ended: list[tuple[float, int]] = []

    @classmethod
    def describe(cls, config: SelfPlayConfig) -> Spec:
        """Return what a ply is."""
        game = config.game.make()
        if config.search.simulations < 2 and config.search.method == "puct":
            raise UserError("source.search.simulations: a policy is learnt from at least 2 simulations, not 1")
        shapes: dict[str, tuple[int, ...]] = {
            "planes": (game.num_planes, game.rows, game.columns), "policy": (game.num_actions,), "outcome": (),
            "full": (),
        }  # fmt: skip
        if game.has_owners:
            shapes.update(ownership=(game.rows * game.columns,), score=())
        return {name: TensorSpec(shape=shape, dtype=torch.float32) for name, shape in shapes.items()}

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Deal out the games of the window like cards, and the counters."""
        records = joined([as_records(state["records"]) for state in states])
        totals = {name: deal(sum(state["total"][name] for state in states), count) for name in states[0]["total"]}
        for name in ("draws", "collected"):
            totals[name] = [max(state["total"][name] for state in states)] * count
        return [
            {
                "records": games_of(records, np.arange(len(records.lengths)) % count == rank)._asdict(),
                "total": {name: shares[rank] for name, shares in totals.items()},
            }
            for rank in range(count)
        ]

    def next(self) -> Batch:
        """Return random plies of the window, each turned or mirrored at random; first collect what `reuse` asks for."""
        size = self.context.batch_size
        while self.total["rows"] * self.config.reuse < self.total["samples"] + size:
            self._collect()
        address = ("batch", self.total["draws"], self.context.group.rank)
        generator = torch.Generator().manual_seed(self.context.derive_seed(*address))
        index = len(self.window) - 1 - torch.randint(self._reach(), (size,), generator=generator)
        symmetry = torch.randint(len(self._points), (size,), generator=generator).to(self.context.device)
        self.total["draws"] += 1
        self.total["samples"] += size
        rows = self.window.rows(index.numpy())
        batch = {name: torch.from_numpy(value).to(self.context.device) for name, value in rows.items()}
        planes, points = batch["planes"].flatten(2), self._points[symmetry]
        turned = planes.gather(2, points[:, None, :].expand_as(planes)).view_as(batch["planes"]).float()
        batch["planes"] = turned if self._scale is None else turned * self._scale
        batch["policy"] = batch["policy"].gather(1, self._actions[symmetry])
        if "ownership" in batch:
            batch["ownership"] = batch["ownership"].gather(1, points)
        return self.context.algorithm.prepare(batch)

    def _most(self) -> int:
        """Return how many plies this learner's window may have now."""
        learners = self.context.group.world_size
        return -(-window_size(self.config, self.total["rows"] * learners) // learners)

    def _reach(self) -> int:
        return min(len(self.window), self._most())

    def _collect(self) -> None:
        started = time.perf_counter()
        self.context.pool.publish(self.total["collected"])
        rollouts = self.context.pool.collect(self.config.plies)
        self.wait_s += time.perf_counter() - started
        self.total["collected"] += 1
        fresh = [as_records(rollout.arrays) for rollout in rollouts]
        self.total["rows"] += sum(len(records.action) for records in fresh)
        self.window.add(fresh, self._most())
        for rollout in rollouts:
            self.total["env_steps"] += rollout.env_steps
            self.total["episodes"] += len(rollout.episodes)
            self.total["evaluations"] += int(rollout.arrays["evaluations"].sum())
            self._ended += rollout.episodes

    def counters(self) -> dict[str, int]:
        """Return plies, games and rows."""
        return {name: self.total[name] for name in ("env_steps", "episodes", "samples")}

    def metrics(self) -> dict[str, float]:
        """Return who wins and how long games are, since the last call."""
        ended, self._ended = self._ended, []
        found = {"window": float(self._reach())}
        plies = self.total["env_steps"] - self.total["told"]
        if plies > 0:
            found["evaluations_per_ply"] = self.total["evaluations"] / plies
            self.total["told"], self.total["evaluations"] = self.total["env_steps"], 0
        if ended:
            found["first_player_score"] = sum((outcome + 1) / 2 for outcome, _ in ended) / len(ended)
            found["game_length"] = sum(length for _, length in ended) / len(ended)
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the window, the counters and the games not yet reported."""
        records = self.window.records._asdict()
        return {"records": records, "total": dict(self.total), "ended": [list(game) for game in self._ended]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.window = Window(self.game, self.config.threads)
        self.window.restore(as_records(state["records"]))
        self.total = {str(name): int(value) for name, value in state["total"].items()}
        self._ended = [(float(outcome), int(length)) for outcome, length in state.get("ended", [])]
