"""Suites by name: those that come with the rig, and third parties' entry points."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from ..envs.errors import VlarigError
from ..envs.faults import describe, traceback_of
from .suite import Suite, unknown

ENTRY_POINT_GROUP = "vlarig.suites"

_BUILT_IN = {
    "libero_10": "vlarig.benchmarks.libero:LIBERO_10",
    "libero_90": "vlarig.benchmarks.libero:LIBERO_90",
    "libero_goal": "vlarig.benchmarks.libero:LIBERO_GOAL",
    "libero_object": "vlarig.benchmarks.libero:LIBERO_OBJECT",
    "libero_spatial": "vlarig.benchmarks.libero:LIBERO_SPATIAL",
    "simpler_ood": "vlarig.benchmarks.simpler_ood:SIMPLER_OOD",
    "simpler_widowx": "vlarig.benchmarks.simpler:SIMPLER_WIDOWX",
    "tabletop": "vlarig.benchmarks.tabletop:TABLETOP",
}


def suite_names() -> list[str]:
    """Every suite that can be swept."""
    return sorted(_places())


def load_suites() -> tuple[list[Suite], dict[str, str]]:
    """Every suite that can be swept; and each that cannot be loaded, with the reason: one that is broken hides no other."""
    suites, broken = [], {}
    for name in suite_names():
        try:
            suites.append(load_suite(name))
        except VlarigError as error:
            broken[name] = str(error)
    return suites, broken


def load_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        VlarigError: There is none (the nearest names are offered), or its module cannot be imported, or holds no such suite.
    """
    places = _places()
    if name not in places:
        raise unknown("suite", name, places, "this installation")
    module_name, _, attribute = places[name].partition(":")
    try:
        suite = getattr(importlib.import_module(module_name), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that is a program may exit
        sentence = f"suite {name!r} cannot be imported from {places[name]} ({describe(error)}); mend or uninstall it"
        raise VlarigError(sentence, traceback=traceback_of(error)) from error
    if not isinstance(suite, Suite) or suite.name != name:
        found = f"the suite {suite.name!r}" if isinstance(suite, Suite) else f"of type {type(suite).__name__}"
        raise VlarigError(f"suite {name!r} is registered as {places[name]}, which is {found}; expected a Suite of that name")
    return suite


def suite_module(name: str) -> str:
    """Full name of the module that the suite is in, empty where there is none of that name; nothing is imported."""
    return _places().get(name, "").partition(":")[0]


def _places() -> dict[str, str]:
    """Suite name to ``module:attribute``; nothing is imported."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)} | _BUILT_IN
