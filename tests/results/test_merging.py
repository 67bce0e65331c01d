"""Merging: the union of runs, the same in whatever order they are merged, or nothing at all."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sqlite3
import sys
import traceback
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_runs import TASKS, hasty_ledger, make_episode, make_manifest, make_record, make_run

from vlarig.envs.errors import VlarigError
from vlarig.harness.commands.runs import merge
from vlarig.results.actions import encode_actions
from vlarig.results.ledger import Ledger
from vlarig.results.lock import RunLock
from vlarig.results.manifest import Manifest, Surroundings
from vlarig.results.merging import merge_runs
from vlarig.results.records import Attempt, EpisodeRecord, Session
from vlarig.results.runs import open_run, run_dirs
from vlarig.results.tables import run_table

EPISODES = [(initial_state, task) for task in TASKS[:2] for initial_state in range(3)]


def make_part(
    run: Path, records: Iterable[EpisodeRecord] = (), attempts: Iterable[Attempt] = (), host: str = "here", **surroundings: Any
) -> Path:
    """A run of one session that holds these. All sessions start in the same second, as those of an array job may."""
    record = Surroundings(host=host, created=f"2026-01-01T00:00:00+00:00 {run.name}", **surroundings)
    make_manifest().model_copy(update={"record": record}).save(run)
    with hasty_ledger(run) as ledger:
        ledger.start_session(Session("abc", host, 1, 1, started="2026-01-01T00:00:00+00:00"))
        for each in records:
            ledger.write_episode(each)
        for attempt in attempts:
            ledger.write_attempt(attempt)
    return run


def content(run: Path) -> dict[str, Any]:
    """All of a run that must not depend on how it was put together."""
    with Ledger.open_read_only(run) as ledger:
        return {
            "results": {record.key: record.result() for record in ledger.records(with_actions=True)},
            "sessions": sorted((session.host, session.started, session.ended) for session in ledger.sessions()),
            "attempts": sorted((attempt.key, attempt.number, attempt.worker, attempt.gave_up) for attempt in ledger.attempts()),
            "errors": ledger.error_keys(),
            "counts": ledger.counts(),
        }


def rows(run: Path, sql: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(run / "ledger.sqlite") as connection:
        found = connection.execute(sql).fetchall()
    connection.close()
    return found


def files(folder: Path) -> dict[str, bytes]:
    """The files that a merge must leave alone when it refuses."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.suffix in (".json", ".mp4")}


@st.composite
def parts(draw: st.DrawFn) -> list[tuple[list[tuple[int, str]], list[tuple[int, str]]]]:
    """For each of three runs: which episodes it finished, and at which it gave up. They overlap."""
    some = st.lists(st.sampled_from(EPISODES), unique=True)
    return [(draw(some), draw(some)) for _ in range(3)]


def merged(target: Path, *runs: Path) -> Path:
    return merge_runs(runs, target).run


@settings(max_examples=5, deadline=None)
@given(parts())
def test_order_grouping_and_repetition_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, chosen: list[tuple[list[tuple[int, str]], list[tuple[int, str]]]]
) -> None:
    folder = tmp_path_factory.mktemp("merge")
    runs = []
    for name, (finished, given_up) in zip("abc", chosen, strict=True):
        records = [make_record(*place) for place in finished]
        attempts = [
            Attempt(make_episode(*place).key, number, "crash", "signal 11", f"worker {name}", gave_up=number == 2)
            for place in given_up
            for number in (1, 2)
        ]
        runs.append(make_part(folder / name, records, attempts))
    a, b, c = runs
    wanted = content(merged(folder / "abc", a, b, c))
    assert wanted["results"].keys() == {make_episode(*place).key for finished, _ in chosen for place in finished}
    assert len(wanted["sessions"]) == 3
    assert len(wanted["attempts"]) == sum(2 * len(given_up) for _, given_up in chosen)
    assert content(merged(folder / "cba", c, b, a)) == wanted
    assert content(merged(folder / "ab_c", merged(folder / "ab", a, b), c)) == wanted
    assert content(merged(folder / "a_bc", a, merged(folder / "bc", b, c))) == wanted
    assert content(merged(folder / "again", merged(folder / "ab", b), folder / "bc", c, a, a)) == wanted
    assert content(merged(folder / "bc", folder / "ab", folder / "bc")) == wanted


def test_the_latest_attempt_says_whether_an_episode_was_given_up_whatever_the_order(tmp_path: Path) -> None:
    key = make_episode(0).key
    for name, gave_up, written in (("a", True, "2026-01-01"), ("b", False, "2026-01-02")):
        make_part(tmp_path / name, attempts=[Attempt(key, 1, "crash", "signal 11", "worker 0", gave_up)])
        with sqlite3.connect(tmp_path / name / "ledger.sqlite") as connection:
            connection.execute("UPDATE attempts SET written = ?", (written,))
        connection.close()
    for order in itertools.permutations("ab"):
        target = tmp_path / "".join(order)
        for name in order:
            merge_runs([tmp_path / name], target)
        with Ledger.open_read_only(target) as ledger:
            assert ledger.error_keys() == []
            assert [attempt.gave_up for attempt in ledger.attempts(key)] == [True, False]


def test_where_everything_came_from_is_kept(tmp_path: Path) -> None:
    make_part(tmp_path / "a", [make_record(0)], host="machine a")
    crash = Attempt(make_episode(1).key, 1, "crash", "signal 11", "worker 0")
    make_part(tmp_path / "b", [make_record(1)], [crash], host="machine b")
    merge_runs([tmp_path / "b", tmp_path / "a"], tmp_path / "ab")
    merge_runs([tmp_path / "ab"], tmp_path / "again")
    origin = "JOIN sessions ON session = sessions.id JOIN origins USING (session)"
    for run in (tmp_path / "ab", tmp_path / "again"):
        assert rows(run, f"SELECT initial_state, run, origins.number, host FROM episodes {origin} ORDER BY initial_state") == [
            (0, "a", 1, "machine a"),
            (1, "b", 1, "machine b"),
        ]
        assert rows(run, f"SELECT key, run, host FROM attempts {origin}") == [(crash.key, "b", "machine b")]


def test_conflicting_results_are_refused_with_key_fields_and_runs_and_nothing_is_written(tmp_path: Path) -> None:
    make_part(tmp_path / "a", [make_record(0), make_record(1), make_record(2)])
    changed = np.zeros((11, 7), np.float32)
    make_part(tmp_path / "b", [make_record(3), make_record(1, reward=9.0, actions=changed), make_record(2, success=False)])
    make_part(tmp_path / "out", [make_record(5)])
    before = content(tmp_path / "out"), files(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    for target in ("out", "new"):
        with pytest.raises(VlarigError) as caught:
            merge_runs([tmp_path / "b", tmp_path / "a"], tmp_path / target)
        assert f"episode {make_record(1).key} has different results in {tmp_path / 'a'} and {tmp_path / 'b'}: " in str(
            caught.value
        )
        assert "reward, actions differ, and 1 more conflict" in str(caught.value)
        assert "nothing was merged" in str(caught.value)
    assert (content(tmp_path / "out"), files(tmp_path)) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_a_conflict_with_what_was_merged_before_names_the_merged_run(tmp_path: Path) -> None:
    make_part(tmp_path / "a", [make_record(0)])
    make_part(tmp_path / "b", [make_record(0, reward=9.0)])
    merge_runs([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(VlarigError, match=rf"different results in {tmp_path / 'out'} and {tmp_path / 'b'}: reward differ"):
        merge_runs([tmp_path / "b"], tmp_path / "out")


def test_equal_results_whose_bytes_differ_are_no_conflict(tmp_path: Path) -> None:
    """Compressed actions depend on the zlib that wrote them, JSON on the order of its fields."""
    for name in "ab":
        make_part(tmp_path / name, [make_record(0, metrics={"b": float("nan"), "a": 1.0})])
    blob = encode_actions(make_record(0).actions)
    other = blob[:12] + zlib.compress(zlib.decompress(blob[12:]), 1)
    assert other != blob
    with sqlite3.connect(tmp_path / "b" / "ledger.sqlite") as connection:
        connection.execute(
            """UPDATE episodes SET actions = ?, metrics = '{"b": NaN, "a": 1.0}', worker = 'another'""", (other,)
        )
    connection.close()
    assert merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out").new == 1


def test_another_identity_is_refused_with_its_differences(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=5, policy="random")
    with pytest.raises(
        VlarigError, match=r"b has another identity than .*a: seed is 5, not 0; policy is \"random\", not \"expert\"; only"
    ):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(VlarigError, match=r"a has another identity than .*b: seed is 0, not 5"):
        merge_runs([tmp_path / "a"], tmp_path / "b")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_run_that_is_being_written_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_part(tmp_path / name)
    with RunLock(tmp_path / "a"):
        for runs, target in ((["a"], "out"), (["b"], "a")):
            with pytest.raises(VlarigError, match=f"the run .*a is being written by process {os.getpid()} on "):
                merge_runs([tmp_path / run for run in runs], tmp_path / target)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_merged_into_is_refused(tmp_path: Path) -> None:
    run = make_part(tmp_path / "a", shard="1/2")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").touch()
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for target, sentence in (
        ("photos", "exists and is no run"),
        ("file", "exists and is no run"),
        ("empty", "exists and is no run"),
        ("a", "there is nothing to merge into"),
    ):
        with pytest.raises(VlarigError, match=sentence):
            merge_runs([run], tmp_path / target)
    make_part(tmp_path / "b", shard="2/2")
    with pytest.raises(VlarigError, match=r"a is shard 1/2 of its run, which holds its own episodes alone; give another --run"):
        merge_runs([tmp_path / "b"], run)


def test_a_ledger_of_another_run_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    make_manifest(5).save(run)
    with pytest.raises(
        VlarigError, match=r"a mixes two runs: its ledger holds 10 episodes of tabletop/standard@1/open_drawer/base"
    ):
        merge_runs([run], tmp_path / "out")


def test_shards_become_a_whole_run_that_goes_on(tmp_path: Path) -> None:
    for number in (1, 2):
        manifest = make_manifest()
        record = manifest.record.model_copy(
            update={
                "shard": f"{number}/2",
                "config": {"shard": f"{number}/2", "video": "all"},
                "suite_notes": {"tabletop": "a note"},
            }
        )
        manifest.model_copy(update={"record": record}).save(tmp_path / f"shard-{number}")
        Ledger.create(tmp_path / f"shard-{number}").close()
    with Ledger.open(tmp_path / "shard-1") as ledger:
        ledger.write_episode(make_record(0))
    merge_runs([tmp_path / "shard-1", tmp_path / "shard-2"], tmp_path / "out")
    saved = Manifest.load(tmp_path / "out")
    assert (saved.record.shard, saved.record.config["shard"], saved.record.config["video"]) == (None, None, "all")
    assert saved.notes() == ["tabletop: a note"]
    assert run_table(tmp_path / "out").total.expected == 30
    with open_run(tmp_path / "out", make_manifest()) as ledger:
        assert ledger.finished_keys() == {make_record(0).key}
        ledger.write_episode(make_record(1))
    assert merge_runs([tmp_path / "shard-1"], tmp_path / "out").new == 0


def test_a_run_whose_driver_was_killed_before_it_had_a_ledger_holds_nothing(tmp_path: Path) -> None:
    make_manifest().save(tmp_path / "a")
    make_part(tmp_path / "b", [make_record(0)])
    result = merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert list(result.found.values()) == [0, 1]


def test_films_are_taken_along_and_the_first_stays(tmp_path: Path) -> None:
    for name, films in (
        ("a", {"1.mp4": b"1", "1.jpg": b"poster", ".2.mp4.77.new": b"half"}),
        ("b", {"1.mp4": b"other", "2.mp4": b"2"}),
        ("c", {}),
    ):
        make_part(tmp_path / name)
        for film, data in films.items():
            (tmp_path / name / "videos").mkdir(exist_ok=True)
            (tmp_path / name / "videos" / film).write_bytes(data)
    for target in ("new", "c"):
        merge_runs([tmp_path / "a", tmp_path / "b"], tmp_path / target)
        videos = tmp_path / target / "videos"
        assert {film.name: film.read_bytes() for film in videos.iterdir()} == {"1.jpg": b"poster", "1.mp4": b"1", "2.mp4": b"2"}


def merge_and_die(moment: int, runs: Sequence[Path], target: Path) -> int:
    """Exit status of a merge that is killed as it opens, makes, renames or deletes something for the ``moment``-th time."""
    child = os.fork()
    if child == 0:
        left = moment

        def watch(event: str, arguments: object) -> None:
            nonlocal left
            left -= event in ("sqlite3.connect", "os.rename", "os.link", "os.mkdir", "os.remove", "fcntl.flock")
            if left == 0:
                left = -1  # the kill is an event, too
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            merge_runs(runs, target)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.slow
@pytest.mark.parametrize("exists", [False, True], ids=["new", "existing"])
def test_a_kill_leaves_nothing_half(tmp_path: Path, exists: bool) -> None:
    for name, initial_states in (("a", range(4)), ("b", range(3, 8))):
        make_part(tmp_path / name, [make_record(initial_state) for initial_state in initial_states])
        (tmp_path / name / "videos").mkdir()
        (tmp_path / name / "videos" / f"{name}.mp4").write_bytes(b"film")
    keys = {make_record(initial_state).key for initial_state in range(8)}
    out = tmp_path / "out"
    allowed = [set(), keys]
    if exists:
        make_part(out, [make_record(9)])
        keys.add(make_record(9).key)
        allowed = [{make_record(9).key}, keys]
    for moment in itertools.count(1):
        status = merge_and_die(moment, [tmp_path / "a", tmp_path / "b"], out)
        assert status in (0, -signal.SIGKILL)
        if out.exists():
            with Ledger.open_read_only(out) as ledger:
                assert ledger.finished_keys() in allowed
        assert {run.name for run in run_dirs(tmp_path)} <= {"a", "b", "out"}
        if status == 0:
            break
        if out.exists() and not exists:
            shutil.rmtree(out)
    assert moment > 10
    assert content(out)["results"].keys() == keys
    assert sorted(path.name for path in (out / "videos").iterdir()) == ["a.mp4", "b.mp4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "out"]


def test_the_command_prints_what_came_from_where_and_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs" / "half", finished=2, errors=1)
    make_run(tmp_path / "runs" / "other", finished=4)
    assert merge(["half", "runs/other", "--run", "both"]) == 0
    output = capsys.readouterr().out
    assert "runs/half: 6 finished episodes" in output
    assert "runs/other: 12 finished episodes" in output
    assert "both: 12 of them are new" in output
    assert "incomplete: 12 of 30 episodes finished, 0 errors, 18 missing" in output
    assert "18 episodes are owed: the sweep's command, without --shard and with --run both, runs them" in output
    with pytest.raises(VlarigError, match="no run was named"):
        merge(["--run", "both"])
    with pytest.raises(VlarigError, match="unknown run 'haf' in runs; did you mean half"):
        merge(["haf", "--run", "both"])
