"""Data sets whose fields are discrete variables: which they are, and their joint states as figures."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayloom.contract import Batch, Figure, Spec, UserError


def variables_of(spec: Spec, chosen: Sequence[str] = ()) -> dict[str, int]:
    """Return the variables by name with their numbers of values: `chosen` ones, or every field of one category.

    UserError where there is none, or where a chosen one is no such field.
    """
    found = {
        name: each.categories for name, each in spec.items() if isinstance(each.num_values, int) and not each.shape
    }
    unknown = [name for name in chosen if name not in found]
    if unknown:
        raise UserError(
            f"algorithm.variables: there is no variable {unknown[0]!r}; the data set has {', '.join(found) or 'none'}"
        )
    if not found:
        raise UserError(f"source.dataset: a model of discrete variables needs fields of categories, not {sorted(spec)}")
    return {name: found[name] for name in chosen or found}


def known_variables(names: Sequence[str], variables: Sequence[str], key: str) -> None:
    """Refuse names that are no variables: UserError with the config's key."""
    unknown = [name for name in names if name not in variables]
    if unknown:
        raise UserError(f"{key}: there is no variable {unknown[0]!r}; name one of {', '.join(variables)}")


def states(batch: Batch, variables: Sequence[str]) -> Tensor:
    """Return the values of the variables, [B, V] int64."""
    return torch.stack([batch[name] for name in variables], dim=1)


def state_figure(values: Tensor, variables: Sequence[str]) -> Figure:
    """Return joint states [M, V] as a table with one column for each variable."""
    return Figure("table", values.float(), column_labels=tuple(variables))
