"""Runs the comparisons of this folder with upstream's own code in the simulator's own runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_runtime import run_tests

from vlarig.harness.runtimes.runtime import Runtime

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_libero(libero: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "libero_loop.py", "libero_spatial", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simpler(simpler: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "simpler_loop.py", "simpler_widowx", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simplers_original(simpler: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "simpler_original.py", "simpler_widowx", tmp_path)
