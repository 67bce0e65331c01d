"""Programs in a simulator's own environment: the worker that steps it, and the one that checks its adapter.

The environment may have an older Python and few packages beside the simulator, so these modules run on Python 3.9, as the
adapters do, and import, of vlarig, ``envs`` alone.
"""
