"""Players of Go for tests: a network without training, and one that knows nothing but the area."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rayloom.contract import Learnt
from rayloom_agents.alphago.alphazero import AlphaZero
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.games.kinds import GAMES
from rayloom_agents.alphago.gtp.board import Board
from rayloom_agents.alphago.gtp.protocol import serve
from rayloom_agents.alphago.gtp.session import Session
from rayloom_agents.alphago.gtp.thinking import Thinker
from rayloom_agents.alphago.search import SearchSettings
from rayloom_agents.alphago.self_play import SelfPlay, SelfPlayConfig

TREE: dict[str, Any] = {
    "algorithm": {"import": "rayloom_agents.alphago.alphazero:AlphaZero", "blocks": 1, "channels": 8},
    "source": {
        "import": "rayloom_agents.alphago.self_play:SelfPlay",
        "game": {"kind": "go", "size": 5, "max_plies": 40},
        "num_envs": 4,
        "search": {"simulations": 2},
        "plies": 40,
        "window": 200,
    },
    "learner": {"batch_size": 8},
    "stop": {"updates": 1},
    "tracking": {"enabled": False, "pictures": False},
}
"""A config that makes a network for 5 lines in a second."""


def untrained(size: int = 5, game: str = "go") -> Learnt:
    """Return a network as it begins, as a command gets it."""
    component = GAMES.component(game, **({"size": size} if game == "go" else {}))
    source = SelfPlayConfig(game=component, search=SearchSettings(simulations=8))
    torch.manual_seed(0)
    algorithm = AlphaZero(AlphaZero.Config(blocks=1, channels=8), SelfPlay.describe(source)).eval()
    return Learnt(f"untrained{size}", algorithm, source, "weights (update 0)", None)


def by_area(size: int) -> Any:
    """Return a network that judges by the stones on the board and likes the middle and its neighbours."""

    def infer(planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        middle = np.abs(np.arange(size) - size // 2)
        points = -(middle[:, None] + middle[None, :]).reshape(-1).astype(np.float32)
        logits = np.tile(np.append(points, -3.0).astype(np.float32), (len(planes), 1))
        balance = (planes[:, 0] - planes[:, 1]).sum(axis=(1, 2)) + size * planes[:, 16, 0, 0]
        return logits, np.tanh(0.2 * balance).astype(np.float32)

    return infer


def session(size: int = 5, simulations: int = 32, resign: float | None = None, komi: float = 7.5) -> Session:
    """Return a GTP server's session with the player `by_area`."""
    board = Board(Go(size, komi, max_plies=4 * size * size))
    settings = SearchSettings(simulations=simulations, leaves=4)
    return Session(board, Thinker(board, by_area(size), settings, resign), "rayloom test")


def talk(to: Session, *lines: str) -> list[str]:
    """Send lines and the end of the input; return the answers, without the empty lines between them."""
    out = io.StringIO()
    serve(to, [f"{line}\n" for line in lines], out)
    return [part.strip("\n") for part in out.getvalue().split("\n\n") if part.strip("\n")]


class FolderHost:
    """A host that knows networks by name."""

    def __init__(self, **known: Learnt) -> None:
        self.known, self.people, self.recorded = known, io.StringIO(), {}

    def load(self, run: str, weights: str | None = None) -> Learnt:
        """Return a network that is known."""
        from rayloom.contract import UserError

        if run not in self.known:
            raise UserError(f"there is no run {run!r}")
        return self.known[run]

    def load_parcel(self, folder: Path) -> Learnt:
        """Return the network that is known by the folder's name."""
        return self.load(folder.name)

    def record(self, learnt: Learnt, name: str, files: Any, figures: Any) -> str | None:
        """Keep what is recorded."""
        self.recorded[learnt.name] = (name, files, figures)
        return None
