from __future__ import annotations


def plan(env):
    return None
