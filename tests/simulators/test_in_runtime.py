"""Runs what is particular to a simulator, ``NAME/in_runtime_*.py``, in the runtime of that name."""

from __future__ import annotations

from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parent.glob("*/in_runtime_*.py"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem.removeprefix('in_runtime_')}")
def test_in_its_runtime(request: pytest.FixtureRequest, cli, file: Path) -> None:
    request.getfixturevalue(file.parent.name)
    command = ["pytest", "-q", "-ra", "--noconftest", "-c", "/dev/null", file]
    done = cli("runtime", "run", file.parent.name, "--", *command, timeout=850, PYTHONPATH="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout
