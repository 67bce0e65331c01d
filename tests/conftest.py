"""What every test may use: the toy suites, ready to be swept, and the command line as a user runs it."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from vlarig.envs.assets.bundle import find_bundle
from vlarig.envs.errors import VlarigError
from vlarig.envs.plugins import find_plugins
from vlarig.envs.runtimes import runtime
from vlarig.envs.runtimes.runtime import Runtime, add_runtime, find_runtime
from vlarig.harness.cli import main

TESTS = Path(__file__).parent

pytest_plugins = ["ray_cluster"]

#: Simulators' data files beside the checkout, where a machine has them.
SHARED_ASSETS = TESTS.parents[1] / "shared" / "assets"

#: Folder of tests to the minutes of CPU time that it may take, its processes' included; beyond them a run fails.
BUDGETS = tomllib.loads((TESTS / "budgets.toml").read_text())["cpu_minutes"]

CPU_SECONDS = pytest.StashKey[float]()

#: Name of each simulator's runtime to the bundles of its data files.
SIMULATORS = {
    path.stem: [bundle.stem for bundle in plugin.bundles] for _, plugin in find_plugins()[0] for path in plugin.runtimes
}

#: The simulator of the embedded suite.
EMBEDDED = tomllib.loads((TESTS.parent / "pyproject.toml").read_text())["tool"]["vlarig"]["embedded"]

# Machines are shared: how long an example takes says nothing.
settings.register_profile("vlarig", deadline=None)
settings.load_profile("vlarig")

# Containers often forbid compiled modules to be kept; each of the many processes of the tests would then compile all that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Several processes work side by side, here and in what tests start; with a thread for each core in each of them, threads spin while
# they wait for others that have no core.
os.environ["OMP_NUM_THREADS"] = "1"

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--quick``."""
    parser.addoption(
        "--quick", action="store_true", help="leave out slow tests and those of all simulators but the embedded one"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Carry ``--quick`` out, and put files of simulators and of slow tests first, so that what is left for the end is short."""
    slow = Counter(item.path for item in items if is_slow(item))
    items.sort(key=lambda item: ("simulators" not in item.path.parts, -slow[item.path]))
    if config.getoption("--quick"):
        left_out = [item for item in items if is_slow(item)]
        items[:] = [item for item in items if not is_slow(item)]
        config.hook.pytest_deselected(items=left_out)


def is_slow(item: pytest.Item) -> bool:
    """Whether a test is marked as slow, or needs another simulator than the embedded one."""
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("slow") is not None or not (SIMULATORS.keys() - {EMBEDDED}).isdisjoint(fixtures)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note in each report the CPU seconds since the one before: of this process, and of its children that have ended since."""
    report = yield
    times = os.times()
    spent = times.user + times.system + times.children_user + times.children_system
    report.user_properties.append(("cpu_seconds", spent - item.config.stash.get(CPU_SECONDS, 0.0)))
    item.config.stash[CPU_SECONDS] = spent
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a folder took more than its budget."""
    if session.exitstatus == pytest.ExitCode.OK and any(
        spent > BUDGETS[folder] for folder, spent in cpu_minutes(session.config)
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print each folder's minutes of CPU time, beside its budget, the longest first."""
    terminalreporter.section("CPU minutes by folder (budget)")
    for folder, spent in cpu_minutes(terminalreporter.config):
        terminalreporter.line(
            f"{spent:6.1f} ({BUDGETS[folder]:4.1f})  {folder}{'  over its budget' * (spent > BUDGETS[folder])}"
        )


def cpu_minutes(config: pytest.Config) -> list[tuple[str, float]]:
    """Each folder of tests that ran, with its minutes of CPU time, the longest first; nothing in a process that another one directs."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    took: Counter[str] = Counter()
    for reports in getattr(reporter, "stats", {}).values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                took[folder_of(report.nodeid)] += dict(report.user_properties)["cpu_seconds"]
    return [(folder, seconds / 60) for folder, seconds in took.most_common()]


def folder_of(nodeid: str) -> str:
    """The folder of BUDGETS that a test counts for: the deepest that holds it."""
    return max((folder for folder in BUDGETS if nodeid.startswith(f"{folder}/")), key=len, default="tests")


@pytest.fixture(scope="session", autouse=True)
def shared_assets() -> Iterator[None]:
    """Where the user named no folder of assets, the one beside the checkout is used."""
    with pytest.MonkeyPatch.context() as patch:
        if "VLARIG_ASSETS" not in os.environ and SHARED_ASSETS.is_dir():
            patch.setenv("VLARIG_ASSETS", str(SHARED_ASSETS))
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """Child processes of tests can be interrupted: a shell's background job has SIGINT ignored, and its children inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def interpreter_is_asked_once() -> Iterator[None]:
    """This interpreter is inspected once, not before each sweep of a toy; its packages stay the same while the tests run."""
    inspect = runtime.ask_interpreter
    inspect_once = functools.cache(inspect)

    def ask_interpreter(name: str, python: Path) -> tuple[str, dict[str, str]]:
        return (inspect_once if python == Path(sys.executable) else inspect)(name, python)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "ask_interpreter", ask_interpreter)
        yield


@pytest.fixture
def toy_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of vlarig's own in which the toy suites' runtime is adopted; the working directory is a fresh folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("VLARIG_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    add_runtime("toy", Path(sys.executable))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return home


def simulator(name: str, bundles: Sequence[str]) -> Any:
    """A fixture: the runtime of that name; the bundles of its data files must be there too."""

    @pytest.fixture(scope="session", name=name)
    def found() -> Runtime:
        try:
            for bundle in bundles:
                find_bundle(bundle)
            return find_runtime(name)
        except VlarigError as error:
            pytest.skip(f"no simulator: {error}")

    return found


# Each runtime of a plug-in is a fixture of its name.
globals().update({f"runtime_{name}": simulator(name, bundles) for name, bundles in SIMULATORS.items()})


def run_cli(*words: str | Path | int, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run ``vlarig`` in a process of its own and return its output; as with a script, the import path lacks the working directory."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "vlarig.harness", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(TESTS)} | variables,
    )


@pytest.fixture
def cli() -> Cli:
    """The command line, as a user runs it."""
    return run_cli


@pytest.fixture
def cli_here(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The same within this process, which spares half a second: for what a command prints and leaves, not for how a process ends."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path | int, **variables: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            try:
                status = main([str(word) for word in words])
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 1
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def module_cli() -> Cli:
    """The same, for fixtures of a whole module."""
    return run_cli
