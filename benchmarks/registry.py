"""Suites by name: those of plug-ins, ours among them, and any other as ``module:NAME``."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from ..envs.errors import VlarigError
from ..envs.faults import describe, traceback_of
from ..envs.plugins import Registration, broken_plugins, find_plugins, import_local, only, registered_suites
from .suite import Suite, unknown


def suite_names() -> list[str]:
    """Every suite that can be swept."""
    return sorted(registered_suites())


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
        name: A suite's name, or ``module:NAME`` of one that no plug-in registers, for which the working directory is searched too.
    """
    found = find_suite(name)
    module_name, _, attribute = found.place.partition(":")
    try:
        module = importlib.import_module(module_name) if found.package else import_local(module_name)
        suite = getattr(module, attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that is a program may exit
        owner = f" of the package {found.package}" if found.package else ""
        sentence = f"suite {name!r}{owner} cannot be imported from {found.place} ({describe(error)}); mend or uninstall it"
        raise VlarigError(sentence, traceback=traceback_of(error)) from error
    if not isinstance(suite, Suite) or (found.package and suite.name != name):
        what = f"the suite {suite.name!r}" if isinstance(suite, Suite) else f"of type {type(suite).__name__}"
        raise VlarigError(f"suite {name!r} is registered as {found.place}, which is {what}; expected a Suite of that name")
    if not found.package and suite.name in (registered := registered_suites()):
        other = only("suite", suite.name, registered[suite.name])
        if load_suite(suite.name) is not suite:
            origin = f" of the package {found.origin}" if found.origin else ""
            raise VlarigError(
                f"the suite at {name}{origin} is called {suite.name!r}, as is another at {other.place} of the package {other.package}; "
                "rename it"
            )
    return suite


def load_suite_of_run(name: str, typed: Iterable[str]) -> Suite:
    """The suite of that name in a run whose command named its suites as ``typed``, by name or place."""
    places = (load_suite(each) for each in typed if ":" in each)
    return next((suite for suite in places if suite.name == name), None) or load_suite(name)


def find_suite(name: str) -> Registration:
    """Where a suite is that :func:`load_suite` knows by that name; nothing is imported."""
    registered = registered_suites()
    if name in registered:
        return only("suite", name, registered[name])
    if ":" not in name:
        raise VlarigError(f"{unknown('suite', name, registered, 'this installation')}{broken_plugins()}")
    return Registration(name)
