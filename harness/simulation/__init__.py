"""What runs in a simulator's own environment: the worker that steps it, and the env checker.

The environment may be of an older Python and holds little but the simulator, so these modules run on Python 3.9 and import neither the
other rooms nor the rest of this one.
"""
