"""``vlarig envs``: list what can be swept, check that an adapter keeps the env contract, begin a benchmark, find initial states."""

from __future__ import annotations

import itertools
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from ...benchmarks.registry import load_suite, load_suites, suite_names
from ...benchmarks.suite import Suite, Task, refuse_unknown_tasks
from ...envs.api import Camera, Episode, Protocol
from ...envs.assets.bundle import locate_bundle
from ...envs.background import run_to_end
from ...envs.errors import VlarigError
from ...envs.home import home
from ...envs.runtimes.runtime import list_runtimes
from ..children.simulator import WorkerSpec, encoded, worker_answers
from ..command_line import parse
from ..machines.fleets import LocalFleet, listed_fleet
from ..preparation import prepare, prepared_hash, with_prepared, with_read
from ..screen import Screen
from ..termination import sigterm_interrupts, until_sigterm

#: The files of a benchmark of one's own.
TEMPLATE = Path(__file__).with_name("template")

#: Letters that a suite's title needs in a line; a narrower screen gets a paragraph for each suite.
LEAST_TITLE = 30

DESCRIPTION = """List the suites that can be swept, check that a suite's env keeps the contract, or find a suite's initial states.

  vlarig envs list
  vlarig envs list libero_goal    # its tasks, and its protocols side by side
  vlarig envs check tabletop      # a minute of real simulation: determinism, isolation, images, limits
  vlarig envs check               # every suite whose runtime is ready
  vlarig envs new my_bench        # the files of a benchmark of your own
  vlarig envs prepare robotwin_easy    # once, before the first sweep: its initial states have to be tried
  vlarig envs check libero_90 --tasks TASK TASK    # two of its 90 tasks; all take a quarter of an hour
"""


@dataclass(frozen=True)
class ListConfig:
    """List suites with their tasks, initial states, protocols and runtimes."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]")] = ()
    """Suites to describe: every task, and every protocol with what differs. Default: a line for each suite."""


@dataclass(frozen=True)
class CheckConfig:
    """Check suites' envs, each in its own runtime; every failed check comes with advice.

    Two initial states of each task are played, again and again. The first task gets every check, each further one those that can differ
    by task. That takes seconds a task in most simulators.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]")] = ()
    """Suites, as 'vlarig envs list' names them. Default: all whose runtime is ready."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Only these tasks. Default: all."""


@dataclass(frozen=True)
class NewConfig:
    """Write the files of a benchmark of your own, filled in with a small world that works, and print the next commands."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Its name, and its suite's: small letters, digits and _."""
    to: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder to write to. Default: one of that name, here."""


@dataclass(frozen=True)
class PrepareConfig:
    """Find the initial states of a suite that have to be tried first: can an expert do the task from here?

    They are tried in order, and the first that will do are kept, below vlarig's home, for later sweeps. The same command resumes an
    interrupted preparation, and one that asks for more finds the rest. Workers change its speed, never its result.

      vlarig envs prepare robotwin_easy
      vlarig envs prepare robotwin_easy --tasks stack_blocks_two --episodes 10
      vlarig envs prepare robotwin_easy --hosts gpu1 gpu2
    """

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """The suite."""
    tasks: Annotated[tuple[str, ...], tyro.conf.arg(metavar="TASK...")] = ()
    """Only these tasks. Default: all."""
    episodes: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Only the first initial states of each task, as many as a sweep with this number of episodes plays. Default: all."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Simulator processes. Default: one a core, as far as memory allows."""
    hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="HOST[:PORT]...")] = ()
    """Machines to do it on instead of this one, each with 'vlarig serve envs'; as for 'vlarig sweep'."""
    hosts_token_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File with the token that they require."""
    hosts_ca_file: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Certificates of the authorities to trust for wss://, in PEM format."""


COMMANDS: dict[str, type[ListConfig | CheckConfig | NewConfig | PrepareConfig]] = {
    "list": ListConfig,
    "check": CheckConfig,
    "new": NewConfig,
    "prepare": PrepareConfig,
}


def main(arguments: list[str]) -> int:
    config = parse(COMMANDS, arguments, "vlarig envs", DESCRIPTION)
    if isinstance(config, NewConfig):
        return write_new(config)
    if isinstance(config, PrepareConfig):
        return find_initial_states(config)
    if not isinstance(config, CheckConfig):
        for name in config.names:
            show_suite(load_suite(name))
        return 0 if config.names else show_list()
    if config.names:
        suites, broken = [load_suite(name) for name in config.names], {}
    else:
        suites, broken = load_suites()
        runtimes = ready_runtimes()
        suites = [suite for suite in suites if readiness(suite, runtimes) == "ready"]
        show_broken(broken)
    refuse_unknown_tasks(config.tasks, suites)
    suites = [with_read(suite) for suite in suites]
    chosen = [(suite, [task for task in suite.tasks if not config.tasks or task.name in config.tasks]) for suite in suites]
    return max([check(suite, tasks) for suite, tasks in chosen if tasks], default=0) or int(bool(broken))


def write_new(config: NewConfig) -> int:
    folder, console = config.to or Path(config.name), Screen(soft_wrap=True)
    for file in new_benchmark(config.name, folder):
        console.print(str(file))
    commands = (
        f"pip install -e {folder}",
        f"vlarig runtime install {config.name}",
        f"VLARIG_ASSETS={folder}/assets vlarig envs check {config.name}",
    )
    for line in commands:
        console.print(f"next: {line}" if line is commands[0] else f"      {line}")
    return 0


def new_benchmark(name: str, folder: Path) -> list[Path]:
    """Write the files of a new benchmark and its suite to a folder that is made, or empty; those that were written, in order."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise VlarigError(f"{name!r} cannot be the name of a benchmark; use small letters, digits and _, as in my_bench")
    if name in suite_names():
        raise VlarigError(f"there is a suite {name!r} already; take another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VlarigError(f"{folder} holds something already; name another folder by --to")
    names = {"name": name, "NAME": name.upper(), "Name": "".join(word.capitalize() for word in name.split("_"))}
    written = []
    for template in sorted(TEMPLATE.rglob("*.template")):
        relative = template.relative_to(TEMPLATE).with_suffix("")
        parts = [f"vlarig_{name}" if part == "package" else part.replace("NAME", name) for part in relative.parts]
        file = folder.joinpath(*parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(Template(template.read_text(encoding="utf-8")).substitute(names), encoding="utf-8")
        written.append(file)
    return written


def show_list() -> int:
    suites, broken = load_suites()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("suite", "what", "tasks", "initial states", "protocol", "runtime"):
        table.add_column(heading, no_wrap=heading != "what", min_width=LEAST_TITLE if heading == "what" else None)
    blocks = []
    runtimes = ready_runtimes()
    for suite in suites:
        ready = readiness(suite, runtimes)
        initial_states = sum(len(task.initial_states) for task in suite.tasks) or "its data's"
        default, more = suite.protocols[0], len(suite.protocols) - 1
        protocol = f"{default.name}@{default.version}" + f" +{more}" * (more > 0)
        tasks, runtime = len(suite.tasks), f"{suite.runtime} ({ready})"
        table.add_row(Text(suite.name, "bold"), suite.title, str(tasks), str(initial_states), protocol, runtime)
        counted = f"{tasks} task{'s' * (tasks != 1)}, {initial_states} initial states"
        summary = f"{suite.title}; {counted}, protocol {protocol}, runtime {runtime}"
        blocks.append((Text(suite.name, "bold"), summary))
    Screen().print_table(table, blocks)
    show_broken(broken)
    return 0


def show_broken(broken: Mapping[str, str]) -> None:
    for name, reason in broken.items():
        Screen(soft_wrap=True).print(f"{name} is broken: {reason}")


def show_suite(suite: Suite) -> None:
    """Print a suite's tasks, and its protocols: what differs side by side, then what they share."""
    console = Screen()
    console.print(Text.assemble((suite.name, "bold"), f": {suite.title}"))
    console.print(f"tasks, each with {_span(suite)} initial states:")
    for task in suite.tasks:
        console.print(f"  {task.name}", soft_wrap=True)
    described = [describe_protocol(protocol) for protocol in suite.protocols]
    shared = {name: text for name, text in described[0].items() if all(other[name] == text for other in described)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("protocol", *(f"{each.name}@{each.version}" for each in suite.protocols)):
        table.add_column(heading)
    for name in described[0]:
        if name not in shared:
            table.add_row(name, *(each[name].replace(", ", "\n") for each in described))
    console.print(table)
    console.print(f"in {'all protocols' if len(described) > 1 else 'it'}:")
    for name, text in shared.items():
        console.print(f"  {name}: {text}", soft_wrap=True)


def describe_protocol(protocol: Protocol) -> dict[str, str]:
    """Field to value in words; each camera counts as one."""
    plain = {field.name: str(getattr(protocol, field.name)) for field in fields(protocol)}
    for name in ("name", "version", "derived_from", "cameras"):
        del plain[name]
    plain["wait_action"] = " ".join(f"{number:g}" for number in protocol.wait_action) or "none"
    plain["task_limits"] = ", ".join(f"{task} {limit}" for task, limit in protocol.task_limits.items()) or "none"
    plain["options"] = ", ".join(f"{name} {value}" for name, value in protocol.options.items()) or "none"
    if (ensemble := protocol.ensemble) is not None:
        plain["ensemble"] = f"{ensemble.rule}, horizon {ensemble.horizon}, alpha {ensemble.alpha:g}"
    for camera in protocol.cameras:
        plain[camera.view] = describe_camera(camera)
    return plain


def describe_camera(camera: Camera) -> str:
    words = [f"{camera.height} x {camera.width}"]
    if camera.drawn:
        words.append(f"rendered {camera.drawn[0]} x {camera.drawn[1]}")
    if camera.mirror:
        words.append("mirrored")
    if camera.resize:
        words.append(camera.resize)
    if camera.crop < 1.0:
        words.append(f"centre {camera.crop:.0%}")
    return ", ".join(words)


def _span(suite: Suite) -> str:
    if suite.read_states is not None:
        return "its data's"
    counts = sorted({len(task.initial_states) for task in suite.tasks})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def ready_runtimes() -> set[str]:
    """Names of the runtimes that are here; finding out starts each adopted one."""
    return {state.name for state in list_runtimes() if state.runtime is not None}


def readiness(suite: Suite, runtimes: set[str]) -> str:
    """``ready``, or what the suite lacks beside these runtimes, in a word or two."""
    if suite.runtime not in runtimes:
        return "not installed"
    try:
        for name in suite.assets:
            locate_bundle(name)
    except VlarigError:
        return "without assets"
    return "ready"


def check(suite: Suite, tasks: Sequence[Task]) -> int:
    """Run the checker on these tasks and print its findings as they come; 1 when one failed."""
    console = Screen(soft_wrap=True)
    console.print(f"{suite.name}: {suite.adapter}")
    protocol, began = suite.protocols[0], time.monotonic()
    episodes = [
        suite.episode(task, initial_state, 0, protocol)
        for task in tasks
        for initial_state in task.initial_states_of(protocol)[:2]
    ]
    tried: Counter[bool] = Counter()
    for task, group in itertools.groupby(run_checker(suite, episodes), lambda finding: finding["task"]):
        keys = " and ".join(episode.key for episode in episodes if episode.task == task)
        console.print("at the end:" if tried and task == tasks[0].name else f"{task}: {keys}")
        passed = 0
        for finding in group:
            tried[bool(finding["passed"])] += 1
            if not finding["passed"]:
                console.print(Text.assemble(("FAIL  ", "red"), str(finding["check"])))
                console.print(f"      {finding['message']}")
            elif task == tasks[0].name:
                console.print(Text.assemble(("ok    ", "green"), str(finding["check"])))
            else:
                passed += 1
        if passed:
            console.print(Text.assemble(("ok    ", "green"), f"{passed} checks that can differ by task"))
    played = f"{len(episodes)} episodes of {len(tasks)} task{'s' * (len(tasks) != 1)}, {time.monotonic() - began:.0f} s"
    console.print(f"{tried[True]} of {tried.total()} checks passed ({played})")
    return int(tried[False] > 0)


def run_checker(suite: Suite, episodes: Sequence[Episode]) -> Iterator[dict[str, Any]]:
    """The findings (fields of :class:`~vlarig.envs.checker.Finding`) for a suite's env, as they come from a worker in its runtime."""
    yield from worker_answers(WorkerSpec.of(suite), "findings", episodes=[encoded(episode) for episode in episodes])


def find_initial_states(config: PrepareConfig) -> int:
    for name, value in (("workers", config.workers), ("episodes", config.episodes)):
        if value is not None and value < 1:
            raise VlarigError(f"{name} is {value}; expected 1 or more")
    worker_spec, screen = WorkerSpec.of(load_suite(config.suite)), Screen(soft_wrap=True)
    suite = worker_spec.suite
    tasks = [suite.task(name) for name in config.tasks] or list(suite.tasks)

    def report(task: Task, initial_state: int, good: bool) -> None:
        screen.print(f"{task.name}: initial state {initial_state} {'will do' if good else 'will not do'}")

    wanted = config.episodes
    if suite.preparation is not None:
        wanted = min(config.episodes or suite.preparation.count, suite.preparation.count)
    fleet = listed_fleet(config.hosts, None, config.hosts_token_file, config.hosts_ca_file, config.workers, 1)
    logs = home() / "prepared" / "logs"
    with sigterm_interrupts():
        trying = prepare(worker_spec, tasks, wanted or 1, fleet or LocalFleet(config.workers, 1), logs, report)
        tried = run_to_end(until_sigterm(trying))
    known = with_prepared(worker_spec, config.tasks, config.episodes)
    episodes = known.episodes(config.tasks, wanted)
    screen.print(f"{suite.name}: {len(episodes)} initial states, sha256 {prepared_hash(episodes)}, in {tried.file}")
    return 0
