"""Plug-ins: what a package adds to vlarig. Our own benchmarks are plug-ins too, registered in the same way."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from pkgutil import resolve_name
from types import ModuleType

from .errors import VlarigError
from .faults import describe

#: Entry points of this group name an object of the class :class:`Plugin`, as ``module:NAME``.
ENTRY_POINT_GROUP = "vlarig.plugins"


@dataclass(frozen=True)
class Plugin:
    """What a package adds to vlarig; the module that holds it imports nothing heavy, since every command reads it.

    Attributes:
        suites: Name of a suite to where it is, ``module:NAME``; imported when it is used.
        experts: Name of a suite to the class of its scripted expert, ``module:Class``, a subclass of
            ``vlarig.policies.experts.ScriptedExpert``.
        runtimes: Files ``NAME.toml`` that each describe a runtime, with the lock ``NAME.txt`` beside it.
        bundles: Files ``NAME.toml`` that each describe a bundle of data files, with the list of files ``NAME.txt`` beside it.
        layouts: Files ``NAME.toml`` that each hold a published table which ``vlarig table --layout NAME`` puts rows of ours into.
    """

    suites: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    runtimes: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    layouts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Registration:
    """What a name is registered for.

    Attributes:
        place: Where it is, ``module:NAME``.
        package: The installed package that registers it, as ``NAME VERSION``; empty for a place that the user gave.
    """

    place: str
    package: str = ""

    @property
    def module(self) -> str:
        return self.place.partition(":")[0]

    @property
    def origin(self) -> str:
        """The installed package that it comes from, as ``NAME VERSION``; empty for a file that is in none."""
        if self.package:
            return self.package
        top = self.module.partition(".")[0]
        owners = {f"{each.name} {each.version}" for each in metadata.distributions() if _holds(each, top)}
        return " or ".join(sorted(owners))


def _holds(package: metadata.Distribution, top: str) -> bool:
    """Whether an installed package has the top-level module; ``packages_distributions`` takes 30 times as long to say it."""
    declared = package.read_text("top_level.txt")
    if declared:
        return top in declared.split()
    files = "\n" + (package.read_text("RECORD") or "")
    return f"\n{top}/" in files or f"\n{top}." in files


def import_local(module: str) -> ModuleType:
    """The module of a place ``module:NAME`` that the user gave.

    The working directory, as it is now, is on this process's import path from then on, as the folder of a script is: code at that
    place may import its neighbours when it is called.

    Raises:
        ImportError: There is no such module. Whatever the module raises is passed on.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return importlib.import_module(module)


def registrations(points: Iterable[metadata.EntryPoint]) -> list[tuple[str, Registration]]:
    """Entry points by name, each with its package."""
    return [
        (each.name, Registration(each.value, f"{each.dist.name} {each.dist.version}" if each.dist else "")) for each in points
    ]


def only(kind: str, name: str, found: Sequence[Registration]) -> Registration:
    if len(found) > 1:
        packages = " and ".join(sorted(each.package for each in found))
        raise VlarigError(
            f"{kind} {name!r} is registered by the packages {packages}; uninstall all but one, or rename it there"
        )
    return found[0]


def find_plugins() -> tuple[list[tuple[str, Plugin]], dict[str, str]]:
    """The installed plug-ins, ours last, each after its package; and each package whose plug-in is broken, with the reason.

    A plug-in that is broken hides no other.
    """
    found: list[tuple[str, Plugin]] = []
    broken: dict[str, str] = {}
    points = metadata.entry_points(group=ENTRY_POINT_GROUP)
    for _, registration in sorted(registrations(points), key=lambda each: each[1].place.startswith("vlarig.")):
        package, place = registration.package, registration.place
        try:
            plugin = resolve_name(place)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module that is a program may exit
            broken[package] = f"its plug-in cannot be imported from {place} ({describe(error)}); mend or uninstall the package"
            continue
        if isinstance(plugin, Plugin):
            found.append((package, plugin))
        else:
            broken[package] = f"its plug-in {place} is of type {type(plugin).__name__}; expected a Plugin"
    return found, broken


def broken_plugins() -> str:
    """The broken plug-ins as the end of a sentence about a name that is not known; empty where there are none."""
    return "".join(f"; the package {package} is broken: {reason}" for package, reason in find_plugins()[1].items())


def registered_suites() -> dict[str, list[Registration]]:
    """Name of every suite to where it is, once for each package that registers it; no suite is imported."""
    return _merged("suites")


def registered_experts() -> dict[str, list[Registration]]:
    """Name of every suite that has a scripted expert to the expert's class, once for each package that registers one."""
    return _merged("experts")


def runtime_files() -> dict[str, Path]:
    """Name of every runtime that can be installed to its description."""
    return _files("runtimes")


def bundle_files() -> dict[str, Path]:
    """Name of every bundle of data files to its description."""
    return _files("bundles")


def layout_files() -> dict[str, Path]:
    """Name of every layout of a table to its file."""
    return _files("layouts")


def _merged(member: str) -> dict[str, list[Registration]]:
    merged: dict[str, list[Registration]] = {}
    for package, plugin in find_plugins()[0]:
        for name, place in getattr(plugin, member).items():
            merged.setdefault(name, []).append(Registration(place, package))
    return merged


def _files(member: str) -> dict[str, Path]:
    return {path.stem: path for _, plugin in find_plugins()[0] for path in getattr(plugin, member)}
