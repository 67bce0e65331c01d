"""What a power loss leaves of a ledger is a ledger: with every acknowledged episode, or at worst with a first part of them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from chaos import power
from chaos.judge import sound
from chaos.preload import can_compile, compile_preload
from sample_runs import make_manifest, make_record

from vlarig.envs.errors import VlarigError
from vlarig.results.ledger import Ledger
from vlarig.results.records import Session
from vlarig.results.runs import open_run

TESTS = Path(__file__).parents[1]
RECORDS = [make_record(initial_state) for initial_state in range(40)]


class Killed(NamedTuple):
    """The run of a driver that was killed, and how long its write-ahead log was when each record was acknowledged."""

    run: Path
    acknowledged: list[int]


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Killed:
    run, copy = tmp_path_factory.mktemp("written") / "run", tmp_path_factory.mktemp("killed") / "run"
    make_manifest().save(run)
    with Ledger.create(run) as ledger:
        ledger.start_session(Session(None, "here", 1, 1))
        for record in RECORDS[:10]:
            ledger.write_episode(record)
    acknowledged = []
    with Ledger.open(run) as ledger:
        ledger.start_session(Session(None, "here", 1, 1))
        for record in RECORDS[10:]:
            ledger.write_episode(record)
            acknowledged.append(power.journal_of(run).stat().st_size)
        shutil.copytree(run, copy)
    return Killed(copy, acknowledged)


#: Writes records, and notes beside the syncs how long the log was when each was acknowledged.
WRITER = """
import os, sys
from pathlib import Path
from sample_runs import make_record
from vlarig.results.ledger import Ledger
run, syncs = Path(sys.argv[1]), open(os.environ["VLARIG_TEST_SYNCS"], "a")
with Ledger.create(run) as ledger:
    for start in range(20):
        ledger.write_episode(make_record(start))
        log = (run / "ledger.sqlite-wal").stat()
        print("acknowledged", log.st_ino, log.st_size, file=syncs, flush=True)
"""


def copy_of(killed: Killed, folder: Path) -> Path:
    return shutil.copytree(killed.run, folder / "run", dirs_exist_ok=True)


def goes_on(run: Path) -> None:
    """The run can be resumed, and then holds every record as it must be."""
    with open_run(run, make_manifest()) as ledger:
        for record in RECORDS:
            ledger.write_episode(record)
    assert sound(run) == "ok"
    with Ledger.open_read_only(run) as ledger:
        found = {record.key: record.result() for record in ledger.records(with_actions=True)}
    assert found == {record.key: record.result() for record in RECORDS}


@pytest.mark.skipif(not can_compile(), reason="no C compiler")
def test_what_is_acknowledged_is_on_the_disk(tmp_path: Path) -> None:
    syncs = tmp_path / "syncs"
    environment = compile_preload("syncs", tmp_path) | {"VLARIG_TEST_SYNCS": str(syncs), "PYTHONPATH": str(TESTS)}
    subprocess.run([sys.executable, "-c", WRITER, tmp_path / "run"], env=environment, check=True)
    synced: dict[str, int] = {}
    acknowledged = 0
    for *word, inode, size in map(str.split, syncs.read_text().splitlines()):
        if word:
            acknowledged += 1
            assert synced[inode] == int(size)
        else:
            synced[inode] = int(size)
    assert acknowledged == 20


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_was_cut_off_holds_what_was_acknowledged_before(killed: Killed, tmp_path: Path, seed: int) -> None:
    run = copy_of(killed, tmp_path)
    left = power.cut_journal(run, random.Random(seed))
    before = 10 + sum(size <= left for size in killed.acknowledged)
    with Ledger.open_read_only(run) as ledger:
        kept = ledger.finished_keys()
    assert kept == {record.key for record in RECORDS[:before]}
    goes_on(run)


@pytest.mark.parametrize("seed", range(30))
def test_a_checkpoint_that_was_torn_loses_nothing(killed: Killed, tmp_path: Path, seed: int) -> None:
    run = copy_of(killed, tmp_path)
    assert power.tear_checkpoint(run, random.Random(seed)) > 0
    with Ledger.open_read_only(run) as ledger:
        assert ledger.finished_keys() == {record.key for record in RECORDS}
    goes_on(run)


@pytest.mark.parametrize("seed", range(30))
def test_a_log_that_is_cut_off_after_a_torn_checkpoint_leaves_a_ledger(killed: Killed, tmp_path: Path, seed: int) -> None:
    """The second power loss comes before another checkpoint has mended the main file."""
    run, rng = copy_of(killed, tmp_path), random.Random(seed)
    power.tear_checkpoint(run, rng)
    again = tmp_path / "again"
    with Ledger.open(run) as ledger:
        ledger.start_session(Session(None, "here", 1, 1))
        shutil.copytree(run, again)
    power.cut_journal(again, rng)
    with Ledger.open_read_only(again) as ledger:
        assert ledger.finished_keys() == {record.key for record in RECORDS}
    goes_on(again)


def test_the_logs_index_is_not_believed(killed: Killed, tmp_path: Path) -> None:
    run = copy_of(killed, tmp_path)
    index = run / "ledger.sqlite-shm"
    index.write_bytes(random.Random(0).randbytes(index.stat().st_size))
    with Ledger.open_read_only(run) as ledger:
        assert len(ledger.finished_keys()) == len(RECORDS)
    goes_on(run)


@pytest.mark.parametrize("seed", range(20))
def test_a_destroyed_ledger_is_refused_and_left_as_it_is(killed: Killed, tmp_path: Path, seed: int) -> None:
    run = copy_of(killed, tmp_path)
    power.destroy(run, random.Random(seed))
    left = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "lock"}
    for take in (Ledger.open, Ledger.open_read_only, lambda folder: open_run(folder, make_manifest())):
        with pytest.raises(VlarigError, match=r"restore (the file|it) from a copy") as caught:
            take(run)
        assert "\n" not in str(caught.value)
    assert left == {name: (run / name).read_bytes() for name in left}
    journal = power.journal_of(run)
    assert not journal.exists() or not journal.read_bytes()  # nothing that would be taken for a part of the copy


@pytest.mark.parametrize("seen", ["nothing", "manifest", "drafts"])
def test_a_loss_while_the_run_is_made_leaves_a_run_to_start(tmp_path: Path, seen: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    if seen != "nothing":
        make_manifest().save(run)
    if seen == "drafts":  # a process of ours that had the same number
        (run / f"ledger.sqlite.{os.getpid()}.new").write_bytes(b"SQLite format 3\x00" + bytes(4000))
        (run / f"manifest.json.{os.getpid()}.new").write_text('{"format"')
    goes_on(run)
