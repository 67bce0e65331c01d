"""``vlarig envs``: list what can be swept, and check that an adapter keeps the env contract."""

from __future__ import annotations

import base64
import json
import subprocess
from dataclasses import dataclass
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from ...benchmarks.registry import load_suite, suite_names
from ...benchmarks.suite import Suite
from ...envs.api import Needs
from ...envs.errors import VlarigError
from ...envs.messages import Start, encode
from ..runtimes import list_runtimes
from ..workplace import Workplace

DESCRIPTION = """List the suites that can be swept, or check that a suite's env keeps the contract.

  vlarig envs list
  vlarig envs check tabletop      half a minute of real simulation: determinism, isolation, images, limits
  vlarig envs check               every suite whose runtime is ready
"""


@dataclass(frozen=True)
class ListConfig:
    """List suites with their tasks, starts, protocols and runtimes."""


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
        return show_list()
    suites = [load_suite(name) for name in config.names or suite_names()]
    if not config.names:
        suites = [suite for suite in suites if is_ready(suite)]
    return max([check(suite) for suite in suites], default=0)


def show_list() -> int:
    """Print a line for each suite."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("suite", "what", "tasks", "starts", "protocol", "runtime"):
        table.add_column(heading)
    for suite in map(load_suite, suite_names()):
        ready = "ready" if is_ready(suite) else "not installed"
        starts = sum(len(task.starts) for task in suite.tasks)
        protocols = ", ".join(f"{each.name}@{each.version}" for each in suite.protocols)
        table.add_row(suite.name, suite.title, str(len(suite.tasks)), str(starts), protocols, f"{suite.runtime} ({ready})")
    Console().print(table)
    return 0


def is_ready(suite: Suite) -> bool:
    """Whether the suite's runtime can be used."""
    return any(state.name == suite.runtime and state.runtime is not None for state in list_runtimes())


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
