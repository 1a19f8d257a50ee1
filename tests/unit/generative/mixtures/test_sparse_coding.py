"""Sparse codes against scikit-learn's lasso, and the dictionary's step against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso

from rayloom import datasets
from rayloom.contract import TensorSpec
from rayloom_generative.equations.sparse_codes import iterative_shrinkage, objective, soft_threshold
from rayloom_generative.mixtures.sparse_coding import SparseCoding, SparseCodingConfig

IMAGES = {"image": TensorSpec(shape=(1, 8, 8), dtype=torch.uint8)}


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.randn(12, 8, generator=generator, dtype=torch.float64)
    dictionary /= dictionary.norm(dim=1, keepdim=True)
    return torch.randn(5, 8, generator=generator, dtype=torch.float64), dictionary


def test_codes_equal_the_lasso() -> None:
    data, dictionary = problem()
    codes = iterative_shrinkage(data, dictionary, 0.3, 2000)
    for row, code in zip(data, codes, strict=True):
        # Its objective is divided by the number of dimensions.
        reference = Lasso(alpha=0.3 / 8, fit_intercept=False, tol=1e-12, max_iter=100_000)
        reference.fit(dictionary.T.numpy(), row.numpy())
        np.testing.assert_allclose(code.numpy(), reference.coef_, rtol=1e-5, atol=1e-6)
    assert 0 < int((codes == 0).sum()) < codes.numel()


def test_a_strong_penalty_leaves_nothing() -> None:
    data, dictionary = problem()
    assert iterative_shrinkage(data, dictionary, float((data @ dictionary.T).abs().max()), 10).abs().max() == 0


def test_soft_threshold_by_hand() -> None:
    assert soft_threshold(torch.tensor([-3.0, -0.5, 0.0, 2.0]), 1.0).tolist() == [-2, 0, 0, 1]


def test_objective_by_hand() -> None:
    found = objective(torch.tensor([[1.0, 2.0]]), torch.tensor([[2.0, -1.0]]), torch.eye(2), 0.5)
    assert found.tolist() == [0.5 * (1 + 9) + 0.5 * 3]


def test_the_dictionary_descends_the_squared_error() -> None:
    torch.manual_seed(0)
    algorithm = SparseCoding(SparseCodingConfig(atoms=20), IMAGES)
    digits = datasets.load("digits", 0).train
    algorithm.initialize(digits)
    batch = algorithm.prepare({"image": digits["image"][:50]})
    with torch.no_grad():
        slope = algorithm.gather(batch).sums["slope"]
        codes = algorithm.encode(batch["centred"])
    error = 0.5 * (batch["centred"] - codes @ algorithm.dictionary).square().sum()
    (gradient,) = torch.autograd.grad(error, algorithm.dictionary)
    torch.testing.assert_close(slope, -gradient, rtol=1e-4, atol=1e-4)


def test_atoms_keep_their_length_and_the_step_its_size() -> None:
    torch.manual_seed(0)
    algorithm = SparseCoding(SparseCodingConfig(atoms=3, learning_rate=0.5), IMAGES)
    before = algorithm.dictionary.detach().clone()
    slope = torch.randn(3, 64)
    algorithm.progress.fraction = 0.5
    with torch.no_grad():
        algorithm.descend({"slope": slope}, 10.0)
    moved = before + 0.25 / 10 * slope
    torch.testing.assert_close(algorithm.dictionary.detach(), moved / moved.norm(dim=1, keepdim=True))


def test_data_are_centred_and_scaled_by_one_number() -> None:
    digits = datasets.load("digits", 0).train
    algorithm = SparseCoding(SparseCodingConfig(), IMAGES)
    algorithm.initialize(digits)
    centred = algorithm.prepare({"image": digits["image"]})["centred"]
    torch.testing.assert_close(centred.mean(0), torch.zeros(64), rtol=0, atol=1e-4)
    assert float(centred.square().mean()) == pytest.approx(1, rel=1e-4)


def test_pictures() -> None:
    algorithm = SparseCoding(SparseCodingConfig(atoms=20), IMAGES)
    with torch.no_grad():
        shown = algorithm.figures(algorithm.prepare({"image": datasets.load("digits", 0).train["image"][:20]}))
    assert shown["atoms"].data.shape == (20, 1, 8, 8)
    assert shown["reconstructions"].data.shape == (32, 1, 8, 8)
    assert float(shown["reconstructions"].data.min()) >= 0
