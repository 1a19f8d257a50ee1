"""Small tables that scikit-learn ships: a regression and a two-class problem that are always there."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from rayloom.components import component
from rayloom.contract import TensorSpec
from rayloom.datasets.dataset import Dataset, hold_out
from rayloom.errors import UserError

_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class DiabetesConfig:
    """442 patients: ten measurements and the progress of their diabetes a year later (Efron et al. 2004)."""


@dataclass(frozen=True, kw_only=True)
class BreastCancerConfig:
    """569 tumours: thirty measurements of cell nuclei and whether they are malignant (Street et al. 1993)."""


def _file(name: str) -> Path:
    """Return a file of scikit-learn, without importing it, which takes a second."""
    package = importlib.util.find_spec("sklearn")
    folders = package.submodule_search_locations if package else None
    path = Path(next(iter(folders))) / "datasets" / "data" / name if folders else None
    if path is None or not path.is_file():
        raise UserError(f"{name} comes with scikit-learn: run `pip install scikit-learn`")
    return path


def _split(fields: dict[str, npt.NDArray[np.generic]], spec: dict[str, TensorSpec], name: str) -> Dataset:
    """Hold out a fifth for validation and a fifth for the test, by a cut that never changes."""
    columns = {field: torch.from_numpy(values) for field, values in fields.items()}
    count = round(_HELD_OUT_SHARE * len(next(iter(columns.values()))))
    rest, test = hold_out(columns, count)
    train, validation = hold_out(rest, count)
    return Dataset(train, validation, test, spec, name)


@component("data set", DiabetesConfig)
def load_diabetes(config: DiabetesConfig, seed: int) -> Dataset:
    """Return the fields `features` float32 [10] as they were measured, and `target` float32 []."""
    features = np.loadtxt(_file("diabetes_data_raw.csv.gz")).astype(np.float32)
    target = np.loadtxt(_file("diabetes_target.csv.gz")).astype(np.float32)
    spec = {
        "features": TensorSpec(shape=(features.shape[1],), dtype=torch.float32),
        "target": TensorSpec(shape=(), dtype=torch.float32),
    }
    return _split({"features": features, "target": target}, spec, "diabetes")


@component("data set", BreastCancerConfig)
def load_breast_cancer(config: BreastCancerConfig, seed: int) -> Dataset:
    """Return the fields `features` float32 [30] as they were measured, and `label`, malignant or benign."""
    path = _file("breast_cancer.csv")
    with open(path, encoding="utf-8") as file:
        names = tuple(file.readline().strip().split(",")[2:])
    table = np.loadtxt(path, delimiter=",", skiprows=1)
    features = table[:, :-1].astype(np.float32)
    spec = {
        "features": TensorSpec(shape=(features.shape[1],), dtype=torch.float32),
        "label": TensorSpec(shape=(), dtype=torch.int64, num_values=2, labels=names),
    }
    return _split({"features": features, "label": table[:, -1].astype(np.int64)}, spec, "breast-cancer")
