"""The ledger: what was acknowledged stays, once, and is read back as it was."""

import math
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sample_runs import make_episode, make_record

from vlarig.envs.api import Outcome
from vlarig.envs.errors import VlarigError
from vlarig.results.ledger import Count, Ledger, TaskKey
from vlarig.results.records import Attempt, Session, differing_fields


@pytest.fixture
def ledger(tmp_path):
    with Ledger.create(tmp_path / "run") as ledger:
        yield ledger


def test_a_record_is_read_back_whole(ledger):
    record = make_record(3)
    assert ledger.write_episode(record)
    again = ledger.record(record.key)
    assert differing_fields(again, record) == []
    assert (again.seconds, again.worker) == (record.seconds, record.worker)
    np.testing.assert_array_equal(again.actions, record.actions)


NUMBER = st.floats(allow_nan=True, allow_infinity=True)


@settings(max_examples=50, deadline=None)
@given(
    initial_state=st.integers(-(2**63), 2**63 - 1),
    reward=NUMBER,
    metrics=st.dictionaries(st.text(), NUMBER),
    outcome=st.builds(Outcome, st.booleans(), st.booleans(), st.integers(0, 99), st.integers(0, 99), st.booleans()),
    task=st.text(st.characters(codec="utf-8", exclude_characters="/@"), min_size=1),
)
@example(initial_state=-1, reward=math.nan, metrics={"angle": math.nan, "low": -0.0}, outcome=Outcome(), task="stack")
@example(initial_state=0, reward=-0.0, metrics={"": math.inf}, outcome=Outcome(), task="\0'")
def test_whatever_is_measured_comes_back(tmp_path_factory, initial_state, reward, metrics, outcome, task):
    run = tmp_path_factory.mktemp("run")
    record = make_record(initial_state, task, reward=reward, metrics=metrics, outcome=outcome)
    with Ledger.create(run) as ledger:
        ledger.write_episode(record)
        assert ledger.write_episode(record) is False
    with Ledger.open_read_only(run) as ledger:
        assert differing_fields(ledger.record(record.key), record) == []


def test_records_are_sorted_and_light_unless_asked(ledger):
    for initial_state in (5, 2, 9):
        ledger.write_episode(make_record(initial_state))
    light, whole = ledger.records(), ledger.records(with_actions=True)
    assert [record.initial_state for record in light] == [record.initial_state for record in whole] == [2, 5, 9]
    assert [record.actions.shape for record in light] == [(0, 7)] * 3
    assert [record.result() for record in whole] == [make_record(initial_state).result() for initial_state in (2, 5, 9)]


def test_the_same_result_twice_is_one_result(ledger):
    assert ledger.write_episode(make_record(3)) is True
    assert ledger.write_episode(make_record(3, worker="worker 7", seconds={"total": 3.0})) is False
    assert ledger.record(make_record(3).key).worker == "worker 0"


def test_a_different_result_is_refused_by_key_and_field(ledger):
    record = make_record(3)
    ledger.write_episode(record)
    with pytest.raises(VlarigError, match=rf"{record.key} .* differs from the new one in reward, metrics\.height;"):
        ledger.write_episode(make_record(3, reward=2.0, metrics=record.metrics | {"height": math.nan}))
    assert differing_fields(ledger.record(record.key), record) == []
    assert ledger.write_episode(make_record(4))


def test_an_unknown_key_offers_the_nearest(ledger):
    for initial_state in range(300):
        ledger.write_episode(make_record(initial_state, "push_to" if initial_state % 2 else "stack"))
    with pytest.raises(
        VlarigError, match=r"unknown episode 'tabletop/standard@1/stak/base/4/0'.*did you mean .*/stack/base/4/0"
    ):
        ledger.record("tabletop/standard@1/stak/base/4/0")


def test_an_unknown_key_in_an_empty_ledger(ledger):
    with pytest.raises(VlarigError, match="no episode has finished yet"):
        ledger.record("anything")


def test_an_episode_that_only_failed_says_how(ledger):
    ledger.write_attempt(Attempt(make_episode(1).key, 1, "hang", "no answer for 60 s", "worker 0", gave_up=True))
    with pytest.raises(VlarigError, match=r"has no result.*hang \(no answer for 60 s\); resume"):
        ledger.record(make_episode(1).key)


def test_outcomes_are_null_where_they_could_not_be_seen(ledger):
    ledger.write_episode(make_record(1, outcome=Outcome(first=True, final=True, streak=1, longest_streak=1, cut_short=True)))
    ledger.write_episode(make_record(2, outcome=Outcome(first=True, final=False, streak=0, longest_streak=4)))
    with sqlite3.connect(ledger.path) as connection:
        rows = connection.execute(
            "SELECT success_first, success_final, held_streak FROM episodes ORDER BY initial_state"
        ).fetchall()
    connection.close()
    assert rows == [(1, None, None), (1, 0, 4)]


def test_errors_are_the_given_up_episodes_that_did_not_finish_later(ledger):
    keys = [make_episode(initial_state).key for initial_state in range(4)]
    for key in keys[:3]:
        ledger.write_attempt(Attempt(key, 1, "crash", "signal 11", "worker 0"))
        ledger.write_attempt(Attempt(key, 2, "crash", "signal 11", "worker 0", gave_up=True))
    ledger.write_attempt(Attempt(keys[3], 1, "hang", "no answer", "worker 0"))
    assert ledger.error_keys() == keys[:3]
    ledger.write_episode(make_record(0))
    ledger.write_attempt(Attempt(keys[1], 1, "crash", "a later session tries again", "worker 0"))
    assert ledger.error_keys() == keys[2:3]
    assert ledger.counts() == {TaskKey("tabletop", "standard@1", "stack", "base"): Count(1, 1, 1)}
    assert [attempt.number for attempt in ledger.attempts(keys[1])] == [1, 2, 1]
    assert len(ledger.attempts()) == 8


def test_sessions_tell_when_the_driver_ran(tmp_path):
    session = Session("abc", "here", workers=2, num_envs=4, packages={"numpy": "2.0"})
    with Ledger.create(tmp_path) as ledger:
        ledger.start_session(session)
        running = ledger.sessions()[0]
    with Ledger.open(tmp_path) as ledger:
        ledger.start_session(session)
        ended = ledger.sessions()
    assert running.started.endswith("+00:00")
    assert running.ended is None
    assert (ended[0].packages, ended[0].num_envs) == ({"numpy": "2.0"}, 4)
    assert ended[0].ended is not None
    assert ended[1].ended is None


def test_writing_from_one_thread_and_reading_from_another(ledger):
    stop = threading.Event()
    seen = [0]

    def look():
        while not stop.is_set():
            seen.append(len(ledger.finished_keys()))
            ledger.counts()

    reader = threading.Thread(target=look)
    reader.start()
    with ThreadPoolExecutor(1) as pool:
        for initial_state in range(100):
            pool.submit(ledger.write_episode, make_record(initial_state)).result()
    stop.set()
    reader.join()
    assert seen == sorted(seen)
    assert len(ledger.finished_keys()) == 100


def test_a_reader_beside_the_writer_sees_each_commit(ledger):
    run = ledger.path.parent
    with Ledger.open_read_only(run) as reader:
        for initial_state in range(5):
            ledger.write_episode(make_record(initial_state))
            assert len(reader.finished_keys()) == initial_state + 1
            with Ledger.open_read_only(run) as late:
                assert len(late.records(with_actions=True)) == initial_state + 1
        with pytest.raises(VlarigError, match=r"cannot be written.*readonly"):
            reader.write_episode(make_record(9))


def test_two_ledgers_never_write_one_run(ledger):
    run = ledger.path.parent
    for take in (Ledger.open, Ledger.create):
        with pytest.raises(VlarigError, match="is being written by process"):
            take(run)
    ledger.write_episode(make_record(1))


def test_a_ledger_is_not_made_twice(tmp_path):
    with Ledger.create(tmp_path) as ledger:
        ledger.write_episode(make_record(1))
    with pytest.raises(VlarigError, match="exists already"):
        Ledger.create(tmp_path)
    with Ledger.open(tmp_path) as ledger:
        assert ledger.finished_keys() == {make_record(1).key}


def test_every_commit_waits_for_the_disk(ledger):
    assert ledger._connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert ledger._connection.execute("PRAGMA synchronous").fetchone()[0] == 2  # FULL


def test_a_failed_write_leaves_the_ledger_usable(ledger):
    ledger.write_episode(make_record(0))
    with sqlite3.connect(ledger.path) as other:
        pages = other.execute("PRAGMA page_count").fetchone()[0]
    other.close()
    ledger._connection.execute(f"PRAGMA max_page_count = {pages}")
    big = np.random.default_rng(0).normal(size=(10, 5000)).astype(np.float32)
    with pytest.raises(VlarigError, match="full; free some disk space"):
        ledger.write_episode(make_record(10, steps=10, chunks=(10,), actions=big))
    assert ledger.finished_keys() == {make_record(0).key}
    ledger._connection.execute("PRAGMA max_page_count = 100000")
    assert ledger.write_episode(make_record(10))
