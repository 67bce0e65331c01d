"""``vlarig sweep``: run a policy over suites, to a table with intervals."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import tyro

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.rendering import LEGEND, run_sheet
from ...results.tables import run_table
from ..command_line import parse
from ..plan import SweepConfig
from ..reporting.event_log import EventLog
from ..reporting.events import Note, Result, TaskResult
from ..screen import Screen
from ..sweep import Evaluation, cluster, named_policy, run_sweep
from ..termination import exit_status

DESCRIPTION = """Run a policy over every episode of one or more suites, and print success with 95 % intervals.

The same command resumes a sweep that was interrupted, by Ctrl-C, a kill or a power cut; finished episodes are kept. Workers, envs and
batches change a run's speed, never its results; 'vlarig doctor RUN' says what would make it faster.

  vlarig sweep tabletop --policy expert                     # every initial state of every task
  vlarig sweep tabletop --policy random --episodes 5        # five episodes a task
  vlarig sweep tabletop --policy my_policy:MyPolicy --tasks stack push_to --n-action-steps 8
  vlarig sweep tabletop --policy expert --episodes 2 --video all
  vlarig sweep tabletop --policy qwen-vla:small --policy-options temperature=1 steps=10
  vlarig sweep libero_spatial libero_goal --policy my_policy:MyPolicy --protocol openpi
  vlarig sweep tabletop --policy expert --json | tail -n 1
  vlarig sweep tabletop --policy expert --shard 2/4         # the second of four parts; 'vlarig runs merge' puts them together
"""

#: Exit status of a program whose reader closed its pipe, as a shell counts it: 128 and the number of SIGPIPE.
READER_LEFT = 141


class _Command(SweepConfig):
    """The command's options: the sweep, and the form of its output."""

    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print events, one JSON object a line, and nothing else on standard output; the last is the result."""

    @property
    def config(self) -> SweepConfig:
        """The sweep alone."""
        return SweepConfig(**self.model_dump(exclude={"as_json"}))


def main(arguments: list[str]) -> int:
    """Parse and run; 0 when every episode is finished and filmed as requested, 1 when some could not be."""
    if "--json" in arguments:
        with _claimed_output() as output:
            return _print_events(arguments, output)
    console = Screen()
    with EventLog(console) as event_log:
        evaluation = _run(arguments, event_log)
    print_sheets(console, [run_sheet(run_table(evaluation.run))], LEGEND)
    return _status(evaluation)


def _run(arguments: list[str], event_log: EventLog) -> Evaluation:
    config = parse(_Command, arguments, "vlarig sweep", DESCRIPTION).config
    with cluster(config), named_policy(config, event_log.say) as policy:
        return run_sweep(config, policy, event_log)


def _status(evaluation: Evaluation) -> int:
    return 0 if evaluation.complete and not evaluation.unfilmed else 1


def _print_events(arguments: list[str], output: int) -> int:
    """The same with events alone on standard output."""
    with EventLog(Screen(quiet=True), output) as event_log:
        try:
            with _failure_events(event_log):
                status = _status(_run(arguments, event_log))
                event_log.write(_result(event_log, status))
        except BrokenPipeError as error:
            if not event_log.reader_left:
                raise
            Screen(stderr=True, soft_wrap=True).print(f"vlarig: {error}")
            status = READER_LEFT
    return READER_LEFT if event_log.reader_left else status


@contextlib.contextmanager
def _failure_events(event_log: EventLog) -> Iterator[None]:
    """Write an error that ends the command early as an event, and the result so far after it; then raise the error."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if event_log.reader_left:  # no reader is left for these events
            raise
        status = 2 if isinstance(error, VlarigError) else exit_status(error) if isinstance(error, KeyboardInterrupt) else 1
        message = str(error) if status > 1 else f"{type(error).__name__}: {error}"
        event_log.write(Note(level="error", text=message or "interrupted"))
        event_log.write(_result(event_log, status))
        raise


def _result(event_log: EventLog, status: int) -> Result:
    """The result of the run so far, as far as there is one."""
    if event_log.run is None:
        return Result(run=None, complete=False, status=status, tasks=[])
    try:
        table = run_table(event_log.run)
    except VlarigError:  # the ledger cannot be read
        return Result(run=str(event_log.run), complete=False, status=status, tasks=[])
    tasks = [
        TaskResult(
            suite=suite.suite,
            protocol=suite.protocol,
            task=row.task,
            variant=row.variant,
            success_rate=row.tally.rate,
            interval=row.tally.interval,
            n=row.tally.finished,
            successes=row.tally.successes,
            errors=row.tally.errors,
            missing=row.tally.missing,
        )
        for suite in table.suites
        for row in suite.rows
    ]
    return Result(run=str(event_log.run), complete=table.total.complete, status=status, tasks=tasks)


@contextlib.contextmanager
def _claimed_output() -> Iterator[int]:
    """Standard output for events alone, as a file descriptor; what policies and libraries print there goes to standard error."""
    sys.stdout.flush()
    output = os.dup(1)
    os.dup2(2, 1)
    try:
        yield output
    finally:
        sys.stdout.flush()
        os.dup2(output, 1)
        os.close(output)
