"""Principal components against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import decomposition

from rayloom.contract import TensorSpec
from rayloom.errors import UserError
from rayloom_generative.mixtures.pca import PCA, PCAConfig

SPEC = {"point": TensorSpec(shape=(6,), dtype=torch.float32)}


def fitted() -> tuple[PCA, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(500, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 10
    algorithm = PCA(PCAConfig(components=3), SPEC)
    parts = [algorithm.gather({"point": part}) for part in torch.split(data, 200)]
    sums = {name: sum(part.sums[name] for part in parts) for name in parts[0].sums}
    explained = algorithm.decompose(sums, 500.0)["explained"]
    assert float(explained) == pytest.approx(decomposition.PCA(3).fit(data.double()).explained_variance_ratio_.sum())
    return algorithm, data


def test_equals_scikit_learn_up_to_the_sign() -> None:
    algorithm, data = fitted()
    reference = decomposition.PCA(3).fit(data.double().numpy())
    signs = np.sign((algorithm.components.numpy() * reference.components_).sum(1, keepdims=True))
    np.testing.assert_allclose(algorithm.components.numpy(), signs * reference.components_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(algorithm.mean.numpy(), reference.mean_, rtol=1e-12)
    np.testing.assert_allclose(algorithm.variances.numpy(), reference.explained_variance_, rtol=1e-9)
    assert float(algorithm.noise_variance) == pytest.approx(reference.noise_variance_, rel=1e-9)
    projected = algorithm.inference_module()(data)
    np.testing.assert_allclose(projected.numpy(), signs.T * reference.transform(data.numpy()), rtol=1e-3, atol=1e-3)


def test_metrics_equal_scikit_learn() -> None:
    algorithm, data = fitted()
    reference = decomposition.PCA(3).fit(data.double().numpy())
    found = algorithm.evaluate({"point": data})
    np.testing.assert_allclose(-found["nll"].numpy(), reference.score_samples(data.double().numpy()), rtol=1e-8)
    rebuilt = reference.inverse_transform(reference.transform(data.double().numpy()))
    np.testing.assert_allclose(
        found["reconstruction"].numpy(), ((rebuilt - data.numpy()) ** 2).sum(1), rtol=1e-6, atol=1e-9
    )


def test_the_largest_number_of_each_component_is_positive() -> None:
    algorithm, _ = fitted()
    rows = algorithm.components
    assert bool((rows.gather(1, rows.abs().argmax(1, keepdim=True)) > 0).all())


def test_samples_have_the_covariance_of_the_model() -> None:
    algorithm, data = fitted()
    drawn = algorithm.sample(50_000, torch.Generator().manual_seed(0)).data
    assert drawn is not None
    model = algorithm.model()
    expected = (model.weight @ model.weight.T + model.variance * torch.eye(6)).float()
    torch.testing.assert_close(drawn.T.cov(), expected, rtol=0, atol=0.03 * float(expected.max()))
    torch.testing.assert_close(drawn.mean(0), data.mean(0), rtol=0, atol=0.1)


def test_as_many_components_as_dimensions() -> None:
    with pytest.raises(UserError, match=r"algorithm\.components: the data have 6 dimensions"):
        PCA(PCAConfig(components=6), SPEC)
