"""Small runs of graphs, trees, captions and handwriting, for the conformance suite."""

from __future__ import annotations

from typing import Any

_FEW: dict[str, Any] = {"train_size": 96, "validation_size": 16, "test_size": 16}


def _run(
    algorithm: str, settings: dict[str, Any], data: str, sizes: dict[str, Any], rate: float = 3e-3
) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_supervised.tasks.{algorithm}", **settings},
        "source": {
            "kind": "dataset",
            "dataset": {"import": f"rayloom_supervised.data.{data}", **_FEW, **sizes},
        },
        "learner": {"batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": rate}},
        "evaluate": {"every": "1 epochs"},
        "stop": {"epochs": 3},
    }


_GRAPHS: dict[str, Any] = {"smallest": 6, "largest": 9}

TREES: dict[str, dict[str, Any]] = {
    "gcn_nodes": _run(
        "graphs:GraphPredictor",
        {"network": {"kind": "gcn", "size": 8, "layers": 2}},
        "random_graphs:communities",
        _GRAPHS,
    ),
    "message_passing_graphs": _run(
        "graphs:GraphPredictor",
        {"network": {"kind": "message_passing", "size": 8, "steps": 2}},
        "random_graphs:distances",
        {**_GRAPHS, "farthest": 2},
    ),
    "tree_lstm": _run(
        "tree_classification:TreeClassifier",
        {"network": {"kind": "recursive", "size": 6, "embedding_size": 4}},
        "formulas:formulas",
        {"most": 4, "test_most": 5},
    ),
    "captioner_hard": _run(
        "captioning:Captioner",
        {"attention": "hard", "channels": 4, "embedding_size": 4, "cell_size": 6, "beam_width": 2},
        "scenes:scenes",
        {},
    ),
    "handwriter": _run(
        "handwriting:Handwriter",
        {"cell_size": 8, "components": 2, "embedding_size": 4, "reader": True},
        "handwriting:characters",
        {"characters": "il", "step": 12.0},
    ),
}
