"""The worst mistakes are those of which the classifier was surest, over all batches."""

from __future__ import annotations

import torch

from cases import case
from rayloom.runs.learner_role import LearnerRole
from rayloom_supervised.evaluation import mistakes


def logits_of(prediction: list[int], sureness: list[float]) -> torch.Tensor:
    """Return logits [B, 3] whose softmax gives each prediction its probability."""
    rest = [(1 - sure) / 2 for sure in sureness]
    rows = torch.tensor([[each] * 3 for each in rest])
    rows[torch.arange(len(prediction)), torch.tensor(prediction)] = torch.tensor(sureness)
    return rows.log()


def test_the_surest_mistakes_of_all_batches_come_first() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1) / 10
    label = torch.tensor([0, 1, 2, 0, 1, 2])
    logits = logits_of([0, 2, 0, 1, 1, 0], [0.99, 0.6, 0.9, 0.7, 0.9, 0.5])  # rows 0 and 4 are right
    batches = [mistakes.worst_mistakes(images[half], logits[half], label[half]) for half in (slice(0, 3), slice(3, 6))]
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    figure = mistakes.picture(joined, ("cat", "dog", "hen"))["worst_mistakes"]
    assert figure.labels == (
        "is hen\ntaken for cat, 90%",
        "is cat\ntaken for dog, 70%",
        "is dog\ntaken for hen, 60%",
        "is hen\ntaken for cat, 50%",
    )
    assert figure.data is not None
    torch.testing.assert_close(figure.data.flatten(), torch.tensor([0.2, 0.3, 0.1, 0.5]))


def test_no_more_are_kept_than_are_shown_and_without_a_mistake_there_is_no_picture() -> None:
    label = torch.zeros(100, dtype=torch.int64)
    wrong = mistakes.worst_mistakes(torch.zeros(100, 1, 2, 2), torch.tensor([[0.0, 1.0]]).expand(100, 2), label)
    assert {len(rows) for rows in wrong.values()} == {mistakes.SHOWN}
    right = mistakes.worst_mistakes(torch.zeros(100, 1, 2, 2), torch.tensor([[1.0, 0.0]]).expand(100, 2), label)
    assert mistakes.picture(right, ("a", "b")) == {} == mistakes.picture({}, ("a", "b"))


def test_a_classifier_shows_images_as_they_were_before_standardisation() -> None:
    role = LearnerRole(case("lenet5", algorithm={"input_mean": 0.3, "input_std": 0.4}))
    assert role.dataset is not None
    held_out = role.dataset.validation.rows(torch.arange(200))
    algorithm = role.algorithm.eval()
    with torch.no_grad():
        found = algorithm.evaluate(algorithm.prepare(held_out))
    pixels = {tuple(image.flatten().tolist()) for image in held_out["image"]}
    scale = 255 if held_out["image"].dtype == torch.uint8 else 1
    shown = (found["_mistake_image"] * scale).round().to(held_out["image"].dtype)
    assert len(shown) == mistakes.SHOWN
    assert all(tuple(image.flatten().tolist()) in pixels for image in shown)
