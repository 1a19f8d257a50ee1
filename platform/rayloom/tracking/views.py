"""How MLflow shows an experiment of ours: a view of its runs, kept as a tag, and links that open it."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

_VIEW = "rayloom"
_VIEW_TAG = f"mlflow.sharedViewState.{_VIEW}"
"""MLflow's tag for views that its users share; the value is the state of its page, as its `share` button writes it."""
_COLUMNS = (
    *("metrics.`evaluate/return_mean`", "metrics.`evaluate/accuracy`", "metrics.`evaluate/loss`"),
    *("metrics.`train/return_mean`", "metrics.`train/loss`"),
    *("params.`learner.optimizer.learning_rate`", "params.`learner.batch_size`", "params.`seed`"),
    "tags.`rayloom.stopped_by`",
)
EXPERIMENT_TAGS = {
    # Marks the experiment as one of trained models rather than of language-model applications.
    "mlflow.experimentKind": "custom_model_development",
    _VIEW_TAG: json.dumps(
        {
            "searchFilter": "",
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "startTime": "ALL",
            "lifecycleFilter": "Active",
            "datasetsFilter": [],
            "modelVersionFilter": "All Runs",
            "selectedColumns": _COLUMNS,
            "runsPinned": [],
            "runsHidden": [],
            "runsHiddenMode": "FIRST_20_RUNS",
            "runsExpanded": {},
            "runListHidden": False,
            "groupBy": None,
            "groupsExpanded": {},
            "useGroupedValuesInCharts": True,
            "hideEmptyCharts": True,
            "chartsSearchFilter": "",
            "autoRefreshEnabled": True,
        }
    ),
}
"""Tags of an experiment when it is created."""


def experiment_links(database: Path, address: str) -> dict[str, str]:
    """Return a link to the view of each experiment of ours in an SQLite store, by name; {} where none can be read."""
    query = (
        "select name, experiments.experiment_id from experiments join experiment_tags using (experiment_id) "
        "where lifecycle_stage = 'active' and key = ? order by name"
    )
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as store:
            found = store.execute(query, (_VIEW_TAG,)).fetchall()
    except sqlite3.Error:
        return {}  # the server, which is started next, says what is wrong with it
    options = f"viewStateShareKey={_VIEW}&workflowType=machine_learning"
    return {name: f"{address}/#/experiments/{number}/runs?{options}" for name, number in found}
