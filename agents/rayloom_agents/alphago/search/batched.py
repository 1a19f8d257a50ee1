"""Tree search over a batch of games: one call of the network judges the leaves of all trees.

PUCT is AlphaZero's (Silver et al. 2017, arXiv 1712.01815) with the additions of Wu 2019 (arXiv 1902.10565): forced
playouts, and targets without them. Gumbel search is Danihelka et al. 2022 ("Policy improvement by planning with
Gumbel"). Departures: an unvisited action of PUCT is worth its node's mean value less a reduction; visits that a reused
tree has count towards `simulations`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rayloom_agents.alphago.games.game import Game, State, take
from rayloom_agents.alphago.search import tree as trees
from rayloom_agents.alphago.search.roots import considered_visits, dirichlet_noise, unforced_visits
from rayloom_agents.alphago.search.settings import SearchSettings

Infer = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]
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


class Search:
    """Trees of a fixed number of games. Not thread-safe; it keeps its trees between `run` and `follow`."""

    def __init__(self, game: Game, games: int, settings: SearchSettings) -> None:
        self.game, self.games, self.settings = game, games, settings
        self.tree = trees.allocate(games, settings.simulations + 1, game.num_actions)
        depth = min(game.max_plies, settings.simulations + 1) + 1
        shape = (games, settings.leaves)
        self._nodes = np.zeros((*shape, depth), np.int32)
        self._actions = np.zeros((*shape, depth), np.int64)
        self._lengths = np.full(shape, -1, np.int64)
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
        explore = np.zeros(self.games, np.bool_) if explore is None else explore
        limit = self.settings.simulations
        simulations = np.full(self.games, limit) if simulations is None else np.minimum(simulations, limit)
        simulations = np.where(self.game.is_over(state), 0, simulations).astype(np.int64)
        self._plant(infer, state)
        rule = self._begin(explore, simulations, generator)
        first = self.tree.visits[:, 0].sum(axis=1).astype(np.int64)
        done = first.copy() if self.settings.method == "puct" else np.zeros_like(first)
        while (done < simulations).any():
            trees.select(self.tree, rule, done, simulations, self._nodes, self._actions, self._lengths)
            self._judge(infer, state)
            done += (self._lengths >= 0).sum(axis=1)
        self.tree.prior[:, 0] = self._raw_prior
        return self._result(rule, simulations > 0, explore)

    def follow(self, actions: NDArray[np.int64]) -> None:
        """Make the position after `actions` [G] the root of each tree; below 0: forget the tree."""
        if self.settings.method == "gumbel":  # sequential halving begins with roots that nobody has visited
            actions = np.full_like(actions, -1)
        trees.reroot(self.tree, np.ascontiguousarray(actions, np.int64))

    def forget(self, games: NDArray[np.int64]) -> None:
        """Drop the trees of `games` (indices): their next search begins with a new root."""
        self.tree.size[games] = 0

    def _plant(self, infer: Infer, state: State) -> None:
        """Judge the positions of games without a tree; a game that has ended gets none."""
        over = self.game.is_over(state)
        self.tree.size[over] = 0
        if self.settings.method == "gumbel":
            self.tree.size[:] = 0
        games = np.flatnonzero(~over & (self.tree.size == 0))
        if len(games):
            roots = take(state, games)
            logits, values = self._network(infer, roots)
            legal, movers = self.game.legal(roots), self.game.mover(roots)
            trees.plant(self.tree, games, logits, legal, values, movers)

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

    def _network(self, infer: Infer, state: State) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        logits, values = infer(self.game.observe(state))
        return np.ascontiguousarray(logits, np.float32), np.ascontiguousarray(values, np.float32)

    def _judge(self, infer: Infer, state: State) -> None:
        """Play the selected paths, let the network judge where they lead, and bring the values back."""
        leaves = np.flatnonzero(self._lengths.reshape(-1) >= 0)
        lengths = self._lengths.reshape(-1)[leaves]
        reached = take(state, leaves // self.settings.leaves)
        paths = self._actions.reshape(len(self._lengths.reshape(-1)), -1)[leaves]
        self.game.advance(reached, paths, lengths)
        over, movers = self.game.is_over(reached), self.game.mover(reached)
        values = self.game.outcome(reached) * movers
        logits = np.zeros((len(leaves), self.game.num_actions), np.float32)
        running = np.flatnonzero(~over)
        if len(running):
            logits[running], values[running] = self._network(infer, take(reached, running))
        legal = self.game.legal(reached)
        trees.back_up(
            self.tree, leaves, self._nodes, self._actions, self._lengths, logits, legal,
            values.astype(np.float32), movers,
        )  # fmt: skip

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
            for g in np.flatnonzero(explore & (visits.sum(axis=1) > 0)):
                means = sums[g] / np.maximum(visits[g], 1)
                kept[g] = unforced_visits(
                    self._raw_prior[g], visits[g], means, settings.exploration, settings.forced_playouts
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
