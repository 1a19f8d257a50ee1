"""Questions about two facts, and the memory network by its equations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rayloom import datasets
from rayloom.contract import Batch, TensorSpec, UserError
from rayloom_supervised.data.two_facts import PLACES, WORDS, answer
from rayloom_supervised.tasks.question_answering import Answerer, MemoryNetwork

DATA = {
    "import": "rayloom_supervised.data.two_facts:two_facts",
    "train_size": 300,
    "validation_size": 5,
    "test_size": 5,
}
STORIES = datasets.load(DATA, 0)


def test_answers_follow_from_the_facts() -> None:
    facts = [
        ("john", "goes", "garden"),
        ("mary", "goes", "office"),
        ("john", "takes", "apple"),
        ("john", "goes", "hallway"),
    ]
    assert answer(facts, "apple") == "hallway" and answer(facts, "milk") is None
    assert answer([("mary", "takes", "milk")], "milk") is None
    batch = STORIES.train.rows(torch.arange(300))
    for row in range(300):
        told = batch["fact"][row, : batch["fact_length"][row]].tolist()
        owner, place = None, {}
        where = {}
        for who, verb, what in ((WORDS[a], WORDS[b], WORDS[c]) for a, b, c in told):
            if verb == "goes":
                place[who] = what
            else:
                where[what] = owner = who
        thing = WORDS[batch["question"][row, 1]]
        assert owner is not None and place[where[thing]] == PLACES[batch["label"][row]]


def test_hops_follow_the_equations() -> None:
    torch.manual_seed(0)
    network = MemoryNetwork(7, 4, 3, 2).double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    facts, lengths, question = torch.randint(7, (1, 4, 3)), torch.tensor([3]), torch.randint(7, (1, 2))
    found, looked = network(facts, lengths, question)
    words = [table.weight.detach().numpy() for table in network.words]  # type: ignore[union-attr]
    ages = [table.weight.detach().numpy() for table in network.ages]  # type: ignore[union-attr]

    def encoded(table: np.ndarray, sentence: list[int]) -> np.ndarray:
        count, total = len(sentence), np.zeros(3)
        for j, word in enumerate(sentence, start=1):
            weight = np.array([(1 - j / count) - (k / 3) * (1 - 2 * j / count) for k in (1, 2, 3)])
            total += weight * table[word]
        return total

    state = encoded(words[0], question[0].tolist())
    for hop in range(2):
        keys, values = (
            np.stack([encoded(words[k], facts[0, i].tolist()) + ages[k][2 - i] for i in range(3)])
            for k in (hop, hop + 1)
        )
        weights = np.exp(keys @ state)
        weights /= weights.sum()
        np.testing.assert_allclose(looked[0, hop, :3].detach(), weights)
        assert not looked[0, hop, 3]
        state = state + weights @ values
    np.testing.assert_allclose(found[0].detach(), state)


@pytest.mark.parametrize("memory", ["facts", "lstm"])
def test_padding_does_not_matter(memory: str) -> None:
    torch.manual_seed(0)
    algorithm = Answerer(Answerer.Config(memory=memory, size=8), STORIES.spec)  # type: ignore[arg-type]
    lengths = STORIES.train.rows(torch.arange(300))["fact_length"]
    alone: Batch = STORIES.train.rows(lengths.argmin()[None])
    together: Batch = STORIES.train.rows(torch.stack((lengths.argmin(), lengths.argmax())))
    torch.testing.assert_close(algorithm.logits(alone)[0], algorithm.logits(together)[0])


def test_the_order_of_facts_is_seen() -> None:
    torch.manual_seed(0)
    algorithm = Answerer(Answerer.Config(size=8), STORIES.spec)
    batch: Batch = STORIES.train.rows(torch.tensor([0]))
    turned = {**batch, "fact": batch["fact"].flip(1)}
    assert not torch.allclose(algorithm.logits(batch), algorithm.logits(turned))


def test_other_data_are_refused() -> None:
    with pytest.raises(UserError, match="needs the ragged field fact, question and label"):
        Answerer(Answerer.Config(), {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)})
