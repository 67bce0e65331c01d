"""The processes behind a runtime: making its virtual environment with uv, step by step, and probing an interpreter's packages."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

from ...envs.errors import VlarigError
from .spec import Renderer, RuntimeSpec

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


def run_step(command: list[str], lock: int, report: Callable[[str], None], quiet: bool = False) -> bool:
    """Run a program, and return whether it succeeded: progress bars go to a terminal, elsewhere a failure's last output is reported.

    ``lock`` is the file descriptor of the held lock; children keep it, so that no second install starts beside an orphan.
    """
    shown = sys.stderr.isatty() and not quiet
    output = None if shown else subprocess.PIPE
    errors = None if shown else subprocess.STDOUT
    environment = {**package_settings(), **os.environ}
    if any(Path(path).exists() for path in CERTIFICATES):
        environment.setdefault("UV_SYSTEM_CERTS", "1")
    try:
        run = subprocess.run(command, check=False, stdout=output, stderr=errors, pass_fds=(lock,), text=True, env=environment)
    except OSError as error:
        report(f"  {error}")
        return False
    if run.returncode and run.stdout and not quiet:
        for line in run.stdout.strip().splitlines()[-15:]:
            report(f"  {line}")
    return run.returncode == 0


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
    tool = _uv()
    wanted = sys.executable if spec.accepts(sys.version_info[:2]) else spec.python
    report(f"making a virtual environment with Python {spec.python}")
    if not run_step([tool, "venv", "--quiet", "--python", wanted, str(folder)], lock, report):
        raise VlarigError(
            f"no virtual environment could be made for {spec.name!r} (above is why); it needs Python {spec.python}"
        )
    report(f"installing the pinned packages of {spec.name!r} (once; some hundred MB)")
    python = str(folder / "bin" / "python")
    lock_arguments = ["--no-deps", "--require-hashes", "-r", str(spec.lock)]
    install = [tool, "pip", "install", "--compile-bytecode", "--python", python, *lock_arguments]
    if spec.torch and not run_step([*install, "--dry-run"], lock, report, quiet=True):
        install += ["--torch-backend", spec.torch]  # where the usual index has not the pinned build, PyTorch's own has it
    if run_step(install, lock, report):
        return
    if importlib.util.find_spec("pip") is not None:
        report("uv could not install them; trying pip, which reads pip's own settings")
        if run_step([sys.executable, "-m", "pip", "--python", python, "install", *lock_arguments], lock, report):
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
