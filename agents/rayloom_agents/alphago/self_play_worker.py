"""Who plays the games of self-play: searches in every running game, in groups that take turns with the network."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from rayloom.contract import Component, Rollout, SourceWorker, WorkerConfig, WorkerContext
from rayloom_agents.alphago.alphazero import Judge, judge_of
from rayloom_agents.alphago.games.game import Game, State, put, take
from rayloom_agents.alphago.games.kinds import GAMES
from rayloom_agents.alphago.matches import sampled_actions
from rayloom_agents.alphago.records import Records, as_records, joined, no_records, policy_entries
from rayloom_agents.alphago.search import Search, SearchResult, SearchSettings
from rayloom_agents.alphago.search.batched import Judged, sample_simulations
from rayloom_agents.alphago.search.parts import cut


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
    caps: Literal["game", "group"] = "game"
    """Whether each game draws anew which searches are full, or a group for all of its games, so that the batches of a
    fast device stay full."""
    sampled_plies: Annotated[int, Ge(0)] = 8
    """Plies of each game whose moves are drawn in proportion to the visits; later ones are the most visited. Gumbel
    search draws by itself."""
    komi_spread: Annotated[float, Ge(0)] = 0.0
    """Standard deviation, in points, of the komi of games that begin (whole points around the game's own)."""
    stagger: Annotated[int, Ge(0)] = 0
    """The first games of a run are played up to so many plies ahead, each another number, by moves drawn from the
    network's policy without search, so that not all games end at the same time."""
    plies: Annotated[int, Ge(1)] = 8
    """Plies of every game between two new versions of the network."""
    groups: Annotated[int, Ge(1)] = 1
    """Groups of a worker's games that take turns with the network: with two, the trees of one grow while a GPU judges
    the other's leaves."""
    threads: Annotated[int, Ge(1)] = 1
    """Threads of a worker that grow trees; changes nothing but the time."""
    window: Annotated[int, Ge(1)] = 20_000
    """Latest plies that batches are drawn from, over all learners; where it grows, the number at which it begins to."""
    window_exponent: Annotated[float, Gt(0), Le(1)] | None = None
    """The window c grows with the plies N so far as c * (1 + slope * ((N / c)^exponent - 1) / exponent) (Wu 2019;
    KataGo has 0.75); null: it stays."""
    window_slope: Annotated[float, Gt(0)] = 0.4
    """Slope of the window's growth at its beginning."""
    reuse: Annotated[float, Gt(0)] = 4.0
    """How often a ply is drawn on average."""


class SelfPlayWorker(SourceWorker):
    """Plays on where it was; a game that ends is handed over and begins anew."""

    def __init__(self, context: WorkerContext) -> None:
        super().__init__(context)
        config: SelfPlayConfig = context.config
        self.game: Game = config.game.make()
        games, plies = context.num_envs, self.game.max_plies
        self._groups = cut(games, config.groups)
        self._searches = [
            Search(self.game, each.stop - each.start, config.search, config.threads) for each in self._groups
        ]
        self.state = self.game.start(games)
        self.ply = np.zeros(games, np.int64)
        self.actions = np.full((games, plies), -1, np.int16)
        self.policies = np.zeros((games, plies, self.game.num_actions), np.float16)
        self.values = np.zeros((games, plies), np.float16)
        self.full = np.zeros((games, plies), np.bool_)
        self._finished: list[Records] = []
        self._episodes: list[tuple[float, int]] = []
        self._begun = config.stagger == 0

    def restart(self, seed: int) -> None:
        """Forget the trees; games go on."""
        for search in self._searches:
            search.forget(np.arange(search.games))

    def collect(self, num_steps: int) -> Rollout:
        """Play `num_steps` plies in every game; `Records` of those that have ended, and the count of `evaluations`."""
        began = time.perf_counter()
        judge = judge_of(self.context.algorithm, self.game.plane_scale)
        seed = int(torch.randint(2**62, (), generator=self.context.generator))
        self._finished, self._episodes = [no_records(self.game)], []
        streams = [
            self._play(group, num_steps, np.random.default_rng([seed, group])) for group in range(len(self._groups))
        ]
        evaluations, infer_s = take_turns(streams, judge)
        self._begun = True
        arrays = {**joined(self._finished)._asdict(), "evaluations": np.array([evaluations])}
        seconds = {"inference": infer_s, "step": time.perf_counter() - began - infer_s}
        return Rollout(arrays, self._episodes, num_steps * self.context.num_envs, seconds=seconds)

    def _play(
        self, group: int, num_steps: int, generator: np.random.Generator
    ) -> Generator[NDArray[Any], Judged, None]:
        """Search and play so many plies in the games of a group."""
        config, where, search = self.context.config, self._groups[group], self._searches[group]
        games = np.arange(where.start, where.stop)
        state = type(self.state)(*(array[where] for array in self.state))  # views: moves change the whole state
        limit = config.search.simulations
        if not self._begun:
            yield from self._go_ahead(games, state, generator)
        for _ in range(num_steps):
            draws = len(games) if config.caps == "game" else 1
            fast = min(config.fast_simulations, limit)
            simulations, full = sample_simulations(generator, draws, limit, fast, config.full_share)
            simulations, full = np.resize(simulations, len(games)), np.resize(full, len(games))
            result = yield from search.steps(state, generator, full, simulations)
            action = self._choose(result, self.ply[games], generator)
            at = games, self.ply[games]
            self.actions[at], self.policies[at], self.values[at] = action, result.policy, result.value
            self.full[at] = full
            self.game.play(state, action)
            self.ply[games] += 1
            search.follow(action)
            ended = np.flatnonzero(self.game.is_over(state))
            if len(ended):
                self._hand_over(games[ended], generator)
                search.forget(ended)

    def _go_ahead(
        self, games: NDArray[np.int64], state: State, generator: np.random.Generator
    ) -> Generator[NDArray[Any], Judged, None]:
        """Play another number of plies in each game, by moves drawn from the network's policy."""
        ahead = generator.integers(self.context.config.stagger + 1, size=len(games))
        for ply in range(self.context.config.stagger):
            running = np.flatnonzero((ahead > ply) & ~self.game.is_over(state))
            if not len(running):
                break
            nowhere = np.zeros((len(running), 0), np.int64), np.zeros(len(running), np.int64)
            seen = self.game.leaves(state, running, *nowhere, self.game.start(1))
            logits, _ = yield seen.planes
            actions = np.full(len(games), -1)
            actions[running] = sampled_actions(logits, seen.legal, generator)
            self.actions[games[running], self.ply[games[running]]] = actions[running]
            self.game.play(state, actions)
            self.ply[games[running]] += 1
        ended = np.flatnonzero(self.game.is_over(state))
        self._begin(games[ended], generator)

    def _choose(
        self, result: SearchResult, ply: NDArray[np.int64], generator: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the moves: drawn by visits in the first plies, then the best ones."""
        config = self.context.config
        if config.search.method == "gumbel":
            return result.action
        shares = result.visits / result.visits.sum(axis=1, keepdims=True)
        draws = generator.random((len(shares), 1))
        drawn = np.minimum((shares.cumsum(axis=1) <= draws).sum(axis=1), shares.shape[1] - 1)
        legal = np.take_along_axis(result.visits, drawn[:, None], axis=1)[:, 0] > 0  # a sum may end below 1
        chosen: NDArray[np.int64] = np.where((ply < config.sampled_plies) & legal, drawn, result.action)
        return chosen

    def _hand_over(self, games: NDArray[np.int64], generator: np.random.Generator) -> None:
        """Keep what there is of games that have ended, and begin new ones."""
        records = self._records(games)
        self._finished.append(records)
        self._episodes += list(zip(records.outcome.tolist(), records.lengths.tolist(), strict=True))
        self._begin(games, generator)

    def _begin(self, games: NDArray[np.int64], generator: np.random.Generator) -> None:
        """Replace games by new ones."""
        fresh, spread = self.game.start(len(games)), self.context.config.komi_spread
        if spread > 0:
            more = np.rint(spread * generator.standard_normal(len(games))).astype(np.float32)
            self.game.set_komi(fresh, self.game.komi_of(fresh) + more)
        put(self.state, games, fresh)
        self.ply[games], self.actions[games], self.full[games], self.policies[games] = 0, -1, False, 0

    def _records(self, games: NDArray[np.int64]) -> Records:
        """Return the plies of games so far."""
        state, lengths = take(self.state, games), self.ply[games]
        played = np.arange(self.actions.shape[1]) < lengths[:, None]
        owners = self.game.owners(state) if self.game.has_owners else np.zeros((len(games), 0), np.int8)
        entries, entry_action, entry_share = policy_entries(self.policies[games][played])
        return Records(
            lengths.astype(np.int32), self.game.outcome(state), self.game.score(state), self.game.komi_of(state).copy(),
            owners, self.actions[games][played], self.full[games][played], self.values[games][played], entries,
            entry_action, entry_share,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the games that are running."""
        return self._records(np.arange(self.context.num_envs))._asdict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Play them up to where they were; with another number of games they begin anew."""
        records = as_records(state)
        self._begun = True
        if len(records.lengths) != self.context.num_envs:
            return
        self.ply = records.lengths.astype(np.int64)
        played = np.arange(self.actions.shape[1]) < self.ply[:, None]
        self.actions[:], self.full[:] = -1, False
        self.actions[played], self.full[played], self.values[played] = records.action, records.full, records.value
        policies = np.zeros((len(records.action), self.policies.shape[2]), np.float16)
        policies[np.repeat(np.arange(len(policies)), records.entries), records.entry_action] = records.entry_share
        self.policies[played] = policies
        self.state = self.game.start(len(self.ply))
        self.game.set_komi(self.state, records.komi)
        self.game.advance(self.state, self.actions.astype(np.int64), self.ply)


def take_turns(streams: list[Generator[NDArray[Any], Judged, None]], judge: Judge) -> tuple[int, float]:
    """Judge what the streams ask about, one batch of each after the other, until all have ended.

    While one stream works on its answer, what the others have asked is being judged. Returns how many positions were
    judged, and the seconds that went into asking and waiting.
    """
    count, seconds = 0, 0.0
    answers: deque[Any] = deque((stream, None) for stream in streams)
    while answers:
        stream, pending = answers.popleft()
        try:
            began = time.perf_counter()
            found = None if pending is None else pending()
            seconds += time.perf_counter() - began
            planes = next(stream) if found is None else stream.send(found)
        except StopIteration:
            continue
        began = time.perf_counter()
        answers.append((stream, judge(planes)))
        seconds += time.perf_counter() - began
        count += len(planes)
    return count, seconds
