"""Rollouts on other machines give the same experience as here, also where machines are lost."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from certificates import certificates
from neighbour import Neighbour
from tuning import tuned

from vlarig.envs import backoff
from vlarig.envs.errors import VlarigError
from vlarig.rl.collection import Collector, Rollout

TOKEN = "only-for-this-test-0123456789abcdef"

# The first test clones the policy that all of them tune.
pytestmark = pytest.mark.timeout(900)


def before_the_second_rollout(monkeypatch: pytest.MonkeyPatch, trouble: Callable[[], object]) -> None:
    """Have something happen in the middle of a run."""
    rollouts, collect = itertools.count(1), Collector.collect

    def troubled(collector: Collector, *given: Any) -> Rollout:
        if next(rollouts) == 2:
            trouble()
        return collect(collector, *given)

    monkeypatch.setattr(Collector, "collect", troubled)


@pytest.mark.slow
def test_two_env_servers_one_of_which_is_killed_give_the_same(
    home: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token, over TLS."""
    monkeypatch.setattr(backoff, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(backoff, "LONGEST_PAUSE", 0.2)
    here = tuned(Path("here"))
    made, secret = certificates(tmp_path / "certificates"), tmp_path / "token"
    secret.write_text(TOKEN)
    words = ["--token-file", secret, "--certificate", made.certificate, "--key", made.key]
    machines = [Neighbour(*map(str, words)), Neighbour(*map(str, words))]

    def kill_and_restart() -> None:
        machines[0].kill()
        machines[0].start(machines[0].port)

    before_the_second_rollout(monkeypatch, kill_and_restart)
    hosts = [f"rollout.hosts={[machine.host for machine in machines]}", f"rollout.hosts_token_file={secret}"]
    try:
        there = tuned(Path("there"), *hosts, f"rollout.hosts_ca_file={made.authority}")
    finally:
        for machine in machines:
            machine.kill()
    assert there.without_times() == here.without_times()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (the extra 'ray')")
def test_a_ray_cluster_that_loses_a_node_gives_the_same(cloned: Path, cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulators and replicas are on its nodes."""
    shutil.copytree(cloned, Path("sft", "policy"))
    cluster.add_node(num_cpus=2)
    settings = ["rollout.replicas=1", "rollout.workers=1"]
    here = tuned(Path("here"), *settings)

    def lose_a_node() -> None:
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(num_cpus=1)

    before_the_second_rollout(monkeypatch, lose_a_node)
    there = tuned(Path("there"), *settings, "rollout.placement=ray")
    assert there.without_times() == here.without_times()


def test_hosts_beside_ray_are_refused() -> None:
    with pytest.raises(VlarigError, match="hosts are named beside placement=ray"):
        tuned(Path("run"), "rollout.placement=ray", "rollout.hosts=['node1']")
