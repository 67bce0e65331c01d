"""A private copy of a graphics driver: packages of Debian or Ubuntu, unpacked below vlarig's home, without being root.

apt does the work with folders of its own: it takes the machine's own sources, checks their signatures and the packages' hashes as
ever, and resolves which packages the driver needs that are not installed here. They are unpacked beside each other, and a manifest
with the absolute path of the driver's library leads to them. A file ``complete`` says that the copy came to its end; a folder without
it is made again.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from ...envs.errors import VlarigError
from ..locking import one_at_a_time, unwritable
from .drivers import Driver, Manifest, library_folders, private_folder
from .install import run_step

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
