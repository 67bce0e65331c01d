"""OpenVLA-OFT behind its own server, vla-scripts/deploy.py: POST /act, with arrays as json-numpy writes them."""

import base64
import json
from collections.abc import Sequence
from http.client import HTTPConnection

import numpy as np

from vlarig.envs.embodiments import Embodiment
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.policies.api import Policy, PolicyError, Reply, Request
from vlarig.policies.conventions import refuse_differences


class OpenvlaOft(Policy):  # noqa: D101
    horizon, stateful, transport_options = 8, False, frozenset({"address"})

    def __init__(self, revision: str, address: str = "127.0.0.1:8777") -> None:
        self.revision, self.address = revision, address

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, LIBERO_PANDA, embodiment, reads_state=True)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(self._chunk(**request.observation)) for request in requests]

    def _chunk(self, images: dict[str, np.ndarray], state: np.ndarray, instruction: str) -> np.ndarray:
        arrays = {"full_image": images["ego"][-1], "wrist_image": images["cam_left_wrist"][-1], "state": state}
        message: dict[str, object] = {"instruction": instruction}
        for key, array in arrays.items():
            data = base64.b64encode(array.tobytes()).decode()
            message[key] = {"__numpy__": data, "dtype": array.dtype.str, "shape": array.shape}
        connection = HTTPConnection(self.address, timeout=120)
        connection.request("POST", "/act", json.dumps(message), {"Content-Type": "application/json"})
        if not isinstance(steps := json.load(connection.getresponse()), list):
            raise PolicyError(f"OpenVLA-OFT's server at {self.address} answers {str(steps)[:80]!r}; its log says why")
        actions = np.stack([np.frombuffer(base64.b64decode(step["__numpy__"]), step["dtype"]) for step in steps])
        actions[:, -1] = 1 - 2 * actions[:, -1]  # theirs: 0 closes, 1 opens; LIBERO's: +1 closes, -1 opens
        return actions.astype(np.float32)
