"""Writing a sequence token by token, with the likeliest ones kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Tensor, Any], tuple[Tensor, Any]]
"""Takes the last tokens [R] of R sequences and their state; returns log-probabilities [R, V] of the next ones, and the
state after them."""
Pick = Callable[[Any, Tensor], Any]
"""Takes a state of R sequences and numbers [R'] of some of them; returns the state of those."""


def beam_search(
    step: Step, pick: Pick, state: Any, begin: Tensor, steps: int, width: int, *, end: int, padding: int
) -> tuple[Tensor, Tensor]:
    """Return the likeliest sequence [B, steps] among `width` for each of B examples, and its log-probability [B].

    `begin` [B] comes before the first token, `state` is that of B sequences. After `end` a sequence is filled up with
    `padding`. With a width of 1 this is greedy decoding; with as many as there are sequences it is exact.
    """
    batch, device = len(begin), begin.device
    every = torch.arange(batch, device=device).repeat_interleave(width)
    state, token = pick(state, every), begin[every]
    # At first all of an example's sequences are one: only the first counts.
    scores = torch.full((batch, width), -torch.inf, device=device)
    scores[:, 0] = 0
    ended = torch.zeros(batch * width, dtype=torch.bool, device=device)
    written = token.new_empty(batch * width, 0)
    for _ in range(steps):
        found, state = step(token, state)
        values = found.shape[1]
        closed = torch.full_like(found, -torch.inf)
        closed[:, padding] = 0
        found = torch.where(ended[:, None], closed, found)
        totals = (scores.view(-1, 1).to(found.dtype) + found).view(batch, width * values)
        scores, places = totals.topk(width, dim=1)
        rows = (torch.arange(batch, device=device)[:, None] * width + places // values).flatten()
        token = (places % values).flatten()
        written = torch.cat((written[rows], token[:, None]), dim=1)
        ended = ended[rows] | (token == end)
        state = pick(state, rows)
        if bool(ended.all()):
            break
    best = scores.argmax(dim=1)
    chosen = written.view(batch, width, -1)[torch.arange(batch, device=device), best]
    filled = torch.nn.functional.pad(chosen, (0, steps - chosen.shape[1]), value=padding)
    return filled, scores.gather(1, best[:, None]).squeeze(1)
