"""Simulators' virtual environments: made from a lock or adopted from elsewhere, found by name, removed.

An installed runtime lives in ``<home>/runtimes/<name>-<first 12 digits of the lock's hash>``, so a changed lock is another folder.
A file ``complete`` in it says that the install came to its end; a folder without it is made again. An adopted runtime is a line in
``<home>/runtimes/adopted.json``.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

from ..errors import VlarigError
from ..home import appearing, home, one_at_a_time
from .drivers import can_install, install_driver, run_step
from .spec import Renderer, RuntimeSpec, candidates, choose_renderer, load_spec, spec_names

#: Packages that a simulator's worker imports beside the simulator, and the oldest Python that it runs on.
WORKER_NEEDS = ("numpy", "gymnasium", "msgspec")
WORKER_PYTHON = (3, 9)

#: Runs in the runtime's interpreter, so it must work in old versions of Python too.
_PROBE = """
import hashlib, importlib, json, sys
answer = {"version": list(sys.version_info[:3]), "missing": [], "packages": "", "versions": {}}
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except Exception:
        answer["missing"].append(name)
try:
    from importlib.metadata import distributions
    pairs = sorted({(d.metadata["Name"].lower().replace("_", "-"), d.version) for d in distributions()}, reverse=True)
    answer["packages"] = hashlib.sha256("\\n".join(sorted("%s==%s" % pair for pair in pairs)).encode()).hexdigest()
    answer["versions"] = dict(pairs)
except ImportError:
    pass
print("\\n" + json.dumps(answer))
"""

#: Where systems keep their certificates, a company's own among them; uv uses these only by an option.
CERTIFICATES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")

#: Settings of pip that say where packages are, and uv's variables for the same. Not ``extra-index-url``: pip takes the best version of
#: all its indexes, uv the first index that has the package, and a lock's versions are on the main one.
PACKAGE_SETTINGS = {"index-url": "UV_DEFAULT_INDEX", "find-links": "UV_FIND_LINKS"}


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


def package_settings() -> dict[str, str]:
    """pip's package indexes as uv's environment variables; uv reads none of pip's settings by itself."""
    files = _settings_in_files(os.environ.get("PIP_CONFIG_FILE"))
    found: dict[str, str] = {}
    for setting, variable in PACKAGE_SETTINGS.items():
        own = os.environ.get(f"PIP_{setting.upper().replace('-', '_')}")
        if value := own or files.get(f"install.{setting}") or files.get(f"global.{setting}"):
            found[variable] = ",".join(value.split())
    if os.environ.get("UV_INDEX_URL"):  # uv's older name for its main index
        found.pop("UV_DEFAULT_INDEX", None)
    return found


@cache
def _settings_in_files(chosen: str | None) -> dict[str, str]:
    """What pip's configuration files say, of which the user has ``chosen`` one, as pip reads them; nothing where there is no pip."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or "pip"]
    try:
        run = subprocess.run([*pip, "config", "list"], check=False, capture_output=True, text=True)
    except OSError:
        return {}
    return {name: ast.literal_eval(value) for name, _, value in (line.partition("=") for line in run.stdout.splitlines())}


def ask_interpreter(name: str, python: Path) -> tuple[str, dict[str, str]]:
    """Start an adopted interpreter and check that a worker can run in it.

    Returns:
        SHA-256, in hex, of its sorted list of ``name==version``, and the versions of its packages by name.
    """
    add_line = f"vlarig runtime add {name} --python PATH"
    command = [str(python), "-I", "-c", _PROBE, *WORKER_NEEDS]
    try:
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        answer = json.loads(run.stdout.strip().rpartition("\n")[2])
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        kind = "there is no such file" if isinstance(error, FileNotFoundError) else "it does not start as Python"
        raise VlarigError(f"{python} is no interpreter that can be used: {kind}; give another: {add_line}") from None
    version = tuple(answer["version"])
    if version[:2] < WORKER_PYTHON:
        oldest = ".".join(map(str, WORKER_PYTHON))
        raise VlarigError(
            f"{python} is Python {'.'.join(map(str, version))}, expected {oldest} or newer; give another: {add_line}"
        )
    if answer["missing"]:
        names = " ".join(answer["missing"])
        raise VlarigError(f"{python} cannot import {', '.join(answer['missing'])}; run: {python} -m pip install {names}")
    return answer["packages"], answer["versions"]


def installed_packages(environment: Path) -> dict[str, str]:
    """Versions of the packages in a virtual environment, by name, without starting its interpreter."""
    folders = (path.stem for path in environment.glob("lib/python*/site-packages/*.dist-info"))
    pairs = sorted(folder.rpartition("-")[::2] for folder in folders)
    return {name.lower().replace("_", "-"): version for name, version in pairs if name}


def make_environment(spec: RuntimeSpec, folder: Path, lock: int, report: Callable[[str], None]) -> None:
    """Make the virtual environment ``folder`` and install the packages of the runtime's lock; ``lock`` is as for :func:`run_step`."""
    tool, environment = _uv(), {**package_settings(), **os.environ}
    if any(Path(path).exists() for path in CERTIFICATES):
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    run = partial(run_step, lock=lock, report=report, environment=environment)
    wanted = sys.executable if spec.accepts(sys.version_info[:2]) else spec.python
    report(f"making a virtual environment with Python {spec.python}")
    if not run([tool, "venv", "--quiet", "--python", wanted, str(folder)]):
        raise VlarigError(
            f"no virtual environment could be made for {spec.name!r} (above is why); it needs Python {spec.python}"
        )
    report(f"installing the pinned packages of {spec.name!r} (once; some hundred MB)")
    python = str(folder / "bin" / "python")
    lock_arguments = ["--no-deps", "--require-hashes", "-r", str(spec.lock)]
    install = [tool, "pip", "install", "--compile-bytecode", "--python", python, *lock_arguments]
    if spec.torch and not run([*install, "--dry-run"], quiet=True):
        install += ["--torch-backend", spec.torch]  # where the usual index has not the pinned build, PyTorch's own has it
    if run(install):
        return
    if importlib.util.find_spec("pip") is not None:
        report("uv could not install them; trying pip, which reads pip's own settings")
        if run([sys.executable, "-m", "pip", "--python", python, "install", *lock_arguments]):
            return
    raise VlarigError(
        f"the packages of the runtime {spec.name!r} could not be installed (above is why); "
        f"fix that, then run: vlarig runtime install {spec.name}"
    )


def check_imports(spec: RuntimeSpec, python: Path, renderer: Renderer, timeout: float = 300, warm_up: bool = False) -> None:
    """Import the runtime's modules in it, render with the renderer, and warm up where ``warm_up`` is set."""
    code = f"import {', '.join(spec.imports)}\n{spec.probe}\n{spec.warm_up if warm_up else ''}"
    environment = {**os.environ, **renderer.environment}
    command = [str(python), "-I", "-c", code]
    try:
        run = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout, env=environment, cwd=python.parent
        )
        failed, words = run.returncode != 0, run.stderr.strip().rpartition("\n")[2] or f"exit status {run.returncode}"
    except subprocess.TimeoutExpired:
        failed, words = True, f"no answer within {timeout:.0f} s"
    except OSError as error:
        failed, words = True, str(error)
    if failed:
        raise VlarigError(
            f"the runtime {spec.name!r} does not work with the renderer {renderer.name!r} ({words}); try another renderer with "
            f"VLARIG_RENDERER, or make it again: vlarig runtime remove {spec.name} && vlarig runtime install {spec.name}"
        )


def _uv() -> str:
    try:
        from uv import find_uv_bin

        return find_uv_bin()
    except (ImportError, FileNotFoundError):
        raise VlarigError(f"uv is not installed beside vlarig; run: {sys.executable} -m pip install uv") from None
