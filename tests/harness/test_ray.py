"""A sweep on a Ray cluster gives equal results, also while nodes are lost and join. The nodes are processes of this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from comparing import comparable, results
from toy.policies import ImageReader

from vlarig.envs.errors import VlarigError
from vlarig.harness import Rollouts, evaluate
from vlarig.harness.machines.fleets import Fleet, LocalFleet
from vlarig.harness.machines.ray_fleet import RayFleet, connected
from vlarig.results.ledger import Ledger

# Found, not imported: Ray reads its environment when it is imported.
pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed (the extra 'ray')")

POLICY = "toy.policies:SlowImageReader"


def finished(run: str) -> int:
    try:
        with Ledger.open_read_only(Path(run)) as ledger:
            return len(ledger.finished_keys())
    except VlarigError:
        return 0


@pytest.fixture(scope="module")
def undisturbed(head: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The results of the storms' sweep by one worker on this machine."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    evaluate("toy", POLICY, workers=1, num_envs=1, episodes=16, run=run)
    return results(run)


def storm(undisturbed: Any, troubles: list[tuple[int, Callable[[], Any]]], *words: str) -> None:
    """Sweep on the cluster, and do each trouble when its number of episodes is finished; the result must be the undisturbed one's."""
    command = [
        sys.executable,
        "-m",
        "vlarig.harness",
        "sweep",
        "toy",
        "--policy",
        POLICY,
        "--episodes",
        "16",
        "--num-envs",
        "2",
    ]
    driver = subprocess.Popen([*command, "--placement", "ray", "--run", "storm", *words], stderr=subprocess.PIPE, text=True)
    try:
        for count, trouble in troubles:
            while finished("storm") < count and driver.poll() is None:
                time.sleep(0.02)
            assert driver.poll() is None, f"it was over before the storm: {driver.communicate()[1]}"
            trouble()
        _, output = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 0, output
    with Ledger.open_read_only(Path("storm")) as ledger:
        assert ledger.attempts() == []
    assert results(Path("storm")) == undisturbed


@pytest.mark.slow
def test_what_is_collected_on_the_cluster_is_the_same_as_here(cluster: Any) -> None:
    def collect(fleet: Fleet) -> list[list[dict[str, Any]]]:
        with Rollouts({"toy": 3, "two_ways": 2}, ImageReader(8), fleet=fleet, seed=3) as rollouts:
            return rollouts.collect(6, comparable)

    with connected():
        there = collect(RayFleet())
    assert there == collect(LocalFleet(1))


@pytest.mark.slow
def test_a_simulator_that_crashes_on_the_cluster_costs_its_own_episode_an_attempt(cluster: Any) -> None:
    evaluate("faulty", ImageReader(), placement="ray", workers=1, num_envs=4, episodes=4, run=Path("there"))
    with Ledger.open_read_only(Path("there")) as ledger:
        assert [(attempt.key, attempt.kind) for attempt in ledger.attempts()] == [
            ("faulty/standard@1/reach_red/base/1/0", "crash")
        ]
    evaluate("faulty", ImageReader(), workers=1, num_envs=4, episodes=4, run=Path("here"))
    assert results(Path("there")) == results(Path("here"))


@pytest.mark.slow
def test_nodes_are_lost_and_join_while_a_sweep_runs(cluster: Any, undisturbed: Any) -> None:
    first, second = cluster.worker_nodes
    storm(
        undisturbed,
        [
            (2, lambda: cluster.remove_node(first, allow_graceful=False)),
            (6, lambda: cluster.add_node(num_cpus=1)),
            (10, lambda: cluster.remove_node(second, allow_graceful=False)),
            (12, lambda: cluster.add_node(num_cpus=1)),
        ],
    )


@pytest.mark.slow
def test_replicas_of_the_policy_are_placed_too_and_outlive_their_nodes(cluster: Any, undisturbed: Any) -> None:
    first, second = cluster.worker_nodes
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    storm(
        undisturbed,
        [
            (2, lambda: cluster.add_node(num_cpus=2)),
            (6, lambda: cluster.remove_node(first, allow_graceful=False)),
            (10, lambda: cluster.remove_node(second, allow_graceful=False)),
        ],
        *("--replicas", "2", "--workers", "3"),  # one joins; more would take the core that replicas need which lost theirs
    )


@pytest.mark.slow
def test_a_cluster_that_does_not_know_us_lets_us_in_nowhere(head: Any, cli: Any) -> None:
    done = cli(
        "sweep",
        "toy",
        "--policy",
        "toy.policies:ImageReader",
        "--placement",
        "ray",
        RAY_AUTH_TOKEN="another-token-0123456789abcdef",
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("vlarig: no Ray cluster can be used (")  # Ray warns before it
    assert "Traceback" not in done.stderr


def test_a_cluster_without_authentication_is_refused(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(VlarigError, match="any program that reaches the Ray cluster can run code on its nodes"):
        evaluate("toy", ImageReader(), placement="ray", episodes=1)


@pytest.mark.slow
def test_hosts_beside_ray_are_refused() -> None:
    with pytest.raises(VlarigError, match="hosts are named beside placement=ray"):
        evaluate("toy", ImageReader(), placement="ray", hosts=("node1",))
