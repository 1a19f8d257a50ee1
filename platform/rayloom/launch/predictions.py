"""What a run predicts of files without labels, as a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rayloom.contract import Spec
from rayloom.devices import device_of
from rayloom.errors import UserError
from rayloom.runs.weights import TrainedAlgorithm

if TYPE_CHECKING:
    import pandas

_WRITERS: Mapping[str, Callable[[Any, Path], None]] = {
    ".csv": lambda table, path: table.to_csv(path, index=False),
    ".parquet": lambda table, path: table.to_parquet(path, index=False),
}


def predict_files(built: TrainedAlgorithm, files: Sequence[Path]) -> pandas.DataFrame:
    """Return a table with a row for each example: its `file`, its `row` there (from 1), and what is predicted.

    UserError for a run whose data are no files of a known kind, for a model that predicts nothing, and for a file that
    cannot be read.
    """
    import pandas

    reader = None if built.dataset is None else built.dataset.reader
    if reader is None:
        raise UserError(
            f"predict: the data of {built.config.name} are not read from files of a known kind (images, CSV, Parquet, "
            "texts); use rayloom.load(RUN).predict in Python"
        )
    device, parts = device_of(built.algorithm), []
    for rows in reader(files):
        fields = {name: value.to(device) for name, value in rows.fields.items()}
        with torch.no_grad():
            found = built.algorithm.predictions(fields)
        columns = {name: _named(name, value.cpu(), built.spec) for name, value in found.items()}
        parts.append(pandas.DataFrame({"file": rows.files, "row": rows.places, **columns}))
    return pandas.concat(parts, ignore_index=True)


def write_table(table: pandas.DataFrame, destination: Path) -> Path:
    """Write a .csv or .parquet file; UserError for another suffix, or where it cannot be written."""
    writer = _WRITERS.get(destination.suffix)
    if writer is None:
        raise UserError(f"destination: {destination} must end in {' or '.join(_WRITERS)}")
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        writer(table, destination)
    except OSError as error:
        raise UserError(f"the table {destination} cannot be written ({error}); choose another file") from None
    return destination


def _named(name: str, values: Tensor, spec: Spec) -> list[Any]:
    labels = spec[name].labels if name in spec and not values.dtype.is_floating_point else ()
    return [labels[number] for number in values.tolist()] if labels else values.tolist()
