"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_RBM: dict[str, Any] = {
    "algorithm": {"import": "rayloom_generative.energy.rbm:RBM", "hidden_units": 12, "partition": "exact"},
    "source": {"kind": "dataset", "dataset": "digits"},
    "learner": {"batch_size": 32},
    "evaluate": {"every": "1 epochs"},
    "stop": {"epochs": 3},
}

TREES: dict[str, dict[str, Any]] = {
    "rbm": _RBM,
    "persistent_rbm": {
        **_RBM,
        "algorithm": {
            "import": "rayloom_generative.energy.persistent_rbm:PersistentRBM",
            "hidden_units": 12,
            "chains": 32,
            "partition": "ais",
            "ais_chains": 10,
            "ais_temperatures": 20,
        },
    },
    "dbn": {
        **_RBM,
        "algorithm": {
            "import": "rayloom_generative.energy.dbn:DBN",
            "hidden_sizes": [16, 8],
            "fine_tuning": 0.3,
            "partition": "exact",
        },
    },
    "boltzmann_machine": {
        **_RBM,
        "algorithm": {
            "import": "rayloom_generative.energy.boltzmann_machine:BoltzmannMachine",
            "hidden_units": 2,
            "chains": 32,
            "sample_sweeps": 2,
            "checked_chains": 50,
        },
        "source": {
            "kind": "dataset",
            "dataset": {"import": "rayloom_generative.energy.bit_patterns:bars_and_stripes", "train_size": 500},
        },
    },
}
