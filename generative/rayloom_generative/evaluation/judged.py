"""What models of images share that are judged in the features of classifiers from other runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from rayloom.contract import Algorithm, AlgorithmConfig, Input, Spec, UserError
from rayloom_generative.evaluation.judge import Judge, JudgeConfig


@dataclass(frozen=True, kw_only=True)
class JudgedConfig(AlgorithmConfig):
    """Settings of a model that may be judged."""

    judge: JudgeConfig | None = None
    """A classifier in whose features samples are compared with data, with the weights of the run `inputs.judge`."""
    second_judge: JudgeConfig | None = None
    """Another one, best of another family, with those of `inputs.second_judge`: it may see what the first overlooks."""


class JudgedModel(Algorithm):
    """Base of the models that carry judges, whose weights are part of their state and which nothing trains."""

    Config: ClassVar[type[AlgorithmConfig]] = JudgedConfig

    def take_on_judges(self, config: JudgedConfig, spec: Spec) -> None:
        """Build the judges of the settings; UserError for data that have no images with labels."""
        self.judge = None if config.judge is None else Judge(config.judge, spec)
        self.second_judge = None if config.second_judge is None else Judge(config.second_judge, spec, "second_judge")
        self._judges_are_known = not self.judges

    @property
    def judges(self) -> tuple[Judge, ...]:
        """The judges that there are."""
        return tuple(judge for judge in (self.judge, self.second_judge) if judge is not None)

    def start_from(self, inputs: Mapping[str, Input]) -> None:
        """Take the judges' weights from the runs `inputs.judge` and `inputs.second_judge`."""
        judges = {judge.key: judge for judge in self.judges}
        for name, given in inputs.items():
            if name not in judges:
                wanted = name if name == "second_judge" else "judge"
                raise UserError(
                    f"inputs.{name}: {type(self).__name__} takes the input {wanted}, with algorithm.{wanted} for its "
                    "network"
                )
            judges[name].take(given)

    def check_judges(self) -> None:
        """Raise UserError where a judge has no weights: at the start of a run, and not after hours of it."""
        if not self._judges_are_known:
            self._judges_are_known = all(judge.name for judge in self.judges)
