"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_TASKS = "rayloom_supervised.tasks"


def _run(algorithm: dict[str, Any], dataset: str, batch_size: int = 32, **learner: Any) -> dict[str, Any]:
    return {
        "algorithm": algorithm,
        "source": {"kind": "dataset", "dataset": dataset},
        "learner": {"batch_size": batch_size, **learner},
        "evaluate": {"every": "1 epochs"},
        "stop": {"epochs": 3},
    }


def _classifier(network: Any, dataset: str = "digits") -> dict[str, Any]:
    algorithm = {"import": f"{_TASKS}.classification:Classifier", "network": network}
    return _run(algorithm, dataset, optimizer={"kind": "adam", "learning_rate": 1e-3})


TREES: dict[str, dict[str, Any]] = {
    "least_squares": _run({"import": f"{_TASKS}.regression:LeastSquares"}, "diabetes"),
    "regressor": _run({"import": f"{_TASKS}.regression:Regressor", "l2": 0.01}, "diabetes"),
    "perceptron": _run({"import": f"{_TASKS}.perceptron:Perceptron"}, "breast-cancer"),
    "table_classifier": _classifier("mlp", "breast-cancer"),
    "lenet5_1998": _classifier("lenet5_1998"),
    "mask_rcnn": {
        **_run(
            {
                "import": f"{_TASKS}.instance_segmentation:MaskRCNN",
                "channels": 8,
                "hidden_size": 16,
                "candidates": 16,
                "proposals": 6,
                "masks": 3,
            },
            "digits",
            8,
        ),
        "source": {
            "kind": "dataset",
            "dataset": {
                "import": "rayloom_supervised.data.overlapping_shapes:overlapping_shapes",
                "train_size": 48,
                "validation_size": 8,
                "test_size": 8,
            },
        },
    },
}
