"""A sweep whose policy acts in several processes gives equal results, also while these are killed."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
from comparing import results
from conftest import Cli
from toy.policies import ImageReader

from vlarig.envs.errors import VlarigError
from vlarig.harness import evaluate
from vlarig.results.ledger import Ledger

POLICY = "toy.policies:SlowImageReader"

pytestmark = pytest.mark.usefixtures("toy_home")


@pytest.fixture
def alone() -> dict:
    evaluate("toy", POLICY, workers=1, num_envs=1, episodes=8, run=Path("alone"))
    return results(Path("alone"))


def finished(run: Path) -> int:
    try:
        with Ledger.open_read_only(run) as ledger:
            return len(ledger.finished_keys())
    except VlarigError:
        return 0


def replicas() -> list[psutil.Process]:
    """Processes of the policy."""
    found = []
    for each in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            found += [each] * ("vlarig.policies.replica" in each.cmdline())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_sweep_with_replicas_equals_one_without(alone: dict, count: int) -> None:
    assert evaluate("toy", POLICY, replicas=count, workers=2, num_envs=6, episodes=8, run=Path("run")).complete
    assert results(Path("run")) == alone
    assert replicas() == []


@pytest.mark.slow
def test_killed_replicas_charge_no_episode(alone: dict) -> None:
    run, killed = Path("storm"), []

    def kill() -> None:
        for count in (1, 4, 8):
            while finished(run) < count:
                time.sleep(0.01)
            for each in replicas()[: 2 if count == 4 else 1]:
                killed.append(each.pid)
                os.kill(each.pid, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    assert evaluate("toy", POLICY, replicas=2, workers=2, num_envs=4, episodes=8, run=run).complete
    thread.join()
    assert len(set(killed)) == 4
    assert results(run) == alone
    with Ledger.open_read_only(run) as ledger:
        assert ledger.attempts() == []


def test_a_policy_that_is_made_already_has_no_replicas() -> None:
    with pytest.raises(VlarigError, match="got replicas=2 beside a policy object; give the policy's name instead"):
        evaluate("toy", ImageReader(), replicas=2)


def test_no_replicas_is_no_number_of_replicas(cli: Cli) -> None:
    done = cli("sweep", "toy", "--policy", POLICY, "--replicas", 0)
    assert (done.returncode, done.stderr) == (2, "vlarig: replicas is 0; expected 1 or more\n")
