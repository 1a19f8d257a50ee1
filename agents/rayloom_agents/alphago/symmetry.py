"""The symmetries of a square board over batches of positions, drawn by row from the engine's noise.

K learners draw what one would for their rows of the global batch, so that they repeat one learner's update.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from rayloom.contract import Batch, Noise, UserError
from rayloom_agents.alphago.games.game import square_symmetries


class Symmetries(nn.Module):
    """Turns and reflections of planes [B, C, S, S] and of what lies on the points.

    Under symmetry k, point i shows what lay on point `points[k, i]`; an action on point i becomes `inverse[k, i]`, and
    a pass stays what it is.
    """

    points: Tensor
    inverse: Tensor

    def __init__(self, rows: int, columns: int) -> None:
        """UserError for a board that is not square."""
        super().__init__()
        if rows != columns:
            raise UserError(f"algorithm: symmetries need a square board, not {rows} x {columns}")
        points = torch.from_numpy(square_symmetries(rows).copy())
        rest = torch.full((len(points), 1), rows * columns)
        # They follow from the board: no part of the state.
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("inverse", torch.cat([points.argsort(dim=1), rest], dim=1), persistent=False)

    def __len__(self) -> int:
        """Return how many there are, the identity first."""
        return len(self.points)

    def draw(self, noise: Noise, rows: int) -> Tensor:
        """Return a symmetry for each row [B]."""
        return (noise.uniform(rows) * len(self)).long()

    def turn(self, planes: Tensor, chosen: Tensor) -> Tensor:
        """Return planes [B, C, S, S] after the symmetry of each row [B]."""
        flat = planes.flatten(2)
        return flat.gather(2, self.points[chosen][:, None, :].expand_as(flat)).view_as(planes)

    def turn_points(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Return what lies on the points [B, S^2] after the symmetry of each row."""
        return values.gather(1, self.points[chosen])

    def turn_actions(self, actions: Tensor, chosen: Tensor) -> Tensor:
        """Return actions [B] after the symmetry of each row."""
        return self.inverse[chosen].gather(1, actions[:, None]).squeeze(1)

    def turn_batch(self, batch: Batch, noise: Noise) -> Batch:
        """Return a batch of expert positions, each under a symmetry of its own."""
        chosen = self.draw(noise, len(batch["action"]))
        turned = {
            "planes": self.turn(batch["planes"], chosen),
            "action": self.turn_actions(batch["action"], chosen),
            "ownership": self.turn_points(batch["ownership"], chosen),
        }
        return {**batch, **turned}

    def judge_all(self, judge: Callable[[Tensor], tuple[Tensor, Tensor]], planes: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `judge` (planes to logits and values) makes of all symmetries of the planes.

        The mean of the probabilities, brought back to the board as it was, as logarithms [B, A] (Silver et al. 2016,
        "Symmetries"), and the values of each symmetry [K, B].
        """
        probabilities: list[Tensor] = []
        values: list[Tensor] = []
        for number in range(len(self)):
            chosen = torch.full((len(planes),), number, device=planes.device)
            logits, value = judge(self.turn(planes, chosen))
            back = self.inverse[number].expand_as(logits)
            probabilities.append(logits.softmax(dim=1).gather(1, back))
            values.append(value)
        return torch.stack(probabilities).mean(dim=0).log(), torch.stack(values)
