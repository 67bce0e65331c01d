"""Runtimes as data: ``<name>.toml`` describes one, ``<name>.txt`` pins its packages with their hashes."""
