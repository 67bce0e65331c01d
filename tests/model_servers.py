"""Stand-ins for the servers of docs/models: what each announces, what it reads and the form in which it answers.

Announcements are those of allenai/vla-evaluation-harness@e1ee9ad, src/vla_eval/model_servers/{pi0,oft,groot,xvla,lerobot}.py
(``get_action_spec``, ``get_observation_spec``), with the formats of src/vla_eval/specs.py.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgpack
import numpy as np
from websockets.sync.server import ServerConnection, serve

from vlarig.policies.remote import vla_eval_sessions, wire
from vlarig.policies.remote.vla_eval_sessions import ACTION, HELLO, OBSERVATION, Message
from vlarig.policies.remote.wire import MAX_MESSAGE_BYTES

Served = tuple[int, list[Any]]

IMAGE, WORDS = {"dims": 0, "format": "rgb_hwc_uint8"}, {"dims": 0, "format": "language"}
RAW = {"dims": 0, "format": "raw"}


def _moves(rotation: str, gripper: str) -> dict[str, Any]:
    return {
        "position": {"dims": 3, "format": "delta_xyz"},
        "rotation": {"dims": 3, "format": rotation},
        "gripper": {"dims": 1, "format": gripper},
    }


def _hello(name: str, actions: dict[str, Any], state: dict[str, Any], *images: str) -> dict[str, Any]:
    reads = {"state": state, "language": WORDS} | dict.fromkeys(images, IMAGE)
    return {"model_server": name, "action_spec": actions, "observation_spec": reads}


_POSE = {"dims": 8, "format": "eef_pos3_axisangle3_gripper2"}
_SIX_NUMBERS = {"dims": 20, "format": "rot6d_interleaved_proprio_20d"}

#: Server to the content of its HELLO.
ANNOUNCED = {
    "pi0": _hello("Pi0ModelServer", {"actions": RAW}, RAW, "image"),
    "lerobot": _hello("LeRobotModelServer", {"actions": RAW}, RAW, "image"),
    "oft": _hello("OFTModelServer", _moves("axis_angle", "binary_close_positive"), _POSE, "image", "wrist_image"),
    "groot": _hello("GR00TModelServer", _moves("euler_xyz", "continuous_01"), RAW, "image"),
    "groot_libero": _hello("GR00TModelServer", _moves("euler_xyz", "binary_close_positive"), RAW, "image"),
    "xvla_libero": _hello("XVLAModelServer", _moves("axis_angle", "binary_close_positive"), _SIX_NUMBERS, "agentview", "wrist"),
    "xvla_widowx": _hello("XVLAModelServer", _moves("euler_xyz", "binary_close_positive"), _SIX_NUMBERS, "primary"),
}


@contextmanager
def announcing_server(hello: dict[str, Any], steps: int | None = None) -> Iterator[Served]:
    """A model server of vla-eval that answers ``steps`` steps, or one without a dimension for steps; its port, its observations."""
    received: list[Any] = []
    actions = np.zeros((7,) if steps is None else (steps, 7), np.float32)

    def handle(connection: ServerConnection) -> None:
        for data in connection:
            message = vla_eval_sessions.unpack(data)
            if message.kind == HELLO:
                payload = {"harness_version": "0.8.0", "protocol_version": 1, **hello}
                connection.send(vla_eval_sessions.pack(Message(HELLO, payload, message.seq)))
            elif message.kind == OBSERVATION:
                received.append(message.payload)
                connection.send(vla_eval_sessions.pack(Message(ACTION, {"actions": actions}, message.seq)))

    with _listening(handle) as port:
        yield port, received


@contextmanager
def bare_server(actions: np.ndarray) -> Iterator[Served]:
    """A server of openpi's, which announces nothing; its port, its observations."""
    received: list[Any] = []

    def handle(connection: ServerConnection) -> None:
        connection.send(wire.pack({}))
        for data in connection:
            received.append(wire.unpack(data))
            connection.send(wire.pack({"actions": actions, "server_timing": {"infer_ms": 1.0}}))

    with _listening(handle) as port:
        yield port, received


@contextmanager
def oft_server(answer: Any) -> Iterator[Served]:
    """OpenVLA-OFT's vla-scripts/deploy.py@213c5ff: POST /act, JSON with json-numpy's arrays; its port, its observations.

    Args:
        answer: ``[H, 7]``, of which it answers a list of rows; or a text.
    """
    import json_numpy  # of an environment that the caller has put on the path

    received: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert (self.path, self.headers["Content-Type"]) == ("/act", "application/json")
            received.append(json_numpy.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            body = json_numpy.dumps(answer if isinstance(answer, str) else list(answer)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], received
        server.shutdown()


@contextmanager
def groot_server(steps: int) -> Iterator[Served]:
    """GR00T's run_gr00t_server.py --use-sim-policy-wrapper (NVIDIA/Isaac-GR00T@e29d8fc gr00t/policy/server_client.py).

    A chunk's channel ``c`` of env ``e`` is ``c`` plus the first number of its state; above 90 it fails.
    """
    import zmq  # of an environment that the caller has put on the path

    received: list[Any] = []
    context = zmq.Context()
    socket = context.socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    parts = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")

    def encoded(array: np.ndarray) -> dict[str, Any]:
        np.save(file := io.BytesIO(), array, allow_pickle=False)
        return {"__ndarray_class__": True, "as_npy": file.getvalue()}

    def decoded(value: dict[str, Any]) -> Any:
        return np.load(io.BytesIO(value["as_npy"]), allow_pickle=False) if "__ndarray_class__" in value else value

    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            if not socket.poll(50):
                continue
            message = msgpack.unpackb(socket.recv(), object_hook=decoded)
            assert message["endpoint"] == "get_action"
            seen = message["data"]["observation"]
            received.append(seen)
            first = seen["state.x"]
            actions = {
                f"action.{part}": encoded(np.repeat(first + np.float32(place), steps, axis=1))
                for place, part in enumerate(parts)
            }
            socket.send(msgpack.packb({"error": "out of memory"} if first.max() > 90 else [actions, {}]))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield port, received
    finally:
        stop.set()
        thread.join(5)
        context.destroy(linger=0)


@contextmanager
def _listening(handle: Any) -> Iterator[int]:
    with serve(handle, "127.0.0.1", 0, max_size=MAX_MESSAGE_BYTES) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield listening.socket.getsockname()[1]
        listening.shutdown()
