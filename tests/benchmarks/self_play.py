"""How fast self-play is: rules, trees, network, both together, and the checkpoint of a large window.

    python tests/benchmarks/self_play.py [--device cuda] [--games 2048] [--threads 14] [--blocks 6] [--channels 96]
        [--graphs] [--seconds 10] [--window 1_000_000]

Rates are by wall clock, and for what runs on the CPU alone also by this process's CPU time, which other processes
disturb less.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rayloom.checkpoint.store import CheckpointStore
from rayloom.config.load import from_tree
from rayloom.contract import WorkerContext
from rayloom_agents.alphago import self_play_worker
from rayloom_agents.alphago.alphazero import AlphaZero
from rayloom_agents.alphago.games import Go
from rayloom_agents.alphago.go import playouts
from rayloom_agents.alphago.records import Records, Window
from rayloom_agents.alphago.self_play import SelfPlay


def settings(options: argparse.Namespace) -> Any:
    """Return the config of a run."""
    return from_tree(
        {
            "name": "benchmark",
            "algorithm": {
                "import": "rayloom_agents.alphago.alphazero:AlphaZero",
                "blocks": options.blocks,
                "channels": options.channels,
                "inference": {"precision": "bfloat16", "graphs": options.graphs},
            },
            "source": {
                "import": "rayloom_agents.alphago.self_play:SelfPlay",
                "game": {"kind": "go", "size": 9, "max_plies": 162},
                "num_envs": options.games,
                "groups": options.groups,
                "threads": options.threads,
                "caps": "group",
                "full_share": 0.25,
                "fast_simulations": 24,
                "search": {"simulations": 96},
                "stagger": 70,
            },
            "learner": {"batch_size": 8},
            "stop": {"updates": 1},
        }
    )


def told(name: str, count: float, work: Callable[[], Any], unit: str) -> float:
    """Time `work`, print its rate and return it."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:<46} {count / wall:>12,.0f} {unit}/s {count / cpu:>12,.0f} /CPU s", flush=True)
    return count / wall


def play(worker: self_play_worker.SelfPlayWorker, name: str, seconds: float) -> float:
    """Play for so many seconds and return the rate of evaluations."""
    worker.collect(1)
    count, wall, cpu, judged_s = 0, time.perf_counter(), time.process_time(), 0.0
    while time.perf_counter() - wall < seconds:
        rollout = worker.collect(1)
        count += int(rollout.arrays["evaluations"][0])
        judged_s += rollout.seconds["inference"]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(
        f"{name:<46} {count / wall:>12,.0f} evaluations/s {count / cpu:>12,.0f} /CPU s, "
        f"{judged_s / wall:.0%} asking and waiting",
        flush=True,
    )
    return count / wall


def worker_of(config: Any, algorithm: Any) -> self_play_worker.SelfPlayWorker:
    """Return a worker with all games."""
    generator = torch.Generator().manual_seed(0)
    games = config.source.num_envs
    context = WorkerContext(
        config=config.source, algorithm=algorithm, index=0, num_envs=games, first=0, generator=generator
    )
    return self_play_worker.SelfPlayWorker(context)


def random_records(plies: int) -> Records:
    """Return games of 80 plies with policies of 20 entries."""
    games, generator = plies // 80, np.random.default_rng(0)
    return Records(
        lengths=np.full(games, 80, np.int32),
        outcome=np.ones(games, np.float32),
        score=np.ones(games, np.float32),
        komi=np.full(games, 7.5, np.float32),
        owners=np.ones((games, 81), np.int8),
        action=generator.integers(82, size=80 * games).astype(np.int16),
        full=np.ones(80 * games, np.bool_),
        value=np.zeros(80 * games, np.float16),
        entries=np.full(80 * games, 20, np.uint16),
        entry_action=generator.integers(82, size=80 * games * 20).astype(np.int16),
        entry_share=generator.random(80 * games * 20).astype(np.float16),
    )


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser()
    for name, default in (("games", 256), ("groups", 2), ("threads", 1), ("blocks", 4), ("channels", 64)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--graphs", action="store_true")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--window", type=int, default=1_000_000)
    options = parser.parse_args()
    config, game = settings(options), Go(9, max_plies=162)
    state = game.start(2000)
    playouts.play_at_random(game.start(1), 0, 1000)
    lengths: list[int] = []
    told("rules: random steps", 2000 * 110, lambda: lengths.append(playouts.play_at_random(state, 1, 110)), "steps")

    algorithm = AlphaZero(config.algorithm, SelfPlay.describe(config.source)).to(options.device).eval()
    judge, dummy = self_play_worker.judge_of, np.random.default_rng(0)
    logits = dummy.standard_normal((options.games, 82)).astype(np.float32)
    values = dummy.uniform(-0.3, 0.3, options.games).astype(np.float32)
    self_play_worker.judge_of = lambda *_: lambda planes: lambda: (logits[: len(planes)], values[: len(planes)])
    play(worker_of(config, algorithm), "self-play without a network", options.seconds)
    self_play_worker.judge_of = judge

    size = options.games // options.groups
    planes = np.zeros((size, 18, 9, 9), np.int8)
    algorithm.inference.start(planes, game.plane_scale)()
    began, count = time.perf_counter(), 0
    pending = [algorithm.inference.start(planes, game.plane_scale) for _ in range(2)]
    while time.perf_counter() - began < options.seconds:
        pending.append(algorithm.inference.start(planes, game.plane_scale))
        pending.pop(0)()
        count += size
    alone = count / (time.perf_counter() - began)
    print(f"{f'network alone, batches of {size}':<46} {alone:>12,.0f} evaluations/s", flush=True)
    together = play(worker_of(config, algorithm), "self-play with the network", options.seconds)
    print(f"{'of the network alone':<46} {together / alone:>12.2f}", flush=True)

    window = Window(game)
    window.add([random_records(options.window)], options.window)
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder), keep=1, mode="max")
        told("checkpoint of the window", len(window), lambda: store.save(1, {"r": window.records._asdict()}), "plies")


if __name__ == "__main__":
    main()
