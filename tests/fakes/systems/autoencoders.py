"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_AUTOENCODER: dict[str, Any] = {
    "algorithm": {
        "import": "rayloom_generative.autoencoders.autoencoder:Autoencoder",
        "hidden_sizes": [],
        "corruption": "masking",
        "code_activation": "logistic",
        "sparsity_weight": 0.1,
    },
    "source": {"kind": "dataset", "dataset": "digits"},
    "learner": {"batch_size": 64},
    "evaluate": {"every": "1 epochs"},
    "stop": {"epochs": 3},
}

TREES: dict[str, dict[str, Any]] = {
    "sparse_denoising_autoencoder": _AUTOENCODER,
    "conditional_iwae": {
        **_AUTOENCODER,
        "algorithm": {
            "import": "rayloom_generative.autoencoders.vae:VAE",
            "network": "conv",
            "hidden_sizes": [16],
            "channels": 2,
            "latent_size": 3,
            "conditional": True,
            "likelihood": "categorical",
            "levels": 3,
            "training_samples": 3,
            "importance_samples": [5],
        },
    },
}
