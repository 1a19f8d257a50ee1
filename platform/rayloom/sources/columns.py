"""Columns of environments: replay buffers and rollouts, cut and joined along their environments.

    worker 0's block | worker 1's block  --side by side, newest rows aligned--> all environments --cut--> other blocks

Environments are counted over the whole run; those of one worker lie side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rayloom.contract import deal

Array = npt.NDArray[Any]
State = dict[str, Any]
Columns = dict[str, Array]
"""Time-major arrays [T, N, ...] of some environments, newest row last; what is known of that row alone is [1, N, ...].
"""
_NEWEST = ("newest_ends", "newest_successors")


def cut(items: Sequence[Any], count: int) -> list[list[Any]]:
    """Return the items in `count` even pieces, in their order."""
    ends = np.cumsum([0, *deal(len(items), count)])
    return [list(items[start:end]) for start, end in itertools.pairwise(ends)]


def blocks_in_time(buffer: Mapping[str, Any]) -> list[Columns]:
    """Return each writer's part of a replay buffer, its rows in the order of time."""
    number = len(buffer["heads"])
    width = int(buffer["num_envs"]) // number
    arrays = dict(buffer["arrays"])
    if "leaves" in buffer:
        arrays["leaves"] = np.asarray(buffer["leaves"]).reshape(-1, int(buffer["num_envs"]))
    if "successors" in buffer:
        arrays["successors"] = _successors_in_rows(buffer)
    blocks = []
    for block, (head, filled) in enumerate(zip(buffer["heads"], buffer["filled"], strict=True)):
        columns = slice(block * width, (block + 1) * width)
        order = (np.arange(filled) + (head if filled == buffer["rows"] else 0)) % max(1, filled)
        found = {name: np.asarray(values)[order, columns] for name, values in arrays.items()}
        found.update({name: np.asarray(buffer[name])[None, columns] for name in _NEWEST if name in buffer})
        blocks.append(found)
    return blocks


def _successors_in_rows(buffer: Mapping[str, Any]) -> Array:
    """Return the successors that are kept apart as objects [rows, N]; 0 where there is none."""
    number = int(buffer["num_envs"])
    rows = len(next(iter(buffer["arrays"].values()), ()))
    found = np.zeros(rows * number, dtype=object)
    for slot, frame in zip(*(buffer["successors"][name] for name in ("slots", "frames")), strict=True):
        found[int(slot)] = frame
    return found.reshape(rows, number)


def _successors_apart(found: Array, one: Array) -> State:
    """Return the state that `_successors_in_rows` has read; `one` [N, ...] has a frame's shape and type."""
    flat = found.reshape(-1)
    slots = np.array([slot for slot, frame in enumerate(flat) if isinstance(frame, np.ndarray)], np.int64)
    frames = np.zeros((len(slots), *one.shape[1:]), one.dtype)
    for place, slot in enumerate(slots):
        frames[place] = flat[slot]
    return {"slots": slots, "frames": frames}


def cut_columns(blocks: Sequence[Columns], start: int, stop: int) -> Columns:
    """Return the environments `start` to `stop` - 1 of all that the blocks hold side by side.

    Their newest rows become one row. Those that hold fewer rows get rows of zeros, which are not valid, before these.
    """
    parts, first = [], 0
    for block in blocks:
        width = block["newest_ends"].shape[1]
        inside = slice(max(0, start - first), max(0, min(width, stop - first)))
        if inside.start < inside.stop:
            parts.append({name: values[:, inside] for name, values in block.items()})
        first += width
    return {name: _side_by_side([part[name] for part in parts]) for name in parts[0]}


def _side_by_side(parts: Sequence[Array]) -> Array:
    rows, width = max(len(part) for part in parts), sum(part.shape[1] for part in parts)
    joined = np.zeros((rows, width, *parts[0].shape[2:]), dtype=parts[0].dtype)
    first = 0
    for part in parts:
        joined[rows - len(part) :, first : first + part.shape[1]] = part
        first += part.shape[1]
    return joined


def as_ring(blocks: Sequence[Columns], rows: int) -> State:
    """Return the state of a replay buffer of `rows` rows with these writers, all but its generator."""
    filled = [len(block["valid"]) if "valid" in block else 0 for block in blocks]
    longest = max(filled)
    arrays = {}
    for name in blocks[0]:
        values = [block[name] for block in blocks]
        whole = np.zeros((longest, sum(value.shape[1] for value in values), *values[0].shape[2:]), values[0].dtype)
        first = 0
        for value in values:
            whole[: len(value), first : first + value.shape[1]] = value[:longest]
            first += value.shape[1]
        arrays[name] = whole
    ring: State = {name: np.concatenate([block[name][0] for block in blocks]) for name in _NEWEST if name in blocks[0]}
    for name in ring:
        arrays.pop(name)
    ring |= {"num_envs": len(ring["newest_ends"]), "filled": filled}
    if "successors" in arrays:
        ring["successors"] = _successors_apart(arrays.pop("successors"), ring["newest_successors"])
    ring["heads"] = [number % rows for number in filled]
    if "leaves" in arrays:
        ring["leaves"] = arrays.pop("leaves").ravel()
    return {**ring, "arrays": arrays}


def by_other_workers(drained: Sequence[Mapping[str, Any]], before: int, number: int) -> list[State]:
    """Return rollouts of `before` workers as if `number` workers, with other shares of the environments, had made them.

    Each worker's k-th rollouts are put side by side; where a worker has fewer, its environments' steps are not valid,
    and no segment may run into them. Episodes are not told apart by environment: the first new worker reports them.
    """
    queues = [[rollout for rollout in drained if int(rollout["worker"]) == worker] for worker in range(before)]
    dealt = []
    for turn in range(max(map(len, queues), default=0)):
        present = [queue[turn] for queue in queues if turn < len(queue)]
        width = next(iter(present[0]["arrays"].values())).shape[1]
        empty = {name: np.zeros_like(values) for name, values in present[0]["arrays"].items()}
        blocks = [
            {**(queue[turn]["arrays"] if turn < len(queue) else empty), "newest_ends": np.ones((1, width), np.bool_)}
            for queue in queues
        ]
        share = width * before // number
        for worker in range(number):
            arrays = cut_columns(blocks, worker * share, (worker + 1) * share)
            arrays.pop("newest_ends")
            dealt.append(
                {
                    "arrays": arrays,
                    "episodes": [] if worker else [episode for rollout in present for episode in rollout["episodes"]],
                    "env_steps": int(np.count_nonzero(arrays["valid"])),
                    "version": min(int(rollout["version"]) for rollout in present),
                    "worker": worker,
                    # Ends the segments before it.
                    "restarted": len(present) < before or any(bool(rollout["restarted"]) for rollout in present),
                }
            )
    return dealt
