"""Data of a user's own, from the files to a trained model: a table, pictures, texts, and a function of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rayloom
from rayloom.config.load import from_tree
from rayloom.errors import UserError

ROWS, TEXTS = "tiny_learners:RowLabeller", "tiny_learners:TextLabeller"


def train(tmp_path: Path, algorithm: dict[str, Any], dataset: Any, epochs: int, **source: Any) -> Any:
    return rayloom.run(
        from_tree(
            {
                "name": "own",
                "algorithm": algorithm,
                "source": {"kind": "dataset", "dataset": dataset, **source},
                "learner": {"batch_size": 32, "optimizer": {"learning_rate": 1e-2}},
                "evaluate": {"split": "test"},
                "stop": {"epochs": epochs},
                "output": str(tmp_path / "runs"),
                "tracking": {"enabled": False, "system_metrics": False, "pictures": False},
            }
        ),
        local=True,
    )


def write_table(path: Path) -> None:
    """Write rows whose class is the parity of two categories, unless a number is above 0.8: no column suffices."""
    draw = np.random.default_rng(0)
    colour, shape, size = draw.integers(0, 3, 1500), draw.integers(0, 2, 1500), draw.uniform(0, 1, 1500).round(3)
    label = np.where(size > 0.8, 1, (colour + shape) % 2)
    lines = [
        f"{['red', 'green', 'blue'][c]},{['round', 'square'][s]},{x},{['no', 'yes'][y]}"
        for c, s, x, y in zip(colour, shape, size, label, strict=True)
    ]
    path.write_text("\n".join(["colour,shape,size,wanted", *lines]) + "\n")


@pytest.mark.parametrize("memory", ["memory", "disk"])
def test_an_mlp_learns_a_table_with_categories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, memory: str) -> None:
    monkeypatch.setenv("RAYLOOM_DATA", str(tmp_path / "cache"))
    write_table(tmp_path / "table.csv")
    where: dict[str, Any] = {"memory_mib": 0} if memory == "disk" else {}
    resident: dict[str, Any] = {"resident_mib": 0} if memory == "disk" else {}
    dataset = {"kind": "csv", "path": str(tmp_path / "table.csv"), "target": "wanted", **where}
    result = train(tmp_path, {"import": ROWS}, dataset, 15, **resident)
    assert result.metrics["evaluate/accuracy"] > 0.95  # the class of most rows: 0.6


def test_tables_in_memory_and_on_the_disk_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYLOOM_DATA", str(tmp_path / "cache"))
    write_table(tmp_path / "table.csv")
    dataset = {"kind": "csv", "path": str(tmp_path / "table.csv"), "target": "wanted"}
    hashes = {
        train(tmp_path, {"import": ROWS}, {**dataset, **memory}, 2, **source).weights_sha256
        for memory, source in (
            ({}, {}),
            ({"memory_mib": 0}, {"resident_mib": 0, "read_ahead": 0}),
            ({"memory_mib": 0}, {"resident_mib": 0, "read_ahead": 3}),
        )
    }
    assert len(hashes) == 1


def test_pictures_in_folders_are_classified(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for name, rows in (("lying", True), ("standing", False)):
        (tmp_path / "bars" / name).mkdir(parents=True)
        for number in range(100):
            pixels = draw.integers(0, 60, (8, 8)).astype(np.uint8)
            place = draw.integers(8)
            pixels[(place, slice(None)) if rows else (slice(None), place)] = 250
            Image.fromarray(pixels).save(tmp_path / "bars" / name / f"{number}.png")
    algorithm = {"import": "rayloom_supervised.tasks.classification:Classifier", "network": "mlp"}
    dataset = {"kind": "image_folder", "path": str(tmp_path / "bars"), "mode": "gray"}
    result = train(tmp_path, algorithm, dataset, 20)
    assert result.metrics["evaluate/accuracy"] >= 0.95
    (stored,) = (result.run_dir / "figures" / "confusion_matrix").glob("*.npz")
    about = json.loads(str(np.load(stored)["about"]))
    assert about["labels"] == about["column_labels"] == ["lying", "standing"]


def test_texts_are_classified_by_the_mean_of_their_words(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    words = {"good": ["fine", "great", "lovely"], "bad": ["poor", "awful", "dull"]}
    plain = ["the", "a", "film", "was", "and", "of", "it", "plot"]
    lines = []
    for number in range(400):
        label = ("good", "bad")[number % 2]
        text = [*draw.choice(plain, draw.integers(2, 30)), *draw.choice(words[label], 2)]
        lines.append(f"{label}\t{' '.join(draw.permutation(text))}\n")
    (tmp_path / "reviews.tsv").write_text("".join(lines))
    result = train(tmp_path, {"import": TEXTS}, {"kind": "text", "path": str(tmp_path / "reviews.tsv")}, 10)
    assert result.metrics["evaluate/accuracy"] >= 0.95


def test_a_function_of_ones_own(tmp_path: Path) -> None:
    algorithm = {"import": "rayloom_generative.autoencoders.vae:VAE", "hidden_sizes": [8], "latent_size": 1}
    algorithm["likelihood"] = "gaussian"
    result = train(tmp_path, algorithm, {"import": "own_data:points", "count": 64}, 2)
    assert result.counters["epochs"] == 2 and result.counters["samples"] == 128
    with pytest.raises(UserError, match=r"source\.dataset\.counts"):
        train(tmp_path, algorithm, {"import": "own_data:points", "counts": 64}, 2)
