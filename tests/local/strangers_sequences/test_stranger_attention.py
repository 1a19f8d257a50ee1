"""Sequence to sequence by one who read only the contract: ragged data, means over tokens, greedy decoding."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import rayloom
from cut_runs import without_its_end
from learners import Learners
from places import FAKES
from rayloom import datasets
from rayloom.config.load import load
from rayloom.contract import Batch
from rayloom.errors import UserError
from rayloom.runs.observer import Result
from rayloom.testing import check_algorithm
from strangers_sequences.attention import END, Translator

YAML = str(FAKES / "strangers_sequences" / "attention.yaml")
QUIET = ("tracking.enabled=false", "tracking.pictures=false", "tracking.system_metrics=false")
DATA: dict[str, Any] = {"import": "strangers_sequences.attention:reversals"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Result:
    output = tmp_path_factory.mktemp("attention")
    return rayloom.run(YAML, *QUIET, "checkpoint.every=36 updates", f"output={output}", local=True)


def translator() -> Translator:
    torch.manual_seed(0)
    return Translator(Translator.Config(cell_size=8), datasets.load(DATA, 0).spec)


def words_of(*rows: int) -> Batch:
    """Return words of the training split, padded to the longest of them."""
    batch: Batch = datasets.load(DATA, 0).train.rows(torch.tensor(rows))
    return batch


def unequal_rows() -> tuple[list[int], list[int]]:
    """Return rows of short words and rows of long ones."""
    lengths = datasets.load(DATA, 0).train.lengths["source"]
    return (lengths <= 2).nonzero()[:3, 0].tolist(), (lengths == 5).nonzero()[:4, 0].tolist()


def summed(algorithm: Translator, batch: Batch) -> tuple[torch.Tensor, float]:
    """Return the gradient of the summed loss, and the count."""
    loss = algorithm.loss(batch)
    assert loss.count is not None
    gradients = torch.autograd.grad(loss.per_example.sum(), tuple(algorithm.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients]), float(loss.count.sum())


def test_all_checks_of_the_contract_hold() -> None:
    results = check_algorithm(load(YAML))
    assert [result.failure for result in results] == [None] * len(results)
    skipped = {result.name for result in results if result.skipped}
    assert skipped == {"rules_add_up", "actions_fit", "deployed_rows_do_not_mix"}


def test_words_are_ragged_and_come_backwards() -> None:
    data = datasets.load(DATA, 0)
    seen: list[tuple[int, ...]] = []
    for split in (data.train, data.validation, data.test):
        batch = split.rows(torch.arange(len(split)))
        for source, target, length, written in zip(
            *(batch[name].tolist() for name in ("source", "target", "source_length", "target_length")), strict=True
        ):
            assert target[:written] == [*reversed(source[:length]), END] and not any(target[written:])
            assert not any(source[length:])
            seen.append(tuple(source[:length]))
    assert len(seen) == len(set(seen)) == 1500, "no word stands in two splits"
    assert {len(word) for word in seen} == {1, 2, 3, 4, 5}


def test_more_words_than_there_are_are_refused() -> None:
    with pytest.raises(UserError, match="there are 39 such words; ask for half of them at most"):
        datasets.load({**DATA, "words": 20, "letters": 3, "longest": 3}, 0)
    assert len(datasets.load({**DATA, "words": 19, "letters": 3, "longest": 3}, 0).train) == 17


def test_a_clueless_translator_loses_the_logarithm_of_the_tokens_at_each_of_them() -> None:
    algorithm = translator()
    torch.nn.init.zeros_(algorithm.head.weight)
    torch.nn.init.zeros_(algorithm.head.bias)
    short, long = unequal_rows()
    batch = words_of(short[0], long[0])
    loss = algorithm.loss(batch)
    tokens = [int(batch["source_length"][0]) + 1, 6]
    assert loss.count is not None and loss.count.tolist() == tokens
    assert loss.per_example.tolist() == pytest.approx([count * math.log(8) for count in tokens])


def test_shards_of_unequal_lengths_add_up_to_the_whole_batch() -> None:
    algorithm = translator()
    short, long = unequal_rows()
    whole, tokens = summed(algorithm, words_of(*short, *long))
    # Each shard is padded to its own longest word, and each word by itself not at all.
    for cut in ([short, long], [[row] for row in (*short, *long)]):
        parts = [summed(algorithm, words_of(*rows)) for rows in cut]
        assert sum(count for _, count in parts) == tokens
        together = torch.stack([gradient for gradient, _ in parts]).sum(0) / tokens
        torch.testing.assert_close(together, whole / tokens, rtol=1e-4, atol=1e-6)
    halves = [summed(algorithm, words_of(*rows)) for rows in (short, long)]
    naive = torch.stack([gradient / count for gradient, count in halves]).mean(0)
    assert not torch.allclose(naive, whole / tokens, rtol=1e-2, atol=1e-3), "the mean of the shards' means is another"


def test_two_learners_repeat_one() -> None:
    config = load(YAML, [*QUIET, "learner.optimizer={kind: sgd, learning_rate: 0.5}", "learner.batch_size=32"])
    one, two = Learners(config), Learners(replace(config, learner=replace(config.learner, count=2)))
    try:
        before = {name: value.clone() for name, value in one.roles[0].algorithm.state_dict().items()}
        for learners in (one, two):
            learners.train(12)
        ours, theirs = (learners.roles[0].algorithm.state_dict() for learners in (one, two))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=1e-4, atol=1e-5)
            assert not torch.equal(value, before[name]), name
        alone, halves = one.roles[0].metrics(), two.each(lambda role: role.metrics())
        for name in ("train/loss", "train/token_accuracy"):
            assert halves[0][name] == pytest.approx(alone[name], rel=1e-4)
    finally:
        one.close()
        two.close()


def test_greedy_decoding_learns_to_write_words_backwards(trained: Result) -> None:
    learnt = rayloom.load(trained.run_dir.name, output=str(trained.run_dir.parent))
    data = datasets.load(DATA, 0)
    untrained = Translator(learnt.config.algorithm, data.spec)
    batch = data.test.rows(torch.arange(len(data.test)))
    shares = []
    for algorithm in (untrained, learnt.algorithm):
        written, looked = algorithm.decode(batch["source"], batch["source_length"], 6)
        right = 0
        for source, length, tokens in zip(
            batch["source"].tolist(), batch["source_length"].tolist(), written.tolist(), strict=True
        ):
            wanted = [*reversed(source[:length]), END]
            right += tokens == wanted + [0] * (6 - len(wanted))
        shares.append(right / len(written))
        torch.testing.assert_close(looked.sum(dim=2), torch.ones(len(written), 6))
        outside = torch.arange(looked.shape[2]) >= batch["source_length"][:, None]
        assert bool((looked.transpose(1, 2)[outside] == 0).all()), "padding is never looked at"
    assert shares[0] < 0.05 and shares[1] > 0.7, shares
    output = str(trained.run_dir.parent)
    judged = rayloom.evaluate(trained.run_dir.name, "evaluate.split=test", output=output).metrics
    assert judged["evaluate/exact_match"] == pytest.approx(shares[1], abs=1e-6)


def test_a_saved_run_goes_on_as_if_nothing_had_happened(trained: Result, tmp_path: Path) -> None:
    resumed = rayloom.resume(without_its_end(trained, tmp_path), output=str(tmp_path))
    assert resumed.weights_sha256 == trained.weights_sha256 and resumed.counters == trained.counters
    for name in ("train/loss", "evaluate/exact_match", "evaluate/loss"):
        assert resumed.metrics[name] == trained.metrics[name]
