"""Studies against Ray Tune: what is left of two cores when 64 trials each burn one CPU second.

Each side runs in a process of its own; the clock starts when its driver has imported what it needs and Ray runs, and
stops when the last trial has been told. `reuse_actors` with four trials in flight is Ray Tune's fastest setting. The
trials do the same: one second of CPU time of their thread, then one value of one function. Trials of rayloom are whole
runs with a config, a journal, an evaluation and a checkpoint; tracking is off on both sides.

    python tests/benchmarks/search.py rayloom|tune|tune_reuse TRIALS SECONDS      one side, prints its seconds
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TRIALS, SECONDS = 64, 1.0
_DEADLINE_S = 600


def burn(seconds: float) -> None:
    """Use this thread's CPU for so long."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def value(x: float, y: float) -> float:
    """Return what the trials minimise."""
    return (x - 0.3) ** 2 + (y + 0.2) ** 2


def _ours(trials: int, seconds: float) -> float:
    import ray

    from rayloom.launch.search import run_study

    ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count(), log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        tree = {
            "algorithm": {"import": "busy:Busy", "seconds": seconds},
            "source": {"kind": "dataset", "dataset": "digits"},
            "stop": {"updates": 1},
            "output": folder,
            "tracking": {"enabled": False},
            "search": {
                "sampler": "tpe",
                "trials": trials,
                "metric": "evaluate/loss",
                "space": {"algorithm.x": {"float": [-1.0, 1.0]}, "algorithm.y": {"float": [-1.0, 1.0]}},
            },
        }
        start = time.perf_counter()
        result = run_study(tree)
        elapsed = time.perf_counter() - start
        assert result.counts["COMPLETE"] == trials
    return elapsed


def _tune(trials: int, seconds: float, reuse: bool) -> float:
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    class Busy(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.values = config

        def step(self) -> dict[str, Any]:
            burn(seconds)
            return {"loss": value(self.values["x"], self.values["y"]), "done": True}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.values = new_config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            return None

        def load_checkpoint(self, checkpoint: Any) -> None:
            return None

    ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count(), log_to_driver=False)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        results = tune.Tuner(
            Busy,
            param_space={"x": tune.uniform(-1.0, 1.0), "y": tune.uniform(-1.0, 1.0)},
            tune_config=tune.TuneConfig(
                search_alg=OptunaSearch(),
                metric="loss",
                mode="min",
                num_samples=trials,
                reuse_actors=reuse,
                max_concurrent_trials=4 if reuse else None,
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        elapsed = time.perf_counter() - start
        assert len(results) == trials and not results.errors
    return elapsed


def _in_a_process(side: str, trials: int = TRIALS, seconds: float = SECONDS) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}
    environment |= {"RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}
    command = [sys.executable, str(HERE / "search.py"), side, str(trials), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return float(done.stdout.strip().splitlines()[-1])


def _ppo(trials: int) -> float:
    """Return what one more PPO trial costs in a warm actor when it hardly trains: one small rollout, one evaluation."""
    import ray

    from rayloom.launch.search import run_study

    def seconds(count: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            run_study(
                "tpe_ppo_cartpole",
                "source.rollout_steps=8",
                "source.epochs=1",
                "learner.batch_size=64",
                "stop={env_steps: 64}",
                "evaluate={every: 64 env_steps, episodes: 1}",
                "search={sampler: random, parallel: 1, metric: evaluate/return_mean, "
                f"trials: {count}, space: {{algorithm.lambda_: {{float: [0.8, 1.0]}}}}}}",
                "tracking.enabled=false",
                f"output={folder}",
            )
            return time.perf_counter() - start

    ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count(), log_to_driver=False)
    return (seconds(2 + trials) - seconds(2)) / trials


def _cold_trial() -> float:
    """Return the seconds of the same training as a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-m", "rayloom", "run", "ppo_cartpole", "--local", f"output={folder}"]
        command += ["source.rollout_steps=8", "source.epochs=1", "learner.batch_size=64", "stop={env_steps: 64}"]
        command += ["evaluate={every: 64 env_steps, episodes: 1}", "tracking.enabled=false"]
        subprocess.run(command, check=True, capture_output=True, timeout=_DEADLINE_S)
        return time.perf_counter() - start


def search() -> list[Any]:
    """64 trials of one CPU second against Ray Tune; the start of a warm trial against a cold one."""
    from bench import Comparison

    name, unit = f"{TRIALS} trials of {SECONDS:g} CPU s", "s"
    return [
        Comparison(
            name, unit, 1, lambda: _in_a_process("rayloom"), lambda: _in_a_process("tune_reuse"),
            "Ray Tune, reuse_actors", "<= 1, <= 34 s", lower_is_better=True,
        ),
        Comparison(
            name, unit, 1, lambda: _in_a_process("rayloom"), lambda: _in_a_process("tune"), "Ray Tune", "<= 0.4",
            lower_is_better=True,
        ),
        Comparison(
            "PPO trial that hardly trains, warm", unit, 1, lambda: _in_a_process("ppo", 40), _cold_trial,
            "rayloom run", "<= 0.2 s", lower_is_better=True,
        ),
    ]  # fmt: skip


def _ask_seconds(sampler: str, ours: bool) -> float:
    """Return the median seconds of asking for a trial in a study that has ten thousand."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / "many_trials.py"), sampler, "ours" if ours else "optuna"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE_S, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return float(done.stdout.strip().splitlines()[-1])


def ask() -> list[Any]:
    """Asking for the next trial of a study of ten thousand, against Optuna's own study on the same kind of storage."""
    from bench import Comparison

    return [
        Comparison(
            f"ask, 10,000 trials, {sampler}", "s", 1, lambda s=sampler: _ask_seconds(s, True),
            lambda s=sampler: _ask_seconds(s, False), "Optuna on a journal file", target, lower_is_better=True,
        )
        for sampler, target in (("random", "<= 0.05 s"), ("tpe", "<= 1 s"))
    ]  # fmt: skip


COMPARISONS: dict[str, Callable[[], list[Any]]] = {"search": search, "ask": ask}


SIDES: dict[str, Callable[[int, float], float]] = {
    "rayloom": _ours,
    "tune": lambda trials, seconds: _tune(trials, seconds, reuse=False),
    "tune_reuse": lambda trials, seconds: _tune(trials, seconds, reuse=True),
    "ppo": lambda trials, seconds: _ppo(trials),
}


if __name__ == "__main__":
    print(SIDES[sys.argv[1]](int(sys.argv[2]), float(sys.argv[3])))
