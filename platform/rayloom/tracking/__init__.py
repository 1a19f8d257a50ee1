"""Run tracking: the training process appends to a journal on disk, a writer process carries it to MLflow.

The journal is the truth and MLflow a copy of it, so a tracking server may die, hang or come back without training
noticing. Nothing in this file's imports loads MLflow or matplotlib: those belong to the writer.
"""

from __future__ import annotations

from rayloom.tracking.journal import read_metrics
from rayloom.tracking.location import resolve_uri
from rayloom.tracking.provenance import GitState, git_state, is_uploaded, ray_job_tag, submission_text
from rayloom.tracking.tracker import Tracker, record_end

__all__ = [
    "GitState",
    "Tracker",
    "git_state",
    "is_uploaded",
    "ray_job_tag",
    "read_metrics",
    "record_end",
    "resolve_uri",
    "submission_text",
]
