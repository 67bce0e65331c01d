"""The installation of what simulators need: a virtual environment with uv, step by step, and a private copy of a graphics driver.

A driver is packages of Debian or Ubuntu, unpacked below vlarig's home, without being root. apt does the work with folders of its own:
it takes the machine's own sources, checks their signatures and the packages' hashes as ever, and resolves which packages the driver
needs that are not installed here. They are unpacked beside each other, and a manifest with the absolute path of the driver's library
leads to them. A file ``complete`` says that the copy came to its end; a folder without it is made again.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from ...envs.errors import VlarigError
from ...envs.home import one_at_a_time, unwritable
from .drivers import Driver, Manifest, library_folders, private_folder
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


#: Releases whose own packages are too old, and the suite of the same archive that has newer ones: Debian 12 has Mesa 22.3.6, and
#: 25.0.7 among its backports. Debian 13 and Ubuntu 24.04 have 25.0.7 and 24.0 themselves.
NEWER_SUITES = {"bookworm": "bookworm-backports"}

#: Where apt keeps its sources, and what the system says of itself.
APT_SOURCES = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")

#: Fields of a source that say whether to trust it, as the two formats of apt's sources name them (sources.list(5)).
OPTIONS = {"signed-by": "signed-by", "trusted": "trusted", "architectures": "arch", "check-valid-until": "check-valid-until"}


def install_driver(driver: Driver, packages: Iterable[str], wanted: Callable[[], bool], report: Callable[[str], None]) -> None:
    """Make the private copy of a driver; one that is there is replaced.

    Two processes that make it at the same time wait for each other. ``packages`` are put beside it, such as libraries that a
    simulator loads; ``wanted`` says whether it is still needed once the lock is taken.
    """
    folder = private_folder(driver)
    with one_at_a_time(folder.with_name(f"{driver.name}.lock"), f"the driver {driver.name!r}", report) as lock:
        if not wanted():
            return
        try:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            archives = _download(driver, [driver.package, *packages], folder / "apt", lock, report)
            report(f"unpacking {len(archives)} packages for {driver.title}")
            for archive in archives:
                if not run_step(["dpkg-deb", "--extract", str(archive), str(folder / "root")], lock, report):
                    raise VlarigError(f"{archive.name} could not be unpacked (above is why); {driver.advice}")
            version = _version(driver, archives)
            _write_manifest(driver, folder, version)
            shutil.rmtree(folder / "apt")
            (folder / "complete").write_text(f"{version}\n", encoding="utf-8")
        except OSError as error:
            raise unwritable(folder, error) from None


def _download(driver: Driver, packages: list[str], folder: Path, lock: int, report: Callable[[str], None]) -> list[Path]:
    """Download packages, and those that they need and this machine lacks, into a private folder."""
    codename = _codename()
    sources = list(own_sources(codename))
    if not sources:
        raise VlarigError(f"apt has no source for {codename or 'this system'} below {APT_SOURCES}; {driver.advice}")
    for place in ("lists/partial", "cache/archives/partial"):
        (folder / place).mkdir(parents=True)
    (folder / "sources.list").write_text("".join(f"{line}\n" for line in sources), encoding="utf-8")
    options = {
        "Dir::Etc::SourceList": folder / "sources.list",
        "Dir::Etc::SourceParts": "-",
        "Dir::State::Lists": folder / "lists",
        "Dir::Cache": folder / "cache",
        "Dir::Cache::Archives": folder / "cache" / "archives",
        "Debug::NoLocking": "1",  # the system's own locks need root, and nothing of the system's is written
        "APT::Sandbox::User": "",  # the folder is not the download user's
        "Acquire::Languages": "none",
        "Acquire::http::Timeout": "60",
    }
    apt = ["apt-get", "--quiet", *(f"--option={name}={value}" for name, value in options.items())]
    report(f"downloading {driver.title} (once; 25 to 55 MB, unpacked below vlarig's folder; the system stays as it is)")
    newer = NEWER_SUITES.get(codename)
    install = [*apt, "install", "--yes", "--download-only", "--reinstall", "--no-install-recommends"]
    install += [f"--target-release={newer}"] if newer else []
    run_step([*apt, "update"], lock, report)  # a source that fails may be one that is not needed
    if not run_step([*install, *packages], lock, report):
        raise VlarigError(f"{driver.title} could not be downloaded (above is why); fix that, or {driver.advice}")
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def own_sources(codename: str) -> Iterable[str]:
    """The machine's own sources of binary packages for its release, and the suite with newer ones, a line each for apt.

    The suites of a release's updates begin with its ``codename``.
    """
    newer = NEWER_SUITES.get(codename)
    lines = []
    for options, address, suites, components in _entries():
        ours = [suite for suite in suites if re.split(r"[-/]", suite)[0] == codename]
        if not codename or "main" not in components:
            continue
        if codename in ours and newer and newer not in ours:
            ours.append(newer)
        lines += [f"deb {options}{address} {suite} main" for suite in ours]
    return dict.fromkeys(lines)


def _entries() -> Iterable[tuple[str, str, list[str], list[str]]]:
    """Options, address, suites and components of each source, from files of both formats."""
    for path in [APT_SOURCES / "sources.list", *sorted((APT_SOURCES / "sources.list.d").glob("*.list"))]:
        for line in _text(path).splitlines():
            if match := re.match(r"deb\s+(\[[^\]]*\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line.strip()):
                yield match[1] or "", match[2], [match[3]], match[4].split()
    for path in sorted((APT_SOURCES / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", _text(path))):
            fields = {name.lower(): value.strip() for name, value in re.findall(r"(?m)^(\S+):((?:.*)(?:\n[ \t].*)*)", stanza)}
            if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() in ("no", "false", "0"):
                continue
            given = {option: ",".join(fields[name].split()) for name, option in OPTIONS.items() if name in fields}
            words = [f"{option}={value}" for option, value in given.items() if "-----BEGIN" not in value]
            for address in fields.get("uris", "").split():
                options = f"[{' '.join(words)}] " if words else ""
                yield options, address, fields.get("suites", "").split(), fields.get("components", "").split()


def _codename() -> str:
    """The release's name, such as ``bookworm``; empty where the system does not say."""
    words = shlex.split(_text(OS_RELEASE), comments=True)
    about = dict(word.split("=", 1) for word in words if "=" in word)
    names = ("UBUNTU_CODENAME", "DEBIAN_CODENAME", "VERSION_CODENAME")  # a derivative gives its parent's too
    return next((about[name] for name in names if about.get(name)), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(driver: Driver, archives: list[Path]) -> str:
    """Name and version of the driver's package, from its file's name."""
    for archive in archives:
        name, version, _ = archive.stem.split("_")
        if name == driver.package:
            return f"{name} {version.replace('%3a', ':')}"
    raise VlarigError(f"apt brought no {driver.package}; {driver.advice}")


def _write_manifest(driver: Driver, folder: Path, version: str) -> None:
    for path in sorted((folder / "root").glob("usr/share/vulkan/icd.d/*.json")):
        about = json.loads(path.read_text(encoding="utf-8"))
        name = Path(about["ICD"]["library_path"]).name
        libraries = [place / name for place in library_folders(folder / "root") if (place / name).exists()]
        if not re.match(driver.library, name) or not libraries:
            continue
        about["ICD"]["library_path"] = str(libraries[0])
        (folder / "icd.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        manifest = Manifest.read(folder / "icd.json")
        if manifest is None or not manifest.is_new_enough(driver):
            raise VlarigError(f"{version}, the newest that apt offers here, is older than {driver.oldest}; {driver.advice}")
        return
    raise VlarigError(f"{version} holds no driver for {platform.machine()}; {driver.advice}")
