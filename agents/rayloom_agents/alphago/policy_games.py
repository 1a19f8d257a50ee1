"""Whole games of the current policy against earlier ones, both drawing moves from their policies, without search.

A worker plays `num_envs` games at a time, from beginning to end, against one policy drawn from the algorithm's pool;
the current policy has the first move in every other game. Its own moves are the rows, each of which is learnt from
once. What is left over when a batch is full opens the next one, and is then as old as the batches in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from numpy.typing import NDArray
from torch import Tensor

from rayloom.contract import (
    Batch,
    Component,
    Metric,
    ReshardContext,
    Rollout,
    Source,
    SourceContext,
    SourceWorker,
    Spec,
    TensorSpec,
    WorkerConfig,
    WorkerContext,
    deal,
)
from rayloom_agents.alphago.games.game import Game, State, take
from rayloom_agents.alphago.games.kinds import GAMES
from rayloom_agents.alphago.matches import random_actions, sampled_actions
from rayloom_agents.alphago.policy_gradient_self_play import check_pool

ROWS = ("planes", "legal", "action", "return")


@dataclass(frozen=True, kw_only=True)
class PolicyGamesConfig(WorkerConfig):
    """Settings of games against earlier policies; `num_envs` games are played at once, to their ends."""

    game: Annotated[Component, GAMES] = field(default_factory=GAMES.component)
    """What is played."""
    opening_plies: Annotated[int, Ge(0)] = 0
    """Random plies with which every game begins; they are no rows."""


class PolicyGamesWorker(SourceWorker):
    """Plays whole games; nothing runs on from one call to the next."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.game: Game = context.config.game.make()

    def restart(self, seed: int) -> None:
        """Do nothing: no game is running."""

    def collect(self, num_steps: int) -> Rollout:
        """Play one game in each place; rows planes, legal, action, return of the current policy's moves."""
        began, games = time.perf_counter(), self.context.num_envs
        algorithm = check_pool(self.context.algorithm)
        seed = int(torch.randint(2**62, (), generator=self.context.generator))
        generator = np.random.default_rng(seed)
        opponent = int(generator.integers(max(1, algorithm.opponents())))
        state, plies = self.game.start(games), 0
        sides = np.where((self.context.first + np.arange(games)) % 2 == 0, 1, -1)
        parts: list[dict[str, NDArray[Any]]] = [self._row_parts(state, np.arange(0), np.arange(0))]
        while not (over := self.game.is_over(state)).all():
            running = np.flatnonzero(~over)
            mine = running[self.game.mover(state)[running] == sides[running]]
            actions = np.full(games, -1)
            if plies < self.context.config.opening_plies:
                actions = random_actions(self.game, state, generator)
            else:
                theirs = np.setdiff1d(running, mine)
                for rows, number in ((mine, None), (theirs, opponent)):
                    actions[rows] = self._draw(algorithm, take(state, rows), number, generator)
                parts.append(self._row_parts(state, mine, actions[mine]))
            self.game.play(state, actions)
            plies += 1
            parts[-1]["lengths"] = (~over).astype(np.int64)
        outcome = self.game.outcome(state) * sides
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in ("planes", "legal", "action")}
        arrays["return"] = np.concatenate([outcome[part["of"]] for part in parts]).astype(np.float32)
        lengths = np.sum([part["lengths"] for part in parts if "lengths" in part], axis=0)
        episodes = list(zip(outcome.tolist(), lengths.tolist(), strict=True))
        seconds = {"step": time.perf_counter() - began}
        return Rollout(arrays, episodes, int(lengths.sum()), seconds=seconds)

    def _row_parts(self, state: State, games: NDArray[np.int64], actions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        seen = take(state, games)
        return {"planes": self.game.observe(seen), "legal": self.game.legal(seen), "action": actions, "of": games}

    def _draw(
        self, algorithm: Any, state: State, number: int | None, generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return a move drawn from the current policy (None) or an earlier one in each game."""
        if not len(self.game.mover(state)):
            return np.zeros(0, np.int64)
        planes = torch.from_numpy(self.game.observe(state)).to(next(algorithm.network.parameters()).device)
        with torch.no_grad():
            logits: Tensor = (
                algorithm.network(planes)[0] if number is None else algorithm.opponent_logits(number, planes)
            )
        return sampled_actions(logits.float().cpu().numpy(), self.game.legal(state), generator)


class PolicyGames(Source):
    """Batches of the current policy's moves against its past: planes, legal, action, return."""

    Config = PolicyGamesConfig
    worker = PolicyGamesWorker
    counts_own = True
    reports: ClassVar[Mapping[str, Metric]] = {
        "pool_score": Metric(meaning="of the current policy against earlier ones: 1 for a win, one half for a draw"),
        "game_length": Metric(unit="plies"),
    }

    def __init__(self, config: PolicyGamesConfig, context: SourceContext) -> None:
        self.config, self.context = config, context
        self.rows: Batch = {}
        self.total = dict.fromkeys(("collected", "env_steps", "episodes", "samples"), 0)
        self._ended: list[tuple[float, int]] = []

    @classmethod
    def describe(cls, config: PolicyGamesConfig) -> Spec:
        """Return what a move is."""
        game: Game = config.game.make()
        return {
            "planes": TensorSpec(shape=(game.num_planes, game.rows, game.columns), dtype=torch.float32),
            "legal": TensorSpec(shape=(game.num_actions,), dtype=torch.float32),
            "action": TensorSpec(shape=(), dtype=torch.int64, num_values=game.num_actions),
            "return": TensorSpec(shape=(), dtype=torch.float32),
        }

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Deal out the rows that are left like cards, and the counters."""
        filled = [state["rows"] for state in states if state["rows"]]
        rows = {name: torch.cat([part[name] for part in filled]) for name in (ROWS if filled else ())}
        totals = {name: deal(sum(state["total"][name] for state in states), count) for name in states[0]["total"]}
        totals["collected"] = [max(state["total"]["collected"] for state in states)] * count
        return [
            {
                "rows": {name: value[rank::count].clone() for name, value in rows.items()},
                "total": {name: shares[rank] for name, shares in totals.items()},
            }
            for rank in range(count)
        ]

    def next(self) -> Batch:
        """Return the next rows; games are played when there are too few."""
        size = self.context.batch_size
        while not self.rows or len(self.rows["return"]) < size:
            self._collect()
        batch = {name: value[:size].to(self.context.device) for name, value in self.rows.items()}
        self.rows = {name: value[size:] for name, value in self.rows.items()}
        self.total["samples"] += size
        return self.context.algorithm.prepare(batch)

    def _collect(self) -> None:
        started = time.perf_counter()
        self.context.pool.publish(self.total["collected"])
        rollouts = self.context.pool.collect(1)
        self.wait_s += time.perf_counter() - started
        fresh = {
            name: torch.from_numpy(np.concatenate([rollout.arrays[name] for rollout in rollouts])) for name in ROWS
        }
        fresh["legal"] = fresh["legal"].float()
        address = ("order", self.total["collected"], self.context.group.rank)
        generator = torch.Generator().manual_seed(self.context.derive_seed(*address))
        order = torch.randperm(len(fresh["return"]), generator=generator)  # a batch has rows of many games
        fresh = {name: value[order] for name, value in fresh.items()}
        self.rows = {name: torch.cat([self.rows[name], value]) if self.rows else value for name, value in fresh.items()}
        self.total["collected"] += 1
        for rollout in rollouts:
            self.total["env_steps"] += rollout.env_steps
            self.total["episodes"] += len(rollout.episodes)
            self._ended += rollout.episodes

    def counters(self) -> dict[str, int]:
        """Return plies, games and rows."""
        return {name: self.total[name] for name in ("env_steps", "episodes", "samples")}

    def metrics(self) -> dict[str, float]:
        """Return how the games went since the last call."""
        ended, self._ended = self._ended, []
        if not ended:
            return {}
        return {
            "pool_score": sum((outcome + 1) / 2 for outcome, _ in ended) / len(ended),
            "game_length": sum(length for _, length in ended) / len(ended),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that are left, the counters and the games not yet reported."""
        return {"rows": dict(self.rows), "total": dict(self.total), "ended": [list(game) for game in self._ended]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.rows = {str(name): value for name, value in state["rows"].items()}
        self.total = {str(name): int(value) for name, value in state["total"].items()}
        self._ended = [(float(outcome), int(length)) for outcome, length in state.get("ended", [])]
