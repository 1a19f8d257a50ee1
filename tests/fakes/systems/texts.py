"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_LEARNER = {"batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 3e-3}}

TREES: dict[str, dict[str, Any]] = {
    "stream_model": {
        "algorithm": {
            "import": "rayloom_supervised.tasks.stream_model:StreamModel",
            "cell_size": 8,
            "cell_layers": 2,
            "dropout": 0.1,
            "streams": 16,
        },
        "source": {
            "kind": "dataset",
            "order": "streams",
            "dataset": {"kind": "python-source", "characters": 4000, "length": 10},
        },
        "learner": _LEARNER,
        "evaluate": {"every": "1 epochs"},
        "stop": {"epochs": 3},
    },
}
