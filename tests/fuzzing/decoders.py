"""Every decoder of bytes that others wrote, with valid messages of each of its kinds."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlarig.envs import messages
from vlarig.envs.api import Camera, ChunkResult, Episode, Frames, Needs, Outcome, Protocol, Snapshot, StepResult
from vlarig.envs.embodiments import Channel, Embodiment
from vlarig.envs.episode import Ensemble
from vlarig.envs.errors import BadMessageError
from vlarig.envs.framing import HEAD_BYTES, Frame, receive_frame, send_frame
from vlarig.envs.messages import Died, Failure, Start, Started, Step, Stepped, Welcome
from vlarig.envs.untrusted import one_line
from vlarig.envs.wire import pack, unpack
from vlarig.policies.remote import vla_eval_sessions, wire
from vlarig.policies.remote.openpi_layouts import VLARIG
from vlarig.policies.remote.serving import RequestReader
from vlarig.policies.remote.wire import METADATA_KEY, Announcement

from .mutations import BYTES, PLAIN, WITH_HEAD, Form

#: A robot of its own, since every change to a valid message makes others of the broken ones.
ROBOT = Embodiment(
    name="point",
    robot_tag="Point",
    arms="single arm",
    control_frequency=10.0,
    channels=(
        Channel("dx", "m", "delta", "base", -1.0, 1.0),
        Channel("roll", "rad", "absolute", "base", -3.5, 3.5, rotation="euler_xyz"),
        Channel("grip", "normalized", "absolute", "gripper", -1.0, 1.0, gripper="+1 closes, -1 opens"),
    ),
    state_layout=("position_x", "position_y", "grip"),
    cameras={"ego": "ceiling", "cam_left_wrist": "point"},
    statistics_key="point",
    waist=True,
)


@dataclass(frozen=True)
class Decoder:
    """A decoder, and what is known about it.

    Attributes:
        name: Its name.
        seeds: Kind of message to valid messages of it.
        form: How a message is put together.
        decode: From bytes to a value; all that it may raise is a :class:`BadMessageError`.
        encode: From a value to bytes, the same for the same value.
    """

    name: str
    seeds: dict[str, list[bytes]]
    form: Form
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]


def all_decoders() -> list[Decoder]:
    """The wire to simulators first."""
    return [
        Decoder("wire", _wire_seeds(), WITH_HEAD, _read_message, pack),
        Decoder("framing", _framing_seeds(), BYTES, _receive_frames, _framed),
        Decoder("openpi", _openpi_seeds(), PLAIN, wire.unpack, wire.pack),
        Decoder("serving", _serving_seeds(), PLAIN, _read_request, _encode_request),
        Decoder("vla_eval", _vla_eval_seeds(), PLAIN, vla_eval_sessions.unpack, _encode_vla_eval),
    ]


def _wire_seeds() -> dict[str, list[bytes]]:
    plain = Protocol("standard", 1, 40, (Camera("ego", 8, 8),), 8)
    elaborate = Protocol(
        name="evaluator",
        version=3,
        step_limit=300,
        cameras=(Camera("ego", 24, 32, drawn=(48, 64), mirror=True, resize="jpeg_lanczos3", crop=0.9), Camera("wrist", 8, 8)),
        n_action_steps=5,
        limit_unit="primitives",
        task_limits={"long": 520},
        repeats=2,
        stop_on_success=False,
        success_rule="held",
        hold_steps=2,
        wait_steps=10,
        wait_action=(0.0, 0.5, -1.0),
        gripper="sign",
        ensemble=Ensemble("adaptive", 4, 0.5),
        options={"reset": "hard"},
        derived_from="standard",
    )
    payload = {
        "goal": "red",
        "pose": np.eye(4),
        "scene": {"objects": [{"name": "bowl", "at": [0.1, 0.2]}, None, True, b"\x00"]},
    }
    blind = Snapshot("go", 0, 0, np.zeros(3, np.float32), Frames(), {}, {}, Outcome(), "a" * 64, "b" * 64, {"simulate": 0.5})
    seeing = Snapshot(
        instruction="put the bowl on the plate",
        step=8,
        primitives=9,
        state=np.linspace(-1, 1, 8, dtype=np.float32),
        frames=Frames(
            (7, 8), {view: np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3) for view in ("ego", "wrist")}
        ),
        privileged={"pose": np.eye(3), "held": np.array([True, False]), "count": np.array(3)},
        metrics={"distance": 0.25, "nothing": float("nan")},
        outcome=Outcome(True, True, 2, 3, True),
        state_digest="c" * 64,
        image_digest="d" * 64,
        seconds={"simulate": 0.5, "render": 0.25},
    )
    steps = (StepResult(0.5, True, False), StepResult(0.0, False, True, 3, True, True, True))
    sent: list[messages.Message] = [
        Welcome(messages.WIRE_VERSION, ROBOT),
        Start(Episode("toy", plain, "reach_red", "base", 7), Needs()),
        Start(Episode("toy", elaborate, "long", "dark", 2**31, 4, payload), Needs(False, True, True, True)),
        *(Started(blind), Started(seeing)),
        *(Step(np.zeros((8, 3), np.float32)), Step(np.linspace(-1, 1, 14).reshape(2, 7))),
        *(Stepped(ChunkResult(steps[:1], blind)), Stepped(ChunkResult(steps * 4, seeing))),
        *(Failure(messages.BAD_MESSAGE, "a message of 70000000 bytes"), Failure(messages.ENV_ERROR, "it raised", "a line")),
        Died(messages.CRASH, "it died", 9),
    ]
    return _by_kind([(type(each).__name__, pack(each)) for each in sent])


def _read_message(data: bytes) -> messages.Message:
    return unpack(data, messages.Message)


def _framed(frames: list[Frame]) -> bytes:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for frame in frames:
            send_frame(ours, frame)
        ours.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: theirs.recv(2**16), b""))


def _framing_seeds() -> dict[str, list[bytes]]:
    several = [Frame(1, 0, 0, 0, b""), Frame(2, 3, 4, 5, b"one"), Frame(2**32 - 1, 255, 1023, 2**32 - 1, b"x" * 300)]
    return {"frames": [_framed(several[1:2]), _framed(several), _framed([Frame(7, 1, 2, 16, bytes(range(256)))])]}


def _receive_frames(data: bytes) -> list[Frame]:
    """The frames in a stream that ends after ``data``; what ends before its frame does is as good as refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        frames: list[Frame] = []
        left = len(data)
        with contextlib.suppress(EOFError):
            while left:
                frames.append(receive_frame(theirs))
                left -= HEAD_BYTES + len(frames[-1].body)
        if left:
            raise BadMessageError(f"the stream ended {left} bytes too early or too late")
    return frames


def _observation(**more: Any) -> dict[str, Any]:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    return {"observation/images/ego": image, "observation/state": np.array([0.5, 0, -1], np.float32), "prompt": "go"} | more


def _announcement() -> Announcement:
    return Announcement("notebook", "4 steps=4", 2, "vlarig", True, True, False, ROBOT)


def _openpi_seeds() -> dict[str, list[bytes]]:
    numbers = {
        "one": np.float32(0.5),
        "yes": np.bool_(True),
        "small": np.int8(-3),
        "half": np.float16(2),
        "large": np.uint64(2**63),
    }
    answer = {"actions": np.zeros((2, 3), np.float32), "server_timing": {"infer_ms": 12.5, "prev_total_ms": 13.0}}
    sent = {
        "observation": [
            _observation(),
            {"images": {"cam_high": np.zeros((3, 4, 4), np.uint8)}, "state": [0.5, 1, 2], "prompt": "go"},
        ],
        "numbers": [numbers],
        "metadata": [{METADATA_KEY: _announcement().to_data()}, {}],
        "answer": [answer],
    }
    return {kind: [wire.pack(value) for value in values] for kind, values in sent.items()}


def _serving_seeds() -> dict[str, list[bytes]]:
    keys = {"client": "me", "env": 3, "key": "an episode", "chunk": 0, "seed": 2**64 - 1, "n_action_steps": 8}
    ours = _observation(**{f"vlarig/{key}": value for key, value in keys.items()})
    history = np.zeros((4, 8, 8, 3), np.uint8)
    theirs = _observation(**{"observation/images/cam_left_wrist": history, "observation/state": [0.5, np.float32(0), 1]})
    sent = {"ours": [ours], "plain": [_observation(), theirs]}
    return {kind: [wire.pack(value) for value in values] for kind, values in sent.items()}


def _read_request(data: bytes) -> Any:
    """The request in a message, refused as the policy server refuses it: in one line."""
    message = wire.unpack(data)
    if not isinstance(message, dict):
        raise BadMessageError("a request has to be a map")
    try:
        with np.errstate(over="ignore"):
            return RequestReader(_announcement(), VLARIG, seed=0, n_action_steps=8).read(message, connection=0)
    except BadMessageError as error:
        raise BadMessageError(one_line(str(error))) from None


def _encode_request(request: Any) -> bytes:
    """The request as the message that it came from, in the form in which we send one."""
    fields = {
        "client": "me",
        "env": 0,
        "key": request.key,
        "chunk": 0,
        "seed": request.seed,
        "n_action_steps": request.n_action_steps,
    }
    shown = VLARIG.message(request.observation)
    return wire.pack({**shown, **{f"vlarig/{key}": value for key, value in fields.items()}})


def _vla_eval_seeds() -> dict[str, list[bytes]]:
    image = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    spec = {"name": "delta_pos", "dims": 3, "range": [-1.0, 1.0], "format": None}
    payloads: dict[str, dict[str, Any]] = {
        vla_eval_sessions.HELLO: {"protocol_version": 1, "specs": {"action": [spec], "observation": [spec, spec]}},
        vla_eval_sessions.EPISODE_START: {"task": {"name": "reach", "suite": "toy"}, "episode": 3},
        vla_eval_sessions.OBSERVATION: {"images": {"agentview": image}, "states": np.zeros(3), "task_description": "go"},
        vla_eval_sessions.ACTION: {"actions": np.zeros((4, 3), np.float32)},
        vla_eval_sessions.EPISODE_END: {"success": True, "steps": 12, "reward": 0.5},
        vla_eval_sessions.ERROR: {"message": "no"},
    }
    sent = [vla_eval_sessions.Message(kind, payload, seq) for seq, (kind, payload) in enumerate(payloads.items())]
    return _by_kind([(each.kind, vla_eval_sessions.pack(each)) for each in sent])


def _encode_vla_eval(message: vla_eval_sessions.Message) -> bytes:
    """The message as it is sent, with the time of a certain moment."""
    payload = vla_eval_sessions.pack_payload(message.payload)
    kind, seq = wire.pack(message.kind), wire.pack(message.seq)
    return b"\x84\xa4type" + kind + b"\xa7payload" + payload + b"\xa3seq" + seq + b"\xa9timestamp\x00"


def _by_kind(pairs: list[tuple[str, bytes]]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for kind, data in pairs:
        found.setdefault(kind, []).append(data)
    return found
