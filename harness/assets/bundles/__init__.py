"""Asset bundles as data: ``<name>.toml`` describes one, ``<name>.txt`` lists its files with their hashes."""
