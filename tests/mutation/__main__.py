"""`make mutation`: change the gate's code in one place at a time, and expect its tests to notice.

Each mutant runs in a process of its own, forked from one that has imported the libraries. A mutant that no
test fails for has survived; `survivors.txt` lists those that may, each with the reason. The command fails if
another one survives, or if a listed one does not survive any more.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

MODULES = (
    "gauntlet.components.gate_model.rules",
    "gauntlet.components.gate_model.shared_rules",
    "gauntlet.tasks.classification.gates",
    "gauntlet.tasks.multi_label_text.gates",
    "gauntlet.tasks.regression.gates",
    "gauntlet.tasks.ordinal_grading.gates",
    "gauntlet.tasks.language.gates",
    "gauntlet.tasks.managed_causal_lm.gates",
    "gauntlet.tasks.therapy.stages",
)
TESTS = (
    "tests/components/gate_model/test_gate_rules.py",
    "tests/components/gate_model/test_language_gates.py",
    "tests/components/gate_model/test_stages.py",
    "tests/components/gate_model/test_recorded_verdicts.py",
    "tests/tasks/multi_label_text/test_label_gates.py",
    "tests/tasks/regression/test_number_gates.py",
)
IMPORTED_AGAIN = ("gauntlet.components.gate_model", "gauntlet.tasks", "tests.components", "tests.tasks")
SURVIVORS = Path(__file__).with_name("survivors.txt")
LONGEST_SECONDS = 300
SHOWN = 60  # characters of the code

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.GtE: ast.Gt, ast.Gt: ast.GtE, ast.LtE: ast.Lt, ast.Lt: ast.LtE, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or,
    ast.Or: ast.And, ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Pow: ast.Mult,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A module's code with one change, and what the change is."""

    name: str
    module: str
    tree: ast.Module


def mutants(module: str) -> Iterator[Mutant]:
    """Every mutant of a module. Docstrings, annotations and `advice`, which is prose, stay as they are."""
    source = Path(str(importlib.util.find_spec(module).origin)).read_text(encoding="utf-8")  # type: ignore[union-attr]
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for place, (node, scope) in enumerate(_nodes(tree, "")):
        for number in range(len(_changes(node))):
            changed = copy.deepcopy(tree)
            other = next(found for at, (found, _) in enumerate(_nodes(changed, "")) if at == place)
            before = _shown(other)
            _changes(other)[number]()
            name = f"{module}:{scope}: {before!r} → {_shown(other)!r}"
            seen[name] += 1
            yield Mutant(f"{name} #{seen[name]}" if seen[name] > 1 else name, module, changed)


def _nodes(node: ast.AST, scope: str) -> Iterator[tuple[ast.AST, str]]:
    """The nodes that can be changed, in order, with the function or the assignment that they are in."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        scope = f"{scope}.{node.name}".strip(".")
    elif isinstance(node, ast.Assign) and not scope:
        scope = ast.unparse(node.targets[0])
    yield node, scope
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list") or (
            isinstance(node, ast.keyword) and node.arg == "advice"
        ):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_prose(child):
                yield from _nodes(child, scope)


def _shown(node: ast.AST) -> str:
    return ast.unparse(node).partition("\n")[0][:SHOWN]


def _is_prose(node: ast.AST) -> bool:
    names_exports = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    return names_exports or isinstance(
        node, ast.Expr | ast.AnnAssign | ast.Import | ast.ImportFrom | ast.JoinedStr
    )


def _changes(node: ast.AST) -> list:  # type: ignore[type-arg]
    """What can be changed of a node, as functions that do it."""
    changes = []
    if isinstance(node, ast.Compare):
        for at, operator in enumerate(node.ops):
            if other := SWAPPED.get(type(operator)):
                changes.append(lambda at=at, other=other: node.ops.__setitem__(at, other()))
    elif isinstance(node, ast.BoolOp | ast.BinOp) and type(node.op) in SWAPPED:
        changes.append(lambda: setattr(node, "op", SWAPPED[type(node.op)]()))
    elif isinstance(node, ast.If | ast.IfExp):
        changes.append(lambda: setattr(node, "test", ast.UnaryOp(ast.Not(), node.test)))
    elif isinstance(node, ast.Return) and ast.unparse(node) not in ("return", "return None"):
        changes.append(lambda: setattr(node, "value", ast.Constant(None)))
    elif isinstance(node, ast.Constant) and node.value is not None and node.value is not ...:
        changes.append(lambda: setattr(node, "value", _other(node.value)))
    return changes


def _other(value: object) -> object:
    if isinstance(value, bool):
        return not value
    return f"another {value}" if isinstance(value, str) else value + 1  # type: ignore[operator]


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the mutant in place of its module."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Its spec, if it is the module that is imported."""
        return importlib.machinery.ModuleSpec(name, self) if name == self._mutant.module else None

    def exec_module(self, module: ModuleType) -> None:
        """Run the changed code."""
        tree = ast.fix_missing_locations(self._mutant.tree)
        exec(compile(tree, self._mutant.module, "exec"), module.__dict__)


def survives(mutant: Mutant | None) -> bool:
    """Whether the tests pass with a mutant; without one, whether they pass at all."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    signal.alarm(LONGEST_SECONDS)  # a mutant that never ends has not survived
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    for name in [name for name in sys.modules if name.startswith(IMPORTED_AGAIN)]:
        del sys.modules[name]
    if mutant is not None:
        sys.meta_path.insert(0, _Loader(mutant))
    try:
        _judge_recorded()
        code = int(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--noconftest", *TESTS])
        )
    except BaseException:
        code = 1
    os._exit(code)


def _judge_recorded() -> None:
    """What kills most mutants, without pytest, which takes seconds to start.

    Raises:
        AssertionError: A recorded verdict has changed.
    """
    recorded = importlib.import_module("tests.components.gate_model.test_recorded_verdicts")
    for path in recorded.RECORDED.glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        for name, run in content["runs"].items():
            assert recorded.judged(content, name).as_json() == run["verdict"]


def listed() -> set[str]:
    """The mutants that may survive: a line each, after a line with the reason that begins with `#`."""
    lines = SURVIVORS.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line and not line.startswith("#")}


def main() -> int:
    """Run all mutants; 1 if the survivors are not the listed ones."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("--jobs", type=int, default=2)
    jobs: int = parser.parse_args().jobs
    for path in TESTS:  # so that every child has the libraries that they import
        importlib.import_module(path.removesuffix(".py").replace("/", "."))
    if not survives(None):
        print("The tests fail without a mutant. Fix them first.", file=sys.stderr)
        return 1
    found = [mutant for module in MODULES for mutant in mutants(module)]
    survivors = set()
    with ThreadPoolExecutor(jobs) as threads:
        for number, (mutant, lives) in enumerate(zip(found, threads.map(survives, found), strict=True), 1):
            if lives:
                survivors.add(mutant.name)
                known = "as listed" if mutant.name in listed() else f"{SURVIVORS.name} does not list it"
                print(f"{number} of {len(found)} survives ({known}): {mutant.name}", flush=True)
    print(f"{len(found)} mutants, {len(found) - len(survivors)} killed, {len(survivors)} survive")
    for name in sorted(listed() - survivors):
        print(f"listed in {SURVIVORS.name}, and does not survive: {name}")
    return int(survivors != listed())


if __name__ == "__main__":
    sys.exit(main())
