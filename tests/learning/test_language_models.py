"""A memory that is carried over windows learns in seconds what no window shows."""

from __future__ import annotations

import random
from pathlib import Path

import rayloom


def bits(algorithm: str, order: str, folder: Path) -> float:
    """Train on a text of two moods, which one character hardly betrays, and return the bits of a held-out character."""
    chance = random.Random(0)
    moods = ("aaaaaaabbc", "bbbbbbbaac")
    text = folder / "text.txt"
    text.write_text("".join("".join(chance.choices(moods[chance.randrange(2)], k=100)) for _ in range(250)), "utf-8")
    further = {"windows_before": 30} if order == "streams" else {}
    tree = {
        "name": "moods",
        "algorithm": {"import": f"rayloom_supervised.tasks.{algorithm}", "cell": "gru", "cell_size": 16, **further},
        "source": {
            "kind": "dataset",
            "order": order,
            "dataset": {"kind": "documents", "path": str(text), "length": 2},
        },
        "learner": {"batch_size": 32, "optimizer": {"kind": "adam", "learning_rate": 1e-2}},
        "stop": {"updates": 600},
        "tracking": {"enabled": False, "pictures": False},
        "output": str(folder),
    }
    return float(rayloom.run(tree, local=True).metrics["evaluate/bits_per_character"])


def test_a_carried_memory_knows_more_than_a_window(tmp_path: Path) -> None:
    carried = bits("stream_model:StreamModel", "streams", tmp_path)
    assert carried < bits("language_model:CharacterModel", "shuffled", tmp_path) - 0.04
