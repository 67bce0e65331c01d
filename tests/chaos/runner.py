"""One storm from the outside: starts driver after driver until all blows have fallen, and judges what each leaves behind."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from chaos import STORM, clock, disk, power, processes
from chaos.blows import AFTER_DEATH, NEEDS_CLOCK, NEEDS_DISK, Blow, Schedule
from chaos.cases import Case
from chaos.judge import attempts_of, compare, finished, sound, without_cause
from vlarig.envs.errors import VlarigError
from vlarig.results.lock import lock_holder
from vlarig.results.schema import LEDGER_NAME

TESTS = Path(__file__).parents[1]

#: Seconds that a driver, and then the last of its processes, may take to end.
LONGEST_DRIVER, LONGEST_END = 300.0, 60.0

#: Drivers for each blow after which a storm is given up.
MOST_DRIVERS_A_BLOW = 4

#: How often blows that hit nothing are tried again.
MOST_ROUNDS = 4

#: Ends of a sweep in one sentence that a storm may bring about.
EXCUSES = ("full", "times without carrying out one request")


@dataclass
class Outcome:
    """The result of a storm; saved after each of its drivers, so that a killed campaign continues.

    Attributes:
        done: Whether the storm is over.
        landed: Blows that hit, by name.
        landed_before: Blows that had hit when the current run started.
        drivers: Drivers that were started.
        runs: Runs that were finished, and compared.
        episodes: Episodes of those runs.
        differences: Episodes that differ from the undisturbed run's, with the fields.
        attempts: Failed attempts in the ledgers, by kind.
        problems: Everything else that must not be.
        seconds: Wall time.
    """

    done: bool = False
    landed: dict[str, int] = field(default_factory=dict)
    landed_before: int = 0
    drivers: int = 0
    runs: int = 0
    episodes: int = 0
    differences: list[str] = field(default_factory=list)
    attempts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The outcome of the storm in ``folder`` so far."""
        path = folder / "outcome.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls()

    def save(self, folder: Path) -> None:
        """Keep it with the storm."""
        draft = folder / "outcome.new"
        draft.write_text(json.dumps(asdict(self), indent=1))
        draft.replace(folder / "outcome.json")


class Runner:
    """Runs one storm over a case's sweep.

    Args:
        case: The sweep.
        folder: Folder of the storm; an unfinished one is continued.
        blows: The storm's blows.
        expected: The results of an undisturbed run, by key.
    """

    def __init__(self, case: Case, folder: Path, blows: Sequence[Blow], expected: dict[str, Any]) -> None:
        self.case, self.folder, self.blows, self.expected = case, folder, list(blows), expected
        self.schedule = Schedule(folder)
        self.outcome = Outcome.load(folder)
        self._placements = itertools.cycle(case.placements)
        self._seen: set[str] = set()

    def run(self) -> Outcome:
        """Storm until all blows fell, finish the last run undisturbed, and return what became of it."""
        if self.outcome.done:
            return self.outcome
        began = time.monotonic() - self.outcome.seconds
        self.folder.mkdir(parents=True, exist_ok=True)
        processes.await_end(self.folder, 0)  # left by a campaign that was killed
        if not (self.folder / "schedule").exists():
            self.schedule.write(self.blows)
        with ExitStack() as stack:
            self._prepare(stack)
            for _ in range(MOST_ROUNDS):
                while self.schedule.to_come() and not self._hopeless:
                    self._drive()
                    self.outcome.seconds = time.monotonic() - began
                    self.outcome.save(self.folder)
                missed = self.schedule.missed(self.blows)
                if not missed:
                    break
                self.schedule.write(missed)
            while self._files().exists() and not self._hopeless:
                self._drive(calm=True)
        self._blame("the storm does not end", self._hopeless)
        kills = [blow.line() for blow in self.schedule.missed(self.blows) if blow.kind == "kill"]
        self.outcome.problems += [f"blows that never hit: {kills}"] if kills else []
        self.outcome.landed = dict(Counter(blow.name for blow in self.schedule.landed()))
        self.outcome.done = True
        self.outcome.seconds = time.monotonic() - began
        self.outcome.save(self.folder)
        return self.outcome

    def _prepare(self, stack: ExitStack) -> None:
        kinds = {blow.kind for blow in self.blows}
        self._environment = os.environ | {"COLUMNS": "200", "PYTHONPATH": str(TESTS)}
        self._disk: disk.SmallDisk | None = None
        if NEEDS_DISK in kinds:
            self._disk = stack.enter_context(disk.small_disk(self.folder / "disk"))
            assert self._disk is not None, "blows that fill a disk were planned where none can be mounted"
        if NEEDS_CLOCK in kinds:
            self._environment |= clock.make_clock(self.folder)
        replace(self.case.settings, disk=str(self._disk.inside if self._disk else "")).save(self.folder)

    @property
    def _run_name(self) -> str:
        return f"run{self.outcome.runs}"

    def _run(self) -> Path:
        """The run as the driver sees it."""
        return (self._disk.inside if self._disk else self.folder) / self._run_name

    def _files(self) -> Path:
        """The run's files as we see them."""
        return (self._disk.outside if self._disk else self.folder) / self._run_name

    def _look(self) -> Path:
        """A run of which SQLite can read the ledger here."""
        if self._disk is None:
            return self._run()
        look = self.folder / "look"
        shutil.rmtree(look, ignore_errors=True)
        shutil.copytree(self._files(), look)
        return look

    @property
    def _hopeless(self) -> bool:
        """Whether so many drivers were started that the storm will not end."""
        return self.outcome.drivers > MOST_DRIVERS_A_BLOW * len(self.blows) + 20

    def _drive(self, calm: bool = False) -> None:
        """Start a driver, wait for its end, and judge."""
        self.outcome.drivers += 1
        driver = self._start(self._words(), calm)
        status = self._wait(driver)
        strays = processes.await_end(self.folder, LONGEST_END)
        self._blame(f"left alive: {strays}", bool(strays))
        if self._disk is not None:
            disk.empty(self._disk.outside)
        landed = self.schedule.landed()
        last = landed[-1] if landed else None
        self._judge_end(status, last)
        if (self._files() / LEDGER_NAME).exists():
            try:
                self._judge_run(status)
            except VlarigError as error:
                self._blame(f"the ledger cannot be read: {error}")
                shutil.rmtree(self._files())
                return
            if status == -signal.SIGKILL and last is not None and last.kind in AFTER_DEATH:
                self._accident(last)
        if status == 0:
            self._judge_finished_run()
            self.outcome.runs += 1
            self.outcome.landed_before = len(landed)
            self._seen = set()

    def _words(self) -> list[str]:
        workers, envs = next(self._placements)
        return [*self.case.words, "--run", str(self._run()), "--workers", str(workers), "--num-envs", str(workers * envs)]

    def _start(self, words: list[str], calm: bool) -> subprocess.Popen[bytes]:
        marks = {} if calm else {STORM: str(self.folder)}
        self._errors = self.folder / "stderr"
        with self._errors.open("wb") as errors, (self.folder / "stdout").open("wb") as output:
            return subprocess.Popen(
                [*(self._disk.enter if self._disk else []), sys.executable, "-m", "vlarig.harness", *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=self._environment | marks,
                start_new_session=True,  # so that Ctrl-C ends the campaign alone, which is no blow
            )

    def _wait(self, driver: subprocess.Popen[bytes]) -> int:
        """The driver's exit status. One that was stopped for ever keeps its run until it is killed."""
        deadline = time.monotonic() + LONGEST_DRIVER
        while driver.poll() is None:
            time.sleep(0.02)
            landed = self.schedule.landed()
            if landed and landed[-1].name == "stop driver" and processes.is_stopped(driver.pid):
                if f"process {driver.pid} " in (lock_holder(self._files()) or ""):  # else it was stopped before it took its run
                    self._try_second_driver()
                driver.kill()
            if time.monotonic() > deadline:
                driver.send_signal(signal.SIGUSR1)
                time.sleep(1)
                driver.kill()
                driver.wait()
                self._blame(f"the driver did not end within {LONGEST_DRIVER:.0f} s: {self._said.read_text()[-3000:]}")
                return -signal.SIGABRT
        return driver.returncode

    def _try_second_driver(self) -> None:
        second = self._start(self._words(), calm=True)
        status, errors = second.wait(timeout=60), self._errors.read_text()
        self._blame(f"a second driver beside a stopped one ended with {status}: {errors}", "is being written by" not in errors)

    def _judge_end(self, status: int, last: Blow | None) -> None:
        errors = self._errors.read_text()
        self._blame(f"the driver printed a traceback: {errors[-3000:]}", "Traceback" in errors)
        if status == -signal.SIGKILL:
            self._blame("the driver was killed by no blow", last is None or not last.ends_driver)
        elif status == 2:
            excused = any(excuse in errors for excuse in EXCUSES) and len(errors.splitlines()) == 1
            self._blame(f"the sweep ended: {errors}", not excused)
        elif status not in (0, 1):
            self._blame(f"the driver ended with {status}: {errors[-2000:]}", status != -signal.SIGABRT)

    def _judge_run(self, status: int) -> None:
        run = self._look()
        gave_up = any(attempt.gave_up for attempt in attempts_of(run))
        self._blame("the sweep is not complete, and gave no episode up", status == 1 and not gave_up)
        self._blame(f"the ledger is damaged: {sound(run)}", sound(run) != "ok")
        found = finished(run)
        lost = self._seen - found.keys()
        self._blame(f"finished episodes were lost: {sorted(lost)}", bool(lost))
        self._seen = set(found)
        self.outcome.differences += compare(found, self.expected)

    def _judge_finished_run(self) -> None:
        run = self._look()
        found = finished(run)
        missing = self.expected.keys() - found.keys()
        self._blame(f"a complete run lacks {sorted(missing)}", bool(missing))
        attempts = attempts_of(run)
        excess = without_cause(attempts, self.schedule.landed()[self.outcome.landed_before :])
        self._blame(f"charged without cause: {excess}", bool(excess))
        self.outcome.episodes += len(found)
        self.outcome.attempts = dict(Counter(self.outcome.attempts) + Counter(attempt.kind for attempt in attempts))
        shutil.rmtree(self._files())

    def _accident(self, blow: Blow) -> None:
        """What happened to the ledger after the driver's death."""
        run, rng = self._files(), random.Random(blow.seed)
        if blow.kind == "destroy":
            self._destroy(run, rng)
        elif blow.kind == "tear-checkpoint":
            power.tear_checkpoint(run, rng)
        else:
            power.cut_journal(run, rng)
            self._seen = set()  # what was only in the log may be owed again

    def _destroy(self, run: Path, rng: random.Random) -> None:
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        power.destroy(run, rng)
        left = (run / LEDGER_NAME).read_bytes()
        driver = self._start(self._words(), calm=True)
        status, errors = driver.wait(timeout=60), self._errors.read_text()
        self._blame(
            f"over a destroyed ledger the driver ended with {status}: {errors}", status != 2 or len(errors.splitlines()) != 1
        )
        self._blame("a destroyed ledger was changed", (run / LEDGER_NAME).read_bytes() != left)
        shutil.rmtree(run)
        shutil.copytree(copy, run)

    def _blame(self, problem: str, guilty: bool = True) -> None:
        if guilty:
            self.outcome.problems.append(f"driver {self.outcome.drivers}, run {self.outcome.runs}: {problem}")


def run_calm(case: Case, run: Path) -> None:
    """Run the case's sweep without a storm, in one worker with one env."""
    command = [
        sys.executable,
        "-m",
        "vlarig.harness",
        *case.words,
        "--run",
        run,
        "--workers",
        "1",
        "--num-envs",
        "1",
        "--batch",
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
