"""Protocols that differ from the standard one by one option, which the payload takes as its cue."""

from __future__ import annotations

from ...envs.api import Protocol


def variant(protocol: Protocol, name: str, option: str, value: str) -> Protocol:
    """A protocol of its own, version 1, with the fields of another one, the other's options and one more."""
    fields = {field: own for field, own in vars(protocol).items() if field not in ("name", "version", "options")}
    return Protocol(name=name, version=1, options={**protocol.options, option: value}, **fields)
