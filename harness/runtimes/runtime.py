"""Simulators' virtual environments: made from a lock or adopted from elsewhere, found by name, removed.

An installed runtime lives in ``<home>/runtimes/<name>-<first 12 digits of the lock's hash>``, so a changed lock is another folder.
A file ``complete`` in it says that the install came to its end; a folder without it is made again. An adopted runtime is a line in
``<home>/runtimes/adopted.json``.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from ...envs.errors import VlarigError
from ...envs.home import home, one_at_a_time
from ...results.run_files import appearing
from .drivers import can_install
from .install import ask_interpreter, check_imports, install_driver, installed_packages, make_environment
from .spec import RuntimeSpec, candidates, choose_renderer, load_spec, spec_names


@dataclass(frozen=True)
class Runtime:
    """A simulator's interpreter, ready to be started.

    Attributes:
        name: Name of the runtime.
        python: Its interpreter.
        lock_sha256: Identity of its packages: SHA-256 of the lock, or of an adopted one's list of packages.
        adopted: Whether it was made elsewhere.
        packages: Versions of its packages, by name.
    """

    name: str
    python: Path
    lock_sha256: str
    adopted: bool
    packages: Mapping[str, str] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class RuntimeState:
    """A runtime in a listing: ``runtime`` where it can be used, otherwise the reason why not."""

    name: str
    title: str
    runtime: Runtime | None
    problem: str = ""


def find_runtime(name: str) -> Runtime:
    adopted = _read_adopted()
    if name in adopted:
        return _adopted(name, Path(adopted[name]))
    spec = load_spec(name, tuple(adopted))
    folder = _folder(spec)
    python = folder / "bin" / "python"
    if (folder / "complete").exists() and python.exists():
        return Runtime(name, python, spec.lock_sha256, adopted=False, packages=installed_packages(folder))
    if (folder / "complete").exists():
        reason = "has lost the Python that it was made with"
    elif any((other / "complete").exists() for other in _installed_folders(name)):
        reason = "was installed from another version of its lock"
    else:
        reason = "is not installed"
    raise VlarigError(f"the runtime {name!r} {reason}; run: vlarig runtime install {name}")


def install_runtime(name: str, report: Callable[[str], None]) -> Runtime:
    """Make the runtime's virtual environment from its lock, and a copy of its graphics driver; nothing is done where both exist.

    Two installs at the same time wait for each other, and one that was interrupted is made again.
    """
    adopted = _read_adopted()
    if name in adopted:
        raise VlarigError(f"the runtime {name!r} is adopted from {adopted[name]}; first run: vlarig runtime remove {name}")
    spec = load_spec(name, tuple(adopted))
    folder = _folder(spec)
    with _lock(name, report) as lock:
        try:
            runtime = find_runtime(name)
        except VlarigError:
            shutil.rmtree(folder, ignore_errors=True)
            make_environment(spec, folder, lock, report)
            _ensure_driver(spec, report)
            _check_install(spec, folder, report, warm_up=True)
            (folder / "complete").write_text(f"{spec.lock_sha256}\n", encoding="utf-8")
            runtime = find_runtime(name)
        else:
            if _ensure_driver(spec, report):
                _check_install(spec, folder, report, warm_up=False)
        report(f"the runtime {name!r} is ready: {folder}")
        return runtime


def add_runtime(name: str, python: Path) -> Runtime:
    """Adopt an interpreter that was made elsewhere, such as a conda environment's."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise VlarigError(f"a runtime cannot be called {name!r}; use small letters, digits, - and _")
    python = python.expanduser().absolute()
    runtime = _adopted(name, python)
    with _lock("adopted", lambda _: None):
        _write_adopted({**_read_adopted(), name: str(python)})
    return runtime


def _adopted(name: str, python: Path) -> Runtime:
    packages_sha256, packages = ask_interpreter(name, python)
    return Runtime(name, python, packages_sha256, adopted=True, packages=packages)


def remove_runtime(name: str) -> list[Path]:
    """Delete an installed runtime, in all its versions, or forget an adopted one; returns what was deleted."""
    adopted = _read_adopted()
    if name in adopted:
        with _lock("adopted", lambda _: None):
            _write_adopted({other: path for other, path in _read_adopted().items() if other != name})
        return []
    load_spec(name, tuple(adopted))
    with _lock(name, lambda _: None):
        folders = _installed_folders(name)
        if not folders:
            raise VlarigError(f"the runtime {name!r} is not installed, so there is nothing to remove")
        for folder in folders:
            (folder / "complete").unlink(missing_ok=True)
            shutil.rmtree(folder)
    return folders


def list_runtimes() -> list[RuntimeState]:
    """Every runtime that is known: those that can be installed, then those adopted."""
    adopted = _read_adopted()
    states = []
    for name in [*spec_names(), *sorted(set(adopted) - set(spec_names()))]:
        title = f"adopted from {adopted[name]}" if name in adopted else load_spec(name).title
        try:
            states.append(RuntimeState(name, title, find_runtime(name)))
        except VlarigError as error:
            states.append(RuntimeState(name, title, None, str(error)))
    return states


def _ensure_driver(spec: RuntimeSpec, report: Callable[[str], None]) -> bool:
    """Copy the preferred renderer's driver, where it is missing and can be copied; returns whether a copy was made."""
    try:
        first = next(iter(candidates(spec)), None)
        if first is None or first.driver is None or not first.missing() or not can_install(first.driver):
            return False
        install_driver(first.driver, first.apt, lambda: bool(first.missing()), report)
    except VlarigError as error:
        report(f"no driver to render with: {error}")
        return False
    return True


def _check_install(spec: RuntimeSpec, folder: Path, report: Callable[[str], None], warm_up: bool) -> None:
    try:
        renderer = choose_renderer(spec)
    except VlarigError as error:
        report(f"not tried yet: {error}")
        return
    report(f"trying it: {', '.join(spec.imports)}, images by {renderer.name}")
    check_imports(spec, folder / "bin" / "python", renderer, warm_up=warm_up)


def _runtimes() -> Path:
    return home() / "runtimes"


def _folder(spec: RuntimeSpec) -> Path:
    return _runtimes() / f"{spec.name}-{spec.lock_sha256[:12]}"


def _installed_folders(name: str) -> list[Path]:
    pattern = re.compile(re.escape(name) + "-[0-9a-f]{12}")
    return sorted(folder for folder in _runtimes().glob(f"{name}-*") if pattern.fullmatch(folder.name))


def _adopted_file() -> Path:
    return _runtimes() / "adopted.json"


def _read_adopted() -> dict[str, str]:
    try:
        data = json.loads(_adopted_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise VlarigError(f"{_adopted_file()} is no list of adopted runtimes; delete it and add them again")
    return {str(name): str(path) for name, path in data.items()}


def _write_adopted(adopted: dict[str, str]) -> None:
    with appearing(_adopted_file()) as draft:
        draft.write_text(json.dumps(adopted, indent=2) + "\n", encoding="utf-8")


def _lock(name: str, report: Callable[[str], None]) -> AbstractContextManager[int]:
    """Hold the runtime's lock; the file descriptor goes to child processes, so it is held until the last of them ended."""
    return one_at_a_time(_runtimes() / f"{name}.lock", f"the runtime {name!r}", report)
