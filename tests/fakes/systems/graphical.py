"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any


def _tree(
    path: str, dataset: Any, every: str, stop: dict[str, int], rate: float = 0.01, **algorithm: Any
) -> dict[str, Any]:
    return {
        "algorithm": {"import": f"rayloom_generative.graphical.{path}", **algorithm},
        "source": {"kind": "dataset", "dataset": dataset},
        "learner": {"batch_size": 64, "optimizer": {"kind": "adam", "learning_rate": rate}},
        "evaluate": {"every": every},
        "stop": stop,
    }


_FEW = {"train_size": 320, "validation_size": 64, "test_size": 64}

_COUNTED = _tree("naive_bayes:NaiveBayes", "digits", "1 epochs", {"epochs": 3})

TREES: dict[str, dict[str, Any]] = {
    # What counts sees every example of a pass.
    "naive_bayes": {**_COUNTED, "source": {**_COUNTED["source"], "drop_last": False}},
    "bayesian_network": _tree(
        "bayesian_network:BayesianNetwork",
        {"kind": "sprinkler", **_FEW},
        "1 epochs",
        {"epochs": 3},
        edges=[["cloudy", "sprinkler"], ["cloudy", "rain"]],
        smoothing=1.0,
    ),
    "markov_random_field": _tree(
        "markov_random_field:MarkovRandomField", "digits", "10 updates", {"updates": 30}, iterations=4, sample_sweeps=4
    ),
    "linear_chain_crf": _tree(
        "linear_chain_crf:LinearChainCRF", {"kind": "tagged-grammar", **_FEW}, "10 updates", {"updates": 30}, window=1
    ),
    "log_linear": _tree(
        "log_linear:LogLinearModel",
        {"kind": "sprinkler", **_FEW},
        "10 updates",
        {"updates": 30},
        features=[["cloudy", "sprinkler"], ["sprinkler", "rain"]],
    ),
    "sigmoid_belief_net": _tree(
        "sigmoid_belief_net:SigmoidBeliefNet", "digits", "10 updates", {"updates": 30}, hidden_sizes=[8, 4]
    ),
}
