"""Networks without torch, and PUCT as its papers tell it: one game, one simulation after the other, by recursion."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from rayloom_agents.alphago.games import ConnectFour, Game, Go, State, copy
from rayloom_agents.alphago.search import SearchSettings

Infer = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def hashed_network(game: Game, seed: int) -> Infer:
    """Return a network whose logits and values look random, are functions of the planes and hardly ever tie."""
    size = game.num_planes * game.rows * game.columns
    weights = np.random.default_rng(seed).normal(size=(size, game.num_actions + 1))

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = planes.reshape(len(planes), -1).astype(np.float64)
        out = np.stack([(row[:, None] * weights).sum(axis=0) for row in rows])
        return np.sin(7 * out[:, :-1]).astype(np.float32) * 2, np.sin(5 * out[:, -1]).astype(np.float32)

    return infer


def uniform_network(game: Game) -> Infer:
    """Return a network that knows nothing."""

    def infer(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(planes), game.num_actions), np.float32), np.zeros(len(planes), np.float32)

    return infer


@dataclass
class Node:
    """A position; what is kept by action is kept in dictionaries."""

    mover: int
    value: float
    prior: dict[int, float] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)
    sums: dict[int, np.float32] = field(default_factory=dict)
    children: dict[int, Node] = field(default_factory=dict)


def passing_wins(game: Game, state: State) -> bool:
    """Return whether the opponent has just passed in a game of Go, and a second pass wins it for the mover."""
    if not isinstance(game, Go) or not game.observe(state)[0, 14].all():
        return False
    after = copy(state)
    game.play(after, np.array([game.num_actions - 1]))
    return bool(game.outcome(after)[0] == game.mover(state)[0])


def wins_of(game: Game, state: State, side: int) -> list[int]:
    """Return the actions with which `side` would win at once if it were its turn, by playing each in Connect Four."""
    found = []
    for action in np.flatnonzero(game.legal(state)[0]).tolist():
        after = copy(state)
        if side != game.mover(state)[0]:
            after.ply[:] += 1
        game.play(after, np.array([action]))
        if game.outcome(after)[0] == side:
            found.append(action)
    return found


def answers(game: Game, state: State) -> tuple[int, list[int]]:
    """Return whether wins one or two plies ahead decide it for the mover (1, -1; 0: no), and what is to choose from."""
    mover, legal = int(game.mover(state)[0]), np.flatnonzero(game.legal(state)[0]).tolist()
    if passing_wins(game, state):
        return 1, [game.num_actions - 1]
    if isinstance(game, ConnectFour):
        if wins := wins_of(game, state, mover):
            return 1, wins
        if threats := wins_of(game, state, -mover):
            return -1 if len(threats) > 1 else 0, threats
    return 0, legal


def new_node(game: Game, infer: Infer, state: State, root: bool = False) -> Node:
    """Judge a position: exactly where the game has ended or is decided, else by the network."""
    mover = int(game.mover(state)[0])
    if game.is_over(state)[0]:
        return Node(mover, float(game.outcome(state)[0]) * mover)
    decided, choice = answers(game, state)
    if decided and not root:
        return Node(mover, float(decided))
    logits, values = infer(game.observe(state))
    weights = np.exp(logits[0, choice].astype(np.float64) - logits[0, choice].max())
    prior = dict.fromkeys(np.flatnonzero(game.legal(state)[0]).tolist() if root else choice, 0.0)
    prior |= {int(a): float(np.float32(w)) for a, w in zip(choice, weights / weights.sum(), strict=True)}
    return Node(mover, float(values[0]), prior, dict.fromkeys(prior, 0), dict.fromkeys(prior, np.float32(0)))


def simulate(game: Game, infer: Infer, node: Node, state: State, settings: SearchSettings, forced: float) -> float:
    """Take one simulation below a node, whose state changes; return its value for the first player."""
    if not node.prior:
        return node.value * node.mover
    total = sum(node.visits.values())
    mean = (node.value + sum(float(value) for value in node.sums.values())) / (1 + total)
    tried = sum(node.prior[a] for a in node.prior if node.visits[a])
    scores = {}
    for a, p in node.prior.items():
        n = node.visits[a]
        q = float(node.sums[a]) / n if n else mean - settings.unvisited_reduction * math.sqrt(tried)
        scores[a] = q + settings.exploration * p * math.sqrt(1 + total) / (1 + n)
    must = [a for a in node.prior if 0 < node.visits[a] < math.sqrt(forced * node.prior[a] * total)]
    action = must[0] if must else max(scores, key=lambda a: scores[a])
    game.play(state, np.array([action]))
    if action in node.children:
        value = simulate(game, infer, node.children[action], state, settings, 0.0)
    else:
        child = node.children[action] = new_node(game, infer, state)
        value = child.value * child.mover
    node.visits[action] += 1
    node.sums[action] = np.float32(node.sums[action] + value * node.mover)
    return value


def plain_search(game: Game, infer: Infer, state: State, settings: SearchSettings, forced: float = 0.0) -> Node:
    """Return the root after all simulations."""
    root = new_node(game, infer, state, root=True)
    for _ in range(settings.simulations):
        simulate(game, infer, root, copy(state), settings, forced)
    return root
