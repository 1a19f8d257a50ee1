"""Whatever stands in a config: it can be used, or one sentence says what to change, at once and in little memory."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

from config_mutations import mutate
from examples import examples
from outcomes import outcome
from rayloom.config.load import load, shipped_configs

MUTANTS = examples(full=2000, short=100)
NAMES = sorted(name for name in shipped_configs() if "fashion" not in name)
MEMORY = 8 * 2**30
"""What showing a config may take (bytes): more would be an allocation that nobody has checked."""


@pytest.fixture
def little_memory() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def mutant(seed: int, folder: Path) -> tuple[Path, str]:
    """Write a mutated config; return its file and what was changed."""
    chance = random.Random(seed)
    name = chance.choice(NAMES)
    whole = load(name).to_tree() if chance.random() < 0.5 else yaml.safe_load(shipped_configs()[name].read_text())
    tree, what = mutate(whole, chance)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=False))
    return path, f"{name} {what}"


def one_sentence(what: str, *words: str) -> int:
    """Check that a command ends with success or one sentence; return its code."""
    code, told = outcome(*words)
    assert code in (0, 2), f"{what}: ended with {code}: {told}"
    if code == 2:
        sentence = told.splitlines()[-1]
        assert sentence.startswith("rayloom: "), f"{what}: {told}"
        assert len(sentence) < 700, f"{what}: {len(sentence)} characters: {told}"
    return code


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", range(MUTANTS))
def test_a_mutated_config_is_shown_or_refused_in_one_sentence(seed: int, tmp_path: Path) -> None:
    path, what = mutant(seed, tmp_path)
    one_sentence(what, "show", str(path), "--local", f"output={tmp_path / 'runs'}")
    assert not (tmp_path / "runs").exists()


SHORT = ("stop={updates: 1}", "tracking={enabled: false, pictures: false}", "cluster={}", "checkpoint={}")


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("seed", range(10_000, 10_000 + MUTANTS // 4))
def test_a_mutated_config_runs_or_is_refused_in_one_sentence(seed: int, tmp_path: Path) -> None:
    path, what = mutant(seed, tmp_path)
    one_sentence(what, "run", str(path), "--local", "--quiet", f"output={tmp_path / 'runs'}", *SHORT)
