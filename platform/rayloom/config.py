"""A config is a complete run: YAML and overrides become a frozen, typed RunConfig; unknown keys are rejected.

Every field is described by the docstring below it, with its unit. `load` accepts a file or the name of a shipped
config. Mistakes raise UserError with one sentence that says what to change.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from annotated_types import Ge, Gt, Le
from pydantic import ConfigDict, TypeAdapter, ValidationError

from rayloom.contract import Algorithm, AlgorithmConfig, UserError

_T = TypeVar("_T")
UNITS: tuple[str, ...] = ("updates", "env_steps", "samples", "epochs", "episodes")
_STRICT = ConfigDict(extra="forbid", arbitrary_types_allowed=True)


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


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One of torch's optimisers."""

    __pydantic_config__ = _STRICT
    name: Literal["adam", "adamw", "sgd", "rmsprop", "adagrad", "adadelta"] = "adam"
    """The update rule."""
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    """Step size at the start of the schedule."""
    betas: tuple[Annotated[float, Ge(0)], Annotated[float, Ge(0)]] = (0.9, 0.999)
    """Decay of the two moments (adam, adamw)."""
    eps: Annotated[float, Gt(0)] = 1e-8
    """Added to the denominator (adam, adamw, rmsprop, adagrad, adadelta)."""
    momentum: Annotated[float, Ge(0)] = 0.0
    """Momentum (sgd, rmsprop)."""
    nesterov: bool = False
    """Nesterov's form of momentum (sgd)."""
    alpha: Annotated[float, Gt(0), Le(1)] = 0.99
    """Smoothing constant (rmsprop)."""
    rho: Annotated[float, Gt(0), Le(1)] = 0.9
    """Decay of the running averages (adadelta)."""
    weight_decay: Annotated[float, Ge(0)] = 0.0
    """L2 penalty per step (decoupled in adamw)."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate changes over the run's budget."""

    __pydantic_config__ = _STRICT
    kind: Literal["constant", "linear", "cosine"] = "constant"
    """constant, or falling to `final` times the start by a line or half a cosine over the stopping budget."""
    warmup: Annotated[int, Ge(0)] = 0
    """Updates over which the rate first rises from 0 (unit: updates)."""
    final: Annotated[float, Ge(0), Le(1)] = 0.0
    """Rate at the end of the budget, as a share of the start."""


@dataclass(frozen=True, kw_only=True)
class LearnerConfig:
    """The learner: how losses become weight changes."""

    __pydantic_config__ = _STRICT
    count: Annotated[int, Ge(1)] = 1
    """Data-parallel learners."""
    batch_size: Annotated[int, Ge(1)] = 128
    """Examples in one optimiser step, over all learners."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """The optimiser of every phase; a phase may override single settings."""
    schedule: ScheduleConfig = ScheduleConfig()
    """Learning-rate schedule."""
    max_grad_norm: Annotated[float, Gt(0)] | None = None
    """Clip the gradient of each phase to this L2 norm; null: never."""
    compile: bool = False
    """Compile the whole optimiser step with torch.compile (needs a C++ compiler; slower start, faster steps)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs losses under autocast, except phases that forbid it."""
    threads: Annotated[int, Ge(1)] = 1
    """torch threads of the process that learns."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU that the plan assigns (`gpus`), else the CPU."""
    gpus: Annotated[float, Ge(0)] = 0
    """GPUs of each learner; fractions share one."""


@dataclass(frozen=True, kw_only=True)
class DatasetSourceConfig:
    """Batches from a data set, reshuffled every epoch."""

    __pydantic_config__ = _STRICT
    kind: Literal["dataset"]
    """Selects this source."""
    dataset: str
    """Name of a data set (`rayloom list`) or an import path "package.module:function"."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the data set's loader."""
    drop_last: bool = True
    """Leave out an epoch's last batch when it is smaller than `learner.batch_size`."""
    augment: Literal["none", "shift"] = "none"
    """shift moves each image by up to two pixels."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentFields:
    """What every source with environments has in common."""

    env: str
    """Gymnasium id, optionally "module:id"."""
    env_options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment."""
    num_envs: Annotated[int, Ge(1)] = 8
    """Environments over all rollout workers."""
    rollout_workers: Annotated[int, Ge(0)] = 0
    """Ray actors that step environments; 0 steps them in the learner's process."""
    worker_cpus: Annotated[float, Ge(0)] = 1
    """CPUs that Ray reserves for each rollout worker."""
    check_observations: bool = True
    """End the run when an observation leaves its space (NaN always ends it)."""


@dataclass(frozen=True, kw_only=True)
class OnPolicySourceConfig(EnvironmentFields):
    """Fresh rollouts of the current policy, walked through several times."""

    __pydantic_config__ = _STRICT
    kind: Literal["on_policy"]
    """Selects this source."""
    rollout_steps: Annotated[int, Ge(1)] = 256
    """Steps of each environment between two policy updates."""
    epochs: Annotated[int, Ge(1)] = 10
    """Passes over each rollout, in batches of `learner.batch_size`."""


@dataclass(frozen=True, kw_only=True)
class ReplaySourceConfig(EnvironmentFields):
    """Random batches from a ring buffer of past transitions."""

    __pydantic_config__ = _STRICT
    kind: Literal["replay"]
    """Selects this source."""
    capacity: Annotated[int, Ge(1)] = 100_000
    """Transitions kept."""
    learning_starts: Annotated[int, Ge(1)] = 1_000
    """Environment steps before the first update (unit: env_steps)."""
    steps_per_update: Annotated[float, Gt(0)] = 4
    """Environment steps per update (unit: env_steps)."""
    collect_steps: Annotated[int, Ge(1)] = 1
    """Steps of each environment in one call of a rollout worker (unit: vector steps)."""
    n_step: Annotated[int, Ge(1)] = 1
    """Length of the sampled reward segments (unit: steps)."""
    prioritized: bool = False
    """Sample by priority (Schaul et al. 2016) instead of uniformly."""
    priority_exponent: Annotated[float, Ge(0), Le(1)] = 0.6
    """alpha: 0 is uniform."""
    importance_exponent: tuple[Annotated[float, Ge(0), Le(1)], Annotated[float, Ge(0), Le(1)]] = (0.4, 1.0)
    """beta at the start and at the end of the run."""


SourceConfig = DatasetSourceConfig | OnPolicySourceConfig | ReplaySourceConfig
SOURCE_KINDS: dict[str, type[Any]] = {
    "dataset": DatasetSourceConfig,
    "on_policy": OnPolicySourceConfig,
    "replay": ReplaySourceConfig,
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Held-out evaluation."""

    __pydantic_config__ = _STRICT
    every: str | int | None = None
    """Interval, as "5_000 env_steps" or "1 epochs"; null: only at the end."""
    episodes: Annotated[int, Ge(1)] = 20
    """Episodes of one evaluation (environments)."""
    num_envs: Annotated[int, Ge(1)] | None = None
    """Parallel evaluation environments; null: as many as episodes."""
    max_episode_steps: Annotated[int, Ge(1)] = 100_000
    """An evaluation episode that is longer ends the run with an error (unit: env_steps)."""
    split: Literal["validation", "test"] = "validation"
    """Data that evaluations read; the test set is for the last word only."""
    batch_size: Annotated[int, Ge(1)] = 1_000
    """Examples in one forward pass."""


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When the whole state is saved and how much is kept."""

    __pydantic_config__ = _STRICT
    every: str | int | None = None
    """Interval; null: a tenth of the stopping budget."""
    keep: Annotated[int, Ge(1)] = 2
    """Newest checkpoints kept; the best and the last are kept besides."""
    best: str | None = None
    """Metric whose best value is kept too, for instance evaluate/return_mean; null: the run's first stop metric."""
    mode: Literal["max", "min"] = "max"
    """Whether larger or smaller is better."""


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Where the run is recorded."""

    __pydantic_config__ = _STRICT
    uri: str | None = None
    """MLflow tracking URI; null: MLFLOW_TRACKING_URI, else sqlite under the output folder."""
    experiment: str | None = None
    """Experiment; null: the algorithm's family."""
    every: str | int | None = None
    """Interval of the metrics; null: about every hundredth of the stopping budget."""
    system_metrics: bool = True
    """Record the machine's CPU, memory, disk and GPU use."""
    enabled: bool = True
    """False keeps the journal in the output folder and leaves MLflow alone."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """How the run uses Ray."""

    __pydantic_config__ = _STRICT
    address: str | None = None
    """Ray address; null: RAY_ADDRESS, else a Ray of this run's own."""
    learner: Literal["driver", "actor"] = "driver"
    """Where a single learner runs."""
    evaluator: Literal["driver", "actor"] = "driver"
    """Where evaluations run."""
    deadline_s: Annotated[float, Gt(0)] = 120.0
    """Longest wait for an answer of any role (seconds)."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that determines a run."""

    __pydantic_config__ = _STRICT
    name: str
    """Name of the run; the config's file name unless given."""
    seed: Annotated[int, Ge(0)] = 0
    """Root of the seed tree."""
    algorithm_path: str
    """Import path of the algorithm, written `algorithm: {import: ...}`."""
    algorithm: AlgorithmConfig
    """The algorithm's own settings."""
    source: SourceConfig
    """Where batches come from."""
    learner: LearnerConfig = LearnerConfig()
    """How losses become weight changes."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Held-out evaluation."""
    checkpoint: CheckpointConfig = CheckpointConfig()
    """When the state is saved."""
    tracking: TrackingConfig = TrackingConfig()
    """Where the run is recorded."""
    cluster: ClusterConfig = ClusterConfig()
    """How the run uses Ray."""
    stop: Mapping[str, float]
    """The run ends when any of these is reached: counters (updates, env_steps, samples, epochs) or metrics."""
    output: str = "rayloom-runs"
    """Folder of runs, checkpoints and the default store."""
    search: Mapping[str, Any] | None = None
    """Search space and study settings of `rayloom search`."""

    def algorithm_class(self) -> type[Algorithm]:
        """Import the algorithm."""
        return import_algorithm(self.algorithm_path)

    def budget(self) -> dict[str, int]:
        """Return the counters among the stopping conditions."""
        return {unit: int(limit) for unit, limit in self.stop.items() if unit in UNITS}

    def to_tree(self) -> dict[str, Any]:
        """Return plain data that `from_tree` reads back to an equal config."""
        tree = cast(dict[str, Any], _plain(self))
        tree["algorithm"] = {"import": tree.pop("algorithm_path"), **tree["algorithm"]}
        return tree

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return yaml.safe_dump(self.to_tree(), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# --- reading -------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML as a person expects it: 1e-4 and 3e5 are numbers, on/off/yes/no stay words, duplicate keys are errors."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:\d[\d_]*)(?:\.[\d_]*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def _mapping_without_duplicates(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
    for key in keys:
        if keys.count(key) > 1:
            raise UserError(f"the key {key!r} stands twice (line {node.start_mark.line + 1}): keep one of them")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping_without_duplicates)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML text; `name` stands in the error sentence."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise UserError(f"{name} is not valid YAML{where}: {getattr(error, 'problem', None) or error}") from None


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name; beside the source in a checkout, inside the package in a wheel."""
    here = Path(__file__).resolve().parent
    for folder in (here.parent.parent / "configs", here / "configs"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*/*.yaml")) if path.parent.name != "cluster"}
    return {}


def find_config(name: str) -> Path:
    """Return the path of a config file or of a shipped config's name."""
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    if path.is_dir():
        raise UserError(f"{name} is a folder: name a YAML file")
    raise UserError(f"there is no config file or shipped config {name!r}{suggest(name, shipped)}")


def suggest(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?", "; the choices are ..." or nothing."""
    names = list(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; the choices are {', '.join(names)}" if names and len(names) <= 30 else ""


def load(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a config file or shipped name, apply overrides KEY=VALUE, and return the typed config."""
    path = find_config(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    tree = parse_yaml(text, str(path))
    if tree is None:
        raise UserError(f"{path} is empty: write a mapping with algorithm, source and stop (see `rayloom list`)")
    if not isinstance(tree, dict):
        raise UserError(f"{path} must be a mapping of keys to values, not a {type(tree).__name__}")
    tree.setdefault("name", path.stem)
    return from_tree(apply_overrides(tree, overrides))


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the tree with dotted overrides `KEY=VALUE` applied; values are YAML."""
    tree = cast(dict[str, Any], _plain(tree))
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator or not key:
            raise UserError(f"the override {override!r} must have the form KEY=VALUE, as learner.batch_size=64")
        value = parse_yaml(text, f"override {key}") if text else None
        node = tree
        parts = ["stop", key[5:]] if key.startswith("stop.") else key.split(".")
        for part in parts[:-1]:
            if node.get(part) is None:
                node[part] = {}
            if not isinstance(node[part], dict):
                raise UserError(f"the override {key} goes through {part!r}, which is not a mapping")
            node = node[part]
        node[parts[-1]] = value
    return tree


def from_tree(tree: Mapping[str, Any]) -> RunConfig:
    """Validate plain data and return the typed config."""
    tree = dict(tree)
    for key in ("algorithm", "source", "stop"):
        if not isinstance(tree.get(key), Mapping) or not tree[key]:
            known = difflib.get_close_matches(key, [k for k in tree if k not in RunConfig.__dataclass_fields__], n=1)
            hint = f" (is {known[0]!r} a misspelling?)" if known else ""
            raise UserError(f"{key}: the config needs a mapping here{hint}")
    algorithm = dict(tree.pop("algorithm"))
    path = algorithm.pop("import", None)
    if not isinstance(path, str):
        raise UserError('algorithm.import: name the algorithm as "package.module:Class"')
    source = dict(tree.pop("source"))
    kind = source.get("kind")
    if kind not in SOURCE_KINDS:
        raise UserError(f"source.kind: {kind!r} is no source{suggest(str(kind), SOURCE_KINDS)}")
    algorithm_class = import_algorithm(path)
    if kind not in algorithm_class.sources:
        fitting = ", ".join(sorted(algorithm_class.sources))
        raise UserError(f"source.kind: {algorithm_class.__name__} cannot learn from {kind!r}; use {fitting}")
    _check_stop(tree["stop"])
    config = validate(
        RunConfig,
        {
            **tree,
            "algorithm_path": path,
            "algorithm": validate(algorithm_class.Config, algorithm, "algorithm"),
            "source": validate(SOURCE_KINDS[kind], source, "source"),
        },
        "",
    )
    for key, interval in (
        ("evaluate.every", config.evaluate.every),
        ("checkpoint.every", config.checkpoint.every),
        ("tracking.every", config.tracking.every),
    ):
        if interval is not None:
            Interval.parse(str(interval), key)
    return config


def _check_stop(stop: Mapping[str, Any]) -> None:
    for key, value in stop.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"stop.{key}: {value!r} is not a number")
        if key not in UNITS and "/" not in key:
            raise UserError(f"stop.{key}: is neither a counter nor a metric{suggest(key, UNITS)}")
        if key in UNITS and value < 1:
            raise UserError(f"stop.{key}: must be at least 1, not {value}")
    if not any(key in UNITS for key in stop):
        raise UserError(f"stop: set a budget with one of {', '.join(UNITS)} so that the run ends")


def validate(cls: type[_T], data: Mapping[str, Any], prefix: str) -> _T:
    """Return `cls` built from plain data; the first mistake becomes a UserError that names key and remedy."""
    if dataclasses.is_dataclass(cls) and "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = _STRICT  # type: ignore[attr-defined]
    try:
        built = TypeAdapter(cls).validate_python(dict(data))
    except ValidationError as error:
        raise UserError(_explain(error, cls, prefix)) from None
    _reject_booleans(data, built, prefix)
    return built


def _reject_booleans(data: Mapping[str, Any], built: Any, prefix: str) -> None:
    """Pydantic takes true for 1; a person who writes `batch_size: true` made a mistake."""
    for name, value in data.items():
        key = f"{prefix}.{name}" if prefix else name
        typed = getattr(built, name, None)
        if isinstance(value, bool) and isinstance(typed, int | float) and not isinstance(typed, bool):
            raise UserError(f"{key}: must be a number, not {value}")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(typed):
            _reject_booleans(value, typed, key)


def _explain(error: ValidationError, cls: type[Any], prefix: str) -> str:
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    key = ".".join([prefix, *location] if prefix else location)
    if problem["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        owner: Any = cls
        for part in location[:-1]:
            owner = next((f.type for f in dataclasses.fields(owner) if f.name == part), cls)
            owner = _class_named(owner)
        names = [f.name for f in dataclasses.fields(owner)] if dataclasses.is_dataclass(owner) else []
        return f"{key}: there is no such key{suggest(location[-1], names)}"
    if problem["type"] in ("missing", "missing_argument", "missing_keyword_only_argument"):
        return f"{key}: this key is required"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message[:1].lower()}{message[1:]}, not {problem['input']!r}"


def _class_named(annotation: Any) -> Any:
    """Resolve a field's annotation, a string under postponed evaluation, to one of this module's classes."""
    return globals().get(annotation, annotation) if isinstance(annotation, str) else annotation


def import_object(path: str, key: str) -> Any:
    """Import "package.module:name"; the sentence of the error names `key`."""
    module_name, separator, name = path.partition(":")
    if not separator or not module_name or not name:
        raise UserError(f'{key}: {path!r} must have the form "package.module:name"')
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # A missing dependency inside the module is not a misspelt path: show its own traceback.
        if error.name and module_name.startswith(error.name):
            raise UserError(f"{key}: there is no module {error.name!r}; check the path {path!r}") from None
        raise
    if not hasattr(module, name):
        raise UserError(f"{key}: the module {module_name} has no {name!r}{suggest(name, vars(module))}")
    return getattr(module, name)


def import_algorithm(path: str) -> type[Algorithm]:
    """Import an algorithm class by path."""
    found = import_object(path, "algorithm.import")
    if not isinstance(found, type) or not issubclass(found, Algorithm):
        raise UserError(f"algorithm.import: {path} is not a subclass of rayloom.contract.Algorithm")
    return found
