"""Plans of an expert."""

from __future__ import annotations


def plan(env):
    return None
