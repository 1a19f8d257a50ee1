"""Tree search over a batch of games: one call of the network judges the leaves of all trees.

PUCT is AlphaZero's (Silver et al. 2017, arXiv 1712.01815) with the additions of Wu 2019 (arXiv 1902.10565): forced
playouts, and targets without them. Gumbel search is Danihelka et al. 2022 ("Policy improvement by planning with
Gumbel"). Departures: an unvisited action of PUCT is worth its node's mean value less a reduction; visits that a reused
tree has count towards `simulations`; where a pass ends the game and wins it, that is known without a visit
(`Game.wins_by_ending`): below the root such a position counts as won, and at the root the pass has all of the prior.
Likewise what a game knows of wins one ply ahead (`Game.forced`; only Connect Four does).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import Game, State
from rayloom_agents.alphago.search import tree as trees
from rayloom_agents.alphago.search.parts import Part, cut, in_threads
from rayloom_agents.alphago.search.roots import considered_visits, dirichlet_noise, take_forced_visits
from rayloom_agents.alphago.search.settings import SearchSettings

_NEVER = -1e4
"""Logit of what is not to be played."""
Judged = tuple[NDArray[np.float32], NDArray[np.float32]]
Infer = Callable[[NDArray[np.float32]], Judged]
"""planes [B, C, rows, columns] -> logits [B, A], values [B] in [-1, 1] for the player whose turn it is."""


@dataclass(frozen=True)
class SearchResult:
    """What a search found at the roots; zeros (and action -1) where a game has ended."""

    visits: NDArray[np.int32]
    """[G, A]"""
    policy: NDArray[np.float32]
    """[G, A]: what the network's policy should become: the share of visits, or Gumbel's improved policy."""
    value: NDArray[np.float32]
    """[G]: mean value for the player whose turn it is."""
    action: NDArray[np.int64]
    """[G]: the one to play for strength: the most visited; Gumbel's winner."""


Steps = Generator[NDArray[Any], Judged, SearchResult]
"""Yields planes, in units of `Game.plane_scale`, wants them judged, and returns what was found."""


class Search:
    """Trees of a fixed number of games. Not thread-safe; it keeps its trees between `run` and `follow`."""

    def __init__(self, game: Game, games: int, settings: SearchSettings, threads: int = 1) -> None:
        """`threads`: how many grow the trees; the trees do not depend on it."""
        self.game, self.games, self.settings = game, games, settings
        self.tree = trees.allocate(games, settings.simulations + 1, game.num_actions)
        depth = min(game.max_plies, settings.simulations + 1) + 1
        self._parts = [Part(game, self.tree, where, settings.leaves, depth) for where in cut(games, threads)]
        self._raw_prior = np.zeros((games, game.num_actions), np.float32)

    def run(
        self,
        infer: Infer,
        state: State,
        generator: np.random.Generator,
        explore: NDArray[np.bool_] | None = None,
        simulations: NDArray[np.int64] | None = None,
    ) -> SearchResult:
        """Search from the positions of all games; `state` does not change.

        `explore` [G]: which roots get noise and forced playouts, and give targets without these; None: none of them.
        `simulations` [G]: each at most the settings' (None: exactly these).
        """
        steps, scale = self.steps(state, generator, explore, simulations), self.game.plane_scale
        try:
            planes = next(steps)
            while True:
                if scale is not None:
                    planes = planes.astype(np.float32) * scale[:, None, None]
                planes = steps.send(infer(planes))
        except StopIteration as end:
            found: SearchResult = end.value
            return found

    def steps(
        self,
        state: State,
        generator: np.random.Generator,
        explore: NDArray[np.bool_] | None = None,
        simulations: NDArray[np.int64] | None = None,
    ) -> Steps:
        """Search as `run` does, for a caller who judges the planes that come and sends logits and values back."""
        explore = np.zeros(self.games, np.bool_) if explore is None else explore
        limit = self.settings.simulations
        simulations = np.full(self.games, limit) if simulations is None else np.minimum(simulations, limit)
        simulations = np.where(self.game.is_over(state), 0, simulations).astype(np.int64)
        yield from self._plant(state)
        rule = self._begin(explore, simulations, generator)
        first = self.tree.visits[:, 0].sum(axis=1).astype(np.int64)
        done = first if self.settings.method == "puct" else np.zeros_like(first)
        for part in self._parts:
            part.begin(state, rule, done, simulations)
        planes = self._each_part(Part.descend)
        while any(each is not None for each in planes):
            given = [each for each in planes if each is not None]
            wanted = given[0] if len(given) == 1 else np.concatenate(given)
            logits, values = (yield wanted) if len(wanted) else (np.zeros((0, 0), np.float32), np.zeros(0, np.float32))
            planes = self._take_back(planes, logits, values)
        self.tree.prior[:, 0] = self._raw_prior
        return self._result(rule, simulations > 0, explore)

    def follow(self, actions: NDArray[np.int64]) -> None:
        """Make the position after `actions` [G] the root of each tree; below 0: forget the tree."""
        if self.settings.method == "gumbel":  # sequential halving begins with roots that nobody has visited
            actions = np.full_like(actions, -1)
        actions = np.ascontiguousarray(actions, np.int64)
        self._each_part(lambda part: trees.reroot(part.tree, actions[part.where]))

    def forget(self, games: NDArray[np.int64]) -> None:
        """Drop the trees of `games` (indices): their next search begins with a new root."""
        self.tree.size[games] = 0

    def _each_part(self, work: Callable[[Part], Any]) -> list[Any]:
        return in_threads(work, self._parts)

    def _take_back(
        self, planes: list[NDArray[Any] | None], logits: NDArray[np.float32], values: NDArray[np.float32]
    ) -> list[NDArray[Any] | None]:
        """Hand each part what belongs to the planes that it asked about; return what it asks about next."""
        logits, values = np.ascontiguousarray(logits, np.float32), np.ascontiguousarray(values, np.float32)
        ends = np.cumsum([0 if each is None else len(each) for each in planes]).tolist()
        rows = {id(part): slice(low, high) for part, low, high in zip(self._parts, [0, *ends], ends, strict=False)}

        def go_on(part: Part) -> NDArray[Any] | None:
            part.ascend(logits[rows[id(part)]], values[rows[id(part)]])
            return part.descend()

        return self._each_part(go_on)

    def _plant(self, state: State) -> Generator[NDArray[Any], Judged, None]:
        """Judge the positions of games without a tree; a game that has ended gets none."""
        over = self.game.is_over(state)
        self.tree.size[over] = 0
        if self.settings.method == "gumbel":
            self.tree.size[:] = 0
        games = np.flatnonzero(~over & (self.tree.size == 0))
        if not len(games):
            return
        nowhere = np.zeros((len(games), 0), np.int64), np.zeros(len(games), np.int64)
        roots = self.game.leaves(state, games, *nowhere, self.game.start(1))
        logits, values = yield roots.planes
        # Whatever the network thinks of it: among the rest it chooses.
        logits = np.where(self.game.forced(state)[games], logits, _NEVER).astype(np.float32)
        trees.plant(
            self.tree, games, np.ascontiguousarray(logits, np.float32), roots.legal,
            np.ascontiguousarray(values, np.float32), roots.movers,
        )  # fmt: skip

    def _begin(
        self, explore: NDArray[np.bool_], simulations: NDArray[np.int64], generator: np.random.Generator
    ) -> trees.Rule:
        """Mix noise into the roots' priors, which `_raw_prior` keeps as they were; draw what Gumbel search needs."""
        settings, prior = self.settings, self.tree.prior[:, 0]
        self._raw_prior[:] = prior
        gumbel = np.zeros(prior.shape, np.float32)
        schedule = np.zeros((self.games, 1), np.int32)
        if settings.method == "puct":
            noise = dirichlet_noise(prior >= 0, settings.noise_total, generator)
            mixed = (1 - settings.noise_share) * prior + settings.noise_share * noise
            prior[explore] = np.where(prior >= 0, mixed, prior)[explore]
        else:
            draws = generator.gumbel(size=prior.shape).astype(np.float32)
            gumbel[explore] = draws[explore]
            schedule = self._schedule(prior >= 0, simulations)
        return trees.Rule(
            method=trees.PUCT if settings.method == "puct" else trees.GUMBEL,
            exploration=settings.exploration,
            unvisited_reduction=settings.unvisited_reduction,
            forced=np.where(explore, settings.forced_playouts, 0.0).astype(np.float32),
            gumbel=gumbel,
            schedule=schedule,
            value_offset=settings.value_offset,
            value_scale=settings.value_scale,
        )

    def _schedule(self, legal: NDArray[np.bool_], simulations: NDArray[np.int64]) -> NDArray[np.int32]:
        schedule = np.zeros((self.games, max(1, int(simulations.max(initial=0)))), np.int32)
        considered = np.minimum(self.settings.considered_actions, legal.sum(axis=1))
        for g in np.flatnonzero(simulations > 0):
            actions = int(min(considered[g], simulations[g]))
            schedule[g, : simulations[g]] = considered_visits(actions, int(simulations[g]))
        return schedule

    def _result(self, rule: trees.Rule, searched: NDArray[np.bool_], explore: NDArray[np.bool_]) -> SearchResult:
        visits = np.where(searched[:, None], self.tree.visits[:, 0], 0)
        sums = np.where(searched[:, None], self.tree.value_sum[:, 0], 0)
        root = np.where(searched, self.tree.value[:, 0], 0)
        value = (root + sums.sum(axis=1)) / (1 + visits.sum(axis=1))
        if self.settings.method == "puct":
            policy = self._visit_policy(visits, sums, explore)
            action = np.where(searched, visits.argmax(axis=1), -1)
        else:
            policy, action = np.zeros(visits.shape), np.full(self.games, -1)
            trees.root_policies(self.tree, rule, policy)
            trees.most_visited_actions(self.tree, rule, action)
        return SearchResult(visits, policy.astype(np.float32), value.astype(np.float32), action)

    def _visit_policy(
        self, visits: NDArray[np.int32], sums: NDArray[np.float32], explore: NDArray[np.bool_]
    ) -> NDArray[Any]:
        settings, kept = self.settings, visits.astype(np.float64)
        if settings.forced_playouts > 0:
            take_forced_visits(
                self._raw_prior, visits, sums, explore, settings.exploration, settings.forced_playouts, kept
            )
        shares: NDArray[np.float64] = kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)
        return shares


def sample_simulations(
    generator: np.random.Generator, games: int, full: int, fast: int, share: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return how many simulations each game's next search gets, and which searches are full ones [G].

    Playout-cap randomisation (Wu 2019): a `share` of the searches is full, explores and gives a policy target; the
    others are fast ones that only play on.
    """
    is_full = generator.random(games) < share
    return np.where(is_full, full, fast).astype(np.int64), is_full
