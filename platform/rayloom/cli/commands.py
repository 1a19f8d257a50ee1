"""What the commands of `rayloom` do. Heavy things are imported inside them, so that `rayloom --help` is immediate."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rayloom.cli.terminal import human_stream, own_stdout, print_json

if TYPE_CHECKING:
    from rayloom.cli.run_display import Display
    from rayloom.cli.study_display import StudyDisplay
    from rayloom.config.schema import RunConfig
    from rayloom.launch.trained import Written
    from rayloom.runs.observer import Result
    from rayloom.runs.weights import Weights, Which

_T = TypeVar("_T")


def _check_config(name: str, words: Sequence[str]) -> None:
    """Refuse a config that is wrong before what trains it is imported, which takes seconds."""
    from rayloom.config import load as config

    config.load(name, words)


def run_command(options: argparse.Namespace) -> int:
    _check_config(options.config, options.overrides)
    if options.seeds is not None:
        from rayloom.cli.seed_runs import run_seeds_command

        return run_seeds_command(options)
    from rayloom.launch.run import run

    observer = _run_observer(options)
    return _train(
        options,
        observer,
        lambda: run(
            options.config,
            *options.overrides,
            local=options.local,
            observer=observer,
            job=options.job,
            chaos=options.chaos,
        ),
    )


def pipeline_command(options: argparse.Namespace) -> int:
    from rayloom.cli.pipeline_command import run_pipeline_command

    return run_pipeline_command(options)


def resume_command(options: argparse.Namespace) -> int:
    from rayloom.config.load import apply_overrides

    apply_overrides({}, options.overrides)  # before torch: a mistake in their form is told at once
    from rayloom.launch.run import resume

    observer = _run_observer(options)
    return _train(
        options,
        observer,
        lambda: resume(options.run_id, *options.overrides, output=options.output, observer=observer),
    )


def _run_observer(options: argparse.Namespace) -> Display:
    from rayloom.cli.run_display import make_observer

    return make_observer(human_stream(options), json=options.json, quiet=options.quiet, verbose=options.verbose)


def _train(options: argparse.Namespace, observer: Display, train: Callable[[], Result]) -> int:
    result = _observed(options, observer, train)
    if options.json:
        print_json(
            {
                "run_id": result.run_id,
                "status": result.status,
                "stopped_by": result.stopped_by,
                "metrics": result.metrics,
                "counters": result.counters,
                "weights_sha256": result.weights_sha256,
                "run_dir": str(result.run_dir),
                "tracking_uri": result.tracking_uri,
                "advice": result.advice,
                **({"chaos": result.chaos} if result.chaos else {}),
            }
        )
    return 0


def _observed(options: argparse.Namespace, observer: Display | StudyDisplay, work: Callable[[], _T]) -> _T:
    """Return what the work of an observed command returns; however it ends, its run is known by then."""
    try:
        with own_stdout(options):
            return work()
    finally:
        observer.close()
        options.of_run, options.continue_with = observer.known_id, observer.continuation


def _study_check() -> Callable[[RunConfig], None]:
    """Return what checks a study; it imports Optuna, which a run does without."""
    from rayloom.launch.search import check_study

    return check_study


def submit_command(options: argparse.Namespace) -> int:
    _check_config(options.config, options.overrides)
    from rayloom.cluster.submission import follow, prepare, send

    human = human_stream(options)
    with own_stdout(options):
        submission = prepare(
            options.config,
            options.overrides,
            address=options.address,
            runtime_env=options.runtime_env,
            job=options.job,
            check_study=_study_check() if options.search else None,
        )
        send(submission)
        print(submission.id, *submission.notes, sep="\n", file=human, flush=True)
        ended = follow(submission, human) if options.wait else None
    if options.json:
        status = ended.status if ended else "SUBMITTED"
        print_json({"run_id": None, "status": status, "submission_id": submission.id, "job": submission.job})
    return ended.exit_code if ended else 0


def search_command(options: argparse.Namespace) -> int:
    from rayloom.errors import UserError

    words = [*options.words, *options.overrides]
    if options.resume is None and (not words or "=" in words[0]):
        raise UserError("name a config with a search part, as rayloom search grid_softmax_regression_digits")
    if options.resume is not None and options.job is not None:
        raise UserError("--resume names a study and --job the job of one: give one of them")
    if options.resume is None and options.output is not None:
        raise UserError(f"--output belongs to --resume: write output={options.output} for a new study")
    if options.resume is None:
        _check_config(words[0], words[1:])
    from rayloom.cli.study_display import make_study_observer
    from rayloom.launch.search import resume_study, run_study
    from rayloom.search.observer import StudyResult

    observer = make_study_observer(human_stream(options), json=options.json, quiet=options.quiet)

    def search() -> StudyResult:
        if options.resume is not None:
            where = {} if options.output is None else {"output": options.output}
            return resume_study(options.resume, *words, **where, observer=observer)
        return run_study(words[0], *words[1:], local=options.local, observer=observer, job=options.job)

    result = _observed(options, observer, search)
    if options.json:
        print_json(
            {
                "run_id": result.study_id,
                "status": result.status,
                "metrics": dict(zip(result.metrics, result.best_values or (), strict=False)),
                "best_trial": result.best_number,
                "best_parameters": result.best_parameters,
                "best_config": str(result.best_config) if result.best_config else None,
                "pareto": list(result.pareto),
                "trials": result.counts,
                "study_dir": str(result.study_dir),
                "tracking_uri": result.tracking_uri,
            }
        )
    return 0


def evaluate_command(options: argparse.Namespace) -> int:
    from rayloom.cli.run_display import format_table, format_value
    from rayloom.launch.trained import evaluate

    found = evaluate(options.run_id, *options.overrides, weights=_weights(options), output=options.output)
    rows = {name: format_value(value) for name, value in found.metrics.items()}
    _tell_damage(found.weights)
    print(f"{found.weights}\n{format_table(rows)}", file=human_stream(options))
    if options.json:
        print_json({**_of_weights(options, found.weights), "metrics": found.metrics})
    return 0


def _weights(options: argparse.Namespace) -> Which | None:
    """Return which weights are asked for."""
    from rayloom.runs.weights import parse_which

    return None if options.weights is None else parse_which(options.weights, "--weights")


def _of_weights(options: argparse.Namespace, weights: Weights) -> dict[str, object]:
    """Return what the last line of a command that used a run's weights begins with."""
    return {"run_id": options.run_id, "status": "FINISHED", "weights": weights.which, "update": weights.step}


def sample_command(options: argparse.Namespace) -> int:
    from rayloom.config.load import apply_overrides
    from rayloom.launch.trained import sample

    destination = options.destination or Path(f"sample-{options.run_id}.png")
    written = sample(
        options.run_id,
        weights=_weights(options),
        output=options.output,
        count=options.count,
        destination=destination,
        options=apply_overrides({}, options.overrides),
    )
    return _written(options, written)


def export_command(options: argparse.Namespace) -> int:
    from rayloom.launch.trained import export

    destination = options.destination or Path(f"model-{options.run_id}.pt2")
    written = export(options.run_id, weights=_weights(options), output=options.output, destination=destination)
    return _written(options, written)


def predict_command(options: argparse.Namespace) -> int:
    from rayloom.launch.trained import predict

    destination = options.destination or Path(f"predictions-{options.run_id}.csv")
    where = {"output": options.output, "destination": destination}
    return _written(options, predict(options.run_id, options.files, weights=_weights(options), **where))


def _tell_damage(weights: Weights) -> None:
    """Say which checkpoints were passed over since they are damaged."""
    for note in weights.loaded.notes:
        print(note, file=sys.stderr)


def _written(options: argparse.Namespace, written: Written) -> int:
    _tell_damage(written.weights)
    print(f"{written.path} ({written.weights})", file=human_stream(options))
    if options.json:
        print_json({**_of_weights(options, written.weights), "file": str(written.path)})
    return 0


def show_command(options: argparse.Namespace) -> int:
    from rayloom.config.load import load
    from rayloom.errors import UserError

    resolved = load(options.config, options.overrides)
    from rayloom.launch.run import describe, survey_cluster
    from rayloom.runs.compiling import settled

    if not options.changed:
        resolved = settled(resolved)
    print(describe(resolved, options.local, changed=options.changed), file=human_stream(options))
    cluster = survey_cluster(resolved, options.local)
    if cluster is not None:
        print(f"\n{cluster[0]}", file=human_stream(options), flush=True)
    if resolved.search is not None:
        from rayloom.launch.search import describe_study

        print(f"\n{describe_study(resolved, options.local)}", file=human_stream(options))
    if cluster is not None and cluster[1] is not None:
        raise UserError(cluster[1])
    if options.json:
        tree = resolved.changed_tree() if options.changed else resolved.to_tree()
        print_json({"status": "FINISHED", "config": tree})
    return 0


def list_command(options: argparse.Namespace) -> int:
    from rayloom.cli.explain import configs_by_folder, kinds_with_summaries, known_kinds, rows
    from rayloom.config.import_path import suggest
    from rayloom.errors import UserError

    known = known_kinds()
    if options.kind is not None and options.kind not in known:
        raise UserError(f"there is no kind {options.kind!r} to list{suggest(options.kind, known)}")
    chosen = known if options.kind is None else (options.kind,)
    configs = configs_by_folder() if "config" in chosen else {}
    kinds = {of: kinds_with_summaries(of) for of in chosen if of != "config"}
    human = human_stream(options)
    parts = [f"configs of {folder}, and the algorithm behind each\n{rows(each)}" for folder, each in configs.items()]
    parts += [f"{of}\n{rows(each)}" for of, each in kinds.items()]
    print("\n\n".join(parts), file=human)
    if options.json:
        print_json({"status": "FINISHED", "configs": configs, "kinds": kinds})
    return 0


def explain_command(options: argparse.Namespace) -> int:
    from dataclasses import asdict

    from rayloom.cli.explain import explain

    explanation = explain(options.name)
    print(explanation.text(), file=human_stream(options))
    if options.json:
        print_json({"status": "FINISHED", **asdict(explanation)})
    return 0


def runs_command(options: argparse.Namespace) -> int:
    from rayloom.cli.past_runs import list_runs

    return list_runs(options)


def compare_command(options: argparse.Namespace) -> int:
    from rayloom.cli.past_runs import compare_runs

    return compare_runs(options)


def rm_command(options: argparse.Namespace) -> int:
    from rayloom.cli.past_runs import remove_runs

    return remove_runs(options)
