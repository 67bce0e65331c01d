"""The instant suite as a plug-in."""

from __future__ import annotations

from vlarig.envs.plugins import Plugin

PLUGIN = Plugin(suites={"instant": "instant.suite:INSTANT"})
