"""The shape of a run: frozen, typed dataclasses, one per part of a config.

Every field is described by the docstring below it, with its unit. `rayloom.config.load` fills them from YAML.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import yaml
from annotated_types import Ge, Gt

from rayloom.components import Component
from rayloom.config.evaluations import EVALUATIONS
from rayloom.config.import_path import import_algorithm, import_source
from rayloom.config.inputs import InputConfig, StartFromConfig
from rayloom.config.optimizers import OPTIMIZERS
from rayloom.config.schedules import SCHEDULES
from rayloom.config.search import SearchConfig
from rayloom.config.sources import SOURCES, STRICT
from rayloom.config.validation import changed, plain
from rayloom.errors import UserError
from rayloom.redaction import redacted_tree
from rayloom.source_settings import SourceConfig, WorkerConfig

if TYPE_CHECKING:
    from rayloom.contract import Algorithm, Source

PATIENCE = "patience"
"""The stopping condition that counts evaluations without a better one."""
UNITS: tuple[str, ...] = ("updates", "env_steps", "samples", "epochs", "episodes")
RESOLVERS: tuple[tuple[str, re.Pattern[str], Sequence[str]], ...] = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ("~", "n", "N", "")),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("int", re.compile(r"^[-+]?(?:[0-9][0-9_]*|0x[0-9a-fA-F][0-9a-fA-F_]*|0b[01][01_]*)$"), "-+0123456789"),
    (
        "float",
        re.compile(
            r"^(?:[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    ("merge", re.compile(r"^<<$"), "<"),
)
"""Which bare words of YAML are no strings: type, pattern and first letters. 1e-4 is a number, 010 is ten, on a word."""


class _Dumper(yaml.SafeDumper):
    """YAML that our loader and others read alike: what either takes for a number or a boolean is quoted."""


for _type, _pattern, _letters in RESOLVERS:
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", _pattern, list(_letters))


@dataclass(frozen=True)
class Interval:
    """A number of things counted, written "5_000 env_steps" in a config."""

    count: int
    unit: str

    def __str__(self) -> str:
        return f"{self.count} {self.unit}"

    @staticmethod
    def parse(text: str, key: str) -> Interval:
        """Read "5_000 env_steps"; a bare number counts updates."""
        match = re.fullmatch(r"\s*(\d[\d_]*)\s*([a-z_]*)\s*", text)
        if not match or int(match[1].replace("_", "")) < 1 or (match[2] or "updates") not in UNITS:
            raise UserError(f"{key}: write a positive number and one of {', '.join(UNITS)}, not {text!r}")
        return Interval(int(match[1].replace("_", "")), match[2] or "updates")


@dataclass(frozen=True)
class Limit:
    """What a stopping condition compares a metric with, written 475 or "<= 0.2" in a config."""

    number: float
    comparison: Literal["<=", ">="] | None = None
    """None: in the direction in which the metric improves."""

    @staticmethod
    def parse(written: float | str, key: str) -> Limit:
        """Read a number, or a comparison with one."""
        if not isinstance(written, str):
            return Limit(float(written))
        match = re.fullmatch(r"\s*(<=|>=)\s*(\S+)\s*", written)
        try:
            number = float(match[2]) if match else math.nan
        except ValueError:
            number = math.nan
        if not match or not math.isfinite(number):
            raise UserError(f"{key}: write a number, or a comparison as '<= 0.2' or '>= 475', not {written!r}")
        return Limit(number, cast(Literal["<=", ">="], match[1]))


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The learner: how losses become weight changes."""

    __pydantic_config__ = STRICT
    count: Annotated[int, Ge(1)] = 1
    """Data-parallel learners."""
    batch_size: Annotated[int, Ge(1)] = 128
    """Examples in one optimiser step, over all learners."""
    accumulate: Annotated[int, Ge(1)] = 1
    """Parts into which every learner cuts its share of a batch: their gradients are added up before the step, which is
    that of the whole batch in less memory. Counters and schedules count steps."""
    optimizer: Annotated[Component, OPTIMIZERS] = field(default_factory=OPTIMIZERS.component)
    """The optimiser of every phase; a phase may override single settings."""
    schedule: Annotated[Component, SCHEDULES] = field(default_factory=SCHEDULES.component)
    """How the learning rate changes over the run's budget."""
    max_grad_norm: Annotated[float, Gt(0)] | None = None
    """Clip the gradient of each phase to this L2 norm; null: never."""
    compile: bool | Literal["auto"] = "auto"
    """Compile the whole optimiser step with torch.compile (needs a C++ compiler; slower start, faster steps). auto
    decides when a run begins, for good: true for budgets so long that it pays, of algorithms that say where that is
    (`Algorithm.compiles_from`), on a CPU in the driver's process; else false."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs losses under autocast, except phases that forbid it."""
    threads: Annotated[int, Ge(1)] = 1
    """torch threads of the process that learns."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU that the plan assigns (`gpus`), else the CPU."""
    cpus: Annotated[float, Ge(0)] | None = None
    """CPUs that Ray reserves for each learner actor; null: as many as `threads`."""
    gpus: Annotated[float, Ge(0)] = 0
    """GPUs of each learner; fractions share one."""
    freeze: tuple[str, ...] = ()
    """Parameters that stay as they are, by name, with * for anything, as [encoder.*]."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the whole state is saved and how much is kept."""

    __pydantic_config__ = STRICT
    every: str | int | None = None
    """Interval; null: a tenth of the stopping budget."""
    keep: Annotated[int, Ge(1)] = 2
    """Newest checkpoints kept; the best and the last are kept besides."""
    best: str | None = None
    """Metric whose best value is kept too, for instance evaluate/return_mean; null: the first that `stop` aims at."""
    mode: Literal["max", "min"] | None = None
    """Whether larger or smaller is better; null: as the metric's declaration says, or its stopping condition."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the run is recorded."""

    __pydantic_config__ = STRICT
    uri: str | None = None
    """MLflow tracking URI; null: MLFLOW_TRACKING_URI, else sqlite under the output folder. Of one with *** in the place
    of its password the rest must equal that variable, which has it."""
    experiment: str | None = None
    """Experiment; null: MLFLOW_EXPERIMENT_NAME, else the algorithm's family."""
    every: str | int | None = None
    """Interval of the metrics; null: about every hundredth of the stopping budget."""
    system_metrics: bool = True
    """Record the machine's CPU, memory, disk and GPU use."""
    wait_for_model: bool = False
    """Let the run end only after the trained model is logged; else the writer logs it afterwards, in seconds."""
    enabled: bool = True
    """False keeps the journal in the output folder and leaves MLflow alone."""
    pictures: bool = True
    """Draw figures and curves into the run folder where MLflow does not take them, in a process of their own."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How the run uses Ray."""

    __pydantic_config__ = STRICT
    address: str | None = None
    """Ray address; null: RAY_ADDRESS, else a Ray of this run's own."""
    learner: Literal["driver", "actor"] = "driver"
    """Where a single learner runs."""
    evaluator: Literal["driver", "actor"] = "driver"
    """Where evaluations run."""
    evaluator_cpus: Annotated[float, Ge(0)] = 1
    """CPUs that Ray reserves for the evaluator's actor."""
    evaluator_gpus: Annotated[float, Ge(0)] = 0
    """GPUs of the evaluator's actor; fractions share one."""
    placement: Literal["pack", "spread", "strict_pack", "strict_spread"] = "pack"
    """Actors on few nodes, on many, on one, or each on another."""
    deadline_s: Annotated[float, Gt(0)] = 120.0
    """Longest wait for an answer of any role (seconds); a rollout worker or learner that is later is replaced."""
    tries: Annotated[int, Ge(1)] = 3
    """How often in a row a role may fail before the run ends; an environment's exceptions are counted over the run."""
    worker_memory_mib: Annotated[float, Gt(0)] | None = None
    """Replace a rollout worker whose process has grown larger (unit: MiB); null: never."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    __pydantic_config__ = STRICT
    name: str
    """Name of the run; the config's file name unless given."""
    seed: Annotated[int, Ge(0)] = 0
    """Root of the seed tree."""
    algorithm_path: str
    """Import path of the algorithm, written `algorithm: {import: ...}`."""
    algorithm: Any
    """The algorithm's own settings: an instance of its `Config`, which this module does not import."""
    source_path: str
    """Import path of the source, written `source: {import: ...}`; the engine's own are written by their kind."""
    source: SourceConfig
    """Where batches come from."""
    inputs: Mapping[str, InputConfig] = field(default_factory=dict)
    """Earlier runs that the algorithm starts from, by the name that it gives them: a run id, or {run, weights}."""
    start_from: StartFromConfig | None = None
    """An earlier run with whose weights this one begins (fine-tuning)."""
    learner: LearnerConfig = LearnerConfig()
    """How losses become weight changes."""
    evaluate: Annotated[Component, EVALUATIONS]
    """What judges the run, and when: a mapping of its settings, with `kind` or `import` where it is not the engine's
    own for the source (episodes in environments, one pass over held-out data)."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded."""
    cluster: ClusterConfig = ClusterConfig()
    """How the run uses Ray."""
    stop: Mapping[str, float | str]
    """The run ends when any of these is reached: counters (updates, env_steps, samples, epochs) or metrics, with a
    number for those that say themselves in which direction they improve, or a comparison ("<= 0.2"); or patience: so
    many evaluations in a row without a better value of `checkpoint.best`, whose checkpoint is then what is used."""
    output: str = "rayloom-runs"
    """Folder of runs, checkpoints and the default store."""
    search: SearchConfig | None = None
    """Search space and study settings of `rayloom search`."""

    def algorithm_class(self) -> type[Algorithm]:
        """Import the algorithm."""
        return import_algorithm(self.algorithm_path)

    def source_class(self) -> type[Source]:
        """Import the source."""
        return import_source(SOURCES, self.source_path)

    def workers(self) -> WorkerConfig | None:
        """Return the settings of the source's workers, which are its own; None for a source that has none."""
        return self.source if isinstance(self.source, WorkerConfig) else None

    def budget(self) -> dict[str, int]:
        """Return the counters among the stopping conditions."""
        return {unit: int(limit) for unit, limit in self.stop.items() if unit in UNITS}

    def to_tree(self) -> dict[str, Any]:
        """Return plain data that `from_tree` reads back to an equal config."""
        return self._written(plain)

    def changed_tree(self) -> dict[str, Any]:
        """Return the part of `to_tree` that is not the default; `from_tree` makes the same config of it."""
        return self._written(changed)

    def _written(self, write: Callable[[Any], Any]) -> dict[str, Any]:
        tree = cast(dict[str, Any], write(self))
        tree["algorithm"] = {"import": tree.pop("algorithm_path"), **tree["algorithm"]}
        path = tree.pop("source_path")
        kind = next((kind for kind, shipped in SOURCES.shipped.items() if shipped.path == path), None)
        named = {"import": path} if kind is None else {"kind": kind}
        tree["source"] = {**named, **tree["source"]}
        return tree

    def to_yaml(self, changed: bool = False) -> str:
        """Return the resolved config as YAML, for files and for people: URLs in it have no passwords.

        With `changed` the part that is not the default.
        """
        tree = redacted_tree(self.changed_tree() if changed else self.to_tree())
        return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"learner.batch_size": 128, ...} from a nested tree."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat
