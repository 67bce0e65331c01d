"""A ledger that cannot be trusted is refused in one sentence, and left as it is."""

import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import pytest
from sample_runs import hasty_ledger, make_record

from vlarig.envs.errors import VlarigError
from vlarig.results.ledger import Ledger
from vlarig.results.schema import SCHEMA_VERSION


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    with hasty_ledger(run) as ledger:
        for initial_state in range(200):
            ledger.write_episode(make_record(initial_state))
    return run


@pytest.fixture
def run(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def refuse(run, message):
    """Every way to open is refused with the same sentence, and not a byte of the ledger changes."""
    path = run / "ledger.sqlite"
    before = path.read_bytes() if path.exists() else None
    for take in (Ledger.open, Ledger.open_read_only):
        with pytest.raises(VlarigError, match=message) as caught:
            take(run)
        assert "\n" not in str(caught.value)
    assert (path.read_bytes() if path.exists() else None) == before


def test_missing(tmp_path):
    refuse(tmp_path, "there is no ledger at .*ledger.sqlite; name the folder of a run")
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path):
    refuse(tmp_path / "nowhere", "there is no ledger at")
    assert not (tmp_path / "nowhere").exists()


def test_no_sqlite_file(run):
    (run / "ledger.sqlite").write_text("results go here")
    refuse(run, "is no ledger: it does not begin like an SQLite file")


def test_empty_file(run):
    (run / "ledger.sqlite").write_bytes(b"")
    refuse(run, "does not begin like an SQLite file")


def test_another_programs_database(run):
    (run / "ledger.sqlite").unlink()
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute("CREATE TABLE photos (id)")
    connection.close()
    refuse(run, "is an SQLite file but no ledger of vlarig")


@pytest.mark.parametrize(
    ("version", "advice"),
    [(SCHEMA_VERSION + 1, "install a newer vlarig"), (1, "resume the run once with vlarig 0.2, which upgrades it")],
)
def test_another_version(run, version, advice):
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    refuse(run, f"schema version {version}, this vlarig reads {SCHEMA_VERSION}; {advice}")


def test_a_table_is_gone(run):
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute("DROP TABLE attempts")
    connection.close()
    with (
        Ledger.open_read_only(run) as ledger,
        pytest.raises(VlarigError, match="cannot be read: no such table: attempts; the file"),
    ):
        ledger.attempts()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
def test_truncated(run, share):
    path = run / "ledger.sqlite"
    with path.open("r+b") as file:
        file.truncate(int(path.stat().st_size * share))
    refuse(run, "cannot be read: .*nothing was changed")


def test_overwritten_pages(run):
    path = run / "ledger.sqlite"
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xa5" * (len(data) - 8192)
    path.write_bytes(data)
    refuse(run, "cannot be read: .*malformed.*nothing was changed")


def test_damaged_actions_are_told_by_key_and_hide_no_other_record(run):
    connection = sqlite3.connect(run / "ledger.sqlite")
    connection.execute("UPDATE episodes SET actions = substr(actions, 1, 40) WHERE initial_state = 7")
    connection.commit()
    connection.close()
    with Ledger.open_read_only(run) as ledger:
        with pytest.raises(VlarigError, match=rf"damaged record of {make_record(7).key}: encoded actions"):
            ledger.record(make_record(7).key)
        assert ledger.record(make_record(8).key).initial_state == 8
        assert len(ledger.records()) == 200


@pytest.mark.parametrize("state", ["finished", "killed"])
def test_a_copy_in_a_folder_where_nobody_may_write_can_be_read(run, state):
    with tempfile.TemporaryDirectory() as folder, Ledger.open(run) as ledger:
        Path(folder).chmod(0o755)  # pytest's own folders bar other users
        if state == "finished":
            ledger.close()
        else:
            ledger.write_episode(make_record(200))
        copy = shutil.copytree(run, Path(folder) / "copy")
        for path in copy.iterdir():
            path.chmod(0o444)
        copy.chmod(0o555)
        records = count_records_as_nobody(copy)
        copy.chmod(0o755)
    assert records == (200 if state == "finished" else 201)


def count_records_as_nobody(run: Path) -> int:
    """The number of records that a process without the right to write can read, whichever user runs the tests."""
    child = os.fork()
    if child == 0:
        records = 255
        try:
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            assert not os.access(run, os.W_OK)
            with Ledger.open_read_only(run) as ledger:
                records = len(ledger.records())
        finally:
            os._exit(records)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
