"""``vlarig envs``: list what can be swept, and check that an adapter keeps the env contract."""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ...benchmarks.registry import load_suite, load_suites
from ...benchmarks.suite import Suite
from ...envs.api import Camera, Needs, Protocol
from ...envs.errors import VlarigError
from ...envs.messages import Start, encode
from ..assets.bundle import locate_bundle
from ..runtimes.runtime import list_runtimes
from ..workplace import Workplace

DESCRIPTION = """List the suites that can be swept, or check that a suite's env keeps the contract.

  vlarig envs list
  vlarig envs list libero_goal    its tasks, and its protocols side by side
  vlarig envs check tabletop      half a minute of real simulation: determinism, isolation, images, limits
  vlarig envs check               every suite whose runtime is ready
"""


@dataclass(frozen=True)
class ListConfig:
    """List suites with their tasks, starts, protocols and runtimes."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]")] = ()
    """Suites to describe: every task, and every protocol with what differs. Default: a line for each suite."""


@dataclass(frozen=True)
class CheckConfig:
    """Check suites' envs, each in its own runtime; every failed check says what to do about it."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME...]")] = ()
    """Suites, as 'vlarig envs list' names them. Default: all whose runtime is ready."""


def main(arguments: list[str]) -> int:
    """Parse and run."""
    config = tyro.extras.subcommand_cli_from_dict(
        {"list": ListConfig, "check": CheckConfig}, prog="vlarig envs", description=DESCRIPTION, args=arguments
    )
    if not isinstance(config, CheckConfig):
        for name in config.names:
            show_suite(load_suite(name))
        return 0 if config.names else show_list()
    if config.names:
        return max(check(suite) for suite in [load_suite(name) for name in config.names])
    suites, broken = load_suites()
    show_broken(broken)
    return max([check(suite) for suite in suites if is_ready(suite)], default=0) or int(bool(broken))


def show_list() -> int:
    """Print a line for each suite, and for each that is broken."""
    suites, broken = load_suites()
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("suite", "what", "tasks", "starts", "protocol", "runtime"):
        table.add_column(heading, no_wrap=heading != "what", overflow="fold")
    for suite in suites:
        ready = readiness(suite)
        starts = sum(len(task.starts) for task in suite.tasks)
        default, more = suite.protocols[0], len(suite.protocols) - 1
        protocol = f"{default.name}@{default.version}" + f" +{more}" * (more > 0)
        table.add_row(suite.name, suite.title, str(len(suite.tasks)), str(starts), protocol, f"{suite.runtime} ({ready})")
    Console().print(table)
    show_broken(broken)
    return 0


def show_broken(broken: Mapping[str, str]) -> None:
    """Print a line for each suite that cannot be loaded, by name."""
    for name, reason in broken.items():
        Console(highlight=False, soft_wrap=True).print(f"{name} is broken: {reason}", markup=False)


def show_suite(suite: Suite) -> None:
    """Print a suite's tasks, and its protocols: what differs side by side, then what they share."""
    console = Console(highlight=False)
    console.print(f"[bold]{suite.name}[/]: {suite.title}")
    console.print(f"tasks, each with {_span(suite)} starts:")
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
    """What a policy sees through a camera, in words."""
    words = [f"{camera.height} x {camera.width}"]
    if camera.drawn:
        words.append(f"drawn {camera.drawn[0]} x {camera.drawn[1]}")
    if camera.mirror:
        words.append("mirrored")
    if camera.resize:
        words.append(camera.resize)
    if camera.crop < 1.0:
        words.append(f"middle {camera.crop:.0%}")
    return ", ".join(words)


def _span(suite: Suite) -> str:
    counts = sorted({len(task.starts) for task in suite.tasks})
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def is_ready(suite: Suite) -> bool:
    """Whether the suite's runtime and data files are here."""
    return readiness(suite) == "ready"


def readiness(suite: Suite) -> str:
    """``ready``, or what the suite lacks, in a word or two."""
    if not any(state.name == suite.runtime and state.runtime is not None for state in list_runtimes()):
        return "not installed"
    try:
        for name in suite.assets:
            locate_bundle(name)
    except VlarigError:
        return "without assets"
    return "ready"


def check(suite: Suite) -> int:
    """Run the checker and print its findings; 1 when one failed."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{suite.name}: {suite.adapter}")
    findings = run_checker(suite)
    for finding in findings:
        console.print(f"[green]ok[/]    {finding['check']}" if finding["passed"] else f"[red]FAIL[/]  {finding['check']}")
        if not finding["passed"]:
            console.print(f"      {finding['message']}", markup=False)
    failed = sum(not finding["passed"] for finding in findings)
    console.print(f"{len(findings) - failed} of {len(findings)} checks passed")
    return 1 if failed else 0


def run_checker(suite: Suite) -> list[dict[str, str | bool]]:
    """The findings (``check``, ``passed``, ``message``) for a suite's env, from a worker in its runtime.

    Raises:
        VlarigError: The runtime is not there, or the worker died.
    """
    workplace = Workplace.of(suite)
    protocol = suite.protocols[0]
    first = suite.tasks[0]
    episodes = [suite.episode(task, task.starts[0], 0, protocol) for task in suite.tasks]
    episodes[1:1] = [suite.episode(first, start, 0, protocol) for start in first.starts[1:2]]
    told = {
        "adapter": suite.adapter,
        "packages": workplace.packages(),
        "episodes": [base64.b64encode(encode(Start(0, 0, episode, Needs()))).decode() for episode in episodes],
    }
    done = subprocess.run(
        workplace.command("check"),
        input=json.dumps(told) + "\n",
        capture_output=True,
        text=True,
        env=workplace.environment(),
        check=False,
    )
    findings = [json.loads(line) for line in done.stdout.splitlines()]
    if findings and "error" in findings[0]:
        raise VlarigError(findings[0]["error"])
    if done.returncode != 0 or not findings:
        last = done.stderr.strip().splitlines()[-1:] or ["it printed nothing"]
        raise VlarigError(f"the checker of {suite.name!r} ended with status {done.returncode}: {last[0]}")
    return findings
