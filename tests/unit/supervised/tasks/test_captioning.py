"""Scenes and their sentences, where the captioner looks, and soft and hard attention."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.data.scenes import COLOURS, SCENES, SIDE, WORDS, draw, sentence
from rayloom_supervised.tasks.captioning import Captioner, _overlap

DATA = datasets.load(
    {"import": "rayloom_supervised.data.scenes:scenes", "train_size": 200, "validation_size": 60, "test_size": 60}, 0
)


def captioner(**settings: object) -> Captioner:
    torch.manual_seed(0)
    config = Captioner.Config(channels=6, embedding_size=4, cell_size=5, **settings)  # type: ignore[arg-type]
    return Captioner(config, DATA.spec)


def rows(*numbers: int) -> Batch:
    batch: Batch = DATA.train.rows(torch.tensor(numbers))
    return batch


def test_a_scene_shows_what_its_sentence_says() -> None:
    chance = np.random.default_rng(0)
    for number in range(0, len(SCENES), 37):
        colour, _, relation, other_colour, _ = scene = SCENES[number]
        picture, boxes = draw(scene, 0.0, chance)
        first, second = np.array(boxes, float)
        assert (first[:2] >= 0).all() and (second[2:] <= SIDE).all()
        gap = {
            "above": second[1] - first[3],
            "below": first[1] - second[3],
            "left of": second[0] - first[2],
            "right of": first[0] - second[2],
        }
        assert gap[relation] >= 0 and [name for name, value in gap.items() if value >= 0] == [relation], scene
        assert np.prod(first[2:] - first[:2]) > np.prod(second[2:] - second[:2]), "the large one is named first"
        for name, (left, top, right, bottom) in zip((colour, other_colour), boxes, strict=True):
            seen = picture[:, (top + bottom) // 2 + (2 if name else 0), (left + right) // 2].astype(float)
            nearest = min(
                COLOURS,
                key=lambda one: float(np.abs(seen / seen.max() - np.array(COLOURS[one]) / max(COLOURS[one])).sum()),
            )
            assert nearest == name


def test_no_sentence_is_in_two_splits() -> None:
    found = []
    for split in (DATA.train, DATA.validation, DATA.test):
        batch = split.rows(torch.arange(len(split)))
        found.append({" ".join(WORDS[word] for word in row if word > 2) for row in batch["target"].tolist()})
    assert not (found[0] & found[1] or found[0] & found[2] or found[1] & found[2])
    words, about = sentence(("red", "circle", "left of", "blue", "cross"))
    assert " ".join(words) == "a red circle left of a blue cross" and about == [0, 1, 1, 0, 0, 0, 2, 2]
    known = {" ".join(sentence(scene)[0]) for scene in SCENES}
    assert found[0] | found[1] | found[2] <= known and len(known) == len(SCENES) == 2208


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_a_sentence_costs_the_same_in_any_company(attention: str) -> None:
    algorithm = captioner(attention=attention).eval()
    length = DATA.train.rows(torch.arange(200))["target_length"]
    short, long = int(length.argmin()), int(length.argmax())
    assert length[short] < length[long]
    alone, together = rows(short), rows(long, short)
    first, second = algorithm.evaluate(alone), algorithm.evaluate(together)
    for name in ("loss", "token_accuracy", "on_the_shape"):
        for part, other in zip(first[name], second[name], strict=True):
            torch.testing.assert_close(part[0], other[1])
    written = [algorithm.decode(batch["image"], 10)[-1] for batch in (alone, together)]
    assert torch.equal(*written)


def test_a_clueless_captioner_pays_the_logarithm_of_the_words() -> None:
    algorithm, batch = captioner(), rows(0, 1)
    torch.nn.init.zeros_(algorithm.decoder.head.weight)
    torch.nn.init.zeros_(algorithm.decoder.head.bias)
    loss = algorithm.loss(batch)
    assert loss.count is not None and loss.count.tolist() == batch["target_length"].tolist()
    torch.testing.assert_close(loss.per_example, batch["target_length"] * math.log(len(WORDS)))


@pytest.mark.parametrize("attention", ["soft", "hard"])
def test_decoding_follows_the_taught_probabilities(attention: str) -> None:
    algorithm, batch = captioner(attention=attention, beam_width=1).eval(), rows(0, 1, 2)
    with torch.no_grad():
        algorithm.decoder.head.weight.mul_(20)
    written = algorithm.decode(batch["image"], 9)
    length = ((written == 2).cumsum(dim=1) - (written == 2).long() == 0).sum(dim=1)
    own = {**batch, "target": written, "target_length": length}
    assert torch.equal(algorithm.tell(own, explore=False).right.sum(dim=1), length)


def test_attention_that_knows_the_box_is_on_the_shape() -> None:
    algorithm, batch = captioner(), rows(*range(20))
    down, right = algorithm.encoder.grid
    about, boxes = batch["about"], batch["boxes"].float()
    even = torch.full((*about.shape, down * right), 1 / (down * right))
    share, named = algorithm._on_the_shape(even, batch)
    left, top, far, bottom = boxes[torch.arange(20)[:, None], (about - 1).clamp(min=0)].unbind(-1)
    torch.testing.assert_close(share, (far - left) * (bottom - top) / SIDE**2 * named)
    assert named.sum(dim=1).tolist() == [4] * 20
    middle = (((top + bottom) / 2) // 4 * right + ((left + far) / 2) // 4).long()
    knowing = torch.nn.functional.one_hot(middle, down * right).float()
    assert float(algorithm._on_the_shape(knowing, batch)[0][named].mean()) > 0.9
    # Pixels 2 to 7 of steps of four: half of the first, three quarters of the second.
    assert _overlap(torch.tensor(2.0), torch.tensor(7.0), 4.0, 3).tolist() == [0.5, 0.75, 0]


def test_hard_attention_has_the_gradient_of_the_expected_loss() -> None:
    # All choices of two words in turn: the mean of the estimates is the gradient, whatever the baseline says.
    algorithm, words = captioner(attention="hard", entropy=0.0).double(), torch.tensor([[5, 2]])
    places = algorithm.places(rows(0)["image"]).detach()[:, ::27] * 3  # three places are enough
    weight = algorithm.decoder.score.energy.weight
    with torch.no_grad():
        weight.mul_(8)
    expected, estimated = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for choices in itertools.product(range(places.shape[1]), repeat=2):
        state, glances, chance = algorithm.decoder.start(places), [], torch.ones((), dtype=torch.float64)
        for before, choice in zip((1, 5), choices, strict=True):
            weights = torch.softmax(algorithm.decoder.score(state.hidden[:, None], places), dim=2)[0, 0]
            uniform = weights.detach()[:choice].sum() + weights.detach()[choice] / 2
            glance, state = algorithm.decoder(torch.tensor([before]), state, places, hard=True, uniform=uniform[None])
            glances.append(glance)
            chance = chance * weights[choice]
        logits = torch.stack([glance.logits for glance in glances], dim=2)
        losses = torch.nn.functional.cross_entropy(logits, words, reduction="none")
        looked = torch.stack([glance.weights for glance in glances], dim=1)
        policy = algorithm._policy_loss(glances, looked, losses, torch.ones(1, 2, dtype=torch.bool))
        expected = expected + chance * losses.sum()
        estimated = estimated + chance.detach() * (losses.sum() + policy.sum())
    (wanted,), (found,) = (torch.autograd.grad(total, weight) for total in (expected, estimated))
    assert float(wanted.norm()) > 0.01
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_pictures_show_a_glance_for_every_word() -> None:
    figures = captioner().figures(rows(0, 1, 2))
    strip = figures["attention"]
    assert strip.data is not None and strip.data.shape == (3 * strip.columns, 3, SIDE, SIDE)
    assert strip.columns == 1 + DATA.spec["target"].shape[0] and figures["sentences"].text


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs image and the ragged field target"):
        Captioner(Captioner.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
    small = {**DATA.spec, "image": TensorSpec(shape=(1, 3, 8), dtype=torch.uint8)}
    with pytest.raises(UserError, match="4x4 pixels or more, not 3x8"):
        Captioner(Captioner.Config(), small)
