"""``vlarig runtime`` and ``vlarig assets``: what simulators need on a machine, virtual environments and data files."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated

from rich.filesize import decimal
from tyro.conf import Positional, UseAppendAction, arg

from ...benchmarks.registry import find_suite, load_suites
from ...benchmarks.suite import Suite
from ...envs.assets.bundle import AssetState, bundle_names, fetch_bundle, find_bundle, inspect_bundle, list_bundles, load_bundle
from ...envs.errors import VlarigError
from ...envs.runtimes.runtime import add_runtime, find_runtime, install_runtime, list_runtimes, remove_runtime
from ...envs.runtimes.spec import choose_renderer, load_spec, spec_names
from ..children.simulator import ONE_THREAD, adapter_module
from ..command_line import parse
from ..screen import Screen, progress, report

#: The modules of pytest. It is pure Python, so that another interpreter can use it; the last two are for those before 3.11.
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli")


@dataclass
class Install:
    """Make runtimes from their locked lists of packages.

    One that is there already takes no time; one that was interrupted is made again. A graphics driver that a runtime needs and the
    system lacks is unpacked beside it, where that can be done. For example:

    vlarig runtime install tabletop
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME...")]
    """Names of runtimes; `vlarig runtime list` shows them."""

    def run(self) -> None:
        for name in self.names:
            install_runtime(name, report)


@dataclass
class Add:
    """Adopt an interpreter made elsewhere, such as a conda environment's.

    It needs Python 3.9 or newer with numpy, gymnasium and msgspec beside the simulator. For example:

    vlarig runtime add habitat --python ~/miniconda3/envs/habitat/bin/python
    """

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Name that suites know the runtime by."""
    python: Path
    """The interpreter."""

    def run(self) -> None:
        runtime = add_runtime(self.name, self.python)
        report(f"the runtime {runtime.name!r} is {runtime.python}")


@dataclass
class ListRuntimes:
    """Show the runtimes that are known, and where each is."""

    def run(self) -> None:
        screen = Screen(soft_wrap=True)
        for state in list_runtimes():
            screen.print(f"{state.name}: {state.title}")
            screen.print(f"  {state.runtime.python if state.runtime else state.problem}")


@dataclass
class Remove:
    """Delete installed runtimes; an adopted interpreter is only forgotten. For example:

    vlarig runtime remove tabletop
    """  # noqa: D415 (the first line leads to the example)

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME...")]
    """Names of runtimes."""

    def run(self) -> None:
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

    name: Annotated[Positional[str], arg(metavar="NAME")]
    """Name of the runtime."""
    command: Annotated[Positional[tuple[str, ...]], arg(metavar="-- COMMAND...")] = ()
    """The module, or python, and its arguments."""


RUNTIME_COMMANDS: dict[str, type[Install | Add | ListRuntimes | Remove | Run]] = {
    "install": Install,
    "add": Add,
    "list": ListRuntimes,
    "remove": Remove,
    "run": Run,
}

RUNTIME_HELP = """Each simulator lives in a virtual environment of its own, a runtime. For example:

  vlarig runtime list
  vlarig runtime install tabletop
  vlarig runtime add habitat --python ~/miniconda3/envs/habitat/bin/python
  vlarig runtime run tabletop -- pytest test_parity.py
"""


def runtime(arguments: list[str]) -> int:
    # Arguments after -- belong to the command.
    split = arguments.index("--") if "--" in arguments else len(arguments)
    command = parse(RUNTIME_COMMANDS, arguments[:split], "vlarig runtime", RUNTIME_HELP)
    if isinstance(command, Run):
        return run_in_runtime(command.name, arguments[split + 1 :] or command.command)
    command.run()
    return 0


def run_in_runtime(name: str, command: Sequence[str]) -> int:
    """Run a module with its arguments (``pytest FILE``), or ``python`` with its own, in the interpreter of a runtime.

    ``vlarig.envs`` and ``vlarig.benchmarks`` are those that run here, and so are the modules of the runtime's suites. Where the
    runtime has no pytest, the one beside vlarig is used; nothing is installed.

    Returns:
        The exit status.
    """
    if not command:
        raise VlarigError(f"no command was given; give one, as in: vlarig runtime run {name} -- pytest test_parity.py")
    python = find_runtime(name).python
    suites = [suite for suite in load_suites()[0] if suite.runtime == name]
    words = list(command[1:]) if command[0] == "python" else ["-m", *command]
    with _links(suites) as folder:
        environment = os.environ | ONE_THREAD | _renderer(name) | _assets(suites) | {"PYTHONPATH": str(folder)}
        if words[0] == "-m" and not _has(python, words[1], environment):
            if words[1] != "pytest" or importlib.util.find_spec("pytest") is None:
                beside = (
                    f", nor is it beside vlarig; run: {sys.executable} -m pip install pytest" if words[1] == "pytest" else ""
                )
                raise VlarigError(f"the runtime {name!r} ({python}) has no module {words[1]!r}{beside}")
            for module in PYTEST:
                _link(folder, module)
            for described in Path(str(metadata.distribution("pluggy").locate_file(""))).glob("pluggy-*.dist-info"):
                (folder / described.name).symlink_to(described)  # pytest's first line says its version
        done = subprocess.run([str(python), "-B", *words], env=environment, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


@contextmanager
def _links(suites: Sequence[Suite]) -> Iterator[Path]:
    """A folder with vlarig's packages and the suites' own modules, and nothing else of this environment."""
    with tempfile.TemporaryDirectory(prefix="vlarig-") as text:
        folder = Path(text)
        for package in ("vlarig.benchmarks", "vlarig.envs"):
            _link(folder, package)
        for suite in suites:
            for module in (adapter_module(suite), find_suite(suite.name).module.partition(".")[0]):
                if module != "vlarig":
                    _link(folder, module)
        yield folder


def _link(folder: Path, module: str) -> None:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return
    found = Path(spec.origin)
    place = folder.joinpath(*module.split("."))
    place.parent.mkdir(exist_ok=True)
    with suppress(FileExistsError):
        if found.name == "__init__.py":
            place.symlink_to(found.parent)
        else:
            place.with_name(found.name).symlink_to(found)


def _has(python: Path, module: str, environment: dict[str, str]) -> bool:
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    return (
        subprocess.run([str(python), "-c", probe, module], env=environment, check=False, stderr=subprocess.DEVNULL).returncode
        == 0
    )


def _renderer(name: str) -> dict[str, str]:
    """Variables that make the simulator render; none for a runtime whose needs vlarig does not know."""
    return choose_renderer(load_spec(name)).environment if name in spec_names() else {}


def _assets(suites: Sequence[Suite]) -> dict[str, str]:
    """Variables that name the folders of the data files that are here."""
    folders = {}
    for name in dict.fromkeys(name for suite in suites for name in suite.assets):
        with suppress(VlarigError):
            bundle = find_bundle(name)
            folders[bundle.variable] = str(bundle.folder)
    return folders


@dataclass
class Fetch:
    """Download official files from upstream, each checked against upstream's own hash.

    A bundle that is here already takes no time; an interrupted one is made again. For example:

    vlarig assets fetch libero
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME...")]
    """Names of bundles; `vlarig assets list` shows them."""
    url: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="URL")] = ()
    """Where a copy of upstream's archive is (http, https or file), checked in the same way; once for each archive."""

    def run(self) -> None:
        if not self.names:
            raise VlarigError("no assets were named; name one or more, as in: vlarig assets fetch libero")
        if self.url and len(self.names) > 1:
            raise VlarigError(f"--url is for one bundle, but {len(self.names)} were named; fetch them one by one")
        for name in self.names:
            with progress(Screen(stderr=True), f"files of {name}", len(load_bundle(name).files)) as show:
                fetch_bundle(name, self.url, report, lambda files, received: show(files, decimal(received)))


@dataclass
class ListAssets:
    """Show the bundles that are known, where each is, and whether its files are official; an archive is not unpacked for that."""

    def run(self) -> None:
        screen = Screen(soft_wrap=True)
        for state in list_bundles():
            screen.print(f"{state.name}: {state.title}")
            if state.bundle is not None:
                screen.print(f"  {state.bundle.folder}")
            if state.archive is not None:
                size = decimal(state.archive.stat().st_size)
                screen.print(f"  {state.archive}")
                screen.print(
                    f"  packed, {size}; unpacked and checked on the first use, or by: vlarig assets verify {state.name}"
                )
            else:
                screen.print(f"  {state.problem or (state.bundle and state.bundle.contents.summary)}")


@dataclass
class Verify:
    """Hash every file and say which are official, stand-ins, missing or corrupt.

    The exit status is 0 when everything is there and whole, 2 when a file is missing or corrupt. For example:

    vlarig assets verify libero
    """

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="[NAME...]")] = ()
    """Names of bundles. Default: all that are here."""

    def run(self) -> None:
        states = [inspect_bundle(name, report) for name in self.names or bundle_names()]
        for state in states:
            show_contents(state)
        problems = [state.problem for state in states if state.problem and (self.names or state.bundle is not None)]
        if problems:
            raise VlarigError("; ".join(problems))


def show_contents(state: AssetState) -> None:
    screen = Screen(soft_wrap=True)
    if state.bundle is None:
        screen.print(f"{state.name}: not here")
        return
    contents = state.bundle.contents
    screen.print(f"{state.name}: {state.bundle.folder}")
    screen.print(f"  {contents.official} of {contents.total} files are official")
    note = f", {contents.note}" if contents.note else ""
    for paths, what in (
        (contents.stand_ins, f"stand-ins{note}"), (contents.unverified, "of which upstream publishes no checksum"),
        (contents.missing, "missing"), (contents.corrupt, "corrupt"),
    ):  # fmt: skip
        if paths:
            screen.print(f"  {len(paths)} {what}:")
            for path in paths:
                screen.print(f"    {path}")


ASSET_COMMANDS: dict[str, type[Fetch | ListAssets | Verify]] = {"fetch": Fetch, "list": ListAssets, "verify": Verify}

ASSETS_HELP = """Simulators' data files (scenes, objects, initial states) come in bundles. For example:

  vlarig assets list
  vlarig assets fetch libero
  vlarig assets verify libero

They are searched in $VLARIG_ASSETS, then where `fetch` puts them.
"""


def assets(arguments: list[str]) -> int:
    parse(ASSET_COMMANDS, arguments, "vlarig assets", ASSETS_HELP).run()
    return 0
