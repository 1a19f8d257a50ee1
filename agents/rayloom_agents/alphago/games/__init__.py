"""Board games behind one interface in pure arrays."""

from __future__ import annotations

from rayloom_agents.alphago.games.connect_four import ConnectFour
from rayloom_agents.alphago.games.game import Game, State, copy, repeat, take
from rayloom_agents.alphago.games.go import Go
from rayloom_agents.alphago.games.hex import Hex
from rayloom_agents.alphago.games.tic_tac_toe import TicTacToe

__all__ = ["ConnectFour", "Game", "Go", "Hex", "State", "TicTacToe", "copy", "repeat", "take"]
