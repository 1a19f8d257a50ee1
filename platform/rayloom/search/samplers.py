"""Optuna's samplers and pruners by name, made exact: what trial n is given depends on (seed, n, history) alone.

A sampler of Optuna carries a random state from trial to trial, which no storage keeps. Here every suggestion draws from
a generator of its own, addressed by the study's seed, the trial's number and the parameter's name. A study that was
killed between any two suggestions therefore goes on with the same ones, and nothing has to be pickled.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, QMCSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from rayloom.config.import_path import suggest
from rayloom.config.search import SearchConfig
from rayloom.errors import UserError
from rayloom.search.domains import Categorical, Leaf
from rayloom.search.space import Space
from rayloom.seeding import derive_seed

STATEFUL = frozenset({"cmaes"})
"""Samplers whose state grows with the study: it is rebuilt by repeating the study's history."""

optuna.logging.set_verbosity(optuna.logging.ERROR)
# What they warn of is handled here (infinite values, values that are not numbers) or not the user's to change.
warnings.filterwarnings("ignore", module=r"(optuna|rayloom\.search\.samplers)\b")

_SEED_BITS = 32
_RESERVED = {"seed", "warn_independent_sampling", "warn_asynchronous_seeding"}
_OPTION_TYPES: dict[str, type | tuple[type, ...]] = {
    "int": int,
    "float": (int, float),
    "bool": bool,
    "str": str,
    "None": type(None),
}


def distribution(leaf: Leaf) -> BaseDistribution:
    """Return Optuna's distribution of a parameter."""
    if isinstance(leaf, Categorical):
        return CategoricalDistribution(leaf.choices)
    if leaf.kind == "int":
        return IntDistribution(int(leaf.low), int(leaf.high), step=int(leaf.step or 1), log=leaf.log)
    return FloatDistribution(leaf.low, leaf.high, step=leaf.step, log=leaf.log)


class AddressedSampler(BaseSampler):
    """Gives every suggestion a fresh sampler, seeded by the suggestion's address."""

    def __init__(
        self, make: Callable[[int], BaseSampler], seed: int, joint: dict[str, BaseDistribution] | None = None
    ) -> None:
        """`make(seed)` returns a sampler that draws from that seed.

        `joint`: the parameters that are drawn jointly; None: the sampler finds them in the history, which takes longer.
        """
        self._make = make
        self._seed = seed
        self._joint = joint
        self._relative: BaseSampler | None = None

    def _sampler(self, *address: str | int) -> BaseSampler:
        return self._make(derive_seed(self._seed, "search", *address) % 2**_SEED_BITS)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Take the sampler that will draw the trial's joint part."""
        self._relative = self._sampler("joint", trial.number)
        self._relative.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters that are drawn jointly."""
        if self._joint is not None:
            return dict(self._joint)
        assert self._relative is not None
        found: dict[str, BaseDistribution] = self._relative.infer_relative_search_space(study, trial)
        return found

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw the joint part."""
        assert self._relative is not None
        drawn: dict[str, Any] = self._relative.sample_relative(study, trial, search_space)
        return drawn

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw one parameter by itself."""
        sampler = self._sampler("single", trial.number, param_name)
        return sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the sampler look at the trial that has ended."""
        self._sampler("after", trial.number).after_trial(study, trial, state, values)


class SequenceSampler(QMCSampler):
    """Gives trial n the n-th point of a low-discrepancy sequence, whatever runs in parallel or is killed.

    Optuna counts the points in the storage and draws its first trials at random.
    """

    _number = 0

    def _find_sample_id(self, study: Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._number

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the trial's point."""
        self._number = trial.number
        drawn: dict[str, Any] = super().sample_relative(study, trial, search_space)
        return drawn


class GridSampler(BaseSampler):
    """Gives trial n the n-th point of the grid: each point exactly once, whatever runs in parallel or is killed."""

    def __init__(self, points: Sequence[Mapping[str, Any]]) -> None:
        """`points` hold the active parameters of each."""
        self._points = points

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return nothing: points are complete."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return nothing: points are complete."""
        return {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the point's coordinate."""
        return self._points[trial.number][param_name]


def make_sampler(settings: SearchConfig, space: Space, seed: int) -> BaseSampler:
    """Return the sampler of a study; UserError for options that it does not have."""
    options = dict(settings.sampler_options)
    key = "search.sampler_options"
    if settings.sampler == "grid":
        _check_options(lambda: None, options, key)
        return GridSampler(space.grid())
    classes: dict[str, Any] = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
        "cmaes": optuna.samplers.CmaEsSampler,
        "qmc": SequenceSampler,
    }
    sampler = classes[settings.sampler]
    _check_options(sampler, options, key)
    if settings.sampler == "tpe":
        # Parameters of one branch of a conditional space are drawn jointly too.
        options = {"multivariate": True, "group": space.conditional, **options}
    if settings.sampler in ("gp", "cmaes", "qmc"):
        options = {"warn_independent_sampling": False, **options}
    if settings.sampler == "qmc":
        # One sequence for the whole study; its scrambling is what the seed decides.
        sequence = derive_seed(seed, "search", "sequence") % 2**_SEED_BITS
        options = {"scramble": True, **options, "warn_asynchronous_seeding": False}
    _try(sampler, options, key)
    if settings.sampler in ("random", "tpe"):
        return AddressedSampler(lambda number: sampler(seed=number, **options), seed)
    # These see the same parameters in every trial: `Space.check_sampler` refuses others.
    joint = {leaf.name: distribution(leaf) for leaf in sorted(space.leaves, key=lambda leaf: leaf.name)}
    joint = {name: item for name, item in joint.items() if not item.single()}
    if settings.sampler == "qmc":
        return AddressedSampler(lambda _: sampler(seed=sequence, **options), seed, joint)
    return AddressedSampler(lambda number: sampler(seed=number, **options), seed, joint)


def make_pruner(settings: SearchConfig, evaluations: int) -> BasePruner:
    """Return the pruner of a study whose full trials have so many evaluations; a resource is one evaluation."""
    options = dict(settings.pruner_options)
    key = "search.pruner_options"
    classes: dict[str, Any] = {
        "none": optuna.pruners.NopPruner,
        "median": optuna.pruners.MedianPruner,
        "successive_halving": optuna.pruners.SuccessiveHalvingPruner,
        "hyperband": optuna.pruners.HyperbandPruner,
        "patient": optuna.pruners.PatientPruner,
    }
    pruner = classes[settings.pruner]
    _check_options(pruner, options, key)
    if settings.pruner == "patient":
        options = {"wrapped_pruner": None, "patience": 3, **options}
    # Optuna's "auto" waits for the first complete trials and keeps what they had, which a resumed study cannot know.
    if settings.pruner == "successive_halving":
        options = {"min_resource": 1, **options}
        if options["min_resource"] == "auto":
            options["min_resource"] = max(evaluations // 100, 1)
    if settings.pruner == "hyperband" and options.get("max_resource", "auto") == "auto":
        options["max_resource"] = evaluations
    made: BasePruner = _try(pruner, options, key)
    return made


def _try(function: Callable[..., Any], options: Mapping[str, Any], key: str) -> Any:
    """Make a sampler or pruner; UserError for values that it refuses."""
    try:
        return function(**options)
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}: {' '.join(str(error).split())}") from None


def _check_options(function: Callable[..., Any], options: Mapping[str, Any], key: str) -> None:
    """Refuse options that there are not, and values of another type than the option has."""
    known: dict[str, list[str]] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        types = inspect.formatannotation(parameter.annotation).strip("'").split(" | ")
        if name not in _RESERVED and not set(types).isdisjoint(_OPTION_TYPES.keys() - {"None"}):
            known[name] = types  # others, as functions and lists of trials, cannot be written in a config
    for name, value in options.items():
        if name not in known:
            raise UserError(f"{key}.{name}: there is no such option{suggest(name, list(known))}")
        wanted = [text for text in known[name] if text in _OPTION_TYPES]
        if not any(isinstance(value, _OPTION_TYPES[text]) for text in wanted) or (
            isinstance(value, bool) and "bool" not in wanted
        ):
            fitting = " or ".join(wanted).replace("None", "null")
            raise UserError(f"{key}.{name}: must be {fitting}, not {value!r}")
