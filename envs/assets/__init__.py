"""Simulators' data files: which ones a bundle has, where they are, and how they are fetched and checked."""
