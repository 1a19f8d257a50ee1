"""Pictures of an agent's episode, from an environment that is made for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rayloom.config.sources import EnvironmentFields
from rayloom.contract import Algorithm
from rayloom.errors import UserError
from rayloom.rollouts.acting import ActingAlgorithm
from rayloom.rollouts.environment import Environment
from rayloom.rollouts.making import make_rendered

_LONGEST_SIDE = 160


def film(source: EnvironmentFields, algorithm: Algorithm, seed: int, most: int) -> list[np.ndarray[Any, Any]]:
    """Return the rendered frames [H, W, 3 or 4] of one greedy episode, or of its first `most` steps.

    UserError where the environment has no pictures.
    """
    environment, render = _made(source)
    frames: list[np.ndarray[Any, Any]] = []
    try:
        observation = environment.reset(seed)
        acting = ActingAlgorithm(algorithm)
        acting.begin(1)
        algorithm.after_publish()
        ended = False
        while not ended and len(frames) < most:
            frames.append(_picture(render, source))
            with torch.no_grad(), acting.in_evaluation_mode():
                step = environment.step(acting.choose(observation, None)[0])
            observation, ended = step.observation, bool(step.terminated[0] or step.truncated[0])
    finally:
        environment.close()
    return frames


def check_pictures(source: EnvironmentFields) -> None:
    """Refuse (UserError) an environment that cannot be filmed, before anything is learnt."""
    environment, render = _made(source)
    try:
        environment.reset(0)
        _picture(render, source)
    finally:
        environment.close()


def small_pictures(frames: list[np.ndarray[Any, Any]], most: int) -> Tensor:
    """Return at most `most` of the frames, evenly spread, as pictures [T, 3, H, W] in 0..1 of sides up to 160."""
    chosen = np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int)
    stride = -(-max(frames[0].shape[:2]) // _LONGEST_SIDE)
    small = np.stack([frames[place][::stride, ::stride, :3] for place in chosen])
    return torch.from_numpy(small).permute(0, 3, 1, 2).float() / 255.0


def _made(source: EnvironmentFields) -> tuple[Environment, Callable[[], Any]]:
    try:
        return make_rendered(source)
    except TypeError as error:
        raise UserError(f"source.env: {source.env} cannot draw itself ({error})") from None


def _picture(render: Callable[[], Any], source: EnvironmentFields) -> np.ndarray[Any, Any]:
    try:
        frame = render()
    except NotImplementedError:  # what gymnasium's own method raises
        frame = None
    if not isinstance(frame, np.ndarray):
        raise UserError(f"source.env: {source.env} has no pictures (render_mode rgb_array)")
    if frame.ndim != 3 or frame.shape[2] not in (3, 4) or frame.dtype.kind not in "uif":
        told = f"{frame.dtype} {list(frame.shape)}"
        raise UserError(f"source.env: pictures of {source.env} are {told}; they must be bytes [H, W, 3]")
    return frame
