"""Sources as a user writes them, importing the contract alone, with algorithms that learn from them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rayloom.contract import (
    Action,
    Algorithm,
    AlgorithmConfig,
    Batch,
    Loss,
    Metric,
    Phase,
    ReshardContext,
    Rollout,
    Source,
    SourceConfig,
    SourceContext,
    SourceWorker,
    Spec,
    TensorSpec,
    Trajectory,
    WorkerConfig,
    WorkerContext,
    deal,
)

# --- a generator of batches -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class NoisyLineConfig(SourceConfig):
    """Points on a line, with noise."""

    slope: float = 2.0
    """Slope of the line."""


class NoisyLine(Source):
    """Draws each batch anew; K learners share the batch of one."""

    Config = NoisyLineConfig

    def __init__(self, config: NoisyLineConfig, context: SourceContext) -> None:
        self.config, self.context, self.draws = config, context, 0

    @classmethod
    def describe(cls, config: NoisyLineConfig) -> Spec:
        """Return the fields of a batch."""
        return {name: TensorSpec(shape=(1,), dtype=torch.float32) for name in ("x", "y")}

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Return everybody the same."""
        return [states[0]] * count

    def next(self) -> Batch:
        """Return this learner's rows of the next batch."""
        generator = torch.Generator().manual_seed(self.context.derive_seed("batch", self.draws))
        x, noise = torch.randn(2, self.context.global_batch_size, 1, generator=generator)
        self.draws += 1
        first = self.context.group.rank * self.context.batch_size
        mine = slice(first, first + self.context.batch_size)
        return self.context.algorithm.prepare({"x": x[mine], "y": self.config.slope * x[mine] + 0.1 * noise[mine]})

    def counters(self) -> dict[str, int]:
        """Return the samples of all learners."""
        return {"samples": self.draws * self.context.global_batch_size}

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were drawn."""
        return {"draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on behind them."""
        self.draws = int(state["draws"])


class Line(Algorithm):
    """Fits a line."""

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        self.line = nn.Linear(spec["x"].shape[0], spec["y"].shape[0])

    def phases(self) -> list[Phase]:
        """Return the only one."""
        return [Phase("fit", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        """Return the squared errors [B]."""
        return Loss((self.line(batch["x"]) - batch["y"]).square().sum(1))


# --- self-play --------------------------------------------------------------------------------------------------------

LINES = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])
PLIES = 9


@dataclass(frozen=True, kw_only=True)
class SelfPlayConfig(WorkerConfig):
    """Tic-tac-toe against itself; `num_envs` games are played at once."""

    rounds: int = 1
    """Games of each board in one rollout."""
    reuse: int = 4
    """Batches that are drawn from one rollout."""


class SelfPlayWorker(SourceWorker):
    """Plays games from the empty board to the end, all at once; the opening moves take turns over the run."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        self.played = 0

    def restart(self, seed: int) -> None:
        """Forget nothing: no game is running between two rollouts."""

    def collect(self, num_steps: int) -> Rollout:
        """Play `num_steps` rounds: board [T, N, 9] as its mover sees it, action, outcome for the mover, valid."""
        started, rounds = time.perf_counter(), [self._play() for _ in range(num_steps)]
        arrays = {name: np.concatenate([arrays[name] for arrays in rounds]) for name in rounds[0]}
        plies, first = arrays["valid"].reshape(num_steps, PLIES, -1).sum(1), arrays["outcome"][::PLIES]
        games = list(zip(first.ravel().tolist(), plies.ravel().tolist(), strict=True))
        seconds = {"inference": time.perf_counter() - started}
        return Rollout(arrays, games, int(arrays["valid"].sum()), seconds=seconds)

    def _play(self) -> dict[str, Any]:
        number, first = self.context.num_envs, self.context.first
        board, winner, playing = np.zeros((number, 9), np.float32), np.zeros(number, np.float32), np.ones(number, bool)
        boards, actions, valid = [], [], []
        for ply in range(PLIES):
            boards.append(board.copy())
            valid.append(playing.copy())
            if ply:
                chosen = self.context.algorithm.act(torch.from_numpy(board), None, self.context.generator)
                actions.append(chosen.action.numpy())
            else:
                actions.append((self.played + first + np.arange(number)) % 9)
            board[np.arange(number), actions[-1]] = 1.0
            won = playing & (board[:, LINES].sum(2) == 3).any(1)
            winner[won], playing, board = (-1.0) ** ply, playing & ~won, -board
        self.played += 1
        outcome = winner * (-1.0) ** np.arange(PLIES, dtype=np.float32)[:, None]
        return {"board": np.stack(boards), "action": np.stack(actions), "outcome": outcome, "valid": np.stack(valid)}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of rounds, which choose the openings."""
        return {"played": self.played}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the next opening."""
        self.played = int(state["played"])


class SelfPlay(Source):
    """Batches from the plies of the last games."""

    Config = SelfPlayConfig
    worker = SelfPlayWorker
    counts_own = True
    reports: ClassVar = {"drawn_share": Metric(better="max", meaning="games that nobody has won, over the whole run")}

    def __init__(self, config: SelfPlayConfig, context: SourceContext) -> None:
        self.config, self.context = config, context
        self.rows: Batch = {}
        self.total = {"draws": 0, "env_steps": 0, "episodes": 0, "samples": 0, "draws_of_games": 0}

    @classmethod
    def describe(cls, config: SelfPlayConfig) -> Spec:
        """Return the board and the move."""
        board = TensorSpec(shape=(9,), dtype=torch.float32)
        return {"board": board, "action": TensorSpec(shape=(), dtype=torch.int64, num_values=9)}

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Deal out the rows like cards, and the counters."""
        rows = {name: torch.cat([state["rows"][name] for state in states]) for name in states[0]["rows"]}
        totals = {name: deal(sum(state["total"][name] for state in states), count) for name in states[0]["total"]}
        totals["draws"] = [states[0]["total"]["draws"]] * count
        return [
            {
                "rows": {name: value[rank::count].clone() for name, value in rows.items()},
                "total": {name: shares[rank] for name, shares in totals.items()},
            }
            for rank in range(count)
        ]

    def next(self) -> Batch:
        """Return random rows of the last rollout, which is replaced after `reuse` batches."""
        draws, size = self.total["draws"], self.context.batch_size
        if draws % self.config.reuse == 0:
            self._collect(draws // self.config.reuse)
        seed = self.context.derive_seed("batch", draws, self.context.group.rank)
        index = torch.randint(len(self.rows["action"]), (size,), generator=torch.Generator().manual_seed(seed))
        self.total["draws"] += 1
        self.total["samples"] += size
        return {name: value[index] for name, value in self.rows.items()}

    def _collect(self, version: int) -> None:
        started = time.perf_counter()
        self.context.pool.publish(version)
        rollouts = self.context.pool.collect(self.config.rounds)
        self.wait_s += time.perf_counter() - started
        arrays = {name: np.concatenate([r.arrays[name] for r in rollouts], axis=1) for name in rollouts[0].arrays}
        self.rows = self.context.algorithm.prepare({name: torch.from_numpy(value) for name, value in arrays.items()})
        for rollout in rollouts:
            self.total["env_steps"] += rollout.env_steps
            self.total["episodes"] += len(rollout.episodes)
            self.total["draws_of_games"] += sum(outcome == 0 for outcome, _ in rollout.episodes)

    def counters(self) -> dict[str, int]:
        """Return plies, games and rows."""
        return {name: self.total[name] for name in ("env_steps", "episodes", "samples")}

    def metrics(self) -> dict[str, float]:
        """Return the share of games that nobody has won, over the whole run."""
        return {"drawn_share": self.total["draws_of_games"] / max(1, self.total["episodes"])}

    def state_dict(self) -> dict[str, Any]:
        """Return the rows that are still drawn from, and the counters."""
        return {"rows": dict(self.rows), "total": dict(self.total)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore them."""
        self.rows = {str(name): value for name, value in state["rows"].items()}
        self.total = {str(name): int(value) for name, value in state["total"].items()}


class Outcomes(Algorithm):
    """Makes moves of games that were won likelier, and those of lost ones less likely (REINFORCE)."""

    def __init__(self, config: AlgorithmConfig, spec: Spec) -> None:
        super().__init__(config, spec)
        (squares,) = spec["board"].shape
        self.network = nn.Sequential(nn.Linear(squares, 64), nn.Tanh(), nn.Linear(64, squares))

    def logits(self, board: Tensor) -> Tensor:
        """Return the logits [N, 9]; squares that are taken have none."""
        logits: Tensor = self.network(board).masked_fill(board != 0, -torch.inf)
        return logits

    def act(self, observation: Tensor, state: Any, explore: torch.Generator | None) -> Action:
        """Choose a free square."""
        logits = self.logits(observation)
        if explore is None:
            return Action(logits.argmax(1))
        return Action(torch.multinomial(logits.softmax(1), 1, generator=explore).squeeze(1))

    @torch.no_grad()
    def prepare(self, trajectory: Trajectory) -> Batch:
        """Keep the plies of games that were not over."""
        return {name: trajectory[name][trajectory["valid"]] for name in ("board", "action", "outcome")}

    def phases(self) -> list[Phase]:
        """Return the only one."""
        return [Phase("policy", self.loss, tuple(self.parameters()))]

    def loss(self, batch: Batch) -> Loss:
        """Return -outcome * log-probability [B]."""
        chosen = self.logits(batch["board"]).log_softmax(1).gather(1, batch["action"][:, None]).squeeze(1)
        return Loss(-batch["outcome"] * chosen)


# --- mistakes ---------------------------------------------------------------------------------------------------------

called: list[str] = []


def not_a_source() -> None:
    """Must not be called by a config that names it."""
    called.append("not_a_source")


class Unfinished(Source):
    """Has no batches."""


class PlainSettings(NoisyLine):
    """Its `Config` is no dataclass."""

    class Config:
        """Says nothing."""

        slope = 2.0


class Undecorated(NoisyLine):
    """Its `Config` forgets to be a dataclass of its own."""

    class Config(SourceConfig):
        """Is not decorated."""

        slope: float = 2.0


class WorkersWithoutSettings(SelfPlay):
    """Has workers, but not their settings."""

    Config = NoisyLineConfig  # type: ignore[assignment]


class Undescribed(NoisyLine):
    """Describes a batch by shapes alone."""

    @classmethod
    def describe(cls, config: NoisyLineConfig) -> Any:
        """Return what is no spec."""
        return {"x": (1,), "y": (1,)}


class Selective(NoisyLine):
    """Delivers what replay delivers, and says so."""

    kind = "replay"


class NotToBeDealt(NoisyLine):
    """Does not reshard."""

    @classmethod
    def reshard(cls, states: Sequence[dict[str, Any]], count: int, context: ReshardContext) -> list[dict[str, Any]]:
        """Do as a source that has nothing to say about it."""
        return super(NoisyLine, cls).reshard(states, count, context)
