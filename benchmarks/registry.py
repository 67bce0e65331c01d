"""Suites by name: those of plug-ins, ours among them, and any other as ``module:NAME``."""

from __future__ import annotations

import importlib

from ..envs.errors import VlarigError
from ..envs.faults import describe, traceback_of
from ..envs.plugins import find_plugins, suite_places
from .suite import Suite, unknown


def suite_names() -> list[str]:
    """Every suite that can be swept."""
    return sorted(suite_places())


def load_suites() -> tuple[list[Suite], dict[str, str]]:
    """Every suite that can be swept; and each suite or plug-in that cannot be loaded, with the reason: it hides no other."""
    suites: list[Suite] = []
    broken = find_plugins()[1]
    for name in suite_names():
        try:
            suites.append(load_suite(name))
        except VlarigError as error:
            broken[name] = str(error)
    return suites, broken


def load_suite(name: str) -> Suite:
    """The suite of that name, or at that place.

    Args:
        name: A suite's name, or ``module:NAME`` of one that no plug-in registers.

    Raises:
        VlarigError: There is none (the nearest names are offered), or its module cannot be imported, or holds no such suite.
    """
    places = suite_places()
    if name not in places and ":" not in name:
        raise unknown("suite", name, places, "this installation")
    place = places.get(name, name)
    module_name, _, attribute = place.partition(":")
    try:
        suite = getattr(importlib.import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that is a program may exit
        sentence = f"suite {name!r} cannot be imported from {place} ({describe(error)}); mend or uninstall it"
        raise VlarigError(sentence, traceback=traceback_of(error)) from error
    if not isinstance(suite, Suite) or (name in places and suite.name != name):
        found = f"the suite {suite.name!r}" if isinstance(suite, Suite) else f"of type {type(suite).__name__}"
        raise VlarigError(f"suite {name!r} is registered as {place}, which is {found}; expected a Suite of that name")
    return suite


def suite_module(name: str) -> str:
    """Full name of the module that the suite is in, empty where there is none of that name; nothing is imported."""
    return suite_places().get(name, name if ":" in name else "").partition(":")[0]
