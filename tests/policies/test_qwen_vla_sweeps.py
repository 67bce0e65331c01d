"""Sweeps with the embedded policy: results do not depend on workers, nor on whether the policy is served."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing import results
from served import served

from vlarig.envs.embodiments import TABLETOP_PANDA
from vlarig.harness.runtimes import Runtime
from vlarig.policies.registry import load_policy

SWEEP = ("sweep", "tabletop", "--policy-options", "temperature=1", "--tasks", "stack", "push_to", "--episodes", 2)


@pytest.fixture(scope="module")
def alone(tabletop: Runtime, module_cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strict sweep in process, with one worker."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    done = module_cli(*SWEEP, "--policy", "qwen-vla:tiny", "--strict", "--workers", 1, "--slots", 1, "--run", run, timeout=280)
    assert done.returncode == 0, done.stderr
    assert "batching moved" not in done.stdout
    return run


@pytest.mark.slow
def test_strict_results_do_not_depend_on_workers(alone: Path, cli, tmp_path: Path) -> None:
    done = cli(*SWEEP, "--policy", "qwen-vla:tiny", "--strict", "--workers", 4, "--slots", 2, "--run", tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(alone)


@pytest.mark.slow
def test_a_served_policy_gives_the_results_of_the_same_one_in_process(alone: Path, cli, tmp_path: Path) -> None:
    policy = load_policy("qwen-vla:tiny", {"temperature": "1"})
    with served(policy, TABLETOP_PANDA, strict=True) as server:
        words = [word for word in SWEEP if word not in ("--policy-options", "temperature=1")]
        done = cli(*words, "--policy", f"openpi:{server.address}", "--strict", "--workers", 2, "--run", tmp_path, timeout=280)
    assert done.returncode == 0, done.stderr
    assert results(tmp_path) == results(alone)
