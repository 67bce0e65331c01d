"""``vlarig doctor``: what this machine has and lacks, a line for each finding; or why a run is slow, and what to change."""

from __future__ import annotations

import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import tyro

from ...benchmarks.registry import load_suites
from ...benchmarks.suite import Suite
from ...envs.assets.bundle import find_bundle, locate_bundle
from ...envs.errors import VlarigError
from ...envs.home import home
from ...envs.runtimes.runtime import Runtime, RuntimeState, check_imports, list_runtimes
from ...envs.runtimes.spec import choose_renderer, load_spec
from ...results.runs import evaluations_of, find_run
from ..command_line import parse
from ..reporting.explanation import explain, gather
from ..screen import Screen
from ..sizing import Machine

DESCRIPTION = """Say in one line each what this machine has (ok), lacks (missing), could have (optional), or what plug-in is broken.

The exit status is 1 when something is broken, or is needed and missing. With RUN, say where the time of that run went, why, and what to
change; it may be finished, running or killed.

  vlarig doctor
  vlarig doctor runs/NAME
"""

GIB = 2**30
#: Room that the largest runtime takes (SimplerEnv's: 1.7 GiB, and 0.25 for its graphics driver), with the records of some runs.
DISK_GIB = 4


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report.

    Attributes:
        mark: ``ok``, ``missing`` (needed) or ``broken`` (a plug-in that cannot be used), with which the exit status is 1, or
            ``optional`` (not here, and needed only by some users).
        subject: What was checked.
        text: What was found; for the other marks also the command that fixes it.
    """

    mark: str
    subject: str
    text: str


def examine() -> list[Finding]:
    """Check everything; takes about as long as the slowest runtime's start."""
    states = list_runtimes()
    with ThreadPoolExecutor() as pool:
        about_runtimes = pool.map(lambda state: list(_runtime(state, states)), states)
        findings = [
            Finding("ok", "python", f"{platform.python_version()} ({sys.executable})"),
            Finding("ok", "vlarig", f"{version('vlarig')} ({Path(__file__).parents[2]})"),
            _uv(),
        ]
        for some in about_runtimes:
            findings += some
    suites, broken = load_suites()
    findings += [Finding("broken", f"suite {name}", reason) for name, reason in broken.items()]
    ready = {state.name for state in states if state.runtime is not None}
    here = Machine.here()
    machine = Finding("ok", "machine", f"{here.cores} cores, {here.memory / GIB:.0f} GiB of free memory")
    return [*findings, *_assets(suites, ready), _video(), _disk(), machine]


def _uv() -> Finding:
    try:
        from uv import find_uv_bin

        return Finding("ok", "uv", f"{version('uv')} ({find_uv_bin()})")
    except (ImportError, FileNotFoundError):
        return Finding("missing", "uv", f"not installed; run: {sys.executable} -m pip install uv")


def _runtime(state: RuntimeState, all_states: list[RuntimeState]) -> Iterator[Finding]:
    """The runtime, its renderer, and whether it starts; one that is not installed is needed only where no other is."""
    subject = f"runtime {state.name}"
    if state.runtime is None:
        none_at_all = all(other.runtime is None for other in all_states)
        yield Finding("missing" if none_at_all else "optional", subject, state.problem)
        return
    if state.runtime.adopted:
        yield Finding("ok", subject, f"adopted, starts, has what a worker needs ({state.runtime.python})")
        return
    yield from _installed_runtime(subject, state.runtime)


def _installed_runtime(subject: str, runtime: Runtime) -> Iterator[Finding]:
    spec = load_spec(runtime.name)
    try:
        renderer = choose_renderer(spec)
    except VlarigError as error:
        yield Finding("ok", subject, f"installed ({runtime.python.parents[1]})")
        yield Finding("missing", f"renderer of {runtime.name}", str(error))
        return
    others = [other.name for other in spec.renderers if other.name != renderer.name and not other.missing()]
    also = f"; also here: {', '.join(others)} (VLARIG_RENDERER)" if others else ""
    origin = f": {renderer.origin}" if renderer.origin else ""
    yield Finding("ok", f"renderer of {runtime.name}", f"{renderer.name}{origin}{also}")
    try:
        check_imports(spec, runtime.python, renderer, timeout=20)
    except VlarigError as error:
        yield Finding("missing", subject, str(error))
    else:
        yield Finding("ok", subject, f"starts, imports {', '.join(spec.imports)}, renders ({runtime.python.parents[1]})")


def _assets(suites: list[Suite], runtimes: set[str]) -> Iterator[Finding]:
    """The data files that suites need; those of a suite whose runtime is not here may be wanted later."""
    wanted: dict[str, set[str]] = {}
    for suite in suites:
        for name in suite.assets:
            wanted.setdefault(name, set()).add(suite.runtime)
    for name, users in wanted.items():
        try:
            place = locate_bundle(name)
            if place.archive is not None and not place.folder.exists():
                found = f"packed in {place.archive}; unpacked and checked at the first use"
            else:
                bundle = find_bundle(name)
                found = f"{bundle.contents.summary} ({bundle.folder})"
        except VlarigError as error:
            yield Finding("missing" if users & runtimes else "optional", f"assets {name}", str(error))
        else:
            yield Finding("ok", f"assets {name}", found)


def _video() -> Finding:
    if importlib.util.find_spec("av") and importlib.util.find_spec("PIL"):
        return Finding("ok", "video", f"PyAV {version('av')}")
    return Finding("optional", "video", f"no PyAV, so no videos; run: {sys.executable} -m pip install 'av>=12' 'pillow>=10'")


def _disk() -> Finding:
    folder = home()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / GIB
    if free >= DISK_GIB:
        return Finding("ok", "disk", f"{free:.0f} GiB free ({home()})")
    text = f"{free:.1f} GiB free at {home()}, {DISK_GIB} are needed; set VLARIG_HOME to a roomier folder"
    return Finding("missing", "disk", text)


@dataclass(frozen=True)
class DoctorConfig:
    """The command's options."""

    run: tyro.conf.Positional[Annotated[Path | None, tyro.conf.arg(metavar="[RUN]")]] = None
    """Folder of a run, or its name below runs/. Default: check this machine."""


def main(arguments: list[str]) -> int:
    """Print the findings; exit status 1 when something is broken, or is needed and missing on this machine."""
    config = parse(DoctorConfig, arguments, "vlarig doctor", DESCRIPTION)
    screen = Screen(soft_wrap=True)
    if config.run is not None:
        for line in explain(gather((evaluations_of(config.run) or [find_run(config.run)])[-1])):
            screen.print(line)
        return 0
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        screen.print(f"{finding.mark:<8}  {finding.subject:<{width}}  {finding.text}")
    return int(any(finding.mark in ("missing", "broken") for finding in findings))
