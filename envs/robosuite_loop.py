"""What upstream's evaluation loops on robosuite share: images that nothing reads are left out, and its graphics context is current."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np


@contextmanager
def blank() -> Iterator[None]:
    """Upstream's images are black within; its cameras' clock goes on."""

    def black(sim: Any, width: int, height: int, **_: Any) -> np.ndarray:
        return np.zeros((height, width, 3), dtype=np.uint8)

    with patch("robosuite.utils.binding_utils.MjSim.render", black):
        yield


def render_here(sim: Any) -> None:
    """Make the graphics context of ``sim``, if it has one, the current one; robosuite does so only when it makes it."""
    if (context := getattr(sim, "_render_context_offscreen", None)) is not None:
        context.gl_ctx.make_current()
