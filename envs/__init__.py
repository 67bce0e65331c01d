"""Environments: the common API, embodiments, the wire, and one adapter for each simulator family."""
