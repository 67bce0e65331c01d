"""What is played of a suite where not all of it can be: by the contract kit, the parity kit and measurements of speed."""

from __future__ import annotations

from dataclasses import dataclass

from ..envs.api import Protocol


@dataclass(frozen=True)
class Trial:
    """A suite's part in tests and measurements; the defaults suit most.

    Attributes:
        tasks: Tasks that differ most in what the simulator loads and does. Default: the first three. What is played in
            several processes, sweeps and episodes in turns, is the first three of them.
        steps: Steps of an episode that is cut short.
        upstream: Upstream's own evaluation loop, ``module:Class`` of a :class:`~vlarig.envs.parity.Upstream`; empty without one.
        always_renders: Whether upstream's loop renders even where nothing is seen.
        protocols: Protocols under which upstream's loop is played, in chunks of 16 steps. Default: the suite's first.
    """

    tasks: tuple[str, ...] = ()
    steps: int = 32
    upstream: str = ""
    always_renders: bool = False
    protocols: tuple[Protocol, ...] = ()
