"""Matches of Tic-tac-toe against an opponent that wins or blocks where it can and else moves at random, all at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, Metric

LINES = torch.tensor([[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 3, 6], [1, 4, 7], [2, 5, 8], [0, 4, 8], [2, 4, 6]])


@dataclass(frozen=True, kw_only=True)
class MatchesConfig(EvaluationConfig):
    """Settings of the matches."""

    games: int = 200
    """Games of one evaluation; the policy begins every other one."""
    careful: bool = True
    """Whether the opponent sees lines that two marks threaten to fill."""


def completes(board: Tensor, mark: int) -> Tensor:
    """Return which squares [N, 9] of boards [N, 9] would complete a line of `mark` (1 or -1)."""
    lines = board[:, LINES]
    threatened = ((lines == mark).sum(2) == 2) & ((lines == 0).sum(2) == 1)
    found = torch.zeros(len(board), 9, dtype=torch.int64)
    places = LINES.flatten().expand(len(board), -1)
    return (found.scatter_add(1, places, threatened.repeat_interleave(3, dim=1).long()) > 0) & (board == 0)


class Matches(Evaluation):
    """Plays a policy that samples as it does in training, and sees its own marks as 1, the others as -1."""

    Config = MatchesConfig
    metrics: ClassVar = {
        "score": Metric(better="max", meaning="1 for a win, one half for a draw"),
        "lost": Metric(better="min", meaning="share of the games"),
    }

    def opponent(self, board: Tensor, generator: torch.Generator) -> Tensor:
        """Return its moves [N] on boards that it sees as its own."""
        urgency = torch.rand(board.shape, generator=generator)
        if self.config.careful:
            urgency = urgency + 4 * completes(board, 1) + 2 * completes(board, -1)
        return urgency.masked_fill(board != 0, -1).argmax(1)

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        games, generator = budget.count or self.config.games, torch.Generator().manual_seed(seed)
        device = next(policy.parameters()).device
        chance = torch.Generator(device).manual_seed(seed)
        board, result, playing = torch.zeros(games, 9), torch.zeros(games), torch.ones(games, dtype=torch.bool)
        begins, moves = torch.arange(games) % 2 == 0, torch.full((games, 9), -1)
        for ply in range(9):
            mine = begins == (ply % 2 == 0)
            chosen = policy.act(board.to(device), None, chance).action.cpu()
            moves[:, ply] = torch.where(playing, torch.where(mine, chosen, self.opponent(board, generator)), -1)
            board[playing, moves[playing, ply]] = 1
            won = playing & (board[:, LINES].sum(2) == 3).any(1)
            result = torch.where(won, torch.where(mine, 1.0, -1.0), result)
            playing, board = playing & ~won, -board
            budget.done()
        score = {"score": float((result + 1).mean() / 2), "lost": float((result == -1).float().mean())}
        table = torch.stack(
            [torch.stack([(result[part] == end).sum() for end in (1, 0, -1)]) for part in (begins, ~begins)]
        )
        labels = {"labels": ("first", "second"), "column_labels": ("won", "drawn", "lost")}
        rows = (
            f"{end:+.0f} {' '.join(str(move) for move in row if move >= 0)}"
            for end, row in zip(result.tolist(), moves.tolist(), strict=True)
        )
        return Findings(score, {"results": Figure("table", table.float(), **labels)}, {"games.txt": "\n".join(rows)})
