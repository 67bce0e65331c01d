"""Runs the files of this folder that need a simulator in the simulator's own runtime."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import pytest

from vlarig.envs.api import Env
from vlarig.harness.runtimes import Runtime
from vlarig.harness.workplace import ONE_THREAD

HERE = Path(__file__).parent
#: What pytest consists of; it is pure Python, so the runtime can borrow it from the environment that the tests run in.
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


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", ["tabletop_env.py"])
def test_in_the_runtime(tabletop: Runtime, tmp_path: Path, file: str) -> None:
    borrow(tmp_path)
    command = [tabletop.python, "-B", "-m", "pytest", "-q", "-ra", "--noconftest", "-c", "/dev/null", HERE / file]
    environment = {"PYTHONPATH": str(tmp_path), "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"} | ONE_THREAD
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
