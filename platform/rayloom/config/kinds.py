"""Every table of components, by what they are: what `rayloom list KIND` knows. Read without torch."""

from __future__ import annotations

from rayloom.components import Kinds
from rayloom.config.augmentations import AUGMENTATIONS
from rayloom.config.evaluations import EVALUATIONS
from rayloom.config.import_path import ALGORITHMS
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schedules import SCHEDULES
from rayloom.config.sources import DATASETS, SOURCES, WRAPPERS

TABLES: dict[str, Kinds] = {
    "algorithm": ALGORITHMS, "source": SOURCES, "dataset": DATASETS, "wrapper": WRAPPERS, "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES, "augmentation": AUGMENTATIONS, "evaluation": EVALUATIONS,
}  # fmt: skip
"""The engine's own tables."""
FAMILY_TABLES: dict[str, str] = {
    "network": "rayloom_supervised.networks.kinds",
    "generator": "rayloom_generative.networks.adversarial",
    "critic": "rayloom_generative.networks.adversarial",
}
"""Tables of the families, by the module whose marked functions they list."""
