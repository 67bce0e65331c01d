"""The answers of every peer's policy, and the record by which the runner follows it. Needs numpy, and openpi-client to call a policy.

``PEERS_POLICY`` is the address of a policy that is served by openpi's protocol; without it sixteen steps are answered at once.
``PEERS_NOTES`` is a file that records when an episode begins and when a chunk is requested; without it nothing is recorded.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

STEPS = 16
SIGMA = 0.02
#: Side of the images that a served policy is sent, as in openpi's LIBERO example.
SENT = 224


def instant_steps() -> np.ndarray:
    """Small random steps for the arm, ``float32[16, 7]``; the gripper stays open, so that a rule of a peer's for it changes nothing."""
    steps = np.random.default_rng(0).normal(0.0, SIGMA, (STEPS, 7)).astype(np.float32)
    steps[:, -1] = -1.0
    return steps


def note(word: str) -> None:
    """Append a word to the record, if there is one."""
    path = os.environ.get("PEERS_NOTES")
    if path:
        with open(path, "a", encoding="ascii") as file:  # noqa: PTH123
            file.write(word + "\n")


class Chunks:
    """Answers with chunks of steps."""

    def __init__(self) -> None:
        self._steps = instant_steps()
        self._client: Any = None
        address = os.environ.get("PEERS_POLICY")
        if address:
            from openpi_client.websocket_client_policy import WebsocketClientPolicy

            self._client = WebsocketClientPolicy(address)

    def chunk(self, ego: np.ndarray, wrist: np.ndarray, state: np.ndarray, instruction: str) -> np.ndarray:
        """``float32[16, 7]`` for two upright images ``uint8[256, 256, 3]``, a state ``float[8]`` and an instruction."""
        note("chunk")
        if self._client is None:
            return self._steps
        from openpi_client.image_tools import resize_with_pad

        shown = {
            "observation/image": resize_with_pad(np.ascontiguousarray(ego), SENT, SENT),
            "observation/wrist_image": resize_with_pad(np.ascontiguousarray(wrist), SENT, SENT),
            "observation/state": np.asarray(state, np.float32),
            "prompt": instruction,
        }
        return np.asarray(self._client.infer(shown)["actions"], np.float32)[:STEPS]
