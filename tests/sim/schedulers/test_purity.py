"""No cheating: what a scheduler may import and mention, and that no simulation loads torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import sim.schedulers
from sim.request import Request
from sim.work import Limits, Outcome

HOME = Path(sim.schedulers.__file__).parent
MODULES = sorted(HOME.glob("**/*.py"))
ALLOWED = ("sim.request", "sim.work", "sim.kv_blocks", "sim.schedulers")
FORBIDDEN = ("simpy", "torch", "time", "random", "datetime", "os", "asyncio", "threading", "numpy")


def imported(path: Path) -> set[str]:
    """Absolute names of the modules that a module of `sim.schedulers` imports, wherever in the file."""
    package = ("sim", "schedulers", *path.relative_to(HOME).parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            names.add(".".join((*base, *([node.module] if node.module else []))))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("__import__", "exec", "eval", "open")
    return names


def test_the_search_finds_modules() -> None:
    assert {path.name for path in MODULES} >= {"__init__.py", "microbatch.py", "sequence.py"}
    assert imported(HOME / "microbatch.py") >= {"sim.work", "sim.kv_blocks", "dataclasses"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_scheduler_never_mentions_the_true_length(path: Path) -> None:
    text = path.read_text()
    assert "output_tokens" not in text
    assert "actual_" not in text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_scheduler_imports_no_clock_no_chance_and_no_executor(path: Path) -> None:
    for name in imported(path):
        top = name.partition(".")[0]
        assert top not in FORBIDDEN
        assert top in sys.stdlib_module_names or any(name == a or name.startswith(a + ".") for a in ALLOWED)


def test_what_crosses_to_a_scheduler_holds_no_true_length() -> None:
    assert [f.name for f in fields(Request)] == [
        "id",
        "arrival_s",
        "prompt_tokens",
        "max_new_tokens",
        "priority",
        "user",
        "deadline_s",
        "predicted_tokens",
        "predicted_upper_tokens",
        "largest_cap",
        "blocks",
        "predicted_lengths",
        "session_id",
        "answered_tokens",
        "ttft_slo_ms",
        "tpot_slo_ms",
        "e2el_slo_ms",
        "predicted_wait_s",
    ]
    for field in (*fields(Outcome), *fields(Limits)):
        assert "output" not in field.name and "actual" not in field.name
    assert not hasattr(Request(0, 0.0, 1, 1), "__dict__")


def test_no_simulation_loads_torch() -> None:
    code = (
        "import sys, sim, traces\n"
        "assert not {'numpy', 'pandas', 'simpy', 'torch', 'matplotlib'} & set(sys.modules), 'import sim'\n"
        "from sim import simulate\n"
        "simulate('fixed', num_prompts=3)\n"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules), 'simulate'\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
