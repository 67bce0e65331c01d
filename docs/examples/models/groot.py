"""GR00T N1.6 or N1.7 behind its own server, gr00t/eval/run_gr00t_server.py; needs pyzmq and msgpack."""

import io
from collections.abc import Sequence

import msgpack
import numpy as np
import zmq

from vlarig.envs.embodiments import Embodiment
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.api import Policy, PolicyError, Reply, Request
from vlarig.policies.conventions import refuse_differences


class Groot(Policy):  # noqa: D101
    horizon, stateful, parts = 8, False, ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

    def __init__(self, revision: str, address: str = "tcp://127.0.0.1:5555") -> None:
        self.revision, self.socket = revision, zmq.Context().socket(zmq.REQ)
        self.socket.rcvtimeo, self.socket.linger = 120_000, 0
        self.socket.connect(address)

    def check(self, suite: str, embodiment: Embodiment) -> None:
        refuse_differences(self.name, suite, WIDOWX_BRIDGE, embodiment, reads_state=True)

    def act(self, requests: Sequence[Request]) -> list[Reply]:
        seen = [request.observation for request in requests]
        state = np.insert(np.stack([each["state"] for each in seen]), 6, 0, axis=1)[:, None]  # a pad before the gripper
        arrays = {f"state.{part}": state[..., [place]] for place, part in enumerate((*self.parts[:6], "pad", "gripper"))}
        arrays["video.image_0"] = np.stack([each["images"]["ego"][-1:] for each in seen])
        message: dict[str, object] = {"annotation.human.action.task_description": [each["instruction"] for each in seen]}
        for key, array in arrays.items():
            np.save(file := io.BytesIO(), array, allow_pickle=False)
            message[key] = {"__ndarray_class__": True, "as_npy": file.getvalue()}
        self.socket.send(msgpack.packb({"endpoint": "get_action", "data": {"observation": message}}))
        if "error" in (answer := msgpack.unpackb(self.socket.recv())):
            raise PolicyError(f"GR00T's server failed: {answer['error']}")
        chunks = [np.load(io.BytesIO(answer[0][f"action.{part}"]["as_npy"]), allow_pickle=False) for part in self.parts]
        return [Reply(chunk) for chunk in np.concatenate(chunks, axis=-1)]
