"""Benchmarks as data: suites, tasks and protocols, each with its source."""
