"""Graphical models learn from their shipped configs, better than what has no structure."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from scipy.special import logsumexp
from sklearn.naive_bayes import BernoulliNB

import rayloom
from rayloom import datasets
from rayloom.datasets.causes import ASIA, SPRINKLER, Network


def reached(name: str, tmp_path: Path, *overrides: str) -> dict[str, float]:
    quiet = ("tracking.enabled=false", "tracking.pictures=false", f"output={tmp_path}", "evaluate.every=null")
    return dict(rayloom.run(name, *overrides, *quiet, local=True).metrics)


def test_naive_bayes_is_scikit_learns(tmp_path: Path) -> None:
    found = reached("naive_bayes_digits", tmp_path)
    data = datasets.load("digits", 0)
    images = {name: getattr(data, name)["image"].flatten(1).numpy() for name in ("train", "validation")}
    labels = {name: getattr(data, name)["label"].numpy() for name in ("train", "validation")}
    peer = BernoulliNB(binarize=0.4 * 255).fit(images["train"], labels["train"])
    assert found["evaluate/accuracy"] == pytest.approx(peer.score(images["validation"], labels["validation"]))
    joint = peer.predict_joint_log_proba(images["validation"])
    assert found["evaluate/nll"] == pytest.approx(-logsumexp(joint, axis=1).mean(), abs=1e-6)


@pytest.mark.parametrize(("kind", "network"), [("sprinkler", SPRINKLER), ("asia", ASIA)])
def test_counted_tables_are_near_the_true_network(kind: str, network: Network, tmp_path: Path) -> None:
    found = reached(f"bayesian_network_{kind}", tmp_path, "evaluate.split=test")
    columns = dict(datasets.load(kind, 0).test.columns)
    truth = torch.zeros(len(columns["smoking" if kind == "asia" else "rain"]), dtype=torch.float64)
    for name, (parents, yes) in network.items():
        chance = yes[tuple(columns[parent] for parent in parents)] if parents else yes
        truth -= torch.where(columns[name] == 1, chance, 1 - chance).log()
    assert abs(found["evaluate/loss"] - float(truth.mean())) < 0.005
    assert found["evaluate/impossible"] == 0


def test_a_log_linear_model_with_the_cliques_of_a_network_is_as_likely(tmp_path: Path) -> None:
    by_gradient = reached("log_linear_sprinkler", tmp_path, "stop.epochs=20")
    by_counting = reached("bayesian_network_sprinkler", tmp_path)
    assert abs(by_gradient["evaluate/loss"] - by_counting["evaluate/loss"]) < 0.004


def test_labels_that_interact_beat_a_softmax_for_each_position(tmp_path: Path) -> None:
    chain, alone = (
        reached("crf_grammar", tmp_path, "stop.epochs=3", f"algorithm.transitions={choice}")
        for choice in ("true", "false")
    )
    assert chain["evaluate/accuracy"] >= 0.94
    assert alone["evaluate/accuracy"] <= 0.75


def test_a_markov_random_field_restores_digits(tmp_path: Path) -> None:
    found = {
        way: reached("markov_random_field_digits", tmp_path, "stop.epochs=10", f"algorithm.restore={way}")
        for way in ("icm", "loopy")
    }
    for way, metrics in found.items():
        assert metrics["evaluate/restored_error"] < 0.8 * metrics["evaluate/noisy_error"], way
    assert found["loopy"]["evaluate/restored_error"] < found["icm"]["evaluate/restored_error"]


def test_a_sigmoid_belief_network_beats_independent_pixels(tmp_path: Path) -> None:
    found = reached("sigmoid_belief_net_digits", tmp_path, "stop.epochs=15", "learner.optimizer.learning_rate=0.02")
    data = datasets.load("digits", 0)
    train, held_out = ((part["image"].flatten(1) > 0.4 * 255).double() for part in (data.train, data.validation))
    chance = (train.sum(0) + 1) / (len(train) + 2)
    independent = -(held_out * chance.log() + (1 - held_out) * (1 - chance).log()).sum(1).mean()
    assert found["evaluate/nll_iw50"] < float(independent) - 2


@pytest.mark.full
def test_five_seeds_of_the_shipped_configs(tmp_path: Path) -> None:
    for seed, transitions in itertools.product(range(5), ("true", "false")):
        found = reached("crf_grammar", tmp_path, f"seed={seed}", f"algorithm.transitions={transitions}")
        limit = 0.95 if transitions == "true" else 0.75
        assert (found["evaluate/accuracy"] >= limit) == (transitions == "true")
    for seed in range(5):
        found = reached("sigmoid_belief_net_digits", tmp_path, f"seed={seed}")
        assert found["evaluate/nll_iw50"] < 20.5
        found = reached("markov_random_field_digits", tmp_path, f"seed={seed}")
        assert found["evaluate/restored_error"] < 0.7 * found["evaluate/noisy_error"]
