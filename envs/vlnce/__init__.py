"""Navigation by instructions in continuous environments: VLN-CE's tasks on habitat-sim, or on packages from PyPI alone."""
