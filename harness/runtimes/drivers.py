"""Vulkan drivers: those that simulators render with, and where they are on this machine.

A driver is found by its manifest, a JSON file that names its library (Khronos, Vulkan-Loader, docs/LoaderDriverInterface.md). The
search goes through the manifests that the user names in ``VK_DRIVER_FILES``, then the private copy below vlarig's home, which
:mod:`vlarig.harness.runtimes.install` makes, then the system's folders. A simulator gets the driver that was found, and no
other.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ...envs.errors import VlarigError, suggestion
from ...envs.home import home

#: Where systems keep manifests; the user's own folder comes first (LoaderDriverInterface.md, "Driver Discovery on Linux").
SYSTEM_FOLDERS = ("~/.local/share", "/usr/local/etc", "/usr/local/share", "/etc", "/usr/share")

#: Environment variables that name manifests, the newer one first; a loader that knows both reads only that.
VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


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
