"""Rules against closed forms and scikit-learn, and over passes and batches of any cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import decomposition
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.mixture import GaussianMixture

from contexts import context_of
from rayloom.config.schema import LearnerConfig
from rayloom.config.sources import DatasetSourceConfig
from rayloom.contract import Algorithm, AlgorithmConfig, Batch, Gathered, Loss, Phase, Progress, Rule, TensorSpec
from rayloom.datasets.dataset import Dataset
from rayloom.datasets.tables import TensorTable
from rayloom.errors import UserError
from rayloom.learner.group import Group
from rayloom.learner.learner import Learner
from rayloom.learner.resharding import reshard_own
from rayloom.sources.dataset import DatasetSource
from rayloom.testing.learners import SimulatedGroup, simulate
from rule_kmeans import KMeans, KMeansConfig
from rule_mixture import Mixture, MixtureConfig
from rule_pca import PCA

SPEC = {"point": TensorSpec(shape=(3,), dtype=torch.float64)}


def blobs(count: int = 150) -> torch.Tensor:
    """Return points [N, 3] of three normal distributions that overlap a little; the first three are of all three."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0, 0], [4, 1, 0], [0, 5, 2]], dtype=torch.float64)
    spread = torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    part = torch.arange(count) % 3
    return centres[part] + spread * torch.randn(count, 3, generator=generator, dtype=torch.float64)


def source_of(points: torch.Tensor, algorithm: Algorithm, batch_size: int, group: Group | None = None) -> DatasetSource:
    split = {"point": points}
    dataset = Dataset(split, split, split, SPEC)
    config = DatasetSourceConfig(kind="dataset", dataset="points", drop_last=False)
    return DatasetSource(config, context_of(algorithm, batch_size, data=dataset, group=group))


def trained(
    make: Callable[[], Algorithm], passes: int, batch_size: int = 40, group: SimulatedGroup | None = None
) -> Algorithm:
    """Return an algorithm after so many passes over the blobs; 40 does not divide 150."""
    algorithm, points = make(), blobs()
    with torch.no_grad():
        algorithm.initialize(TensorTable({"point": points}))
    learner = Learner(algorithm, LearnerConfig(batch_size=batch_size), group)
    source = source_of(points, algorithm, batch_size, group)
    learner.attach(source)
    while source.counters()["epochs"] < passes:
        learner.update(source.next, source.feedback)
    return algorithm


def close(mine: Any, theirs: Any) -> None:
    np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), rtol=1e-8, atol=1e-8)


def _kmeans() -> KMeans:
    return KMeans(KMeansConfig(clusters=3), SPEC)


def _mixture() -> Mixture:
    return Mixture(MixtureConfig(), SPEC)


def _pca() -> PCA:
    return PCA(AlgorithmConfig(), SPEC)


def test_k_means_equals_scikit_learn() -> None:
    points = blobs().numpy()
    reference = ReferenceKMeans(3, init=points[:3], n_init=1, max_iter=30, tol=0, algorithm="lloyd").fit(points)
    algorithm: Any = trained(_kmeans, 30)
    close(algorithm.centres, reference.cluster_centers_)
    assert not np.allclose(points[:3], reference.cluster_centers_, atol=0.1)


def test_principal_components_equal_scikit_learn() -> None:
    reference = decomposition.PCA(svd_solver="full").fit(blobs().numpy())
    algorithm: Any = trained(_pca, 1)
    close(algorithm.mean, reference.mean_)
    close(algorithm.variances, reference.explained_variance_)
    signs = np.sign((algorithm.components.numpy() * reference.components_).sum(1))
    close(algorithm.components.numpy() * signs[:, None], reference.components_)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_expectation_maximisation_equals_scikit_learn() -> None:
    points = blobs().numpy()
    start = {"weights_init": np.full(3, 1 / 3), "means_init": points[:3], "precisions_init": np.stack([np.eye(3)] * 3)}
    reference = GaussianMixture(3, tol=0, reg_covar=1e-6, max_iter=12, random_state=0, **start).fit(points)
    algorithm: Any = trained(_mixture, 12)
    close(algorithm.weights, reference.weights_)
    close(algorithm.means, reference.means_)
    close(algorithm.covariances, reference.covariances_)


@pytest.mark.parametrize("make", [_kmeans, _pca, _mixture])
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_learners_and_other_batches_come_to_the_same(make: Any, world_size: int) -> None:
    alone = trained(make, 5, batch_size=150)
    together = simulate(world_size, lambda group: trained(make, 5, 40, group))
    for name, value in alone.named_buffers():
        for other in together:
            close(dict(other.named_buffers())[name], value)
            assert torch.equal(dict(other.named_buffers())[name], dict(together[0].named_buffers())[name])


class _Perceptron(Algorithm):
    """Rosenblatt's rule: adds y x of every example that is on the wrong side."""

    def __init__(self, over: Any = "batch", phase: bool = False, **settings: Any) -> None:
        super().__init__(AlgorithmConfig(), {})
        self.weight = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self._rule = {"over": over, **settings}
        self._phase = phase

    def phases(self) -> list[Phase | Rule]:
        rule = Rule("perceptron", self.gather, self.apply, (self.weight,), **self._rule)
        return [rule, *([Phase("bias", self.loss, (self.bias,), repeat=2)] if self._phase else [])]

    def loss(self, batch: Batch) -> Loss:
        return Loss((self.bias - batch["y"]).square())

    def gather(self, batch: Batch) -> Gathered:
        wrong = (batch["x"] @ self.weight) * batch["y"] <= 0
        found = (batch["x"] * batch["y"][:, None])[wrong].sum(0)
        weight = batch.get("count")
        return Gathered({"step": found, "wrong": wrong.sum()}, {"error": wrong.float()}, weight)

    def apply(self, sums: dict[str, torch.Tensor], count: float) -> dict[str, torch.Tensor]:
        self.weight += sums["step"] / count
        self.counts = [*getattr(self, "counts", []), count]
        return {"changed": sums["wrong"].float()}


def _examples(rows: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(rows, 3, generator=generator)
    return {"x": x, "y": torch.sign(x @ torch.tensor([1.0, -2.0, 0.5]))}


def test_a_rule_over_batches_applies_every_time_and_reports() -> None:
    algorithm, batch = _Perceptron(), _examples()
    learner = Learner(algorithm, LearnerConfig())
    learner.update(lambda: batch, lambda loss: None)
    expected = (batch["x"] * batch["y"][:, None]).sum(0) / 12
    torch.testing.assert_close(algorithm.weight.data, expected)
    second = ((batch["x"] @ expected) * batch["y"] <= 0).float()
    learner.update(lambda: batch, lambda loss: None)
    metrics = learner.drain_metrics()
    assert metrics == {
        "error": pytest.approx(float(1 + second.mean()) / 2),
        "changed": pytest.approx(float(12 + second.sum()) / 2),
    }
    assert learner.learning_rate() is None
    assert set(learner.trained()) == {"weight"}


def test_counts_of_a_rule_are_summed_over_the_learners() -> None:
    batch = {**_examples(), "count": torch.arange(12.0)}

    def learn(group: SimulatedGroup) -> _Perceptron:
        algorithm = _Perceptron()
        share = {name: value[group.rank * 5 : 5 + group.rank * 7] for name, value in batch.items()}
        Learner(algorithm, LearnerConfig(), group).update(lambda: share, lambda loss: None)
        return algorithm

    for algorithm in simulate(2, learn):
        assert algorithm.counts == [66.0]
        torch.testing.assert_close(algorithm.weight.data, (batch["x"] * batch["y"][:, None]).sum(0) / 66)


def test_a_rule_that_joins_in_the_middle_of_a_pass_waits_for_a_whole_one() -> None:
    points = blobs(90)
    seen: list[tuple[int, float]] = []

    class Counter(_Perceptron):
        def gather(self, batch: Batch) -> Gathered:
            return Gathered({"step": torch.zeros(3), "wrong": torch.tensor(0)})

        def apply(self, sums: dict[str, torch.Tensor], count: float) -> dict[str, torch.Tensor]:
            seen.append((source.counters()["epochs"], count))
            return {}

        def phases(self) -> list[Phase | Rule]:
            draws = Rule("draws", self.gather, lambda sums, count: None, (self.weight,))
            return [draws, *super().phases()]

    def from_the_fourth(progress: Progress) -> bool:
        return progress.updates >= 4

    algorithm = Counter("epoch", when=from_the_fourth)
    learner = Learner(algorithm, LearnerConfig(batch_size=30))
    source = source_of(points, algorithm, 30)
    learner.attach(source)
    for update in range(9):  # three batches in each pass; the rule misses the first batch of the second pass
        algorithm.progress.updates = update
        learner.update(source.next, source.feedback)
    assert seen == [(3, 90.0)]


def test_a_pass_continues_where_it_was_saved_also_on_other_learners() -> None:
    whole: Any = trained(_kmeans, 4)

    def begin(group: SimulatedGroup) -> tuple[Any, Any, Any]:
        algorithm, points = _kmeans(), blobs()
        algorithm.initialize(TensorTable({"point": points}))
        learner = Learner(algorithm, LearnerConfig(batch_size=40), group)
        source = source_of(points, algorithm, 40, group)
        learner.attach(source)
        for _ in range(6):  # four batches in each pass
            learner.update(source.next, source.feedback)
        return learner.state_dict(), learner.own_state_dict(), source.state_dict()

    states = simulate(2, begin)
    assert all(state[1]["rules"][0]["sums"] for state in states), "the pass is under way"
    parts = reshard_own([state[1] for state in states], 3)

    def go_on(group: SimulatedGroup) -> Any:
        algorithm = _kmeans()
        learner = Learner(algorithm, LearnerConfig(batch_size=40), group)
        source = source_of(blobs(), algorithm, 40, group)
        learner.attach(source)
        learner.load_state_dict(states[0][0], parts[group.rank])
        source.load_state_dict(states[0][2])
        while source.counters()["epochs"] < 4:
            learner.update(source.next, source.feedback)
        return algorithm

    for algorithm in simulate(3, go_on):
        close(algorithm.centres, whole.centres)


@pytest.mark.parametrize(
    ("algorithm", "sentence"),
    [
        (lambda: _Perceptron("epoch", every=2), "every is 2, but a rule over an epoch sees every batch"),
        (lambda: _Perceptron("epoch", phase=True), "misses batches; remove repeat"),
        (lambda: _Perceptron("pass"), "over is 'pass'"),
    ],
)
def test_rules_that_would_miss_batches_are_refused(algorithm: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Learner(algorithm(), LearnerConfig())
