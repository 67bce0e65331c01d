"""A suite without physics, for measuring the harness alone."""
