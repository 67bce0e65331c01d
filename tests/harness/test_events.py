"""A sweep writes events: to a log that survives everything, and to programs that listen."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest
from chaos.processes import children
from rich.console import Console
from toy.policies import ImageReader, Talkative

from vlarig.harness import evaluate
from vlarig.harness.reporting import logs
from vlarig.harness.reporting.events import (
    EpisodeEvent,
    Event,
    Note,
    Result,
    SessionEvent,
    SuiteEvent,
    line_of,
    parse,
    read_events,
)
from vlarig.harness.reporting.logs import EventLog, LineWriter
from vlarig.results.ledger import Ledger

#: The fields that every event has.
COMMON = ("time", "seconds", "session")
SWEEP = ["sweep", "toy", "--policy", "toy.policies:Talkative", "--run", "r", "--json"]
SLOW_SWEEP = [*SWEEP[:3], "toy.policies:SlowImageReader", *SWEEP[4:], "--episodes", "8", "--num-envs", "2"]


def command(words: list[str]) -> list[str]:
    return [sys.executable, "-m", "vlarig.harness", *words]


def understood(text: str) -> list[Event]:
    """The events of a stream, each of which must be exactly what its class defines."""
    events = [parse(line) for line in text.splitlines()]
    assert [line_of(event) for event in events] == text.splitlines()
    return events


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def log_of(run: str) -> list[Event | None]:
    return list(read_events(Path(run) / "logs"))


def names(events: list[Event | None]) -> list[str]:
    """Their names, each with its state or level."""
    return [
        f"{event.__struct_config__.tag} {getattr(event, 'state', getattr(event, 'level', ''))}".strip()
        for event in events
        if event
    ]


def has_an_episode(run: str) -> bool:
    return "episode" in names(log_of(run))


@pytest.mark.slow
def test_json_prints_events_and_nothing_else(toy_home: Path, cli) -> None:
    done = cli(*SWEEP, "--episodes", 2, "--workers", 2, "--num-envs", 2)
    assert done.returncode == 0, done.stderr
    events = understood(done.stdout)
    assert names(events)[0] == "session started"
    assert names(events)[-2:] == ["session complete", "result"]
    counted = Counter(names(events))
    assert counted["episode"] == 4
    assert counted["suite started"] == counted["suite ended"] == 1
    assert len([event for event in events if isinstance(event, Note) and " started (process " in event.text]) == 2
    assert [line_of(event) for event in log_of("r") if event] == done.stdout.splitlines()
    assert [event.seconds for event in events] == sorted(event.seconds for event in events)
    (result,) = (event for event in events if isinstance(event, Result))
    assert (result.run, result.complete, result.status) == (str(Path("r").absolute()), True, 0)
    assert [(task.task, task.n, task.errors, task.missing) for task in result.tasks] == [
        ("reach_red", 2, 0, 0),
        ("reach_blue", 2, 0, 0),
    ]
    assert "thinking" in done.stderr
    assert "requests are too few" not in done.stderr
    assert "WARNING talkative: 1 requests are too few" in Path("r/logs/driver.log").read_text()


@pytest.mark.slow
def test_a_resumed_sweep_adds_a_session_to_the_log_and_films_what_is_wanted(toy_home: Path, cli) -> None:
    pytest.importorskip("av")
    first = understood(cli(*SWEEP, "--episodes", 1).stdout)
    again = understood(cli(*SWEEP, "--episodes", 1, "--video", "all").stdout)
    assert names(again) == ["session started", "note info", "session complete", "note info", "note info", "result"]
    assert [event.session for event in again] == [2] * 6
    assert log_of("r") == [*first, *again]


def test_a_mistake_is_an_event_a_sentence_and_a_status(toy_home: Path, cli) -> None:
    done = cli("sweep", "tabletopp", "--policy", "random", "--json")
    error, result = understood(done.stdout)
    assert done.returncode == 2
    assert names([error, result]) == ["note error", "result"]
    assert done.stderr == f"vlarig: {error.text}\n"
    assert (result.run, result.status, result.tasks) == (None, 2, [])


@pytest.mark.slow
def test_a_policys_failure_ends_the_run_with_what_there_is(toy_home: Path, cli) -> None:
    done = cli("sweep", "toy", "--policy", "toy.policies:NotANumber", "--workers", 1, "--num-envs", 1, "--json")
    events = understood(done.stdout)
    assert done.returncode == events[-1].status == 2
    assert names(events)[-3:] == ["session failed", "note error", "result"]
    assert 0 < sum(task.n for task in events[-1].tasks) < 40


@pytest.mark.slow
def test_an_interrupted_sweep_says_so(toy_home: Path) -> None:
    process = subprocess.Popen(command(SLOW_SWEEP), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: has_an_episode("r"))
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=30)
    events = understood(out)
    assert process.returncode == events[-1].status == 130
    assert events[-3].state == "interrupted"
    assert error == f"vlarig: {events[-2].text}\n"


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_sweep_and_loses_nothing(toy_home: Path, cli) -> None:
    with subprocess.Popen(command(SLOW_SWEEP), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not isinstance(parse(process.stdout.readline()), EpisodeEvent):
            pass
        process.stdout.close()
        assert process.stderr is not None
        output = process.stderr.read()
        assert process.wait(30) == 141
    assert output.startswith("vlarig: the reader of the events closed them; ")
    assert output.count("\n") == 1
    assert not children(process.pid)
    ended = log_of("r")[-1]
    assert isinstance(ended, SessionEvent)
    assert ended.state == "interrupted"
    assert 0 < ended.finished < 16
    assert cli(*SLOW_SWEEP).returncode == 0


@pytest.mark.slow
def test_a_reader_that_does_not_read_holds_nothing_up(toy_home: Path) -> None:
    with subprocess.Popen(command(SWEEP), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, 4096)
        wait_for(lambda: "session complete" in names(log_of("r")))
        events = understood(process.stdout.read())
        assert process.wait(30) == 0
    assert names(events).count("episode") == 40


@pytest.mark.slow
def test_a_killed_sweep_leaves_a_log_that_is_continued(toy_home: Path, cli) -> None:
    process = subprocess.Popen(command(SLOW_SWEEP), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: has_an_episode("r"))
    process.kill()
    process.wait()
    before = log_of("r")
    assert [name for name in names(before) if name.startswith("session")] == ["session started"]
    with Ledger.open_read_only(Path("r")) as ledger:
        kept = {record.key for record in ledger.each_record()}
    with Path("r/logs/events.jsonl").open("a") as file:
        file.write('{"event":"episod')
    assert log_of("r") == before
    assert cli(*SLOW_SWEEP).returncode == 0
    after = log_of("r")
    assert after[: len(before)] == before
    cut_short, started, *others = after[len(before) :]
    assert cut_short is None
    assert names([started]) == ["session started"]
    assert {event.session for event in [started, *others] if event} == {2}
    noted, noted_again = ([event.key for event in events if isinstance(event, EpisodeEvent)] for events in (after, others))
    assert len(set(noted)) == 16
    first_noted = noted[: len(noted) - len(noted_again)]
    assert len(first_noted) == len(set(first_noted))
    # An episode may be noted before the ledger has it; one that the kill took from the ledger is played and noted again.
    assert sorted(noted_again) == sorted(set(noted) - kept)


@pytest.mark.slow
def test_a_dead_worker_and_its_successor_are_noted(toy_home: Path, cli) -> None:
    process = subprocess.Popen(command([*SLOW_SWEEP, "--workers", "1"]), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    events = [parse(process.stdout.readline())]
    while not isinstance(events[-1], EpisodeEvent):
        events.append(parse(process.stdout.readline()))
    os.kill(children(process.pid)[0], signal.SIGKILL)  # the launcher: its worker dies with it
    events += understood(process.communicate(timeout=60)[0])
    said = [
        match
        for event in events
        if isinstance(event, Note) and (match := re.match(r"worker-0 (\w+) \(process (\d+)", event.text))
    ]
    started, died, again = said
    assert [each[1] for each in said] == ["started", "died", "started"]
    assert started[2] == died[2] != again[2]
    assert "Workers died 1 times between requests" in cli("doctor", "r").stdout


@pytest.mark.slow
def test_a_log_that_cannot_be_written_is_reported_once_and_ends_nothing(toy_home: Path) -> None:
    Path("r/logs/events.jsonl").mkdir(parents=True)
    output = io.StringIO()
    assert evaluate("toy", ImageReader(), episodes=2, run=Path("r"), console=Console(file=output, width=200)).complete
    assert output.getvalue().count("cannot be written (Is a directory); the sweep goes on without it") == 1


class Disk:
    """A target whose first writes fail."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.written: list[bytes] = []

    def write(self, line: bytes) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise OSError(errno.ENOSPC, "full")
        self.written.append(line)

    def close(self) -> None:
        self.written.append(b"closed")


def test_lines_are_written_again_when_there_is_room_again() -> None:
    errors: list[OSError] = []
    disk = Disk(2)
    writer = LineWriter(disk, errors.append)
    for line in "abcd":
        writer.write(line)
    writer.close()
    assert disk.written == [b"c\n", b"d\n", b"closed"]
    assert [error.errno for error in errors] == [errno.ENOSPC]


def test_a_clock_that_jumps_does_not_move_the_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Jumping(datetime):
        moments: Iterator[int] = iter([2000, 1000, 3000])

        @classmethod
        def now(cls, tz=None) -> datetime:
            return datetime(next(cls.moments), 1, 1, tzinfo=UTC)

    monkeypatch.setattr(logs, "datetime", Jumping)
    with EventLog(Console(quiet=True)) as log:
        log.say("before there is a run")
        log.open_log(tmp_path, 7)
        log.say("in it")
        log.warn("beware")
    events = list(read_events(tmp_path / "logs"))
    assert [event.time for event in events] == [f"{year}-01-01T00:00:00.000Z" for year in (2000, 1000, 3000)]
    assert [event.session for event in events] == [7, 7, 7]
    seconds = [event.seconds for event in events]
    assert seconds == sorted(seconds)
    assert seconds[-1] < 60


def test_any_text_is_a_line_of_ascii() -> None:
    line = line_of(Note(level="info", text="two\nlines, \u2028 and half a pair: \udc80"))
    assert line.isascii()
    assert "\n" not in line
    assert json.loads(line)["text"] == "two\nlines, \u2028 and half a pair: \udc80"


def test_other_versions_lines_are_passed_over(tmp_path: Path) -> None:
    lines = [line_of(Note(level="info", text="ours")), '{"event":"note","text":"of the past"}', "no JSON"]
    (tmp_path / "events.jsonl").write_text("\n".join(lines) + "\n")
    assert list(read_events(tmp_path)) == [Note(level="info", text="ours"), None, None]


def test_what_libraries_log_is_kept_from_the_terminal_only_while_a_sweep_runs(toy_home: Path, capsys) -> None:
    handlers = list(logging.getLogger().handlers)
    evaluate("toy", Talkative(), episodes=1, run=Path("r"))
    assert logging.getLogger().handlers == handlers
    assert "too few" in Path("r/logs/driver.log").read_text()


@pytest.mark.slow
def test_an_account_adds_up(toy_home: Path) -> None:
    evaluate("toy", ImageReader(), workers=1, num_envs=4, run=Path("r"))
    (breakdown,) = (event.breakdown for event in log_of("r") if isinstance(event, SuiteEvent) and event.state == "ended")
    spent = [event.spent for event in log_of("r") if isinstance(event, EpisodeEvent)]
    for name in ("simulate", "render", "policy", "wait"):
        assert getattr(breakdown, name) == pytest.approx(sum(each[name] for each in spent), abs=0.01)
    assert breakdown.env_seconds == pytest.approx(4 * breakdown.playing, rel=1e-3)
    whole = breakdown.played + breakdown.saving + breakdown.idle + breakdown.rest
    assert whole == pytest.approx(breakdown.env_seconds, rel=0.1)
    assert breakdown.worked <= breakdown.worker_seconds
    assert (breakdown.episodes, breakdown.load.requests) == (40, breakdown.chunks)


def test_the_page_lists_every_event_with_its_fields() -> None:
    page = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ((?:`\w+`(?:, )?)+) \|$", page, re.MULTILINE)
    documented = {name: re.findall(r"\w+", fields) for name, fields in rows}
    kinds = {kind.__struct_config__.tag: kind.__struct_fields__ for kind in get_args(Event)}
    assert documented == {name: [field for field in fields if field not in COMMON] for name, fields in kinds.items()}


def test_every_event_explains_itself() -> None:
    for kind in get_args(Event):
        for field in kind.__struct_fields__:
            assert field in COMMON or f"\n        {field}: " in kind.__doc__, f"{kind}.{field}"
