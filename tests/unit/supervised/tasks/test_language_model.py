"""The language model: what is judged, what a clueless one costs, what it writes."""

from __future__ import annotations

import math

import pytest
import torch

from rayloom.contract import TensorSpec, UserError
from rayloom_supervised.tasks.language_model import CharacterModel

NAMES = ("(other)", "a", "b", "\n")


def model(**settings: object) -> CharacterModel:
    torch.manual_seed(0)
    tokens = TensorSpec(shape=(6,), dtype=torch.int64, num_values=4, labels=NAMES)
    config = CharacterModel.Config(embedding_size=3, cell_size=5, **settings)  # type: ignore[arg-type]
    return CharacterModel(config, {"token": tokens, "next_token": tokens})


def windows() -> dict[str, torch.Tensor]:
    text = torch.randint(4, (3, 7), generator=torch.Generator().manual_seed(1))
    return {"token": text[:, :-1], "next_token": text[:, 1:]}


def test_who_knows_nothing_pays_the_logarithm_of_the_characters() -> None:
    algorithm = model()
    torch.nn.init.zeros_(algorithm.head.weight)
    torch.nn.init.zeros_(algorithm.head.bias)
    found = algorithm.evaluate(windows())
    (bits, count), nats = found["bits_per_character"], found["loss"][0]
    assert (bits / count).tolist() == pytest.approx([2, 2, 2]) and count.tolist() == [6, 6, 6]
    assert (nats / count).tolist() == pytest.approx([math.log(4)] * 3)
    scores, _ = algorithm.summarize({name: value for name, value in found.items() if name.startswith("_")})  # type: ignore[misc]
    assert scores["perplexity"].item() == pytest.approx(4)


def test_the_loss_is_the_chain_rule_of_the_judged_characters() -> None:
    algorithm, batch = model(burn_in=2), windows()
    loss = algorithm.loss(batch)
    assert loss.count is not None and loss.count.tolist() == [4, 4, 4]
    for row in range(3):
        total = 0.0
        for place in range(2, 6):  # each prefix is read anew, from an empty memory
            logits = algorithm.logits(batch["token"][row : row + 1, : place + 1])[0, -1]
            total -= float(torch.log_softmax(logits.detach(), dim=0)[batch["next_token"][row, place]])
        assert float(loss.per_example.detach()[row]) == pytest.approx(total, rel=1e-5)


def test_a_text_is_written_character_by_character() -> None:
    algorithm = model()
    torch.nn.init.zeros_(algorithm.head.weight)
    with torch.no_grad():
        algorithm.head.bias.copy_(torch.tensor([-30.0, 1, 0, -30]))
    written = algorithm.sample(3, torch.Generator().manual_seed(0), length=400, prompt="ab").text
    texts = written.split("\n--------\n")
    assert [len(text) for text in texts] == [402] * 3 and all(text.startswith("ab") for text in texts)
    share = sum(text[2:].count("a") for text in texts) / 1200
    assert share == pytest.approx(math.e / (1 + math.e), abs=0.05)
    cold = algorithm.sample(1, torch.Generator().manual_seed(0), length=200, prompt="b", temperature=0.1).text
    assert cold.count("a") >= 198
    again = algorithm.sample(3, torch.Generator().manual_seed(0), length=400, prompt="ab").text
    assert again == written


def test_a_sample_goes_on_from_its_memory() -> None:
    algorithm = model()
    with torch.no_grad():
        algorithm.head.weight.mul_(2000)  # nearly certain of every character
        algorithm.head.bias[0] = -1e6
    text = algorithm.sample(1, torch.Generator().manual_seed(0), length=12, prompt="ab").text
    numbers = [NAMES.index(character) for character in text]
    likeliest = algorithm.logits(torch.tensor([numbers[:-1]])).argmax(dim=2)[0].tolist()
    assert numbers[2:] == likeliest[1:]


def test_a_model_may_be_told_its_places() -> None:
    """One that knows nothing else writes a character for each place of a window, and never an unknown one."""
    algorithm = model(places=True)
    with torch.no_grad():
        algorithm.embedding.weight.zero_()
    first, second = algorithm.logits(torch.tensor([[1, 2, 3, 1, 2, 3], [3, 3, 3, 3, 3, 3]])).detach()
    torch.testing.assert_close(first, second)
    with torch.no_grad():
        algorithm.head.weight.mul_(2000)
        algorithm.head.bias[0] = 1e4  # the unknown one would be the likeliest
    text = algorithm.sample(1, torch.Generator().manual_seed(0), length=5, prompt="ab").text
    likeliest = algorithm.logits(torch.ones(1, 6, dtype=torch.int64))[0, :, 1:].argmax(dim=1) + 1
    assert [NAMES.index(character) for character in text[2:]] == likeliest[1:].tolist()
    with pytest.raises(UserError, match="a text has 6 characters at most; lower length"):
        algorithm.sample(1, torch.Generator(), length=6, prompt="ab")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"temperature": 0}, "temperature must be a number from 0.001 to 1000, not 0"),
        ({"temperature": -0.5}, "temperature must be a number"),
        ({"temperature": float("nan")}, "temperature must be a number .* not nan"),
        ({"temperature": float("inf")}, "temperature must be a number .* not inf"),
        ({"temperature": 1e-300}, "temperature must be a number"),
        ({"temperature": "hot"}, "temperature must be a number .* not 'hot'"),
        ({"temperature": True}, "temperature must be a number"),
        ({"length": 0}, "length must be a whole number from 1 to 1,000,000, not 0"),
        ({"length": 2.5}, "length must be a whole number .* not 2.5"),
        ({"length": 10**9}, "length must be a whole number"),
        ({"prompt": "az"}, "prompt has the character 'z', which the training text does not have"),
        ({"prompt": ""}, "prompt must have at least one character"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        model().sample(1, torch.Generator(), **options)  # type: ignore[arg-type]


def test_the_coldest_and_the_hottest_write() -> None:
    algorithm = model()
    with torch.no_grad():
        algorithm.head.bias.copy_(torch.linspace(0, 1e6, len(algorithm.head.bias)))
    for temperature in (1e-3, 1e3):
        text = algorithm.write(1, torch.Generator().manual_seed(0), temperature, 5, "a")[0]
        assert text == algorithm.labels[-1] * 5


def test_windows_must_have_something_to_judge() -> None:
    with pytest.raises(UserError, match="leave some of a window's 6 characters"):
        model(burn_in=6)
    with pytest.raises(UserError, match="needs the fields token and next_token"):
        CharacterModel(CharacterModel.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
