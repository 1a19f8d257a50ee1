"""How an algorithm takes over what earlier runs have learnt, when its own run begins."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from rayloom.config.inputs import StartFromConfig
from rayloom.config.schema import RunConfig
from rayloom.contract import Algorithm, Input
from rayloom.errors import UserError

START = "start_from"
"""Name of the input that `start_from` of the config is."""


def start_algorithm(algorithm: Algorithm, config: RunConfig, inputs: Mapping[str, Input]) -> None:
    """Let an algorithm that has just been built take over what earlier runs have learnt."""
    with torch.no_grad():
        if config.start_from is not None:
            _take_over(algorithm, config.start_from, inputs[START])
        named = {name: inputs[name] for name in config.inputs}
        if named:
            try:
                algorithm.start_from(named)
            except RuntimeError as error:  # torch's own sentence about keys and shapes, without its first line
                if "state_dict" not in str(error):
                    raise
                raise UserError(f"inputs: {' '.join(str(error).split())}") from None


def _take_over(algorithm: Algorithm, config: StartFromConfig, given: Input) -> None:
    """Copy the included tensors of the earlier run over those of the same name here."""
    own = algorithm.state_dict()
    for pattern in config.include:
        if not any(fnmatchcase(name, pattern) for name in given.weights):
            raise UserError(f"start_from.include: no tensor of run {given.run_id} fits {pattern!r}")
    for theirs, value in given.weights.items():
        if any(fnmatchcase(theirs, pattern) for pattern in config.include):
            _copy(own, _renamed(theirs, config.rename), theirs, value, given.run_id)


def _copy(own: Mapping[str, Tensor], name: str, theirs: str, value: Tensor, run_id: str) -> None:
    if name not in own:
        raise UserError(
            f"start_from: there is no {name} here for {theirs} of run {run_id}; leave it out of include, or rename it"
        )
    if own[name].shape != value.shape:
        raise UserError(
            f"start_from: {name} has the shape {list(value.shape)} in run {run_id} and {list(own[name].shape)} here; "
            f"leave it out of include"
        )
    own[name].copy_(value)


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    """Return a name with the longest beginning that fits replaced."""
    fitting = max((before for before in rename if name.startswith(before)), key=len, default=None)
    return name if fitting is None else rename[fitting] + name[len(fitting) :]
