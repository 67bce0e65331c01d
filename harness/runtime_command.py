"""A command in a runtime's own interpreter, such as the test of an adapter: with what a worker has there, and pytest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

from ..benchmarks.registry import find_suite, load_suites
from ..benchmarks.suite import Suite
from ..envs.errors import VlarigError
from .assets.bundle import find_bundle
from .runtimes.runtime import find_runtime
from .runtimes.spec import choose_renderer, load_spec, spec_names
from .worker_spec import ONE_THREAD, adapter_module

#: The modules of pytest. It is pure Python, so that another interpreter can use it; the last two are for those before 3.11.
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli")


def run_in_runtime(name: str, command: Sequence[str]) -> int:
    """Run a module with its arguments (``pytest FILE``), or ``python`` with its own, in the interpreter of a runtime.

    ``vlarig.envs``, ``vlarig.benchmarks`` and ``vlarig.harness`` are those that run here, and so are the modules of the runtime's
    suites. Where the runtime has no pytest, the one beside vlarig is used; nothing is installed.

    Returns:
        The exit status.
    """
    if not command:
        raise VlarigError(f"no command was given; give one, as in: vlarig runtime run {name} -- pytest test_parity.py")
    runtime = find_runtime(name)
    suites = [suite for suite in load_suites()[0] if suite.runtime == name]
    words = list(command[1:]) if command[0] == "python" else ["-m", *command]
    with _links(suites) as folder:
        environment = os.environ | ONE_THREAD | _renderer(name) | _assets(suites) | {"PYTHONPATH": str(folder)}
        if words[0] == "-m" and not _has(runtime.python, words[1], environment):
            if words[1] != "pytest" or importlib.util.find_spec("pytest") is None:
                beside = (
                    f", nor is it beside vlarig; run: {sys.executable} -m pip install pytest" if words[1] == "pytest" else ""
                )
                raise VlarigError(f"the runtime {name!r} ({runtime.python}) has no module {words[1]!r}{beside}")
            for module in PYTEST:
                _link(folder, module)
            for described in Path(str(metadata.distribution("pluggy").locate_file(""))).glob("pluggy-*.dist-info"):
                (folder / described.name).symlink_to(described)  # pytest's first line says its version
        done = subprocess.run([str(runtime.python), "-B", *words], env=environment, check=False)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode


@contextmanager
def _links(suites: Sequence[Suite]) -> Iterator[Path]:
    """A folder with vlarig's packages and the suites' own modules, and nothing else of this environment."""
    with tempfile.TemporaryDirectory(prefix="vlarig-") as text:
        folder = Path(text)
        for package in ("vlarig.benchmarks", "vlarig.envs", "vlarig.harness"):
            _link(folder, package)
        for suite in suites:
            for module in (adapter_module(suite), find_suite(suite.name).module.partition(".")[0]):
                if module != "vlarig":
                    _link(folder, module)
        yield folder


def _link(folder: Path, module: str) -> None:
    """Link a module or a package into ``folder``, if it is here."""
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
    """Variables that make the simulator draw; none for a runtime whose needs the rig does not know."""
    return choose_renderer(load_spec(name)).environment if name in spec_names() else {}


def _assets(suites: Sequence[Suite]) -> dict[str, str]:
    """Variables that name the folders of the data files that are here."""
    folders = {}
    for name in dict.fromkeys(name for suite in suites for name in suite.assets):
        with suppress(VlarigError):
            bundle = find_bundle(name)
            folders[bundle.variable] = str(bundle.folder)
    return folders
