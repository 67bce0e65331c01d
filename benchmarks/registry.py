"""Suites by name: those that come with the rig, and third parties' entry points."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

from ..envs.errors import VlarigError
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


def load_suite(name: str) -> Suite:
    """The suite of that name.

    Raises:
        VlarigError: There is none (the nearest names are offered), or its module cannot be imported.
    """
    places = _places()
    if name not in places:
        raise unknown("suite", name, places, "this installation")
    module_name, _, attribute = places[name].partition(":")
    try:
        suite = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise VlarigError(f"suite {name!r} cannot be imported from {places[name]} ({reason}); mend or uninstall it") from error
    if not isinstance(suite, Suite) or suite.name != name:
        raise VlarigError(f"{places[name]}, registered as suite {name!r}, is {suite!r:.80}; expected a Suite of that name")
    return suite


def _places() -> dict[str, str]:
    """Suite name to ``module:attribute``; nothing is imported."""
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)} | _BUILT_IN
