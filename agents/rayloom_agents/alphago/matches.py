"""Matches between the network with tree search and a named opponent, as an evaluation of the engine.

Every random opening is played twice, with colours exchanged; who wins both games of a pair is better, whatever the
opening. All games run at once. `score` counts a win as 1 and a draw as one half; `score_low` is the lower end of its
95 % interval (Wilson 1927), which takes a draw as half a success.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from annotated_types import Ge, Le
from numpy.typing import NDArray

from rayloom.contract import (
    Algorithm,
    Budget,
    Evaluation,
    EvaluationConfig,
    EvaluationContext,
    Figure,
    Findings,
    Metric,
    UserError,
)
from rayloom_agents.alphago.alpha_beta import AlphaBetaPlayer
from rayloom_agents.alphago.alphazero import player
from rayloom_agents.alphago.games.game import Game, State
from rayloom_agents.alphago.pictures import gallery
from rayloom_agents.alphago.search import Infer, Search, SearchSettings

_DRAWN = 4
"""Games in the gallery."""


@dataclass(frozen=True, kw_only=True)
class MatchesConfig(EvaluationConfig):
    """Settings of the matches."""

    games: Annotated[int, Ge(2)] = 200
    """Games of one evaluation; the policy begins every other one."""
    search: SearchSettings = field(default_factory=lambda: SearchSettings(simulations=64))
    """The policy's tree search, without noise."""
    raw: bool = False
    """Play the network's likeliest move, without search."""
    sampled: bool = False
    """With `raw`: draw moves from the network's policy instead, on both sides where the opponent is `first`."""
    opponent: Literal["random", "search", "alpha_beta", "first"] = "random"
    """random: any legal move; search: PUCT without knowledge, with equal priors and the value of ended games alone;
    alpha_beta: classical search of Connect Four; first: the policy that the run began with, without search
    (policy-gradient self-play)."""
    opponent_simulations: Annotated[int, Ge(1)] = 500
    """Simulations of the opponent `search` per move."""
    opponent_depth: Annotated[int, Ge(1), Le(12)] = 6
    """Plies that the opponent `alpha_beta` looks ahead."""
    opening_plies: Annotated[int, Ge(0)] = 2
    """Random plies with which a pair of games begins, so that they differ."""


def wilson_interval(score: float, games: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the interval of a share `score` that was found in `games` trials."""
    centre = (score + z * z / (2 * games)) / (1 + z * z / games)
    half = z / (1 + z * z / games) * math.sqrt(score * (1 - score) / games + z * z / (4 * games * games))
    return centre - half, centre + half


def random_actions(game: Game, state: State, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return a random legal action of each game [N]; -1 where it has ended."""
    legal = game.legal(state)
    draws = np.where(legal, generator.random(legal.shape), -1.0)
    return np.where(legal.any(axis=1), draws.argmax(axis=1), -1)


def sampled_actions(
    logits: NDArray[np.float32], legal: NDArray[np.bool_], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return an action drawn from the softmax over the legal ones in each game [N]; -1 where none is legal."""
    noise = generator.gumbel(size=legal.shape)  # the largest of logits with Gumbel noise is a draw from their softmax
    return np.where(legal.any(axis=1), np.where(legal, logits + noise, -np.inf).argmax(axis=1), -1)


def no_knowledge(actions: int) -> Infer:
    """Return a network that gives all actions the same logit and every position the value 0."""

    def infer(planes: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.zeros((len(planes), actions), np.float32), np.zeros(len(planes), np.float32)

    return infer


class Player:
    """Chooses moves in all games of a match at once."""

    def __init__(
        self,
        game: Game,
        games: int,
        infer: Infer | None,
        settings: SearchSettings | None,
        sampled: bool = False,
    ) -> None:
        """Without `infer` it moves at random, without `settings` it plays the likeliest move, or draws one."""
        self.game, self.infer, self.sampled = game, infer, sampled
        self._search = Search(game, games, settings) if infer is not None and settings is not None else None

    def choose(self, state: State, turns: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return an action where it is this player's turn [N], else -1."""
        if self.infer is None:
            actions = random_actions(self.game, state, generator)
        elif self._search is None:
            logits, _ = self.infer(self.game.observe(state))
            legal = self.game.legal(state)
            if self.sampled:
                actions = sampled_actions(logits, legal, generator)
            else:
                actions = np.where(legal.any(axis=1), np.where(legal, logits, -np.inf).argmax(axis=1), -1)
        else:
            self._search.forget(np.arange(len(turns)))
            simulations = np.where(turns, self._search.settings.simulations, 0)
            actions = self._search.run(self.infer, state, generator, simulations=simulations).action
        return np.where(turns, actions, -1)


class Chooses(Protocol):
    """Whoever plays a match."""

    def choose(self, state: State, turns: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.int64]:
        """Return an action where it is this player's turn [N], else -1."""


def play_match(
    game: Game,
    players: tuple[Chooses, Chooses],
    games: int,
    opening_plies: int,
    seed: int,
    budget: Budget | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Play an even number of games; player 0 begins those of even number, and game 2k and 2k + 1 open alike.

    Returns player 0's outcomes [games] (1, 0, -1) and all actions [games, plies], filled up with -1.
    """
    openings, generator = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    state = game.start(games)
    moves: list[NDArray[np.int64]] = []
    sides = np.where(np.arange(games) % 2 == 0, 1, -1)  # which player of the game is player 0
    while not game.is_over(state).all():
        over, mine = game.is_over(state), game.mover(state) == sides
        if len(moves) < opening_plies:
            actions = random_actions(game, state, openings)
            actions[1::2] = actions[::2]
        else:
            actions = players[0].choose(state, mine & ~over, generator)
            actions = np.where(mine, actions, players[1].choose(state, ~mine & ~over, generator))
        game.play(state, np.where(over, -1, actions))
        moves.append(np.where(over, -1, actions))
        if budget is not None:
            budget.done()
    return (game.outcome(state) * sides).astype(np.float32), np.stack(moves, axis=1)


def check_first(policy: Any) -> Infer:
    """Return the policy that the run began with; UserError where the algorithm does not keep it."""
    if not callable(infer := getattr(policy, "infer_first", None)):
        raise UserError(
            f"evaluate.opponent: {type(policy).__name__} does not keep the policy that its run began with; choose "
            "random or search"
        )
    found: Infer = infer
    return found


class Matches(Evaluation):
    """Plays the run's game, with the latest weights."""

    Config = MatchesConfig
    metrics: ClassVar = {
        "score": Metric(better="max", meaning="1 for a win, one half for a draw"),
        "score_low": Metric(better="max", meaning="lower end of the score's 95 % interval"),
        "score_first": Metric(better="max", meaning="the score as the first player"),
        "score_second": Metric(better="max", meaning="the score as the second player"),
        "won": Metric(better="max", meaning="share of the games"),
        "lost": Metric(better="min", meaning="share of the games"),
        "distinct": Metric(meaning="share of the games that are no repetition of another one with the same colours"),
    }

    def __init__(self, config: MatchesConfig, context: EvaluationContext) -> None:
        super().__init__(config, context)
        component = getattr(context.source, "game", None)
        if component is None:
            raise UserError("evaluate.import: Matches needs a source with a game, such as rayloom_agents' SelfPlay")
        self.game: Game = component.make()

    def players(self, policy: Any, games: int) -> tuple[Chooses, Chooses]:
        """Return the policy and its opponent."""
        config: MatchesConfig = self.config
        settings = None if config.raw else config.search
        ours = Player(self.game, games, player(policy).infer, settings, config.sampled)
        if config.opponent == "random":
            return ours, Player(self.game, games, None, None)
        if config.opponent == "first":
            return ours, Player(self.game, games, check_first(policy), None, config.sampled)
        if config.opponent == "alpha_beta":
            return ours, AlphaBetaPlayer(self.game, config.opponent_depth)
        settings = SearchSettings(simulations=config.opponent_simulations, leaves=4)
        return ours, Player(self.game, games, no_knowledge(self.game.num_actions), settings)

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        """Play the games; the record has a line for each: our outcome and the actions."""
        games = 2 * ((budget.count or self.config.games) // 2) or 2
        outcomes, moves = play_match(
            self.game, self.players(policy, games), games, self.config.opening_plies, seed, budget
        )
        score = float((outcomes + 1).mean() / 2)
        lines = [" ".join(str(move) for move in row if move >= 0) for row in moves.tolist()]
        metrics = {
            "score": score,
            "score_low": wilson_interval(score, games)[0],
            "score_first": float((outcomes[::2] + 1).mean() / 2),
            "score_second": float((outcomes[1::2] + 1).mean() / 2),
            "won": float((outcomes == 1).mean()),
            "lost": float((outcomes == -1).mean()),
            "distinct": (len(set(lines[::2])) + len(set(lines[1::2]))) / games,
        }
        counts = [[float((outcomes[side::2] == end).sum()) for end in (1, 0, -1)] for side in (0, 1)]
        results = Figure(
            "table", torch.tensor(counts), labels=("first", "second"), column_labels=("won", "drawn", "lost")
        )
        drawn = [[move for move in row if move >= 0] for row in moves[:_DRAWN].tolist()]
        titles = [f"{n}: {'wins' if o > 0 else 'loses' if o < 0 else 'draws'}" for n, o in enumerate(outcomes[:_DRAWN])]
        record = "\n".join(f"{outcome:+.0f} {line}" for outcome, line in zip(outcomes, lines, strict=True))
        return Findings(
            metrics, {"results": results, "games": gallery(self.game, drawn, titles)}, {"games.txt": record}
        )
