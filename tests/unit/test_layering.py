"""The house rules that a machine can check: who imports whom, what is called what, and how long things are.

The checks take the root of a tree, so that each is also tried on small trees with one planted violation.
"""

from __future__ import annotations

import ast
import functools
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE_ROOTS = {
    "platform": "rayloom",
    "agents": "rayloom_agents",
    "generative": "rayloom_generative",
    "supervised": "rayloom_supervised",
}
FAMILIES = ("rayloom_agents", "rayloom_generative", "rayloom_supervised")
OWNERS = {"mlflow": ("rayloom.tracking.writer",), "optuna": ("rayloom.search",), "ray": ("rayloom.cluster",)}
"""Libraries that one room alone may import."""
OPEN_TO_FAMILIES = ("rayloom.contract", "rayloom.datasets")
OPEN_TO_CONTRACT = (
    "rayloom.errors", "rayloom.components", "rayloom.source_settings", "rayloom.evaluation_settings",
)  # fmt: skip
"""What the contract may import besides itself."""
NETWORKS = ("rayloom_supervised.networks", "rayloom_supervised.layers")
"""What agents and generative models may import from the supervised family."""
FLOORS = (
    (
        "redaction",
        "database_urls",
        "errors",
        "files",
        "seeding",
        "signals",
        "timeline",
        "components",
        "source_settings",
        "evaluation_settings",
    ),
    ("contract",),
    ("config", "datasets"),
    ("devices", "memory"),
    ("rollouts", "learner", "checkpoint", "tracking"),
    ("sources",),
    ("runs",),
    ("search", "cluster"),
    ("launch",),
    ("testing",),
    ("cli",),
    ("", "__main__"),
)
"""The rooms of the engine from the ground upwards: a room imports from its own floor and from those below."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
MAX_FUNCTION, MAX_FUNCTION_OF_NINE_IN_TEN, MAX_FILE = 100, 40, 400

Check = Callable[[Path], list[str]]


def modules(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the dotted name and path of every module under the source roots."""
    for folder in SOURCE_ROOTS:
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root / folder).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


@functools.cache
def parse(path: Path, changed_ns: int) -> ast.Module:
    """Return a module's syntax tree; every rule reads the whole tree of sources, which is parsed once."""
    return ast.parse(path.read_text(encoding="utf-8"))


def syntax(path: Path) -> ast.Module:
    """Return a module's syntax tree, parsed anew only after it has changed."""
    return parse(path, path.stat().st_mtime_ns)


def imports(name: str, path: Path, when_loaded: bool = False) -> Iterator[tuple[str, int]]:
    """Yield what a module imports, wherever the statement stands, as dotted names with their lines.

    `from a import b` yields a.b, since b may be a module; import_module("a") and __import__("a") count as imports.
    `when_loaded` leaves out imports inside functions and those for type checkers alone.
    """
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    tree = syntax(path)
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree) if when_loaded else ():
        for_types = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            skipped |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith(("import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value), node.lineno


def inside(name: str, *packages: str) -> bool:
    """Return whether a dotted name is one of the packages or lies in one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


def check_library_owners(root: Path) -> list[str]:
    """Find imports of mlflow, optuna and ray outside the one room that owns each."""
    return [
        f"{path.relative_to(root)}:{line} imports {library}, which only {owners[0]} may"
        for name, path in modules(root)
        for imported, line in imports(name, path)
        for library, owners in OWNERS.items()
        if inside(imported, library) and not inside(name, *owners)
    ]


def check_contract(root: Path) -> list[str]:
    """Find imports of the contract besides itself, the ground floor, torch and the standard library."""
    return [
        f"{path.relative_to(root)}:{line} imports {imported}"
        for name, path in modules(root)
        for imported, line in (imports(name, path) if inside(name, "rayloom.contract") else ())
        if imported.split(".")[0] not in {"torch", *sys.stdlib_module_names}
        and not inside(imported, "rayloom.contract", *OPEN_TO_CONTRACT)
    ]


def crossing_allowed(importer: str, imported: str) -> bool:
    """Return whether a module may import another of our packages."""
    own, other = importer.split(".")[0], imported.split(".")[0]
    if own == other:
        return True
    if own == "rayloom":
        return False  # the engine finds families by import path only
    if other == "rayloom":
        return inside(imported, *OPEN_TO_FAMILIES)
    return other == "rayloom_supervised" and inside(imported, *NETWORKS)


def check_crossings(root: Path) -> list[str]:
    """Find imports between our packages that the house does not allow."""
    return [
        f"{path.relative_to(root)}:{line} imports {imported}"
        for name, path in modules(root)
        for imported, line in imports(name, path)
        if imported.split(".")[0] in SOURCE_ROOTS.values() and not crossing_allowed(name, imported)
    ]


def room(name: str) -> str:
    """Return the room of one of the engine's modules; the package itself has none."""
    return name.split(".")[1] if "." in name else ""


def check_arrows(root: Path) -> list[str]:
    """Find imports from a room into one that stands above it, lazy imports and those for type checkers included."""
    floor = {name: number for number, rooms in enumerate(FLOORS) for name in rooms}
    problems = []
    for name, path in modules(root):
        if not inside(name, "rayloom"):
            continue
        if room(name) not in floor:
            problems.append(f"{path.relative_to(root)}: the house has no room {room(name)!r}")
            continue
        for imported, line in imports(name, path):
            above = inside(imported, "rayloom") and floor.get(room(imported), 0) > floor[room(name)]
            if above and imported != "rayloom.__version__":
                problems.append(f"{path.relative_to(root)}:{line} imports {imported}, which stands above it")
    return problems


def check_meanings(root: Path) -> list[str]:
    """Find public classes of the engine that share their name with another one: a name has one meaning."""
    seen: dict[str, str] = {}
    problems = []
    for name, path in modules(root):
        for node in syntax(path).body if inside(name, "rayloom") else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                if node.name in seen:
                    problems.append(
                        f"{path.relative_to(root)}:{node.lineno} {node.name} means something in {seen[node.name]}"
                    )
                seen.setdefault(node.name, name)
    return problems


def check_cycles(root: Path) -> list[str]:
    """Find modules of the engine that import each other in a circle, wherever the imports stand."""
    known = {name: path for name, path in modules(root) if inside(name, "rayloom")}
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = {imported for imported, _ in imports(name, path)}
        targets = {target if target in known else target.rpartition(".")[0] for target in targets}
        # A package's own __init__ gathers what its modules define; they do not depend on it.
        edges[name] = {target for target in targets if target in known and target != "rayloom" and target != name}
    while True:
        leaves = [name for name, targets in edges.items() if not targets & edges.keys()]
        if not leaves:
            return [f"{name} imports in a circle: {sorted(targets & edges.keys())}" for name, targets in edges.items()]
        for name in leaves:
            del edges[name]


def check_names(root: Path) -> list[str]:
    """Find modules that hide the standard library, a `platform` package, and names that say nothing."""
    problems = []
    for folder in [root, *(root / name for name in SOURCE_ROOTS)]:
        for path in sorted(folder.iterdir()):
            importable = path.suffix == ".py" or (path / "__init__.py").is_file()
            if importable and path.stem in sys.stdlib_module_names:
                problems.append(f"{path.relative_to(root)} hides the standard library's {path.stem}")
    problems += [f"{folder}/__init__.py makes a package of a source root" for folder in SOURCE_ROOTS
                 if (root / folder / "__init__.py").exists()]  # fmt: skip
    for name, path in modules(root):
        if VAGUE_NAMES & set(name.split(".")):
            problems.append(f"{path.relative_to(root)} has a name that says nothing")
        for node in ast.walk(syntax(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name.lower().strip("_") in VAGUE_NAMES:
                problems.append(f"{path.relative_to(root)}:{node.lineno} {node.name} says nothing")
    return problems


def check_lengths(root: Path) -> list[str]:
    """Find files and functions over their budgets (in lines, docstrings included)."""
    problems = []
    lengths = []
    for _, path in modules(root):
        text = path.read_text(encoding="utf-8")
        if len(text.splitlines()) > MAX_FILE:
            problems.append(f"{path.relative_to(root)} has {len(text.splitlines())} lines; at most {MAX_FILE}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths.append((node.end_lineno or 0) - node.lineno + 1)
                if lengths[-1] > MAX_FUNCTION:
                    problems.append(f"{path.relative_to(root)}:{node.lineno} {node.name} has {lengths[-1]} lines")
    lengths.sort()
    if lengths and lengths[math.ceil(0.9 * len(lengths)) - 1] > MAX_FUNCTION_OF_NINE_IN_TEN:
        problems.append(f"more than one function in ten is longer than {MAX_FUNCTION_OF_NINE_IN_TEN} lines")
    return problems


CHECKS: tuple[Check, ...] = (
    check_library_owners, check_contract, check_crossings, check_arrows, check_meanings, check_cycles, check_names,
    check_lengths,
)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_tree_keeps_the_house_rules(root: Path, check: Check) -> None:
    assert sum(1 for _ in modules(root)) >= 4
    problems = check(root)
    assert not problems, "\n" + "\n".join(problems)


def plant(root: Path, files: dict[str, str]) -> Path:
    """Write a small correct tree with `files` added or replaced, and return its root."""
    house = {
        "platform/rayloom/__init__.py": "",
        "platform/rayloom/contract.py": "from __future__ import annotations\nimport abc\nimport torch\n",
        "platform/rayloom/cluster/__init__.py": "import ray\n",
        "platform/rayloom/errors.py": "class UserError(Exception):\n    pass\n",
        "platform/rayloom/tracking/writer/store.py": "from mlflow.entities import Metric\n",
        "platform/rayloom/search/study.py": "def study():\n    import optuna\n",
        "platform/rayloom/runs/loop.py": "from rayloom import contract\nfrom ..errors import UserError\n",
        "platform/rayloom/launch/run.py": "from rayloom.runs import loop\nfrom ..cluster import actors\n",
        "agents/rayloom_agents/ppo.py": "from rayloom.contract import Loss\nimport rayloom_supervised.layers.lstm\n",
        "generative/rayloom_generative/vae.py": "import rayloom.datasets.a\nfrom rayloom_supervised import networks\n",
        "supervised/rayloom_supervised/networks.py": "from rayloom import datasets\nfrom torch import nn\n",
    }
    for name, text in {**house, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_correct_tree_has_no_problem(tmp_path: Path, check: Check) -> None:
    assert check(plant(tmp_path, {})) == []


def function(lines: int, name: str = "f") -> str:
    """Return a function of so many lines."""
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


VIOLATIONS: list[tuple[Check, str, str]] = [
    (check_library_owners, "platform/rayloom/runs/loop.py", "import mlflow\n"),
    (check_library_owners, "platform/rayloom/runs/loop.py", "def f():\n    from mlflow.tracking import MlflowClient\n"),
    (check_library_owners, "platform/rayloom/runs/loop.py", "if TYPE_CHECKING:\n    import ray.actor\n"),
    (check_library_owners, "platform/rayloom/runs/loop.py", "import os, ray as r\n"),
    (check_library_owners, "platform/rayloom/cluster/slots.py", "import optuna\n"),
    (check_library_owners, "platform/rayloom/tracking/writer/store.py", "import ray\n"),
    (check_library_owners, "platform/rayloom/clusters.py", "import ray\n"),
    (check_library_owners, "platform/rayloom/tracking/tracker.py", "import mlflow\n"),
    (check_library_owners, "platform/rayloom/search_space.py", "import optuna\n"),
    (check_library_owners, "agents/rayloom_agents/ppo.py", "from ray import remote\n"),
    (check_library_owners, "platform/rayloom/runs/loop.py", "import importlib\nimportlib.import_module('mlflow')\n"),
    (check_library_owners, "platform/rayloom/runs/loop.py", "__import__('ray.util')\n"),
    (check_contract, "platform/rayloom/contract.py", "import numpy\n"),
    (check_contract, "platform/rayloom/contract.py", "def f():\n    import yaml\n"),
    (check_contract, "platform/rayloom/contract.py", "from rayloom import config\n"),
    (check_contract, "platform/rayloom/contract.py", "from . import config\n"),
    (check_contract, "platform/rayloom/contract/steps.py", "import numpy\n"),
    (check_crossings, "platform/rayloom/runs/loop.py", "import rayloom_agents\n"),
    (check_crossings, "platform/rayloom/runs/loop.py", "def f():\n    from rayloom_supervised.networks import MLP\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "from rayloom.learner.learner import Learner\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "from rayloom import run\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "import rayloom\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "import rayloom.contractual\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "from rayloom_generative import vae\n"),
    (check_crossings, "agents/rayloom_agents/ppo.py", "from rayloom_supervised.training import X\n"),
    (check_crossings, "generative/rayloom_generative/vae.py", "import rayloom_agents.policy_gradient.ppo\n"),
    (check_crossings, "supervised/rayloom_supervised/cnn.py", "from rayloom_agents import networks\n"),
    (check_crossings, "supervised/rayloom_supervised/cnn.py", "import rayloom_generative.networks.feed_forward\n"),
    (check_arrows, "platform/rayloom/contract.py", "import torch\nfrom rayloom.runs import loop\n"),
    (check_arrows, "platform/rayloom/runs/loop.py", "def f():\n    from rayloom.launch.run import start\n"),
    (check_arrows, "platform/rayloom/runs/loop.py", "if TYPE_CHECKING:\n    from rayloom.search.study import study\n"),
    (check_arrows, "platform/rayloom/cluster/__init__.py", "from ..launch import run\n"),
    (check_arrows, "platform/rayloom/launch/run.py", "from rayloom.__main__ import main\n"),
    (check_arrows, "platform/rayloom/launch/run.py", "importlib.import_module('rayloom.cli.main')\n"),
    (check_arrows, "platform/rayloom/attic.py", ""),
    (check_meanings, "platform/rayloom/runs/loop.py", "class UserError(Exception):\n    pass\n"),
    (check_cycles, "platform/rayloom/contract.py", "import torch\nfrom rayloom.runs import loop\n"),
    (check_cycles, "platform/rayloom/contract.py", "class A:\n    import rayloom.runs.loop\n"),
    (check_cycles, "platform/rayloom/contract.py", "def f():\n    import rayloom.runs.loop\n"),
    (check_cycles, "platform/rayloom/cluster/__init__.py", "from ..launch.run import start\n"),
    (check_names, "platform/__init__.py", ""),
    (check_names, "platform.py", ""),
    (check_names, "select.py", ""),
    (check_names, "agents/__init__.py", ""),
    (check_names, "agents/queue.py", ""),
    (check_names, "supervised/statistics/__init__.py", ""),
    (check_names, "platform/rayloom/utils.py", ""),
    (check_names, "agents/rayloom_agents/common/ppo.py", ""),
    (check_names, "agents/rayloom_agents/ppo.py", "class Helpers:\n    pass\n"),
    (check_lengths, "agents/rayloom_agents/ppo.py", function(101) + 20 * function(2)),
    (check_lengths, "agents/rayloom_agents/ppo.py", 20 * function(2) + "async " + function(101)),
    (check_lengths, "agents/rayloom_agents/ppo.py", "\n" * 401),
    (check_lengths, "agents/rayloom_agents/ppo.py", 2 * function(41) + 16 * function(2)),
]  # fmt: skip


@pytest.mark.parametrize(("check", "name", "text"), VIOLATIONS)
def test_a_planted_violation_is_found(tmp_path: Path, check: Check, name: str, text: str) -> None:
    assert check(plant(tmp_path, {name: text}))


def test_budgets_are_kept_to_the_line(tmp_path: Path) -> None:
    fine = function(100) + 2 * function(40) + 9 * function(5)
    assert check_lengths(plant(tmp_path, {"agents/rayloom_agents/ppo.py": fine})) == []
    two_in_twenty = 2 * function(41) + 17 * function(
        2
    )  # the twentieth stands in search/study.py: one in ten is allowed
    assert check_lengths(plant(tmp_path, {"agents/rayloom_agents/ppo.py": two_in_twenty})) == []
    filled = "\n" * 400
    assert check_lengths(plant(tmp_path, {"agents/rayloom_agents/ppo.py": filled})) == []


def test_imports_are_resolved(tmp_path: Path) -> None:
    path = tmp_path / "rayloom/cluster/slots.py"
    path.parent.mkdir(parents=True)
    path.write_text("from . import actors\nfrom ..runs.plan import Plan\nfrom .. import contract\nimport a.b as c\n")
    assert [name for name, _ in imports("rayloom.cluster.slots", path)] == [
        "rayloom.cluster.actors",
        "rayloom.runs.plan.Plan",
        "rayloom.contract",
        "a.b",
    ]
    package = path.with_name("__init__.py")
    package.write_text("from .pool import Pool\nif typing.TYPE_CHECKING:\n    import d\ndef f():\n    import e\n")
    assert {name for name, _ in imports("rayloom.cluster", package)} == {"rayloom.cluster.pool.Pool", "d", "e"}
    assert [name for name, _ in imports("rayloom.cluster", package, when_loaded=True)] == ["rayloom.cluster.pool.Pool"]
