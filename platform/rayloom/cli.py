"""The command `rayloom`. Everything heavy is imported inside the commands, so that `rayloom --help` is immediate."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rayloom.display import Display
    from rayloom.observer import Result

_USER_ERROR = 2
_INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended
_TERMINATED = 143  # and SIGTERM
_DEFAULT_OUTPUT = "rayloom-runs"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's) and return the exit code.

    0 success, 1 our bug (with its traceback), 2 a mistake of the user (one sentence), 130 interrupted, 143 terminated.
    """
    options = _parse(sys.argv[1:] if arguments is None else arguments)
    # A user's own algorithm lies in the working folder. Last, so that it can shadow nothing.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    from rayloom.contract import UserError  # imports torch: after the options were found to be right

    try:
        code: int = options.command(options)
    except UserError as error:
        print(f"rayloom: {error}", file=sys.stderr)
        _print_failure(options, "FAILED", str(error))
        code = _USER_ERROR
    except KeyboardInterrupt:
        print("rayloom: interrupted", file=sys.stderr)
        _print_failure(options, "KILLED", "interrupted")
        code = _INTERRUPTED
    except BrokenPipeError:
        code = 1
    except Exception as error:
        _print_failure(options, "FAILED", f"{type(error).__name__}: {error}")
        raise
    _flush(sys.stdout)
    return code


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands; each sets `command` to the function that carries it out."""
    parser = argparse.ArgumentParser(
        prog="rayloom", description="Train reinforcement-learning, generative and supervised models."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, function: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        command.set_defaults(command=function, overridable=False, json=False, of_run=None)
        return command

    for name, function, summary in (
        ("run", _run, "train a config to its stopping condition"),
        ("show", _show, "print the resolved config, the plan, the parameter counts and the preflight"),
    ):
        command = add(name, function, summary)
        command.set_defaults(overridable=True)
        command.add_argument("config", metavar="CONFIG", help="a YAML file or the name of a shipped config")
        command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as learner.batch_size=64")
        command.add_argument("--local", action="store_true", help="everything in this process, without Ray")
        _add_json(command)
    search = add("search", _search, "search hyperparameters: a study of trials, each a whole run")
    search.set_defaults(overridable=True, overrides=[])
    search.add_argument("words", metavar="CONFIG KEY=VALUE", nargs="*", help="a config with a search part; overrides")
    search.add_argument("--resume", metavar="STUDY", help="continue this study; search.trials=N extends it")
    search.add_argument("--local", action="store_true", help="one trial after the other in this process, without Ray")
    _add_output(search)
    _add_json(search)
    _add_run_arguments(add("resume", _resume, "continue an interrupted run exactly"))
    evaluate = add("evaluate", _evaluate, "evaluate a run's last weights anew")
    _add_run_arguments(evaluate)
    evaluate.add_argument("--split", choices=("validation", "test"), help="data to read (default: the config's)")
    evaluate.add_argument("--episodes", type=_positive, metavar="N", help="episodes (default: the config's)")
    sample = add("sample", _sample, "draw samples of a generative model, or frames of an agent's episode")
    _add_run_arguments(sample)
    sample.add_argument("--count", type=_positive, default=64, metavar="N", help="samples (default: 64)")
    sample.add_argument("--destination", type=Path, metavar="FILE", help="image file (default: sample-RUN_ID.png)")
    _add_json(add("list", _list, "list shipped configs, their algorithms, data sets and sources"))
    interface = add("ui", _ui, "open the MLflow UI on the run store")
    interface.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    interface.add_argument("--port", type=_positive, default=5000, help="port to listen on (default: 5000)")
    _add_output(interface)
    return parser


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = build_parser()
    # argparse refuses positionals behind an option (`run CONFIG --json KEY=VALUE`): take them from what it left over.
    options, rest = parser.parse_known_args(arguments)
    words = [word for word in rest if not word.startswith("-")]
    if len(words) < len(rest) or (words and not options.overridable):
        unknown = next((word for word in rest if word.startswith("-")), rest[0])
        parser.error(f"unrecognized argument {unknown!r}; see rayloom --help")
    if words:
        options.overrides = [*options.overrides, *words]
    return options


def _add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="end with one JSON line on standard output")


def _add_output(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--output", default=_DEFAULT_OUTPUT, metavar="FOLDER", help=f"folder of the runs (default: {_DEFAULT_OUTPUT})"
    )


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_id", metavar="RUN_ID", help="id that `rayloom run` printed")
    _add_output(command)
    _add_json(command)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


# --- the commands --------------------------------------------------------------------------------------------------


def _run(options: argparse.Namespace) -> int:
    from rayloom.display import make_observer
    from rayloom.execution import run

    observer = make_observer(options.json, _human_stream(options))
    return _train(
        options,
        observer,
        lambda: run(options.config, *options.overrides, local=options.local, observer=observer),
    )


def _resume(options: argparse.Namespace) -> int:
    from rayloom.display import make_observer
    from rayloom.execution import resume

    observer = make_observer(options.json, _human_stream(options))
    return _train(options, observer, lambda: resume(options.run_id, output=options.output, observer=observer))


def _train(options: argparse.Namespace, observer: Display, train: Callable[[], Result]) -> int:
    from rayloom.execution import Terminated

    try:
        with _own_stdout(options):
            result = train()
    except Terminated:
        print("rayloom: terminated", file=sys.stderr)
        _print_failure(options, "KILLED", "terminated", observer.known_id)
        return _TERMINATED
    finally:
        observer.close()
        options.of_run = observer.known_id
    if options.json:
        _print_json(
            {
                "run_id": result.run_id,
                "status": result.status,
                "stopped_by": result.stopped_by,
                "metrics": result.metrics,
                "counters": result.counters,
                "weights_sha256": result.weights_sha256,
                "run_dir": str(result.run_dir),
                "tracking_uri": result.tracking_uri,
            }
        )
    return 0


def _search(options: argparse.Namespace) -> int:
    from rayloom.contract import UserError
    from rayloom.execution import Terminated
    from rayloom.search.study import resume_study, run_study
    from rayloom.study_display import make_study_observer

    words = [*options.words, *options.overrides]
    if options.resume is None and (not words or "=" in words[0]):
        raise UserError("name a config with a search part, as rayloom search grid_softmax_regression_digits")
    observer = make_study_observer(options.json, _human_stream(options))
    try:
        with _own_stdout(options):
            if options.resume is not None:
                result = resume_study(options.resume, *words, output=options.output, observer=observer)
            else:
                result = run_study(words[0], *words[1:], local=options.local, observer=observer)
    except Terminated:
        print("rayloom: terminated", file=sys.stderr)
        _print_failure(options, "KILLED", "terminated", observer.known_id)
        return _TERMINATED
    finally:
        observer.close()
        options.of_run = observer.known_id
    if options.json:
        _print_json(
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


def _evaluate(options: argparse.Namespace) -> int:
    from rayloom.display import format_table, format_value
    from rayloom.execution import evaluate

    metrics = evaluate(options.run_id, output=options.output, split=options.split, episodes=options.episodes)
    print(format_table({name: format_value(value) for name, value in metrics.items()}), file=_human_stream(options))
    if options.json:
        _print_json({"run_id": options.run_id, "status": "FINISHED", "metrics": metrics})
    return 0


def _sample(options: argparse.Namespace) -> int:
    from rayloom.execution import sample

    destination = options.destination or Path(f"sample-{options.run_id}.png")
    written = sample(options.run_id, output=options.output, count=options.count, destination=destination)
    print(written, file=_human_stream(options))
    if options.json:
        _print_json({"run_id": options.run_id, "status": "FINISHED", "file": str(written)})
    return 0


def _show(options: argparse.Namespace) -> int:
    from rayloom.config import load
    from rayloom.execution import describe

    resolved = load(options.config, options.overrides)
    print(describe(resolved, options.local), file=_human_stream(options))
    if resolved.search is not None:
        from rayloom.search.study import describe_study

        print(f"\n{describe_study(resolved, options.local)}", file=_human_stream(options))
    if options.json:
        _print_json({"status": "FINISHED", "config": resolved.to_tree()})
    return 0


def _list(options: argparse.Namespace) -> int:
    from rayloom.config import SOURCE_KINDS
    from rayloom.datasets import descriptions
    from rayloom.display import format_table

    data_sets = dict(descriptions())
    kinds = {kind: (source.__doc__ or "").splitlines()[0] for kind, source in SOURCE_KINDS.items()}
    configs = _configs_by_folder()
    human = _human_stream(options)
    for folder, algorithms in configs.items():
        print(f"configs of {folder}, and the algorithm behind each\n{format_table(algorithms)}\n", file=human)
    print(f"data sets (source.dataset)\n{format_table(data_sets)}\n", file=human)
    print(f"sources (source.kind)\n{format_table(kinds)}", file=human)
    if options.json:
        _print_json({"status": "FINISHED", "configs": configs, "datasets": data_sets, "sources": kinds})
    return 0


def _configs_by_folder() -> dict[str, dict[str, str]]:
    """Return {folder: {config: import path of its algorithm}} without importing any algorithm."""
    from rayloom.config import parse_yaml, shipped_configs

    folders: dict[str, dict[str, str]] = {}
    for name, path in shipped_configs().items():
        tree = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        folders.setdefault(path.parent.name, {})[name] = str(tree["algorithm"]["import"])
    return dict(sorted(folders.items()))


def _ui(options: argparse.Namespace) -> int:
    command = ui_command(Path(options.output), options.host, options.port)
    _check_port(options.host, options.port)
    print(f"http://{options.host}:{options.port} shows the runs; end it with Ctrl-C", flush=True)
    # The server's background jobs (evaluation of language models) would start processes of their own.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    os.execv(command[0], command)


def ui_command(output: Path, host: str, port: int) -> list[str]:
    """Return the command that serves the run store: MLFLOW_TRACKING_URI, else the one in the folder `output`.

    Raises UserError where there is nothing to serve or where a server has the store already.
    """
    from rayloom.contract import UserError
    from rayloom.tracking.location import resolve_uri

    uri = resolve_uri(None, output)
    if uri.startswith(("http://", "https://")):
        raise UserError(f"MLFLOW_TRACKING_URI names a server that has its own UI: open {uri} in a browser")
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:") and not database.is_file():
        raise UserError(f"there is no run store {database}: train first, or name the folder with --output")
    server = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--host", host, "--port", str(port)]
    return [*server, "--workers", "1", "--artifacts-destination", (output.absolute() / "mlartifacts").as_uri()]


def _check_port(host: str, port: int) -> None:
    """Raise UserError where the server could not listen; its own message would be a traceback."""
    from rayloom.contract import UserError

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            remedy = f"choose another, as rayloom ui --port {port + 1}"
            raise UserError(f"cannot listen on {host}:{port} ({error.strerror}); {remedy}") from None
        except OverflowError:
            raise UserError(f"--port: {port} is no port; choose one up to 65535") from None


# --- output --------------------------------------------------------------------------------------------------------


def _human_stream(options: argparse.Namespace) -> TextIO:
    return sys.stderr if options.json else sys.stdout


def _own_stdout(options: argparse.Namespace) -> contextlib.AbstractContextManager[Any]:
    """Keep standard output for the JSON line where one was asked for: Ray, too, prints there now and then."""
    return contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext()


def _print_json(data: Mapping[str, Any]) -> None:
    print(json.dumps(_finite(data), ensure_ascii=False), flush=True)


def _print_failure(options: argparse.Namespace, status: str, error: str, run_id: str | None = None) -> None:
    """Keep the promise of one JSON line when a command fails."""
    if options.json:
        run_id = run_id or options.of_run or getattr(options, "run_id", None)
        _print_json({"run_id": run_id, "status": status, "error": error})


def _finite(value: Any) -> Any:
    """Return the value with NaN and infinity as null, since JSON has neither."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flush(stream: TextIO) -> None:
    """Flush, and keep the interpreter from failing once more at its exit when the reader has gone."""
    try:
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
