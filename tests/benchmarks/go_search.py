"""Tree search on 9x9 against the network's own rate and against OpenSpiel's search in Python with the same network.

Both search from the empty board with one network of 4 blocks of 64 channels, on one thread. OpenSpiel judges one leaf
at a time; its states become our planes by the moves that led to them, which are replayed by our compiled rules (the
time of that is told apart by `python tests/benchmarks/go_search.py`).
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from bench import Comparison

from rayloom.config.load import from_tree
from rayloom_agents.alphago.alphazero import AlphaZero
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.search import Search, SearchSettings
from rayloom_agents.alphago.self_play import SelfPlay

GAMES, SIMULATIONS, PEER_SIMULATIONS = 128, 96, 60
GAME = Go(9, max_plies=162)
TARGET = 100_000
"""Simulations a second without a network."""


def algorithm() -> Any:
    """Return the network behind its inference, in bfloat16."""
    config = from_tree(
        {
            "name": "benchmark",
            "algorithm": {
                "import": "rayloom_agents.alphago.alphazero:AlphaZero",
                "blocks": 4,
                "channels": 64,
                "inference": {"precision": "bfloat16"},
            },
            "source": {
                "import": "rayloom_agents.alphago.self_play:SelfPlay",
                "game": {"kind": "go", "size": 9, "max_plies": 162},
            },
            "learner": {"batch_size": 8},
            "stop": {"updates": 1},
        }
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    found = AlphaZero(config.algorithm, SelfPlay.describe(config.source)).eval()
    found.inference.refresh()
    return found


def without_network() -> float:
    """Return simulations a second where judging costs nothing."""
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((GAMES, 82)).astype(np.float32)
    values = generator.uniform(-0.3, 0.3, GAMES).astype(np.float32)
    steps_of = Search(GAME, GAMES, SearchSettings(simulations=SIMULATIONS))
    began = time.perf_counter()
    steps = steps_of.steps(GAME.start(GAMES), generator)
    try:
        planes = next(steps)
        while True:
            planes = steps.send((logits[: len(planes)], values[: len(planes)]))
    except StopIteration:
        return GAMES * SIMULATIONS / (time.perf_counter() - began)


def with_network(network: Any) -> float:
    """Return simulations a second of one group of games, whose trees and network take turns on one core."""
    search = Search(GAME, GAMES, SearchSettings(simulations=SIMULATIONS))
    began = time.perf_counter()
    steps = search.steps(GAME.start(GAMES), np.random.default_rng(0))
    try:
        planes = next(steps)
        while True:
            planes = steps.send(network.inference.start(planes, GAME.plane_scale)())
    except StopIteration:
        return GAMES * SIMULATIONS / (time.perf_counter() - began)


def network_alone(network: Any) -> float:
    """Return evaluations a second in batches of the same size."""
    planes = np.zeros((GAMES, 18, 9, 9), np.int8)
    began = time.perf_counter()
    for _ in range(SIMULATIONS):
        network.inference.start(planes, GAME.plane_scale)()
    return GAMES * SIMULATIONS / (time.perf_counter() - began)


class OneLeaf:
    """The same network as an evaluator of OpenSpiel."""

    def __init__(self, network: Any) -> None:
        self.network, self.bridge_s, self._last = network, 0.0, (None, None)

    def _judge(self, state: Any) -> tuple[Any, Any]:
        history = tuple(state.history())
        if self._last[0] != history:
            began = time.perf_counter()
            nowhere = np.array([history], np.int64), np.array([len(history)])
            planes = GAME.leaves(GAME.start(1), np.zeros(1, np.int64), *nowhere, GAME.start(1)).planes
            self.bridge_s += time.perf_counter() - began
            self._last = history, self.network.inference.start(planes, GAME.plane_scale)()
        return self._last[1]

    def evaluate(self, state: Any) -> Any:
        """Return the values of both players."""
        value = float(self._judge(state)[1][0]) * (1 if state.current_player() == 0 else -1)
        return np.array([value, -value])

    def prior(self, state: Any) -> list[tuple[int, float]]:
        """Return the legal actions' priors."""
        legal = state.legal_actions()
        logits = self._judge(state)[0][0][legal]
        weights = np.exp(logits - logits.max())
        return list(zip(legal, (weights / weights.sum()).tolist(), strict=True))


def open_spiel(network: Any) -> tuple[float, float]:
    """Return simulations a second of OpenSpiel's MCTSBot, and the share of the time that our planes took."""
    import pyspiel
    from open_spiel.python.algorithms import mcts

    game, evaluator = pyspiel.load_game("go(board_size=9,komi=7.5)"), OneLeaf(network)
    bot = mcts.MCTSBot(
        game, 1.5, PEER_SIMULATIONS, evaluator, solve=False, random_state=np.random.RandomState(0),
        child_selection_fn=mcts.SearchNode.puct_value,
    )  # fmt: skip
    began = time.perf_counter()
    bot.mcts_search(game.new_initial_state())
    took = time.perf_counter() - began
    return PEER_SIMULATIONS / took, evaluator.bridge_s / took


def go_trees() -> list[Comparison]:
    """Return the row without a network; its peer is the target."""
    without_network()
    return [
        Comparison(
            name=f"PUCT on 9x9, no network, {GAMES} games", unit="simulations/s", threads=1, ours=without_network,
            peer=lambda: float(TARGET), peer_name="the target", target=">= 1",
        )
    ]  # fmt: skip


def go_network() -> list[Comparison]:
    """Return the row against the network's own rate."""
    network = algorithm()
    with_network(network)
    return [
        Comparison(
            name=f"PUCT on 9x9, network 4x64, {GAMES} games", unit="simulations/s", threads=1,
            ours=lambda: with_network(network), peer=lambda: network_alone(network),
            peer_name="network alone, evaluations/s", target=">= 0.8",
        )
    ]  # fmt: skip


def go_peer() -> list[Comparison]:
    """Return the row against OpenSpiel."""
    network = algorithm()
    with_network(network)
    open_spiel(network)
    return [
        Comparison(
            name=f"PUCT on 9x9, network 4x64, {GAMES} games", unit="simulations/s", threads=1,
            ours=lambda: with_network(network), peer=lambda: open_spiel(network)[0],
            peer_name="OpenSpiel's MCTSBot in Python, the same network", target=">= 20",
        )
    ]  # fmt: skip


COMPARISONS = {"go_trees": go_trees, "go_network": go_network, "go_peer": go_peer}


if __name__ == "__main__":
    shares = [open_spiel(algorithm())[1] for _ in range(3)]
    print(f"of OpenSpiel's time, our planes: {statistics.median(shares):.2f}")
