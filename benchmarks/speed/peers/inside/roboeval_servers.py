"""The servers that roboeval plays against: a policy server of its own kind that answers with our chunks, and its sim workers.

    python roboeval_servers.py WORKERS

It prints the policy server's port; the workers have the ports after it.
"""

from __future__ import annotations

import base64
import io
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from typing import Any

import numpy as np
import uvicorn
from chunks import STEPS, Chunks, note
from PIL import Image
from roboeval.config import find_available_port_block
from roboeval.specs import ActionObsSpec
from sims.vla_policies.base import VLAPolicyBase, make_app
from sims.vla_policies.vla_schema import VLAObservation


def image_of(text: str) -> np.ndarray:
    """The image ``uint8[h, w, 3]`` of a PNG in base 64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


class ChunkPolicy(VLAPolicyBase):
    """Answers what :class:`Chunks` does."""

    def load_model(self, model_id: str, device: str, **_: Any) -> None:
        """Nothing is to be loaded."""
        self.model_id, self._chunks, self.ready = model_id, Chunks(), True

    def reset(self) -> None:
        note("begin")

    def predict(self, obs: VLAObservation) -> list[list[float]]:
        ego, wrist = (image_of(obs.images[role]) for role in ("primary", "wrist"))
        return self._chunks.chunk(ego, wrist, np.asarray(obs.state["flat"]), obs.instruction).tolist()

    def get_info(self) -> dict[str, Any]:
        """Seven numbers a step, as LIBERO has them."""
        space = {"type": "eef_delta", "dim": 7}
        return {"name": "chunks", "model_id": self.model_id, "action_space": space, "state_dim": 8, "action_chunk_size": STEPS}

    def get_action_spec(self) -> dict[str, ActionObsSpec]:
        """What its LIBERO backend takes."""
        return {
            "position": ActionObsSpec("position", 3, "delta_xyz"),
            "rotation": ActionObsSpec("rotation", 3, "delta_axisangle"),
            "gripper": ActionObsSpec("gripper", 1, "binary_close_positive"),
        }

    def get_observation_spec(self) -> dict[str, ActionObsSpec]:
        """What its LIBERO backend gives."""
        return {
            "primary": ActionObsSpec("image", 0, "rgb_hwc_uint8"),
            "wrist": ActionObsSpec("image", 0, "rgb_hwc_uint8"),
            "state": ActionObsSpec("state", 8, "libero_eef_pos3_aa3_grip2"),
            "instruction": ActionObsSpec("language", 0, "language"),
        }


def announce(ports: list[int]) -> None:
    """Print the first port when all answer."""
    for port in ports:
        while True:
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
    sys.stdout.write(f"{ports[0]}\n")
    sys.stdout.flush()


def main(workers: int) -> None:
    first = find_available_port_block(1 + workers)
    ports = list(range(first, first + 1 + workers))
    for port in ports[1:]:
        words = ["-m", "sims.sim_worker", "--sim", "libero", "--host", "127.0.0.1", "--port", str(port), "--headless"]
        subprocess.Popen([sys.executable, *words])  # the runner ends the whole session
    threading.Thread(target=announce, args=(ports,), daemon=True).start()
    uvicorn.run(make_app(ChunkPolicy(), "chunks", "cpu"), host="127.0.0.1", port=first, log_level="warning")


if __name__ == "__main__":
    main(int(sys.argv[1]))
