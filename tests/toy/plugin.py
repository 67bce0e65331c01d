"""The toy suites as a plug-in."""

from __future__ import annotations

from vlarig.envs.plugins import Plugin

_NAMES = ("toy", "faulty", "drifting", "leaky", "two_ways", "stumbling", "hoarding", "slow", "seen")

PLUGIN = Plugin(suites={name: f"toy.suite:{name.upper()}_SUITE" for name in _NAMES})
