"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_KMEANS: dict[str, Any] = {
    "algorithm": {"import": "rayloom_generative.mixtures.k_means:KMeans", "clusters": 5},
    "source": {"kind": "dataset", "dataset": {"kind": "gaussian-grid", "train_size": 256, "validation_size": 100}},
    "learner": {"batch_size": 32},
    "evaluate": {"every": "1 epochs"},
    "stop": {"epochs": 3},
}

TREES: dict[str, dict[str, Any]] = {
    "k_means": _KMEANS,
    "gaussian_mixture": {
        **_KMEANS,
        "algorithm": {"import": "rayloom_generative.mixtures.gaussian_mixture:GaussianMixture", "components": 4},
    },
    "pca": {
        **_KMEANS,
        "algorithm": {"import": "rayloom_generative.mixtures.pca:PCA", "components": 1},
    },
    "sparse_coding": {
        **_KMEANS,
        "algorithm": {
            "import": "rayloom_generative.mixtures.sparse_coding:SparseCoding",
            "atoms": 8,
            "inference_steps": 5,
        },
    },
}
