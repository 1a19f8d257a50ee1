"""Evaluations of the user's own: `evaluate: {import: "my_games:Matches", every: 500 updates, games: 200}`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rayloom.config.import_path import import_object
from rayloom.config.sources import STRICT
from rayloom.errors import UserError

if TYPE_CHECKING:
    from rayloom.contract import Evaluation

OF_EVERY_EVALUATION = ("every", "deadline_s")
"""Keys of `evaluate` that belong to the engine, whatever evaluation there is."""


@dataclass(frozen=True)
class OwnEvaluation:
    """An evaluation that is imported, and its settings."""

    __pydantic_config__ = STRICT
    path: str
    settings: Any
    """An instance of its `Config`."""


def import_evaluation(path: Any) -> type[Evaluation]:
    """Import an evaluation class by path; nothing is called."""
    from rayloom.contract import Evaluation  # which imports torch: only where an evaluation is imported

    if not isinstance(path, str):
        raise UserError(f'evaluate.import: name the evaluation as "package.module:Class", not {path!r}')
    found = import_object(path, "evaluate.import")
    if not isinstance(found, type) or not issubclass(found, Evaluation):
        raise UserError(f"evaluate.import: {path} is not a subclass of rayloom.contract.Evaluation")
    for name in ("import", *OF_EVERY_EVALUATION):
        if any(field.name == name for field in dataclasses.fields(found.Config)):
            raise UserError(f"evaluate.import: {name} is the engine's; rename this field in the Config of {path}")
    return found


def written(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return an `evaluate` part as plain data in the form in which a config writes it."""
    tree = dict(part)
    own = tree.pop("own")
    if own is None:
        return tree
    return {"import": own["path"], **{name: tree[name] for name in OF_EVERY_EVALUATION}, **own["settings"]}
