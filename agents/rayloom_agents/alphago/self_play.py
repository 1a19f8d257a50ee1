"""Games that a network plays against itself by tree search, as a source of the engine.

A worker plays `num_envs` games at once and hands over the plies of those that have ended. The source keeps a window of
the last plies and draws batches from it, each ply about `reuse` times, under a random symmetry of the game. Running
games survive a barrier; their search trees do not.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

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
    UserError,
    WorkerConfig,
    WorkerContext,
    deal,
)
from rayloom_agents.alphago.alphazero import player
from rayloom_agents.alphago.games.game import Game, put, take
from rayloom_agents.alphago.games.kinds import GAMES
from rayloom_agents.alphago.search import Search, SearchResult, SearchSettings
from rayloom_agents.alphago.search.batched import sample_simulations

ROWS = ("planes", "policy", "outcome", "full")


@dataclass(frozen=True, kw_only=True)
class SelfPlayConfig(WorkerConfig):
    """Settings of self-play; `num_envs` games are played at once."""

    game: Annotated[Component, GAMES] = field(default_factory=GAMES.component)
    """What is played."""
    search: SearchSettings = field(default_factory=SearchSettings)
    """The tree search."""
    full_share: Annotated[float, Gt(0), Le(1)] = 1.0
    """Share of the searches that are full, explore and teach the policy; the others have `fast_simulations`
    (playout-cap randomisation, Wu 2019)."""
    fast_simulations: Annotated[int, Ge(1)] = 16
    """Simulations of the other searches."""
    sampled_plies: Annotated[int, Ge(0)] = 8
    """Plies of each game whose moves are drawn in proportion to the visits; later ones are the most visited. Gumbel
    search draws by itself."""
    plies: Annotated[int, Ge(1)] = 8
    """Plies of every game between two new versions of the network."""
    window: Annotated[int, Ge(1)] = 20_000
    """Latest plies that batches are drawn from, over all learners."""
    reuse: Annotated[float, Gt(0)] = 4.0
    """How often a ply is drawn on average."""


class SelfPlayWorker(SourceWorker):
    """Plays on where it was; a game that ends is handed over and begins anew."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        config: SelfPlayConfig = context.config
        self.game: Game = config.game.make()
        games, plies = context.num_envs, self.game.max_plies
        self.search = Search(self.game, games, config.search)
        self.state = self.game.start(games)
        self.ply = np.zeros(games, np.int64)
        self.actions = np.full((games, plies), -1, np.int64)
        self.policies = np.zeros((games, plies, self.game.num_actions), np.float32)
        self.full = np.zeros((games, plies), np.bool_)

    def restart(self, seed: int) -> None:
        """Forget the trees; games go on."""
        self.search.forget(np.arange(self.context.num_envs))

    def collect(self, num_steps: int) -> Rollout:
        """Play `num_steps` plies in every game; rows planes [R, C, H, W], policy [R, A], outcome [R], full [R]."""
        began, infer_s = time.perf_counter(), 0.0
        infer = player(self.context.algorithm).infer
        seed = int(torch.randint(2**62, (), generator=self.context.generator))
        generator, parts, episodes = np.random.default_rng(seed), [self._rows(np.arange(0))], []

        def timed(planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            nonlocal infer_s
            start = time.perf_counter()
            found = infer(planes)
            infer_s += time.perf_counter() - start
            return found

        for _ in range(num_steps):
            self._step(timed, generator)
            ended = np.flatnonzero(self.game.is_over(self.state))
            if len(ended):
                parts.append(self._rows(ended))
                outcomes = self.game.outcome(take(self.state, ended)).tolist()
                episodes += list(zip(outcomes, self.ply[ended].tolist(), strict=True))
                self._begin(ended)
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in ROWS}
        seconds = {"inference": infer_s, "step": time.perf_counter() - began - infer_s}
        return Rollout(arrays, episodes, num_steps * self.context.num_envs, seconds=seconds)

    def _step(self, infer: Any, generator: np.random.Generator) -> None:
        """Search and play one ply in every game."""
        config, games = self.context.config, np.arange(self.context.num_envs)
        limit = config.search.simulations
        fast = min(config.fast_simulations, limit)
        simulations, full = sample_simulations(generator, len(games), limit, fast, config.full_share)
        result = self.search.run(infer, self.state, generator, full, simulations)
        action = self._choose(result, generator)
        self.actions[games, self.ply], self.policies[games, self.ply] = action, result.policy
        self.full[games, self.ply] = full
        self.game.play(self.state, action)
        self.ply += 1
        self.search.follow(action)

    def _choose(self, result: SearchResult, generator: np.random.Generator) -> NDArray[np.int64]:
        """Return the moves: drawn by visits in the first plies, then the best ones."""
        config = self.context.config
        if config.search.method == "gumbel":
            return result.action
        shares = result.visits / result.visits.sum(axis=1, keepdims=True)
        draws = generator.random((len(shares), 1))
        drawn = np.minimum((shares.cumsum(axis=1) <= draws).sum(axis=1), shares.shape[1] - 1)
        legal = np.take_along_axis(result.visits, drawn[:, None], axis=1)[:, 0] > 0  # a sum may end below 1
        chosen: NDArray[np.int64] = np.where((self.ply < config.sampled_plies) & legal, drawn, result.action)
        return chosen

    def _rows(self, games: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """Return the plies of games that have ended, which are played once more for what the network saw."""
        outcome, again, planes, movers, of, plies = (
            self.game.outcome(take(self.state, games)), self.game.start(len(games)), [], [], [], []
        )  # fmt: skip
        for ply in range(int(self.ply[games].max(initial=0))):
            running = np.flatnonzero(self.ply[games] > ply)
            planes.append(self.game.observe(take(again, running)))
            movers.append(self.game.mover(again)[running])
            of.append(running)
            plies.append(np.full(len(running), ply))
            self.game.play(again, np.where(self.ply[games] > ply, self.actions[games, ply], -1))
        shape = (0, self.game.num_planes, self.game.rows, self.game.columns)
        row = np.concatenate([np.arange(0), *of])
        ply_of = np.concatenate([np.arange(0), *plies])
        return {
            "planes": np.concatenate([np.zeros(shape, np.float32), *planes]),
            "policy": self.policies[games[row], ply_of],
            "outcome": (outcome[row] * np.concatenate([np.zeros(0, np.int8), *movers])).astype(np.float32),
            "full": self.full[games[row], ply_of].astype(np.float32),
        }

    def _begin(self, games: NDArray[np.int64]) -> None:
        put(self.state, games, self.game.start(len(games)))
        self.ply[games], self.actions[games], self.policies[games], self.full[games] = 0, -1, 0, False
        self.search.forget(games)

    def state_dict(self) -> dict[str, Any]:
        """Return the games that are running."""
        arrays = {"ply": self.ply, "actions": self.actions, "policies": self.policies, "full": self.full}
        return {name: value.copy() for name, value in arrays.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play them up to where they were; with another number of games they begin anew."""
        actions = np.asarray(state["actions"])
        if actions.shape != self.actions.shape:
            return
        self.actions, self.policies = actions.copy(), np.asarray(state["policies"]).copy()
        self.ply, self.full = np.asarray(state["ply"]).copy(), np.asarray(state["full"]).copy()
        self.state = self.game.start(len(actions))
        self.game.advance(self.state, self.actions, self.ply)


class SelfPlay(Source):
    """Batches of plies: planes, the search's policy, the outcome for whose turn it was, whether the search was full."""

    Config = SelfPlayConfig
    worker = SelfPlayWorker
    counts_own = True
    reports: ClassVar[Mapping[str, Metric]] = {
        "first_player_score": Metric(meaning="1 for a game that the first player has won, one half for a draw"),
        "game_length": Metric(unit="plies"),
    }

    def __init__(self, config: SelfPlayConfig, context: SourceContext) -> None:
        self.config, self.context = config, context
        points, actions = config.game.make().symmetries()
        self._points, self._actions = torch.from_numpy(points.copy()), torch.from_numpy(actions.copy())
        self.rows: Batch = {}
        self.total = dict.fromkeys(("draws", "collected", "env_steps", "episodes", "samples", "rows"), 0)
        self._ended: list[tuple[float, int]] = []

    @classmethod
    def describe(cls, config: SelfPlayConfig) -> Spec:
        """Return what a ply is."""
        game = config.game.make()
        if config.search.simulations < 2 and config.search.method == "puct":
            raise UserError("source.search.simulations: a policy is learnt from at least 2 simulations, not 1")
        return {
            "planes": TensorSpec(shape=(game.num_planes, game.rows, game.columns), dtype=torch.float32),
            "policy": TensorSpec(shape=(game.num_actions,), dtype=torch.float32),
            "outcome": TensorSpec(shape=(), dtype=torch.float32),
            "full": TensorSpec(shape=(), dtype=torch.float32),
        }

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Deal out the plies of the window like cards, and the counters."""
        filled = [state["rows"] for state in states if state["rows"]]
        rows = {name: torch.cat([part[name] for part in filled]) for name in (ROWS if filled else ())}
        totals = {name: deal(sum(state["total"][name] for state in states), count) for name in states[0]["total"]}
        for name in ("draws", "collected"):
            totals[name] = [max(state["total"][name] for state in states)] * count
        return [
            {
                "rows": {name: value[rank::count].clone() for name, value in rows.items()},
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
        index = torch.randint(len(self.rows["outcome"]), (size,), generator=generator)
        symmetry = torch.randint(len(self._points), (size,), generator=generator)
        self.total["draws"] += 1
        self.total["samples"] += size
        batch = {name: value[index] for name, value in self.rows.items()}
        planes = batch["planes"].flatten(2)
        points = self._points[symmetry][:, None, :].expand_as(planes)
        batch["planes"] = planes.gather(2, points).view_as(batch["planes"])
        batch["policy"] = batch["policy"].gather(1, self._actions[symmetry])
        return self.context.algorithm.prepare({name: value.to(self.context.device) for name, value in batch.items()})

    def _collect(self) -> None:
        started = time.perf_counter()
        self.context.pool.publish(self.total["collected"])
        rollouts = self.context.pool.collect(self.config.plies)
        self.wait_s += time.perf_counter() - started
        self.total["collected"] += 1
        keep = -(-self.config.window // self.context.group.world_size)
        fresh = {name: torch.from_numpy(np.concatenate([r.arrays[name] for r in rollouts])) for name in ROWS}
        self.rows = {name: torch.cat([self.rows[name], new])[-keep:] if self.rows else new[-keep:]
                     for name, new in fresh.items()}  # fmt: skip
        self.total["rows"] += len(fresh["outcome"])
        for rollout in rollouts:
            self.total["env_steps"] += rollout.env_steps
            self.total["episodes"] += len(rollout.episodes)
            self._ended += rollout.episodes

    def counters(self) -> dict[str, int]:
        """Return plies, games and rows."""
        return {name: self.total[name] for name in ("env_steps", "episodes", "samples")}

    def metrics(self) -> dict[str, float]:
        """Return who wins and how long games are, since the last call."""
        ended, self._ended = self._ended, []
        if not ended:
            return {}
        score = sum((outcome + 1) / 2 for outcome, _ in ended) / len(ended)
        return {"first_player_score": score, "game_length": sum(length for _, length in ended) / len(ended)}

    def state_dict(self) -> dict[str, Any]:
        """Return the window, the counters and the games not yet reported."""
        return {"rows": dict(self.rows), "total": dict(self.total), "ended": [list(game) for game in self._ended]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.rows = {str(name): value for name, value in state["rows"].items()}
        self.total = {str(name): int(value) for name, value in state["total"].items()}
        self._ended = [(float(outcome), int(length)) for outcome, length in state.get("ended", [])]
