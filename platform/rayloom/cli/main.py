"""The command `rayloom`: its options, and its exit codes."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from rayloom.cli import commands as do
from rayloom.cli.check import check_command, check_env_command
from rayloom.cli.family_commands import FAMILY_COMMANDS, add_family_arguments, family_command
from rayloom.cli.run_display import DEFAULT_OUTPUT
from rayloom.cli.terminal import flush, print_failure, tolerate_any_sign
from rayloom.cli.ui_server import ui_command
from rayloom.errors import EnvironmentFault, UserError
from rayloom.redaction import redacted_output
from rayloom.signals import Terminated

_Add = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]
"""Adds a command: its name, what carries it out, and a summary."""
_USER_ERROR = 2
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}
"""Errors of a machine that has no room, or no file handles, left."""
_NO_ENTRY = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a path that the system takes from nobody, or not from this user."""
_INTERRUPTED = 130  # what a shell reports for a process that SIGINT ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (default: the process's) and return the exit code.

    0 success, 1 our bug (with its traceback), 2 a mistake of the user (one sentence), 130 interrupted, 143 terminated,
    129 when the terminal was closed.
    """
    tolerate_any_sign(sys.stdout)
    with redacted_output():
        return _run(_parse(sys.argv[1:] if arguments is None else arguments))


def _run(options: argparse.Namespace) -> int:
    # A user's own algorithm lies in the working folder. Last, so that it can shadow nothing.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        code: int = options.command(options)
    except EnvironmentFault as error:
        told = " ".join(str(error).split())
        print(f"rayloom: source.env: {told}", file=sys.stderr)
        print_failure(options, "FAILED", told)
        code = _USER_ERROR
    except UserError as error:
        print(f"rayloom: {error}", file=sys.stderr)
        print_failure(options, "FAILED", str(error))
        code = _USER_ERROR
    except (KeyboardInterrupt, Terminated) as ended:
        told = "terminated" if isinstance(ended, Terminated) else "interrupted"
        then = f"; go on with {options.continue_with}" if options.continue_with else ""
        print(f"rayloom: {told}{then}", file=sys.stderr)
        print_failure(options, "KILLED", told)
        code = ended.exit_code if isinstance(ended, Terminated) else _INTERRUPTED
    except BrokenPipeError:
        code = 1
    except OSError as error:
        if error.errno not in _NO_ROOM | _NO_ENTRY:
            print_failure(options, "FAILED", f"{type(error).__name__}: {error}")
            raise
        told = f"{error.strerror}: {error.filename or 'a file'!s:.200} cannot be written or opened"
        advice = "free some room" if error.errno in _NO_ROOM else "make it accessible"
        print(f"rayloom: {told}; {advice}, or name another folder with output=FOLDER", file=sys.stderr)
        print_failure(options, "FAILED", told)
        code = _USER_ERROR
    except Exception as error:
        print_failure(options, "FAILED", f"{type(error).__name__}: {error}")
        if not _lacks_memory(error):
            raise
        told = " ".join(str(error).split())[:200]
        advice = "lower the sizes of batches, rollouts, replay or networks, or take a larger machine"
        print(f"rayloom: there is not enough memory ({told or 'none is left'}); {advice}", file=sys.stderr)
        code = _USER_ERROR
    flush(sys.stdout)
    return code


def _lacks_memory(error: Exception) -> bool:
    if "torch" not in sys.modules:  # the commands that look at files do without
        return isinstance(error, MemoryError)
    from rayloom.memory import lacks_memory

    return lacks_memory(error)


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands; of those that families add only the `wanted` one is imported and complete."""
    parser = argparse.ArgumentParser(
        prog="rayloom", description="Train reinforcement-learning, generative and supervised models."
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, function: Callable[[argparse.Namespace], int], summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary[:1].upper() + summary[1:] + ".")
        command.set_defaults(command=function, overridable=False, json=False, of_run=None, continue_with=None)
        return command

    for name, function, summary in (
        ("run", do.run_command, "train a config to its stopping condition"),
        ("show", do.show_command, "print the resolved config, the plan, the parameter counts and the preflight"),
        ("check", check_command, "check in seconds whether a config's algorithm holds to the engine's contract"),
    ):
        command = add(name, function, summary)
        command.set_defaults(overridable=True)
        command.add_argument("config", metavar="CONFIG", help="a YAML file or the name of a shipped config")
        command.add_argument(
            "overrides",
            metavar="KEY=VALUE",
            nargs="*",
            help="as learner.batch_size=64; or a further CONFIG to lay over it",
        )
        if name != "check":
            command.add_argument("--local", action="store_true", help="everything in this process, without Ray")
        if name == "show":
            command.add_argument("--changed", action="store_true", help="only the keys that are not as by default")
        if name == "run":
            _add_loudness(command)
            command.add_argument("--job", metavar="ID", help="go on with the run of this job, if it has begun one")
            command.add_argument(
                "--seeds", type=_positive, metavar="N", help="N runs with the seeds 0 to N-1; the same again goes on"
            )
            command.add_argument("--chaos", metavar="FAULTS", help="inject faults, as rollout=6/min,learner=1,node=1")
        _add_json(command)
    _add_pipeline(add("pipeline", do.pipeline_command, "train several configs as the stages of one pipeline"))
    _add_check_env(add("check-env", check_env_command, "check in seconds an environment of your own"))
    _add_submit(add("submit", do.submit_command, "check a config here, and train it as a job of a Ray cluster"))
    search = add("search", do.search_command, "search hyperparameters: a study of trials, each a whole run")
    search.set_defaults(overridable=True, overrides=[])
    search.add_argument("words", metavar="CONFIG KEY=VALUE", nargs="*", help="a config with a search part; overrides")
    search.add_argument("--resume", metavar="STUDY", help="continue this study; search.trials=N extends it")
    search.add_argument("--local", action="store_true", help="one trial after the other in this process, without Ray")
    search.add_argument("--job", metavar="ID", help="go on with the study of this job, if it has begun one")
    _add_output(search, "with --resume")
    _add_json(search)
    _add_quiet(search)
    resume = add("resume", do.resume_command, "continue an interrupted run exactly, or one that has finished further")
    _add_run_arguments(resume)
    _add_overrides(
        resume,
        "as stop.epochs=20 or learner.device=cpu, nothing that it learns from; a URL whose password was not recorded, "
        "as tracking.uri=http://me:PASSWORD@host",
    )
    _add_loudness(resume)
    _add_uses_of_a_run(add)
    listing = add("list", do.list_command, "list shipped configs and components: sources, optimizers, networks, ...")
    listing.add_argument("kind", metavar="KIND", nargs="?", help="one kind of them, as optimizer (default: all)")
    _add_json(listing)
    explain = add("explain", do.explain_command, "explain a key of the config or a component, with its settings")
    explain.add_argument("name", metavar="NAME", help="as learner.batch_size, optimizer.adam or my_module:MyAlgorithm")
    _add_json(explain)
    listing = add("runs", do.runs_command, "list the runs and studies of the output folder")
    listing.add_argument("--status", metavar="STATUS", help="only these: finished, failed, killed, running, lost")
    _add_output(listing)
    _add_json(listing)
    for name, function, summary in (
        ("compare", do.compare_command, "show in which settings runs differ, and what each reached"),
        ("rm", do.rm_command, "delete the folders of runs or studies; what MLflow has of them stays"),
    ):
        command = add(name, function, summary)
        command.add_argument("names", metavar="RUN", nargs="+", help="name or MLflow id, or its first 8 letters")
        if name == "compare":
            command.add_argument(
                "--across", metavar="KEY", help="runs that differ in this key, too, are tasks of one: source.env"
            )
            command.add_argument("--figure", type=Path, metavar="FILE", help="draw the seeds' intervals into a file")
        _add_output(command)
        _add_json(command)
    for name, of_family in FAMILY_COMMANDS.items():
        _add_family_command(name, add(name, family_command, of_family.summary), name == wanted)
    _add_ui(add("ui", ui_command, "open the MLflow UI on the run store"))
    return parser


def _add_uses_of_a_run(add: _Add) -> None:
    """Add what is done with the weights that a run has learnt."""
    evaluate = add("evaluate", do.evaluate_command, "evaluate a run's weights anew")
    _add_run_arguments(evaluate)
    _add_weights(evaluate)
    _add_overrides(evaluate, "as evaluate.episodes=100 or evaluate.split=test")
    sample = add("sample", do.sample_command, "draw samples of a generative model, or frames of an agent's episode")
    _add_run_arguments(sample)
    _add_weights(sample)
    _add_overrides(sample, "options of the algorithm's own sample, as temperature=0.5")
    sample.add_argument("--count", type=_positive, default=64, metavar="N", help="samples (default: 64)")
    sample.add_argument(
        "--destination", type=Path, metavar="FILE", help=".png, .gif, or .mp4 of an episode (default: sample-RUN.png)"
    )
    predict = add("predict", do.predict_command, "write a table of what a run predicts of files without labels")
    _add_run_arguments(predict)
    predict.add_argument("files", metavar="FILE", nargs="+", type=Path, help="images, tables or texts; or folders")
    _add_weights(predict)
    predict.add_argument(
        "--destination", type=Path, metavar="FILE", help=".csv or .parquet (default: predictions-RUN.csv)"
    )
    export = add("export", do.export_command, "write a run's module to deploy, for torch.export or ONNX")
    _add_run_arguments(export)
    _add_weights(export)
    export.add_argument("--destination", type=Path, metavar="FILE", help=".pt2 or .onnx (default: model-RUN.pt2)")


class _Version(argparse.Action):
    """Prints the version, which is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: object) -> NoReturn:
        from importlib.metadata import version

        print(f"rayloom {version('rayloom')}")
        parser.exit()


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = build_parser(next((word for word in arguments if not word.startswith("-")), None))
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


def _add_quiet(command: argparse._ActionsContainer) -> None:
    command.add_argument("--quiet", action="store_true", help="no progress: the name, remarks and the result")


def _add_loudness(command: argparse.ArgumentParser) -> None:
    how_loud = command.add_mutually_exclusive_group()
    _add_quiet(how_loud)
    how_loud.add_argument("--verbose", action="store_true", help="the changed settings, and all metrics at every step")


def _add_family_command(name: str, command: argparse.ArgumentParser, wanted: bool) -> None:
    _add_output(command)
    if wanted:
        add_family_arguments(name, command)


def _add_ui(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    command.add_argument("--port", type=_positive, default=5000, help="port to listen on (default: 5000)")
    _add_output(command)


def _add_pipeline(command: argparse.ArgumentParser) -> None:
    command.set_defaults(overridable=True)
    command.add_argument("config", metavar="FILE", help="a YAML file with stages, or the name of a shipped pipeline")
    command.add_argument(
        "overrides", metavar="KEY=VALUE", nargs="*", help="of all stages, or of one as STAGE.stop.updates=100"
    )
    command.add_argument("--local", action="store_true", help="everything in this process, without Ray")
    command.add_argument("--job", metavar="ID", help="go on with this pipeline (default: that of the same stages)")
    command.add_argument(
        "--seeds", type=_positive, metavar="N", help="the pipeline with the seeds 0 to N-1; the same again goes on"
    )
    _add_loudness(command)
    _add_json(command)


def _add_check_env(command: argparse.ArgumentParser) -> None:
    command.set_defaults(overridable=True)
    command.add_argument("env", metavar="ID", help='a Gymnasium id, or "module:ID" for one that a module registers')
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="options of the environment")
    _add_json(command)


def _add_submit(command: argparse.ArgumentParser) -> None:
    command.set_defaults(overridable=True)
    command.add_argument("config", metavar="CONFIG", help="a YAML file below this folder, or a shipped config's name")
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="as output=/mnt/shared/runs")
    command.add_argument("--address", metavar="URL", help="dashboard (default: http://127.0.0.1:8265)")
    command.add_argument("--runtime-env", type=Path, metavar="FILE", help="Ray's runtime environment (default: ours)")
    command.add_argument("--job", metavar="ID", help="go on with the run or study of this earlier job")
    command.add_argument("--search", action="store_true", help="search the config's space instead: a study of trials")
    command.add_argument("--wait", action="store_true", help="follow the job and end with its exit code")
    _add_json(command)


def _add_output(command: argparse.ArgumentParser, where: str = "") -> None:
    told = f"{where}: folder of the runs" if where else "folder of the runs"
    default = None if where else DEFAULT_OUTPUT
    command.add_argument("--output", default=default, metavar="FOLDER", help=f"{told} (default: {DEFAULT_OUTPUT})")


def _add_run_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("run_id", metavar="RUN", help="name that `rayloom run` printed, or MLflow's id of the run")
    _add_output(command)
    _add_json(command)


def _add_overrides(command: argparse.ArgumentParser, told: str) -> None:
    command.set_defaults(overridable=True)
    command.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=told)


def _add_weights(command: argparse.ArgumentParser) -> None:
    command.add_argument("--weights", metavar="WHICH", help="best, last or an update (default: best, if it was kept)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)
