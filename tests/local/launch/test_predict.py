"""What a run predicts of files without labels: pictures, tables and texts, read as the data it learnt from were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from PIL import Image

import rayloom
from rayloom.cli.main import main
from rayloom.config.load import from_tree
from rayloom.datasets.digits import read_digits
from rayloom.errors import UserError
from rayloom.runs.observer import Result

SHAPES = ("round", "square")


def train(output: Path, algorithm: dict[str, Any], dataset: Any, epochs: int) -> Result:
    tree = {
        "name": "own",
        "algorithm": algorithm,
        "source": {"kind": "dataset", "dataset": dataset},
        "learner": {"batch_size": 32, "optimizer": {"learning_rate": 1e-2}},
        "stop": {"epochs": epochs},
        "output": str(output),
        "tracking": {"enabled": False, "system_metrics": False, "pictures": False},
    }
    return rayloom.run(from_tree(tree), local=True)


def predicted(result: Result, tmp_path: Path, *files: Path) -> pandas.DataFrame:
    written = rayloom.predict(
        result.run_id, files, output=str(result.run_dir.parent), destination=tmp_path / "found" / "table.csv"
    )
    return pandas.read_csv(written.path, dtype={"label": str})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Result:
    classifier = {"import": "rayloom_supervised.tasks.classification:Classifier", "network": "mlp"}
    return train(tmp_path_factory.mktemp("digits"), classifier, "digits", 6)


def test_pictures_of_any_size_and_mode_and_folders_of_them(digits: Result, tmp_path: Path) -> None:
    images, labels = read_digits()
    for number in range(40):
        picture = Image.fromarray(images[number].reshape(8, 8))
        folder = tmp_path / "folder" / ("a" if number < 20 else "b")
        folder.mkdir(parents=True, exist_ok=True)
        (picture if number % 2 else picture.convert("RGB")).save(folder / f"{number:02d}.png")
    Image.open(tmp_path / "folder" / "a" / "03.png").resize((24, 24)).save(tmp_path / "larger.gif")
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    table = predicted(digits, tmp_path, tmp_path / "folder", tmp_path / "larger.gif")
    assert [Path(file).name for file in table["file"]] == [*(f"{n:02d}.png" for n in range(40)), "larger.gif"]
    trained = rayloom.load(digits.run_id, output=str(digits.run_dir.parent))
    logits = trained.predict(images[:40].reshape(-1, 1, 8, 8))
    probability, label = logits.softmax(1).max(1)
    assert table["label"][:40].tolist() == [str(number) for number in label.tolist()]
    np.testing.assert_allclose(table["probability"][:40], probability, rtol=1e-5)
    assert np.mean(label.numpy() == labels[:40]) > 0.5 and table["label"][40] == table["label"][3]


def test_rows_of_a_table_by_the_vocabulary_and_the_labels_of_the_training(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    shape, size = draw.integers(0, 2, 300), draw.uniform(0, 1, 300).round(3)
    frame = pandas.DataFrame({"shape": [SHAPES[s] for s in shape], "size": size, "weight": 3 * size + shape + 1})
    frame.to_csv(tmp_path / "table.csv", sep=";", index=False)
    dataset = {"kind": "csv", "path": str(tmp_path / "table.csv"), "separator": ";"}
    classes = train(
        tmp_path / "runs", {"import": "rayloom_supervised.tasks.classification:Classifier", "network": "mlp"},
        {**dataset, "target": "shape", "numeric": ["weight", "size"]}, 60,
    )  # fmt: skip
    unlabelled = pandas.DataFrame({"size": [0.5, 0.5, 0.1], "more": [1, 2, 3], "weight": [2.5, 3.5, 1.3]})
    unlabelled.to_csv(tmp_path / "new.csv", sep=";", index=False)
    table = predicted(classes, tmp_path, tmp_path / "new.csv")
    assert table["row"].tolist() == [1, 2, 3] and table["label"].tolist() == ["round", "square", "round"]
    (tmp_path / "lacking.csv").write_text("size;wait\n1;2\n")
    with pytest.raises(UserError, match=r"lacking\.csv has no column 'weight'; did you mean 'wait'"):
        predicted(classes, tmp_path, tmp_path / "lacking.csv")
    (tmp_path / "words.csv").write_text("size;weight\n1;2\n1;much\n")
    with pytest.raises(UserError, match=r"words\.csv has 'much' in row 2 of the column 'weight', which is no number"):
        predicted(classes, tmp_path, tmp_path / "words.csv")
    numbers = train(
        tmp_path / "runs", {"import": "rayloom_supervised.tasks.regression:LeastSquares"},
        {**dataset, "target": "weight", "target_kind": "number", "numeric": ["size"], "ignore": ["shape"]}, 1,
    )  # fmt: skip
    expected = np.polyfit(size, frame["weight"], 1)
    found = predicted(numbers, tmp_path, tmp_path / "new.csv")["target"]
    np.testing.assert_allclose(found, np.polyval(expected, [0.5, 0.5, 0.1]), atol=0.1)  # of nine tenths of the rows


def test_texts_one_in_each_line(tmp_path: Path) -> None:
    draw, words = np.random.default_rng(0), {"good": ["fine", "great"], "bad": ["poor", "awful"]}
    labels = [("good", "bad")[number % 2] for number in range(200)]
    lines = [f"{label}\tthe film was {draw.choice(words[label])}\n" for label in labels]
    (tmp_path / "reviews.tsv").write_text("".join(lines))
    algorithm = {"import": "rayloom_supervised.tasks.text_classification:TextClassifier"}
    result = train(tmp_path / "runs", algorithm, {"kind": "text", "path": str(tmp_path / "reviews.tsv")}, 5)
    (tmp_path / "new.txt").write_text("the plot was great\n\nWas the film awful\n")
    table = predicted(result, tmp_path, tmp_path / "new.txt")
    assert table["row"].tolist() == [1, 3] and table["label"].tolist() == ["good", "bad"]
    (tmp_path / "nothing.txt").write_text("\n")
    with pytest.raises(UserError, match=r"the text .*nothing\.txt is empty"):
        predicted(result, tmp_path, tmp_path / "nothing.txt")


def test_what_cannot_be_predicted_is_one_sentence(digits: Result, tmp_path: Path, capsys: Any) -> None:
    def refused(*words: str) -> str:
        assert main(["predict", digits.run_id, "--output", str(digits.run_dir.parent), *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    (tmp_path / "empty").mkdir()
    assert "there is no file" in refused(str(tmp_path / "absent.png"))
    assert "broken.png cannot be read as an image" in refused(str(tmp_path / "broken.png"))
    assert "has no images" in refused(str(tmp_path / "empty"))
    Image.new("L", (8, 8)).save(tmp_path / "black.png")
    assert "must end in .csv or .parquet" in refused(str(tmp_path / "black.png"), "--destination", "found.xlsx")
    agent = rayloom.run("sac_pendulum", "stop={updates: 2}", "source.learning_starts=64", "tracking.enabled=false",
                        "evaluate.every=null", f"output={tmp_path / 'agents'}", local=True)  # fmt: skip
    with pytest.raises(UserError, match="are not read from files of a known kind"):
        predicted(agent, tmp_path, tmp_path / "black.png")
