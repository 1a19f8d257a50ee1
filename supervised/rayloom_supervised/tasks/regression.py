"""Regression of a number on the columns of a table: by gradient with any network, or linear in closed form.

Equations 76 to 81 of Qiu's lecture notes (2015); the printed gradient 81 has the wrong sign.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor, nn

from rayloom.contract import (
    Algorithm,
    AlgorithmConfig,
    Batch,
    Component,
    Figure,
    Gathered,
    Loss,
    Metric,
    Phase,
    Rule,
    Spec,
    Table,
    UserError,
)
from rayloom_supervised.layers.standardization import StandardizeColumns
from rayloom_supervised.metrics.regression import determination
from rayloom_supervised.networks.kinds import NETWORKS, build_network

_SHOWN = 1000


class Regression(Algorithm):
    """What all regressors share: standardised columns, the measures, and a picture of predictions over targets."""

    sources = frozenset({"dataset"})
    metrics: ClassVar[Mapping[str, Metric]] = {
        "squared_error": Metric(better="min", unit="squared target", meaning="mean over the examples"),
        "absolute_error": Metric(better="min", unit="target", meaning="mean over the examples"),
        "r2": Metric(better="max", meaning="share of the targets' variance that is explained"),
        "loss": Metric(better="min", unit="squared target", meaning="half the squared error, with the penalty"),
    }

    def __init__(self, config: Any, spec: Spec) -> None:
        """Take the fields `features` [D] and `target` []."""
        super().__init__(config, spec)
        if "features" not in spec or "target" not in spec:
            raise UserError(
                f"source.dataset: a regression needs the fields features and target, not {', '.join(sorted(spec))}; "
                "use diabetes, or csv with target_kind: number"
            )
        (self.num_columns,) = spec["features"].shape
        self.standardize = StandardizeColumns(self.num_columns)
        self.target_statistics = StandardizeColumns(1)

    def initialize(self, data: Table | None) -> None:
        """Take means and deviations of the columns and of the target."""
        assert data is not None
        self.standardize.fit(data, "features")
        self.target_statistics.fit(data, "target")

    def prepare(self, trajectory: Batch) -> Batch:
        """Standardise the columns; the target stays."""
        return {**trajectory, "features": self.standardize(trajectory["features"])}

    def predict(self, features: Tensor) -> Tensor:
        """Return the predictions [B] for standardised columns [B, D]."""
        raise NotImplementedError

    def evaluate(self, batch: Batch) -> dict[str, Tensor]:
        """Return the errors of each example [B], and what `summarize` needs."""
        prediction, target = self.predict(batch["features"]), batch["target"]
        error = prediction - target
        return {
            "squared_error": error.square(),
            "absolute_error": error.abs(),
            "_prediction": prediction,
            "_target": target,
        }

    def summarize(self, outputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Figure]]:
        """Return R^2, and predictions over targets."""
        prediction, target = outputs["_prediction"], outputs["_target"]
        points = torch.stack((target, prediction), dim=1)[:_SHOWN].float()
        figure = Figure("points", points, reference=points[:, :1].expand(-1, 2), axes=("target", "prediction"))
        return {"r2": determination(prediction, target)}, {"predictions": figure}

    def predictions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the `target` [B] that is expected, in the data's own unit."""
        module = self.inference_module()
        assert module is not None
        return {"target": module(batch["features"])}

    def inference_input(self) -> str:
        """Return `features`."""
        return "features"


@dataclass(frozen=True, kw_only=True)
class RegressorConfig(AlgorithmConfig):
    """Settings of regression by gradient."""

    network: Annotated[Component, NETWORKS] = field(default_factory=NETWORKS.component)
    """What maps standardised columns to the standardised target; softmax_regression is the affine map: a linear
    regression."""
    l2: Annotated[float, Ge(0)] = 0.0
    """Adds l2 / 2 times the sum of the weights' squares to the loss; biases are free."""


class Regressor(Regression):
    """A network of any kind that descends half the squared error of the standardised target."""

    Config = RegressorConfig

    def __init__(self, config: RegressorConfig, spec: Spec) -> None:
        """Build the network."""
        super().__init__(config, spec)
        self.network = build_network(config.network, spec["features"], 1)

    def phases(self) -> list[Phase]:
        """Return the one phase."""
        return [Phase("regress", self.loss, tuple(self.network.parameters()))]

    def predict(self, features: Tensor) -> Tensor:
        """Return the predictions [B] in the target's own unit."""
        found: Tensor = self.network(features).squeeze(1)
        return found * self.target_statistics.deviation + self.target_statistics.mean

    def loss(self, batch: Batch) -> Loss:
        """Return half the squared error of the standardised target [B] (equation 77), with the penalty."""
        error = (self.predict(batch["features"]) - batch["target"]) / self.target_statistics.deviation
        losses = 0.5 * error.square()
        if self.config.l2:
            weights = [parameter for parameter in self.network.parameters() if parameter.ndim > 1]
            losses = losses + self.config.l2 / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()
        measured = error.detach() * self.target_statistics.deviation
        return Loss(losses, {"squared_error": measured.square()})

    def inference_module(self) -> nn.Module:
        """Return the module from columns [B, D] as they are in the data to predictions [B]."""
        return _Predictor(self.standardize, self.network, self.target_statistics)


@dataclass(frozen=True, kw_only=True)
class LeastSquaresConfig(AlgorithmConfig):
    """Settings of linear regression in closed form."""

    ridge: Annotated[float, Ge(0)] = 0.0
    """Penalty: ridge times the sum of the squared weights of standardised columns is added to the sum of squared
    errors; the intercept is free."""


class LeastSquares(Regression):
    """Linear regression by the normal equations w = (X^T X + ridge)^-1 X^T y (equations 79 and 80).

    One pass over the data gathers X^T X and X^T y in float64, over all learners; then the equations are solved, by the
    pseudo-inverse, so that columns which depend on others do no harm.
    """

    Config = LeastSquaresConfig
    coefficients: Tensor

    def __init__(self, config: LeastSquaresConfig, spec: Spec) -> None:
        """Begin with coefficients of 0; the last one is the intercept."""
        super().__init__(config, spec)
        self.register_buffer("coefficients", torch.zeros(self.num_columns + 1, dtype=torch.float64))

    def phases(self) -> list[Rule]:
        """Return the one rule, over a whole pass."""
        return [Rule("solve", self.gather, self.solve, (self.coefficients,), over="epoch")]

    @staticmethod
    def _with_one(features: Tensor) -> Tensor:
        rows = features.double()
        return torch.cat((rows, rows.new_ones(len(rows), 1)), dim=1)

    def predict(self, features: Tensor) -> Tensor:
        """Return the predictions [B]."""
        return (self._with_one(features) @ self.coefficients).to(torch.float32)

    def gather(self, batch: Batch) -> Gathered:
        """Return X^T X and X^T y of the rows at hand."""
        rows, target = self._with_one(batch["features"]), batch["target"].double()
        error = (rows @ self.coefficients - target).square()
        return Gathered({"products": rows.T @ rows, "moments": rows.T @ target}, {"squared_error": error.float()})

    def solve(self, sums: dict[str, Tensor], count: float) -> None:
        """Solve the normal equations."""
        penalty = torch.full_like(self.coefficients, self.config.ridge)
        penalty[-1] = 0
        products = sums["products"] + torch.diag(penalty)
        self.coefficients.copy_(torch.linalg.pinv(products, hermitian=True) @ sums["moments"])

    def inference_module(self) -> nn.Module:
        """Return the module from columns [B, D] as they are in the data to predictions [B]."""
        return _Affine(self.standardize, self.coefficients)


class _Predictor(nn.Module):
    def __init__(self, standardize: nn.Module, network: nn.Module, target: StandardizeColumns) -> None:
        super().__init__()
        self.standardize, self.network, self.target = standardize, network, target

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.network(self.standardize(features)).squeeze(1)
        return found * self.target.deviation + self.target.mean


class _Affine(nn.Module):
    coefficients: Tensor

    def __init__(self, standardize: nn.Module, coefficients: Tensor) -> None:
        super().__init__()
        self.standardize = standardize
        self.register_buffer("coefficients", coefficients)

    def forward(self, features: Tensor) -> Tensor:
        rows: Tensor = self.standardize(features).double()
        return (rows @ self.coefficients[:-1] + self.coefficients[-1]).to(torch.float32)
