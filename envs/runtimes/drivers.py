"""Vulkan drivers: those that simulators render with, where they are on this machine, and a private copy where none is.

A driver is found by its manifest, a JSON file that names its library (Khronos, Vulkan-Loader, docs/LoaderDriverInterface.md). The
search goes through the manifests that the user names in ``VK_DRIVER_FILES``, then the private copy below vlarig's home, then the
system's folders. A simulator gets the driver that was found, and no other.

The private copy is packages of Debian or Ubuntu, unpacked without being root. apt does the work with folders of its own: it takes the
machine's own sources, checks their signatures and the packages' hashes as ever, and resolves which packages the driver needs that are
not installed here. They are unpacked beside each other, and a manifest with the absolute path of the driver's library leads to them. A
file ``complete`` says that the copy came to its end; a folder without it is made again.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import VlarigError, suggestion
from ..home import home, one_at_a_time, unwritable

#: Where systems keep manifests; the user's own folder comes first (LoaderDriverInterface.md, "Driver Discovery on Linux").
SYSTEM_FOLDERS = ("~/.local/share", "/usr/local/etc", "/usr/local/share", "/etc", "/usr/share")

#: Environment variables that name manifests, the newer one first; a loader that knows both reads only that.
VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")

#: Releases whose own packages are too old, and the suite of the same archive that has newer ones: Debian 12 has Mesa 22.3.6, and
#: 25.0.7 among its backports. Debian 13 and Ubuntu 24.04 have 25.0.7 and 24.0 themselves.
NEWER_SUITES = {"bookworm": "bookworm-backports"}

#: Where apt keeps its sources, and what the system says of itself.
APT_SOURCES = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")

#: Fields of a source that say whether to trust it, as the two formats of apt's sources name them (sources.list(5)).
OPTIONS = {"signed-by": "signed-by", "trusted": "trusted", "architectures": "arch", "check-valid-until": "check-valid-until"}


@dataclass(frozen=True)
class Driver:
    """A Vulkan driver that a renderer may need.

    Attributes:
        name: Its name in a runtime's description.
        title: Its title in messages.
        library: Regular expression for the file name of its library.
        oldest: Oldest version that works, in words.
        headers: The version of Vulkan's headers, the third number of a manifest's ``api_version``, that this version was built with.
        package: Package of Debian and Ubuntu that brings it; empty where it comes with the hardware.
        advice: How to get it where no package can be fetched.
    """

    name: str
    title: str
    library: str
    oldest: str
    headers: int
    package: str
    advice: str


#: SAPIEN 3.0.3 needs descriptor indexing, which Mesa 22.3.6's lavapipe lacks and 25.0.7's has (both tried here); it came with the
#: descriptors' rewrite in Mesa 23.3, whose headers are 267 (Mesa, docs/relnotes/23.3.0.rst).
LAVAPIPE = Driver(
    name="lavapipe",
    title="Mesa's software Vulkan driver (lavapipe)",
    library=r"libvulkan_lvp\.so",
    oldest="Mesa 23.3",
    headers=267,
    package="mesa-vulkan-drivers",
    advice="install Mesa 23.3 or newer with lavapipe by your system's package manager (mesa-vulkan-drivers, "
    "mesa-vulkan-swrast or vulkan-swrast), or name its manifest in VK_DRIVER_FILES",
)
NVIDIA = Driver(
    name="nvidia",
    title="NVIDIA's Vulkan driver",
    library=r"lib(GLX|EGL)_nvidia\.so",
    oldest="any",
    headers=0,
    package="",
    advice="install the Vulkan part of NVIDIA's driver, or name its manifest in VK_DRIVER_FILES",
)
DRIVERS = {driver.name: driver for driver in (LAVAPIPE, NVIDIA)}


@dataclass(frozen=True)
class Manifest:
    """A driver's manifest on this machine.

    Attributes:
        path: The JSON file.
        library: The library that it names: a path, or a bare name that the linker knows.
        headers: Third number of its ``api_version``; ``None`` where it gives none.
    """

    path: Path
    library: str
    headers: int | None

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """The manifest in that file, or ``None`` where it is invalid or its library is missing."""
        try:
            about = json.loads(path.read_text(encoding="utf-8"))["ICD"]
            library, version = str(about["library_path"]), str(about.get("api_version", ""))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        if "/" in library and not (path.parent / library).exists():
            return None
        numbers = version.split(".")
        return cls(path, library, int(numbers[2]) if len(numbers) > 2 and numbers[2].isdigit() else None)

    def is_of(self, driver: Driver) -> bool:
        return re.match(driver.library, Path(self.library).name) is not None

    def is_new_enough(self, driver: Driver) -> bool:
        """Whether the driver is new enough; one of unknown age counts as new enough."""
        return self.headers is None or self.headers >= driver.headers


@dataclass(frozen=True)
class FoundDriver:
    """A driver that is on this machine.

    Attributes:
        manifest: Its manifest.
        origin: Its origin and version, for messages.
        folders: Folders of libraries that came with it.
    """

    manifest: Manifest
    origin: str
    folders: tuple[Path, ...] = ()

    def environment(self) -> dict[str, str]:
        """Environment variables that make a simulator use it, and it alone."""
        variables = {variable: str(self.manifest.path) for variable in VARIABLES}
        if self.folders:
            others = [path for path in [os.environ.get("LD_LIBRARY_PATH", "")] if path]
            variables["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, self.folders), *others])
        return variables

    def has_library(self, name: str) -> bool:
        """Whether a library, as the linker names it, came with the driver."""
        return any(any(folder.glob(f"lib{name}.so*")) for folder in self.folders)


def load_driver(name: str) -> Driver:
    if name not in DRIVERS:
        raise VlarigError(f"unknown graphics driver {name!r}; {suggestion(name, sorted(DRIVERS))}")
    return DRIVERS[name]


def find_driver(driver: Driver) -> FoundDriver | None:
    """The driver, where a new enough version is on this machine; a driver that the user names may have any age."""
    if named := _named(driver):
        return named[0]
    return next((found for found in _unnamed(driver) if found.manifest.is_new_enough(driver)), None)


def too_old(driver: Driver) -> Manifest | None:
    """A manifest of the driver whose version is too old, for messages."""
    return next((found.manifest for found in _unnamed(driver) if not found.manifest.is_new_enough(driver)), None)


def can_install(driver: Driver) -> bool:
    """Whether a private copy can be made here: the driver is a package, and apt is at hand."""
    return bool(driver.package and shutil.which("apt-get") and shutil.which("dpkg-deb"))


def private_folder(driver: Driver) -> Path:
    """Where the private copy of the driver is, or would be."""
    return home() / "drivers" / driver.name


def library_folders(root: Path) -> tuple[Path, ...]:
    """The folders of libraries in a tree of unpacked packages."""
    folders = (folder for pattern in ("usr/lib/*-linux-gnu", "lib/*-linux-gnu") for folder in sorted(root.glob(pattern)))
    return tuple(folders)


def _unnamed(driver: Driver) -> list[FoundDriver]:
    """The driver in all places but those that the user names, of any version."""
    return [*_private(driver), *_installed(driver)]


def _named(driver: Driver) -> list[FoundDriver]:
    variable = next((name for name in VARIABLES if os.environ.get(name)), None)
    if variable is None:
        return []
    paths = [Path(path) for path in os.environ[variable].split(os.pathsep) if path]
    manifests = [manifest for path in paths if (manifest := Manifest.read(path)) is not None and manifest.is_of(driver)]
    return [FoundDriver(manifest, f"{manifest.path}, as {variable} says") for manifest in manifests]


def _private(driver: Driver) -> list[FoundDriver]:
    """The copy below vlarig's home."""
    folder = private_folder(driver)
    manifest = Manifest.read(folder / "icd.json")
    if manifest is None or not (folder / "complete").exists():
        return []
    version = (folder / "complete").read_text(encoding="utf-8").strip()
    return [FoundDriver(manifest, f"a copy of its own, {version} ({folder})", library_folders(folder / "root"))]


def _installed(driver: Driver) -> list[FoundDriver]:
    found = []
    for folder in SYSTEM_FOLDERS:
        for path in sorted((Path(folder).expanduser() / "vulkan" / "icd.d").glob("*.json")):
            architecture = path.stem.partition(".")[2]
            if architecture not in ("", platform.machine()):
                continue
            manifest = Manifest.read(path)
            if manifest is not None and manifest.is_of(driver):
                found.append(FoundDriver(manifest, f"the system's{_package_version(driver)} ({path})"))
    return found


def _package_version(driver: Driver) -> str:
    """The version of the system's package, where Debian's package manager knows it."""
    if not driver.package:
        return ""
    command = ["dpkg-query", "--show", "--showformat", "${Version}", driver.package]
    try:
        run = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return f", {driver.package} {run.stdout}" if run.returncode == 0 and run.stdout else ""


def run_step(
    command: list[str], lock: int, report: Callable[[str], None], environment: Mapping[str, str], quiet: bool = False
) -> bool:
    """Run a program, and return whether it succeeded: progress bars go to a terminal, elsewhere a failure's last output is reported.

    ``lock`` is the file descriptor of the held lock; children keep it, so that no second install starts beside an orphan.
    """
    shown = sys.stderr.isatty() and not quiet
    output = None if shown else subprocess.PIPE
    errors = None if shown else subprocess.STDOUT
    try:
        run = subprocess.run(command, check=False, stdout=output, stderr=errors, pass_fds=(lock,), text=True, env=environment)
    except OSError as error:
        report(f"  {error}")
        return False
    if run.returncode and run.stdout and not quiet:
        for line in run.stdout.strip().splitlines()[-15:]:
            report(f"  {line}")
    return run.returncode == 0


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
                if not run_step(["dpkg-deb", "--extract", str(archive), str(folder / "root")], lock, report, os.environ):
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
    run_step([*apt, "update"], lock, report, os.environ)  # a source that fails may be one that is not needed
    if not run_step([*install, *packages], lock, report, os.environ):
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
