"""``vlarig sweep``: run a policy over suites, to a table with intervals."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Annotated

import tyro
from pydantic import field_validator

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.rendering import LEGEND, grid_sheet, run_sheet
from ...results.tables import run_table
from ..command_line import parse
from ..evaluation import Evaluation
from ..grid import grid_folder, parse_axes, run_grid, tables_of
from ..plan import SweepConfig
from ..reporting.events import Note, Result, TaskResult
from ..reporting.logs import EventLog
from ..screen import Screen
from ..sweep import cluster, named_policy, run_sweep
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
  vlarig sweep tabletop --policy qwen-vla --grid n_action_steps=1,4,8 temperature=0,0.6
  vlarig sweep tabletop --policy qwen-vla --latency measured
  vlarig sweep tabletop --policy expert --json | tail -n 1
  vlarig sweep tabletop --policy expert --shard 2/4         # the second of four parts; 'vlarig runs merge' puts them together
"""

#: Exit status of a program whose reader closed its pipe, as a shell counts it: 128 and the number of SIGPIPE.
READER_LEFT = 141


class _Command(SweepConfig):
    """The command's options: the sweep, or several, and the form of the output."""

    policy: Annotated[tuple[str, ...], tyro.conf.arg(metavar="POLICY...")]  # pyright: ignore[reportIncompatibleVariableOverride]
    """Policy to evaluate: expert, random, still, zero, a registered policy, a checkpoint or model server (qwen-vla:CHECKPOINT,
    openpi:URL, vla-eval:URL, lerobot:FOLDER), or any class of yours as module:Name. Several make a grid."""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE,VALUE...")] = ()
    """Settings to compare: n_action_steps, latency, meanwhile, protocol, or options of the policy. Every combination is swept on half
    of each task's initial states, and the best one on the other half: choosing does not inflate its number."""
    as_json: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False
    """Print events, one JSON object a line, and nothing else on standard output; the last is the result."""

    @property
    def config(self) -> SweepConfig:
        """The sweep alone."""
        return SweepConfig.model_validate(self.model_dump(exclude={"as_json", "grid"}) | {"policy": self.policy[0]})

    @field_validator("policy", mode="after")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value):
            raise VlarigError(f"policy is {' '.join(value)!r}; name one or more, each once")
        return value

    @property
    def several(self) -> bool:
        """Whether it is a grid."""
        return bool(self.grid) or len(self.policy) > 1


def main(arguments: list[str]) -> int:
    """Parse and run; 0 when every episode is finished and filmed as requested, 1 when some could not be."""
    if "--json" in arguments:
        with _claimed_output() as output:
            return _print_events(arguments, output)
    command, console = _parsed(arguments), Screen()
    if command.several:
        return _sweep_grid(command, console)
    with EventLog(console) as event_log:
        evaluation = _run(command.config, event_log)
    print_sheets(console, [run_sheet(run_table(evaluation.run))], LEGEND)
    return _status(evaluation)


def _parsed(arguments: list[str]) -> _Command:
    return parse(_Command, arguments, "vlarig sweep", DESCRIPTION)


def _sweep_grid(command: _Command, console: Screen) -> int:
    def sweep(config: SweepConfig) -> int:
        with EventLog(console) as event_log:
            return _status(_run(config, event_log))

    folder = grid_folder(command.config)
    grid, status = run_grid(command.config, command.policy, parse_axes(command.grid), sweep)
    chosen = None if grid.chosen_run is None else run_table(folder / grid.chosen_run)
    print_sheets(console, [grid_sheet(grid, folder.name, tables_of(grid, folder), chosen)], LEGEND)
    console.print(f"as a page: vlarig page {folder} --out site")
    return status


def _run(config: SweepConfig, event_log: EventLog) -> Evaluation:
    with cluster(config), named_policy(config, event_log.say) as policy:
        return run_sweep(config, policy, event_log)


def _status(evaluation: Evaluation) -> int:
    return 0 if evaluation.complete and not evaluation.unfilmed else 1


def _print_events(arguments: list[str], output: int) -> int:
    """The same with events alone on standard output."""
    with EventLog(Screen(quiet=True), output) as event_log:
        try:
            with _failure_events(event_log):
                command = _parsed(arguments)
                if command.several:
                    raise VlarigError("--json prints the events of one sweep, and this is a grid; leave it out")
                status = _status(_run(command.config, event_log))
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
