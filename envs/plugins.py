"""Plug-ins: what a package adds to vlarig. Our own benchmarks are plug-ins too, registered in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path

from .faults import describe

#: Entry points of this group name an object of the class :class:`Plugin`, as ``module:NAME``.
ENTRY_POINT_GROUP = "vlarig.plugins"


@dataclass(frozen=True)
class Plugin:
    """What a package adds to vlarig; the module that holds it imports nothing heavy, since every command reads it.

    Attributes:
        suites: Name of a suite to where it is, ``module:NAME``; imported when it is used.
        experts: Name of a suite to the class of its scripted expert, ``module:Class``, a subclass of
            ``vlarig.policies.experts.motion.ScriptedExpert``.
        runtimes: Files ``NAME.toml`` that each describe a runtime, with the lock ``NAME.txt`` beside it.
        bundles: Files ``NAME.toml`` that each describe a bundle of data files, with the list of files ``NAME.txt`` beside it.
        layouts: Files ``NAME.toml`` that each hold a published table which ``vlarig table --layout NAME`` puts rows of ours into.
    """

    suites: Mapping[str, str] = field(default_factory=dict)
    experts: Mapping[str, str] = field(default_factory=dict)
    runtimes: tuple[Path, ...] = ()
    bundles: tuple[Path, ...] = ()
    layouts: tuple[Path, ...] = ()


def find_plugins() -> tuple[dict[str, Plugin], dict[str, str]]:
    """The installed plug-ins by name, ours last; and each that cannot be loaded, with the reason: one that is broken hides no other."""
    found: dict[str, Plugin] = {}
    broken: dict[str, str] = {}
    for point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda point: point.value.startswith("vlarig.")):
        try:
            plugin = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a module that is a program may exit
            broken[point.name] = f"it cannot be imported from {point.value} ({describe(error)})"
            continue
        if isinstance(plugin, Plugin):
            found[point.name] = plugin
        else:
            broken[point.name] = f"{point.value} is of type {type(plugin).__name__}; expected a Plugin"
    return found, broken


def suite_places() -> dict[str, str]:
    """Name of every suite to where it is, ``module:NAME``; no suite is imported."""
    return _merged("suites")


def expert_places() -> dict[str, str]:
    """Name of every suite that has a scripted expert to the expert's class, ``module:Class``."""
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


def _merged(member: str) -> dict[str, str]:
    return {name: place for plugin in find_plugins()[0].values() for name, place in getattr(plugin, member).items()}


def _files(member: str) -> dict[str, Path]:
    return {path.stem: path for plugin in find_plugins()[0].values() for path in getattr(plugin, member)}
