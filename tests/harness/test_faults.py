"""A simulator's fault is an attempt of the episode that was running: never a failure of the policy, never its neighbours'."""

from __future__ import annotations

from pathlib import Path

import pytest
from comparing import results
from toy.policies import ImageReader

from vlarig.harness import Rollouts, evaluate
from vlarig.results.ledger import Ledger
from vlarig.results.records import Attempt

FAULTY_KEY = "faulty/standard@1/reach_red/base/1/0"


@pytest.fixture
def counts(toy_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = toy_home / "counts"
    folder.mkdir()
    monkeypatch.setenv("VLARIG_TEST_COUNTS", str(folder))
    return folder


def sweep(monkeypatch: pytest.MonkeyPatch, fault: str, run: str) -> tuple[dict, list[Attempt], bool]:
    monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
    evaluation = evaluate("faulty", ImageReader(), workers=1, slots=4, episodes=4, run=Path(run))
    with Ledger.open_read_only(Path(run)) as ledger:
        return results(Path(run)), ledger.attempts(), evaluation.complete


@pytest.mark.parametrize(("kind", "charged"), [("crash", "crash"), ("raise", "env_error"), ("hang", "hang")])
def test_a_fault_is_charged_to_its_episode_and_mended(
    counts: Path, monkeypatch: pytest.MonkeyPatch, kind: str, charged: str
) -> None:
    undisturbed, none, _ = sweep(monkeypatch, f"{kind}:reach_red/1:0", "undisturbed")
    disturbed, attempts, complete = sweep(monkeypatch, f"{kind}:reach_red/1:2", "disturbed")
    assert none == []
    assert [(attempt.key, attempt.kind, attempt.gave_up) for attempt in attempts] == [(FAULTY_KEY, charged, False)] * 2
    assert complete
    assert disturbed == undisturbed


def test_an_episode_that_fails_again_and_again_is_an_error_and_owed_again(
    counts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, attempts, complete = sweep(monkeypatch, "crash:reach_red/1:3", "run")
    assert not complete
    assert FAULTY_KEY not in finished
    assert len(finished) == 7
    assert [attempt.gave_up for attempt in attempts] == [False, False, True]
    assert "SIGABRT" in attempts[0].message
    finished, attempts, complete = sweep(monkeypatch, "crash:reach_red/1:3", "run")
    assert complete
    assert len(finished) == 8
    assert len(attempts) == 3


def test_an_env_that_comes_back_elsewhere_is_not_believed(counts: Path) -> None:
    with pytest.raises(Exception, match="the env is not deterministic"), Rollouts("drifting", ImageReader(8)) as rollouts:
        rollouts.collect(3)
        (counts / "die").touch()
        rollouts.collect(1)


def test_a_crash_does_not_change_what_is_collected(counts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def actions(fault: str) -> list:
        monkeypatch.setenv("VLARIG_TEST_FAULT", fault)
        with Rollouts("faulty", ImageReader(8), slots=4, seed=3) as rollouts:
            return [[each.result.snapshot.state_digest for each in slot] for slot in rollouts.collect(12)]

    assert actions("crash:reach_red/1:2") == actions("crash:reach_red/1:0")
