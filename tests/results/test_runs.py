"""Runs on the disk: started, resumed, found and listed."""

import os

import pytest
from sample_runs import make_manifest, make_record, make_run

from vlarig.envs.errors import VlarigError
from vlarig.results.ledger import Ledger
from vlarig.results.lock import RunLock
from vlarig.results.runs import find_run, list_runs, open_run


def test_a_run_is_started_and_resumed(tmp_path):
    run = tmp_path / "runs" / "expert"
    with open_run(run, make_manifest()) as ledger:
        ledger.write_episode(make_record(1))
    with open_run(run, make_manifest()) as ledger:
        assert ledger.finished_keys() == {make_record(1).key}


def test_another_identity_does_not_resume(tmp_path):
    open_run(tmp_path, make_manifest()).close()
    with pytest.raises(VlarigError, match="seed was 0, now 5; use another --run"):
        open_run(tmp_path, make_manifest(seed=5))
    open_run(tmp_path, make_manifest()).close()


def test_a_run_being_written_is_not_taken(tmp_path):
    with open_run(tmp_path, make_manifest()), pytest.raises(VlarigError, match="is being written by process"):
        open_run(tmp_path, make_manifest())
    open_run(tmp_path, make_manifest()).close()


def test_a_driver_killed_between_manifest_and_ledger_left_a_run_to_resume(tmp_path):
    make_manifest().save(tmp_path / "run")
    assert [run.state for run in list_runs(tmp_path)] == ["resumable"]
    with open_run(tmp_path / "run", make_manifest()) as ledger:
        assert ledger.finished_keys() == set()


def test_a_ledger_without_manifest_is_not_taken_for_new(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "manifest.json").unlink()
    with pytest.raises(VlarigError, match=r"holds a ledger but no manifest\.json"):
        open_run(run, make_manifest())
    assert len(Ledger.open_read_only(run).finished_keys()) == 30


def test_a_folder_that_holds_something_else_is_not_made_a_run(tmp_path):
    make_run(tmp_path / "expert")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        VlarigError, match=r"is no run and holds other files \(expert, notes\.txt\); give --run a new or an empty"
    ):
        open_run(tmp_path, make_manifest())
    with pytest.raises(VlarigError, match=r"notes\.txt is a file; give --run a folder"):
        open_run(tmp_path / "notes.txt", make_manifest())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["expert", "notes.txt"]


def test_what_a_driver_killed_at_its_start_leaves_is_taken_up(tmp_path):
    (tmp_path / "lock").touch()
    (tmp_path / "manifest.json.4711.new").write_text("{")
    open_run(tmp_path, make_manifest()).close()


def test_runs_are_listed_latest_first_with_their_state(tmp_path):
    make_run(tmp_path / "done")
    make_run(tmp_path / "half", finished=4, errors=1)
    make_run(tmp_path / "live", finished=2)
    make_run(tmp_path / "broken")
    (tmp_path / "broken" / "manifest.json").write_text("{")
    (tmp_path / "photos").mkdir()
    for age, name in enumerate(("broken", "done", "half", "live")):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (1e9 - age * 1000, 1e9 - age * 1000))
    with RunLock(tmp_path / "live"):
        runs = list_runs(tmp_path)
    assert [(run.name, run.state, run.finished, run.expected, run.errors) for run in runs] == [
        ("broken", "unreadable", 0, 0, 0),
        ("done", "complete", 30, 30, 0),
        ("half", "resumable", 12, 30, 3),
        ("live", "being written", 6, 30, 0),
    ]
    assert "is no manifest: it is not JSON" in runs[0].note
    assert runs[1].changed.timestamp() == 1e9 - 1000
    assert runs[3].note.startswith(f"process {os.getpid()} on")


def test_a_missing_folder_of_runs(tmp_path):
    with pytest.raises(VlarigError, match="there is no folder"):
        list_runs(tmp_path / "nowhere")


def test_a_run_is_found_by_path_or_name(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs" / "expert-7f3a")
    monkeypatch.chdir(tmp_path)
    for name in (run, run.relative_to(tmp_path), type(run)("expert-7f3a")):
        assert find_run(name).resolve() == run


def test_a_missing_run_offers_the_nearest(tmp_path, monkeypatch):
    run = make_run(tmp_path / "runs" / "expert-7f3a")
    monkeypatch.chdir(tmp_path)
    for name in ("runs/expert-7f", "expert-7f"):
        with pytest.raises(VlarigError, match=f"unknown run 'expert-7f' in runs; did you mean {run.name}"):
            find_run(type(run)(name))
    with pytest.raises(VlarigError, match=r"runs is a folder but no run: it holds the runs expert-7f3a;"):
        find_run(type(run)("runs"))
