"""A run is judged anew with other settings, another evaluation, or other environments; samples have options."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import rayloom
from cases import case
from rayloom.cli import main as cli
from rayloom.contract import Algorithm, Budget, Evaluation, EvaluationConfig, Figure, Findings, Metric
from rayloom.errors import UserError
from rayloom_generative.autoencoders.vae import VAE


class Optional(VAE):
    """Takes options for its samples."""

    def sample(self, count: int, generator: torch.Generator, *, brightness: float = 1.0) -> Figure:
        figure = super().sample(count, generator)
        return Figure(figure.kind, figure.data * brightness)


class Needy(VAE):
    """Needs an option for its samples."""

    def sample(self, count: int, generator: torch.Generator, digit: int, **more: Any) -> Figure:
        return Figure("text", text=f"{count} of {digit} with {more}")


@dataclass(frozen=True, kw_only=True)
class DuelsConfig(EvaluationConfig):
    """Settings of duels."""

    games: int = 4
    """Games of one evaluation."""


class Duels(Evaluation):
    """Tells how many games it was asked for."""

    Config = DuelsConfig
    metrics: ClassVar = {"games": Metric()}

    def run(self, policy: Algorithm, seed: int, budget: Budget) -> Findings:
        return Findings({"games": float(budget.count or self.config.games)})


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def classifier(output: Path) -> str:
    config = case("softmax_regression", str(output), stop={"updates": 30, "epochs": 9})
    return rayloom.run(config, local=True).run_dir.name


@pytest.fixture(scope="module")
def agent(output: Path) -> str:
    return rayloom.run(case("ppo", str(output), stop={"env_steps": 128}), local=True).run_dir.name


@pytest.fixture(scope="module")
def painter(output: Path) -> str:
    algorithm = {"import": f"{__name__}:Optional"}
    config = case("vae", str(output), algorithm=algorithm, stop={"updates": 5, "epochs": 9})
    return rayloom.run(config, local=True).run_dir.name


def test_a_run_is_judged_on_another_split(classifier: str, output: Path) -> None:
    as_it_was = rayloom.evaluate(classifier, output=str(output)).metrics
    again = rayloom.evaluate(
        classifier, "evaluate.split=validation", "evaluate.batch_size=9", output=str(output)
    ).metrics
    test = rayloom.evaluate(classifier, "evaluate.split=test", output=str(output)).metrics
    assert again == pytest.approx(as_it_was)
    assert test != as_it_was and test.keys() == as_it_was.keys()
    trained = rayloom.load(classifier, output=str(output))
    assert trained.evaluate("evaluate.split=test").metrics == test


def test_an_agent_is_judged_over_other_episodes(agent: str, output: Path) -> None:
    one = rayloom.evaluate(agent, "evaluate.episodes=1", output=str(output)).metrics
    assert one["evaluate/return_min"] == one["evaluate/return_max"] == one["evaluate/return_mean"]
    cut = rayloom.evaluate(agent, "evaluate.max_episode_steps=3", output=str(output)).metrics
    assert cut["evaluate/episode_length_mean"] == 3
    wrapped = "evaluate.wrappers=[{kind: time_limit, max_episode_steps: 4}]"
    limited = rayloom.evaluate(agent, wrapped, output=str(output)).metrics
    assert limited["evaluate/episode_length_mean"] == 4


def test_options_of_the_environments_are_the_sources_or_the_evaluations(agent: str, output: Path) -> None:
    kind = "sutton_barto_reward=true"  # pays nothing but -1 at the end of an episode
    for key in ("source.env_options", "evaluate.env_options"):
        found = rayloom.evaluate(agent, f"{key}.{kind}", output=str(output)).metrics
        assert found["evaluate/return_mean"] == -1


def test_a_run_is_judged_by_another_evaluation(classifier: str, agent: str, output: Path) -> None:
    own = f"evaluate.import={__name__}:Duels"
    for run in (classifier, agent):
        assert rayloom.evaluate(run, own, output=str(output)).metrics == {"evaluate/games": 4}
        assert rayloom.evaluate(run, own, "evaluate.games=7", output=str(output)).metrics == {"evaluate/games": 7}
    assert rayloom.evaluate(agent, "evaluate=none", output=str(output)).metrics == {}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("evaluate.splitt=test", r"^evaluate\.splitt: data has no such setting; did you mean 'split'\?$"),
        ("evaluate.episodes=3", r"^evaluate\.episodes: data has no such setting; the choices are .*split, batch_size$"),
        ("evaluate.split=train", r"^evaluate\.split: input should be 'validation' or 'test', not 'train'$"),
        ("evaluate.every=3", r"^evaluate\.every: says when a run is judged, and this is now; leave it out$"),
        ("evaluate.wait=false", r"^evaluate\.wait: says when a run is judged"),
        ("learner.batch_size=3", r"^learner\.batch_size: does not change how a run is judged; set evaluate\.KEY or "),
        ("source.env_options.x=3", r"^source\.env_options: there is no such key"),
        ("evaluate.split", r"^the override 'evaluate\.split' must have the form KEY=VALUE"),
        (
            "evaluate.kind=episodes",
            r"^evaluate\.kind: episodes need a source with environments, and this run's has none$",
        ),
        ("evaluate.import=os:system", r"^evaluate\.import: os:system is no evaluation; name a subclass of "),
    ],
)
def test_what_does_not_exist_is_refused(override: str, sentence: str, classifier: str, output: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        rayloom.evaluate(classifier, override, output=str(output))


def test_a_run_without_data_is_not_judged_on_data(agent: str, output: Path) -> None:
    with pytest.raises(UserError, match=r"^evaluate\.kind: data needs a data set, and this run's source has none$"):
        rayloom.evaluate(agent, "evaluate.kind=data", output=str(output))


def test_samples_have_options(painter: str, agent: str, output: Path, tmp_path: Path) -> None:
    trained = rayloom.load(painter, output=str(output))
    assert torch.allclose(trained.sample(3, brightness=0.5).data, 0.5 * trained.sample(3).data)
    pictures = [tmp_path / "bright.png", tmp_path / "dark.png"]
    for picture, brightness in zip(pictures, (1.0, 0.25), strict=True):
        rayloom.sample(painter, count=4, destination=picture, output=str(output), options={"brightness": brightness})
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    for options, sentence in (
        ({"brightnes": 1}, r"^sample: Optional has no option 'brightnes'; did you mean 'brightness'\?$"),
        ({"count": 1}, r"^sample: count is no option of the model; say how many with --count$"),
    ):
        with pytest.raises(UserError, match=sentence):
            rayloom.sample(painter, destination=tmp_path / "no.png", output=str(output), options=options)


def test_an_option_that_is_needed_is_asked_for(output: Path) -> None:
    algorithm = {"import": f"{__name__}:Needy"}
    config = case("vae", str(output), algorithm=algorithm, stop={"updates": 5, "epochs": 9})
    trained = rayloom.load(rayloom.run(config, local=True).run_dir.name, output=str(output))
    with pytest.raises(UserError, match=r"^sample: Needy needs the option 'digit'; give it as digit=VALUE$"):
        trained.sample(3)
    assert trained.sample(3, digit=4, slant=2).text == "3 of 4 with {'slant': 2}"


def test_frames_have_no_options(agent: str, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = rayloom.load(agent, output=str(output))
    monkeypatch.setattr(trained.config.source_class(), "frames", classmethod(lambda *_: []))
    with pytest.raises(UserError, match=r"^sample: frames of an episode have no option 'digit'; leave it out$"):
        trained.picture(3, tmp_path / "frames.png", digit=3)


def test_the_commands_take_them(
    classifier: str, painter: str, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--output", str(output), "--json"]
    assert cli.main(["evaluate", classifier, *where, "evaluate.split=test"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["metrics"] == rayloom.evaluate(classifier, "evaluate.split=test", output=str(output)).metrics
    assert cli.main(["evaluate", classifier, "evaluate.splitt=test", *where]) == 2
    assert "did you mean 'split'?" in capsys.readouterr().err
    picture = ["--destination", str(tmp_path / "x.png")]
    assert cli.main(["sample", painter, "brightness=0.5", *where, *picture]) == 0
    assert (tmp_path / "x.png").is_file()
    assert cli.main(["sample", painter, "contrast=0.5", *where, *picture]) == 2
    assert "Optional has no option 'contrast'; the choices are brightness" in capsys.readouterr().err
