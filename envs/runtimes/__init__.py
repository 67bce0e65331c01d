"""Simulators' own environments: Python packages from a lock, graphics drivers, and their installation."""
