"""A Ray cluster whose nodes are processes of this machine, as fixtures."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlarig.envs.runtimes.runtime import add_runtime

TESTS = Path(__file__).parent

#: What every node's environment says. The token is Ray's own.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "only-for-these-tests-0123456789abcdef",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    # A node counts as lost after a few seconds, not after a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster's head, on which nothing is simulated, for the whole module; in a home in which the toy suites' runtime is adopted.

    The suite ``faulty`` crashes once on the cluster, at the second initial state of ``reach_red``.
    """
    variables = ENVIRONMENT | {
        "VLARIG_HOME": str(tmp_path_factory.mktemp("home")),
        "PYTHONPATH": str(TESTS),
        "VLARIG_TEST_FAULT": "crash:reach_red/1:1",
        "VLARIG_TEST_COUNTS": str(tmp_path_factory.mktemp("counts")),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        add_runtime("toy", Path(sys.executable))
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        patch.setenv("RAY_ADDRESS", cluster.address)
        try:
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture
def cluster(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The cluster with two nodes of a core each, independent of the test before; the working directory is a fresh folder."""
    monkeypatch.chdir(tmp_path)
    for node in list(head.worker_nodes)[2:]:
        head.remove_node(node, allow_graceful=False)
    while len(head.worker_nodes) < 2:
        head.add_node(num_cpus=1)
    return head
