"""The contract kit finds what breaks a promise, on the toy; tests/contract/trials.py applies it to every suite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vlarig.contract import PROMISES, Subject, promises
from vlarig.contract.digests import write_digest, write_recording
from vlarig.envs.errors import VlarigError
from vlarig.harness.evaluator import evaluate

BROKEN = [
    ("remembering:REMEMBERING", "a_warm_process_equals_a_fresh_one", r"/3/0: as number \d+ of a process its digests differ"),
    ("sharing:SHARING", "envs_of_a_process_that_play_different_tasks_do_not_meet", "in turns with other tasks its digests differ"),
    ("heavy:HEAVY", "a_further_env_takes_the_memory_that_is_stated", r"a further env takes 4\d MB; its footprint says 1"),
    ("patched:PATCHED", "every_patch_is_still_needed", "ZeroDivisionError"),
    ("quitting:QUITTING", "every_task_keeps_the_env_contract", "the checker of 'quitting' ended with status 0: it printed nothing"),
    ("slow:SLOW", "it_plays_upstreams_own_game", "after step 1: the state differs from upstream's in part 0 by at most"),
]  # fmt: skip


@pytest.fixture
def subject_of(toy_home: Path, tmp_path: Path):
    return lambda name, **given: Subject(f"toy.promising:{name}", tmp_path, **given)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_suite_that_keeps_them_passes_every_promise(subject_of, tmp_path: Path) -> None:
    evaluation = evaluate("toy.promising:GOOD", "toy.policies:Finder", run=tmp_path / "expert")
    write_digest(evaluation.run, tmp_path / "sweep.json")
    write_recording(evaluation.run, tmp_path / "actions.npz")
    assert len(np.load(tmp_path / "actions.npz").files) == 2
    subject = subject_of("GOOD", sweep=tmp_path / "sweep.json", recorded=tmp_path / "actions.npz")
    for promise in PROMISES:
        promise(subject)


@pytest.mark.parametrize(("name", "promise", "sentence"), BROKEN, ids=[promise for _, promise, _ in BROKEN])
def test_a_broken_promise_is_found_and_named(subject_of, name: str, promise: str, sentence: str) -> None:
    with pytest.raises((AssertionError, VlarigError), match=sentence):
        getattr(promises, promise)(subject_of(name.partition(":")[2]))
