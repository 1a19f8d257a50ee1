"""Small runs of this chapter's systems, for the conformance suite."""

from __future__ import annotations

from typing import Any

_TASKS, _DATA = "rayloom_supervised.tasks", "rayloom_supervised.data"


def _run(algorithm: str, settings: dict[str, Any], data: str, sizes: dict[str, Any]) -> dict[str, Any]:
    dataset = data if isinstance(data, str) and ":" not in data else {"import": f"{_DATA}.{data}"}
    named = {"kind": dataset} if isinstance(dataset, str) else dataset
    return {
        "algorithm": {"import": f"{_TASKS}.{algorithm}", **settings},
        "source": {"kind": "dataset", "dataset": {**named, **sizes}},
        "learner": {"batch_size": 16, "optimizer": {"kind": "adam", "learning_rate": 1e-3}},
        "evaluate": {"every": "1 epochs"},
        "stop": {"epochs": 3},
    }


_FEW: dict[str, Any] = {"train_size": 128, "validation_size": 16, "test_size": 16}

TREES: dict[str, dict[str, Any]] = {
    "transcriber": _run(
        "transcription:Transcriber",
        {"cell_size": 8, "dropout": 0.2},
        "digit_strings:digit_strings",
        {**_FEW, "longest": 3},
    ),
    "character_model": _run(
        "language_model:CharacterModel",
        {"cell": "peephole_lstm", "cell_size": 8, "burn_in": 4},
        "python-source",
        {"characters": 4000, "length": 20},
    ),
    "translator": _run("translation:Translator", {"cell_size": 8, "beam_width": 2}, "dates:dates", _FEW),
    "pointer_network": _run("pointing:PointerNetwork", {"cell_size": 8}, "convex_hulls:convex_hulls", _FEW),
    "text_cnn": _run(
        "text_classification:TextClassifier",
        {"network": {"kind": "text_cnn", "channels": 4, "embedding_size": 8}},
        "python_packages:python_packages",
        {"words": 600},
    ),
    "neural_turing_machine": _run(
        "copying:Copier",
        {"controller_size": 8, "places": 6, "place_size": 4},
        "copy_sequences:copy_sequences",
        {**_FEW, "longest": 3, "test_length": 4},
    ),
    "sequence_reader": _run(
        "sequence_reading:SequenceReader", {"cell": "gru", "cell_size": 8}, "long_lags:adding", {**_FEW, "lag": 6}
    ),
    "memory_network": _run("question_answering:Answerer", {"size": 8}, "two_facts:two_facts", {**_FEW, "most": 5}),
}
