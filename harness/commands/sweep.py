"""``vlarig sweep``: run a policy over suites, to a table with intervals; or a grid of policies and settings.

Of a grid the best is chosen on half of the initial states and measured on the others.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import field_validator

from ...envs.errors import VlarigError
from ...results.forms.terminal import print_sheets
from ...results.grid import Grid, GridCell, best
from ...results.rendering import LEGEND, grid_sheet, run_sheet
from ...results.runs import CELLS, DEFAULT_RUNS
from ...results.tables import RunTable, run_table
from ..command_line import parse
from ..plan import SweepConfig
from ..reporting.events import Result, TaskResult
from ..reporting.logs import EventLog
from ..run import Evaluation
from ..screen import Screen
from ..sweep import cluster, named_policy, run_sweep
from ..termination import exit_status

#: What a grid varies besides the policy's options: fields of the sweep.
FIELDS = ("latency", "meanwhile", "n_action_steps", "protocol")

#: Parts of the initial states on which a setting is chosen, and measured.
CHOOSING, MEASURING = "1/2", "2/2"


def parse_axes(words: Sequence[str]) -> dict[str, list[str]]:
    """``NAME=VALUE,VALUE`` each, as name to values."""
    axes: dict[str, list[str]] = {}
    for word in words:
        name, equals, values = word.partition("=")
        listed = values.split(",")
        if not (name and equals and all(listed)):
            raise VlarigError(f"grid is {word!r}; expected NAME=VALUE,VALUE..., as in n_action_steps=1,4,8")
        if name in axes or len(set(listed)) < len(listed):
            raise VlarigError(f"grid names {name if name in axes else word!r} twice; name each axis and each value once")
        axes[name] = listed
    return axes


def grid_folder(config: SweepConfig) -> Path:
    """The grid's folder: the run's that the user named, or one named after what all its cells share."""
    if config.run is not None:
        return config.run
    shared = [
        config.suites,
        config.tasks,
        config.episodes,
        config.initial_states,
        config.seed,
        config.strict,
        config.policy_options,
    ]
    digest = hashlib.sha256(json.dumps(shared).encode()).hexdigest()
    return DEFAULT_RUNS / f"grid-{'-'.join(config.suites)}-{digest[:8]}"


def make_grid(policies: Sequence[str], axes: dict[str, list[str]]) -> Grid:
    """Every policy under every combination of values."""
    cells = []
    for policy, *values in itertools.product(policies, *axes.values()):
        settings = dict(zip(axes, values, strict=True))
        if settings.get("latency") == "0" and "meanwhile" in settings and settings.pop("meanwhile") != axes["meanwhile"][0]:
            continue  # where no answer is late, nothing is done meanwhile
        cells.append(GridCell(policy, settings, f"{CELLS}/{_folder_name(policy, settings)}"))
    return Grid(axes, cells)


def run_grid(
    config: SweepConfig, policies: Sequence[str], axes: dict[str, list[str]], sweep: Callable[[SweepConfig], int]
) -> tuple[Grid, int]:
    """Sweep every cell, choose the best, and measure it; the grid with its exit status.

    A cell with episodes that were given up, or whose sweep fails, leaves the choice open: the same command goes on.

    Args:
        config: What the cells share.
        policies: The policies.
        axes: Name to values.
        sweep: Runs a cell, and returns its exit status.
    """
    for name, value in {"shard": config.shard, "part": config.part, "fresh": config.fresh}.items():
        if value:
            raise VlarigError(f"{name} is given beside a grid, whose sweeps have their own; leave it out")
    folder = grid_folder(config)
    grid = make_grid(policies, axes)
    configs = [cell_config(config, cell, folder / cell.run, CHOOSING) for cell in grid.cells]
    folder.mkdir(parents=True, exist_ok=True)
    grid.save(folder)
    status = max(sweep(each.model_copy(update={"video": "none", "track": ()})) for each in configs)
    place = best(tables_of(grid, folder))
    if place is None:
        return grid, status or 1
    grid = Grid(grid.axes, grid.cells, place)
    assert grid.chosen_run is not None
    grid.save(folder)
    return grid, max(status, sweep(cell_config(config, grid.cells[place], folder / grid.chosen_run, MEASURING)))


def tables_of(grid: Grid, folder: Path) -> list[RunTable]:
    """The results of the cells so far."""
    return [run_table(folder / cell.run) for cell in grid.cells]


def cell_config(config: SweepConfig, cell: GridCell, run: Path, part: str) -> SweepConfig:
    """The sweep of a cell on a part of the initial states."""
    fields = {name: value for name, value in cell.settings.items() if name in FIELDS}
    options = [f"{name}={value}" for name, value in cell.settings.items() if name not in FIELDS]
    named = [word for word in config.policy_options if word.partition("=")[0] not in cell.settings]
    changes = {"policy": cell.policy, "policy_options": (*named, *options), "run": run, "part": part}
    return SweepConfig.model_validate(config.model_dump() | fields | changes)


def _folder_name(policy: str, settings: dict[str, str]) -> str:
    """A folder's name that is the same whenever the cell is: the words, and a hash where they hold other signs than a name may."""
    words = ",".join([policy, *(f"{name}={value}" for name, value in settings.items())])
    plain = re.sub(r"[^\w.,=+-]+", "-", words).strip("-")[-80:]
    return plain if plain == words else f"{plain}-{hashlib.sha256(words.encode()).hexdigest()[:6]}"


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
        event_log.note(message or "interrupted", "error")
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
