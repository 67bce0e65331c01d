"""Runs the files of this folder that need a simulator in the simulator's own runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_runtime import run_tests

from vlarig.harness.runtimes.runtime import Runtime

HERE = Path(__file__).parent


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_tabletop(tabletop: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "tabletop_env.py", "tabletop", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_libero(libero: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "libero_env.py", "libero_goal", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simpler(simpler: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "simpler_env.py", "simpler_widowx", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_simplers_judging(simpler: Runtime, tmp_path: Path) -> None:
    run_tests(HERE / "simpler_judging.py", "simpler_ood", tmp_path)
