"""A driver that is killed while it writes loses no record whose write was acknowledged."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sample_runs import make_record

from vlarig.results.ledger import Ledger

#: Writes record after record, and says so after each; starts where the ledger ends.
WRITER = """
import sys
from pathlib import Path
from sample_runs import make_record
from vlarig.results.ledger import Ledger
from vlarig.results.records import Session
run = Path(sys.argv[1])
ledger = Ledger.open(run) if (run / "ledger.sqlite").exists() else Ledger.create(run)
ledger.start_session(Session(None, "here", 1, 1))
start = len(ledger.finished_keys())
print("ready", flush=True)
while True:
    ledger.write_episode(make_record(start))
    print(start, flush=True)
    start += 1
"""


def write_until_killed(run: Path, commits: int) -> list[int]:
    """Initial states that a writer acknowledged until it was killed, ``commits`` commits after it began."""
    command = [sys.executable, "-c", WRITER, str(run)]
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline() == "ready\n"
        lines = [process.stdout.readline() for _ in range(commits)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    assert process.returncode == -signal.SIGKILL
    return [int(line) for line in lines if line.endswith("\n")]


@pytest.mark.slow
@pytest.mark.parametrize("looking", [False, True], ids=["alone", "beside a reader"])
def test_every_acknowledged_commit_survives_kills(tmp_path, looking):
    run = tmp_path / "run"
    acknowledged: list[int] = []
    readers = []
    for commits in (1, 40, 130, 7, 250):
        acknowledged += write_until_killed(run, commits)
        reader = Ledger.open_read_only(run)
        assert {make_record(initial_state).key for initial_state in acknowledged} <= reader.finished_keys()
        for initial_state in acknowledged[-3:]:
            assert reader.record(make_record(initial_state).key).result() == make_record(initial_state).result()
        if looking:
            readers.append(reader)
        else:
            reader.close()
    for reader in readers:
        assert reader.records(with_actions=True)[0].result() == make_record(0).result()
        reader.close()
    assert len(acknowledged) >= 428
    with Ledger.open(run) as ledger:
        records = sorted(ledger.records(with_actions=True), key=lambda record: record.initial_state)
        assert [record.initial_state for record in records] == list(range(len(records)))
        assert all(record.result() == make_record(record.initial_state).result() for record in records)
        assert [session.ended for session in ledger.sessions()] == [None] * 5
    assert len(records) - len(acknowledged) <= 5  # a kill may fall between a commit and its acknowledgement
