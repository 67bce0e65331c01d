"""Sweeps with the embedded policy: results do not depend on workers, nor on whether the policy is served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from comparing import results
from served import served

from vlarig.envs.runtimes.runtime import Runtime
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness.rollouts import Rollouts
from vlarig.policies.qwen_vla.policy import QwenVlaPolicy
from vlarig.policies.qwen_vla.recording import RecordedBatch, evaluate
from vlarig.policies.registry import load_policy

SWEEP = ("sweep", "tabletop", "--policy-options", "temperature=1", "--tasks", "stack", "push_to", "--episodes", 2)


@pytest.fixture(scope="module")
def alone(tabletop: Runtime, module_cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A strict sweep in process, with one worker."""
    run = tmp_path_factory.mktemp("runs") / "alone"
    done = module_cli(
        *SWEEP, "--policy", "qwen-vla:tiny", "--strict", "--workers", 1, "--num-envs", 1, "--run", run, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert "batching moved" not in done.stdout
    return run


@pytest.mark.slow
def test_strict_results_do_not_depend_on_workers(alone: Path, cli, tmp_path: Path) -> None:
    done = cli(*SWEEP, "--policy", "qwen-vla:tiny", "--strict", "--workers", 4, "--num-envs", 8, "--run", tmp_path, timeout=280)
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


def test_rollouts_carry_what_an_update_needs(toy_home: Path) -> None:
    policy = QwenVlaPolicy("tiny", temperature="1")
    policy.record({})
    torch.nn.init.normal_(policy.model.value_head.readout.weight)
    with Rollouts({"toy": 3}, policy, logs=toy_home) as rollouts:
        transitions = [each for env in rollouts.collect(2) for each in env]
    assert len(transitions) == 6
    recorded = [each.reply.recorded for each in transitions]
    with torch.no_grad():
        again = evaluate(policy.model, RecordedBatch.stack(recorded, 64), policy.recording.sde).log_probability
    stored = torch.tensor([each.log_probability for each in recorded])
    torch.testing.assert_close((again - stored).exp(), torch.ones(6), atol=1e-4, rtol=0)
    for transition in transitions:
        before, after = policy.value([transition.request, replace(transition.request, observation=transition.observation)])
        assert before == pytest.approx(transition.reply.recorded.value, abs=1e-5)
        assert after != before  # what was seen after the chunk, from which an advantage bootstraps
