"""``vlarig runtime``: install, adopt, list and remove simulators' virtual environments, and run commands in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from ..command_line import parse
from ..runtime_command import run_in_runtime
from ..runtimes.runtime import add_runtime, install_runtime, list_runtimes, remove_runtime
from ..screen import Screen, report


@dataclass
class Install:
    """Make runtimes from their locked lists of packages.

    One that is there already takes no time; one that was interrupted is made again. A graphics driver that a runtime needs and the
    system lacks is unpacked beside it, where that can be done. For example:

    vlarig runtime install tabletop
    """

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """Names of runtimes; `vlarig runtime list` shows them."""

    def run(self) -> None:
        """Install each."""
        for name in self.names:
            install_runtime(name, report)


@dataclass
class Add:
    """Adopt an interpreter made elsewhere, such as a conda environment's.

    It needs Python 3.9 or newer with numpy, gymnasium and msgspec beside the simulator. For example:

    vlarig runtime add habitat --python ~/miniconda3/envs/habitat/bin/python
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name that suites know the runtime by."""
    python: Path
    """The interpreter."""

    def run(self) -> None:
        """Check it and register it."""
        runtime = add_runtime(self.name, self.python)
        report(f"the runtime {runtime.name!r} is {runtime.python}")


@dataclass
class List:
    """Show the runtimes that are known, and where each is."""

    def run(self) -> None:
        """Print a line for each, and one more for where it is or how to get it."""
        screen = Screen(soft_wrap=True)
        for state in list_runtimes():
            screen.print(f"{state.name}: {state.title}")
            screen.print(f"  {state.runtime.python if state.runtime else state.problem}")


@dataclass
class Remove:
    """Delete installed runtimes; an adopted interpreter is only forgotten. For example:

    vlarig runtime remove tabletop
    """  # noqa: D415 (the first line leads to the example)

    names: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="NAME...")]
    """Names of runtimes."""

    def run(self) -> None:
        """Remove each."""
        for name in self.names:
            folders = remove_runtime(name)
            report(f"removed {', '.join(map(str, folders))}" if folders else f"forgot the adopted runtime {name!r}")


@dataclass
class Run:
    """Run a module such as pytest, or python, in a runtime's interpreter, with vlarig and its suites as workers have them.

    The renderer and the data files are those of a sweep. Where the runtime has no pytest, the one beside vlarig is used. For example:

    vlarig runtime run tabletop -- pytest test_parity.py

    vlarig runtime run tabletop -- python -c 'import mujoco; print(mujoco.__version__)'
    """

    name: Annotated[Positional[str], tyro.conf.arg(metavar="NAME")]
    """Name of the runtime."""
    command: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="-- COMMAND...")] = ()
    """The module, or python, and its arguments."""


COMMANDS: dict[str, type[Install | Add | List | Remove | Run]] = {
    "install": Install,
    "add": Add,
    "list": List,
    "remove": Remove,
    "run": Run,
}

DESCRIPTION = """Each simulator lives in a virtual environment of its own, a runtime. For example:

  vlarig runtime list
  vlarig runtime install tabletop
  vlarig runtime add habitat --python ~/miniconda3/envs/habitat/bin/python
  vlarig runtime run tabletop -- pytest test_parity.py
"""


def main(arguments: list[str]) -> int:
    """Run one of the subcommands."""
    # Arguments after -- belong to the command.
    split = arguments.index("--") if "--" in arguments else len(arguments)
    command = parse(COMMANDS, arguments[:split], "vlarig runtime", DESCRIPTION)
    if isinstance(command, Run):
        return run_in_runtime(command.name, arguments[split + 1 :] or command.command)
    command.run()
    return 0
