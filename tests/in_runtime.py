"""Runs test files in a simulator's own runtime, which borrows pytest from the environment that the tests run in."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

from vlarig.benchmarks.registry import load_suite
from vlarig.envs.api import Env
from vlarig.harness.worker_spec import WorkerSpec

#: What pytest consists of; it is pure Python, so another interpreter can use it.
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")


def borrow(folder: Path) -> None:
    """Put links into ``folder`` by which the runtime's interpreter finds pytest, and us."""
    for name in PYTEST:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found = Path(spec.origin)
        found = found.parent if found.name == "__init__.py" else found
        (folder / found.name).symlink_to(found)
    (folder / "vlarig").mkdir()
    rooms = Path(importlib.util.find_spec(Env.__module__).origin).parents[1]
    for room in ("benchmarks", "envs"):
        (folder / "vlarig" / room).symlink_to(rooms / room)


def run_tests(file: Path, suite: str, folder: Path) -> None:
    """Run the tests of ``file`` where ``suite`` runs, and fail with their output unless all pass and none is skipped."""
    borrow(folder)
    worker_spec = WorkerSpec.of(load_suite(suite))
    command = [worker_spec.runtime.python, "-B", "-m", "pytest", "-q", "-ra", "--noconftest", "-c", "/dev/null", file]
    environment = {**worker_spec.environment(), "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
