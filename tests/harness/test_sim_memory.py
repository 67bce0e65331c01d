"""A simulator that grows charges only its own episode, and one that leaks slowly charges none."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing import results
from toy.policies import ImageReader

from vlarig.harness import evaluate
from vlarig.harness.children import simulator
from vlarig.harness.children.simulator import MemoryShare
from vlarig.harness.machines import fleets
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt

MB = 10**6
#: A simulator's share, in MB. The toy's takes about 70 with its first env.
SHARE = 400


@pytest.fixture
def counts(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = toy_home / "counts"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))


def sweep(monkeypatch: pytest.MonkeyPatch, fault: str, envs: int, share: int | None) -> tuple[dict, list[Attempt], str]:
    """Results, attempts and the worker's log of a sweep whose simulator has a share of that many MB."""
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
    local_workers = fleets.local_workers

    def limited(worker_spec, count, logs, *_, **__):
        return local_workers(worker_spec, count, logs, memory_bytes=None if share is None else share * MB)

    run = Path(f"run-{share}")
    with monkeypatch.context() as patch:
        patch.setattr(fleets, "local_workers", limited)
        evaluation = evaluate("hoarding", ImageReader(), workers=1, num_envs=envs, episodes=8, run=run)
    assert evaluation.complete
    with Ledger.open_read_only(run) as ledger:
        return results(run), ledger.attempts(), (run / "logs" / "hoarding-worker-0.log").read_text()


@pytest.mark.slow
def test_growth_beyond_the_share_is_charged_to_the_episode_that_runs(counts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed, _, _ = sweep(monkeypatch, "none::0", 2, None)
    disturbed, attempts, _ = sweep(monkeypatch, "grow:reach_red/1:2", 2, SHARE)
    assert [(attempt.key, attempt.kind) for attempt in attempts] == [("hoarding/standard@1/reach_red/base/1/0", "memory")] * 2
    assert "its share of the memory is 0.4 GB; fewer envs or workers make shares larger" in attempts[0].message
    assert disturbed == undisturbed


@pytest.mark.slow
def test_a_leak_over_many_episodes_costs_none(counts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen episodes leave 640 MB behind, so the simulator has to be replaced on the way."""
    undisturbed, _, _ = sweep(monkeypatch, "none::0", 2, None)
    leaking, attempts, log = sweep(monkeypatch, "leak::0", 2, SHARE)
    assert attempts == []
    assert leaking == undisturbed
    assert "supervisor: the simulator grew from" in log


def test_a_simulator_that_needs_much_from_the_start_is_left_alone(counts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six envs of 40 MB: three quarters of the share, of which a restart would gain nothing."""
    _, attempts, log = sweep(monkeypatch, "large::0", 6, SHARE)
    assert attempts == []
    assert "supervisor: the simulator grew" not in log


def test_a_simulator_that_does_not_fit_stops_before_the_first_episode(counts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match=r"did not load: the simulator grew to 0.\d GB, its share of the memory is 0.0 GB"):
        sweep(monkeypatch, "none::0", 1, 20)


def test_growth_is_counted_from_when_the_envs_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = [100 * MB]
    monkeypatch.setattr(simulator, "resident_bytes", lambda pid: resident[0])
    memory = MemoryShare(1, 1000 * MB)
    for env in range(4):
        resident[0] += 150 * MB
        assert memory.leak(env) is None
    for megabytes, leaks in [(700, False), (840, False), (860, True), (840, False)]:
        resident[0] = megabytes * MB
        assert (memory.leak(0) is not None) is leaks
    assert MemoryShare(1, None).leak(0) is None
