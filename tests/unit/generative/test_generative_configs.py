"""The shipped runs of generative models can be built and take a step."""

from __future__ import annotations

import pytest
import torch

from places import ROOT
from rayloom import datasets
from rayloom.config import load as config
from rayloom.contract import Rule, TensorSpec
from rayloom.learner.learner import Learner

FOLDER = ROOT / "configs" / "generative"
CHAPTERS = ("adversarial", "autoencoders")
"""Chapters of networks on images or points; what other chapters ship is tested beside their systems."""
NAMES = sorted(path.stem for chapter in CHAPTERS for path in (FOLDER / chapter).glob("*.yaml"))
FASHION = {"image": TensorSpec(shape=(1, 28, 28), dtype=torch.uint8)}


def test_every_shipped_run_is_tested() -> None:
    assert {
        "conditional_gan_digits",
        "dcgan_digits",
        "dcgan_fashion_mnist",
        "gan_gaussian_ring",
        "vae_digits",
        "vae_fashion_mnist",
        "wgan_gaussian_grid",
        "wgan_gp_digits",
        "wgan_gp_gaussian_grid",
    } <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_run_takes_a_step(name: str) -> None:
    run = config.load(name)
    torch.manual_seed(0)
    if run.source.dataset == "fashion-mnist":
        spec, batch = FASHION, {"image": torch.randint(0, 256, (128, 1, 28, 28), dtype=torch.uint8)}
    else:
        data = datasets.load(run.source.dataset, 0)
        spec, batch = data.spec, {key: value[:128] for key, value in data.train.columns.items()}
    algorithm = run.algorithm_class()(run.algorithm, spec)
    if any(isinstance(step, Rule) for step in algorithm.phases()):
        return  # it needs the statistics and the end of a pass: tests/local/test_shipped_configs.py runs it whole
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    Learner(algorithm, run.learner).update(lambda: algorithm.prepare(batch), lambda loss: None)
    changed = {key for key, value in algorithm.state_dict().items() if not torch.equal(value, before[key])}
    assert changed >= {name for name, _ in algorithm.named_parameters() if name.endswith("weight")}
    with torch.no_grad():
        found = algorithm.evaluate(algorithm.prepare(batch))
        metrics, _ = algorithm.summarize({key: value for key, value in found.items() if key.startswith("_")})
    best = run.checkpoint.best
    assert best is None or best.removeprefix("evaluate/") in {*found, *metrics}
    assert all(bool(value.isfinite().all()) for value in found.values())
