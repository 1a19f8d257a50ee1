"""What the numbers of a model's tokens stand for, kept with its weights."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor, nn

from rayloom.contract import UserError


class Vocabulary(nn.Module):
    """Names of tokens in their order, as a buffer: a checkpoint holds them, and one of another text is refused."""

    written: Tensor

    def __init__(self, names: tuple[str, ...]) -> None:
        """Keep `names`; none where tokens are bytes."""
        super().__init__()
        self.names = names
        # A buffer holds numbers alone, and names are of unequal length: their JSON, byte by byte.
        self.register_buffer("written", torch.tensor(list(json.dumps(names).encode()), dtype=torch.uint8))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Refuse a checkpoint whose tokens have other names: its weights would mean something else."""
        saved = state_dict.get(f"{prefix}written")
        if saved is not None and not torch.equal(saved.cpu(), self.written.cpu()):
            names = json.loads(bytes(saved.tolist()))
            pairs = zip(names, self.names, strict=False)
            place = next((number for number, (one, other) in enumerate(pairs) if one != other), None)
            differ = (
                f"had {len(names)} tokens and has {len(self.names)}"
                if place is None
                else f"had {names[place]!r} as token {place} and has {self.names[place]!r}"
            )
            raise UserError(
                f"the data set {differ}: its texts are not those with which the run was trained; use the same ones"
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
