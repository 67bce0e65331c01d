"""The client of vla-eval's model servers: its wire, what stops a run before its first episode, and a sweep against the real package."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from comparing import results
from hypothesis import given
from hypothesis import strategies as some
from third_party.environments import environment
from third_party.twins import SeenTwin
from toy.env import TOY_POINT
from websockets.sync.server import ServerConnection, serve

from vlarig.envs.embodiments import Embodiment
from vlarig.envs.errors import BadMessageError, VlarigError
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.runtimes.runtime import Runtime
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.envs.tabletop.robot import TABLETOP_PANDA
from vlarig.harness import evaluate
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.conventions import embodiment_to_data
from vlarig.policies.registry import load_policy
from vlarig.policies.remote.vla_eval import VlaEvalPolicy, announced_differences, read_hello, state_format
from vlarig.policies.remote.vla_eval_sessions import (
    ACTION,
    EPISODE_END,
    EPISODE_START,
    ERROR,
    HELLO,
    OBSERVATION,
    Message,
    pack,
    unpack,
)
from vlarig.policies.remote.wire import MAX_MESSAGE_BYTES

EGO = np.random.default_rng(0).integers(0, 255, (1, 32, 48, 3), np.uint8)
STATE = np.arange(8, dtype=np.float32)
DECLARED = {"convention": "libero_panda", "images": "ego:agentview", "revision": "pi0-step-30000"}

#: What vla-eval's servers of LIBERO policies announce (src/vla_eval/model_servers/vlanext.py, vla-eval 0.8.0), less an image.
SPECS = {
    "action_spec": {
        "position": {"name": "position", "dims": 3, "format": "delta_xyz", "range": [-1, 1]},
        "rotation": {"name": "rotation", "dims": 3, "format": "axis_angle", "range": [-3.15, 3.15]},
        "gripper": {"name": "gripper", "dims": 1, "format": "binary_close_positive", "range": [-1, 1]},
    },
    "observation_spec": {
        "agentview": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
        "language": {"name": "language", "dims": 0, "format": "language"},
        "state": {"name": "state", "dims": 8, "format": "eef_pos3_axisangle3_gripper2"},
    },
}


def request(env: int = 0, chunk: int = 0, key: str = "libero_object/openpi@1/soup/base/3/0", shape: Any = None) -> Request:
    image = EGO if shape is None else np.zeros((1, *shape, 3), np.uint8)
    observation = {"images": {"ego": image}, "state": STATE + env, "instruction": f"pick up {env}"}
    return Request(env, key, chunk, 1, observation, LIBERO_PANDA, 8)  # type: ignore[arg-type]


class Scripted:
    """A server that answers with a test's script, and records what it receives."""

    def __init__(self, answer: Callable[[Scripted, Message], Message | bytes | str | None], **hello: Any) -> None:
        self.answer = answer
        self.hello = {"harness_version": "0.8.0", "protocol_version": 1, "model_server": "Mine", "capabilities": {}, **hello}
        self.received: list[tuple[int, Message]] = []
        self.connections = 0
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()

    def handle(self, connection: ServerConnection) -> None:
        self.connections += 1
        number = self.connections
        for data in connection:
            message = unpack(data)
            self.received.append((number, message))
            if message.kind == HELLO:
                connection.send(pack(Message(HELLO, self.hello, message.seq)))
            elif (answer := self.answer(self, message)) is not None:
                if answer == "hang up":
                    connection.close()
                    return
                connection.send(pack(answer) if isinstance(answer, Message) else answer)

    def kinds(self, connection: int) -> list[str]:
        return [message.kind for number, message in self.received if number == connection]


def steps(count: int | None = None, value: float = 0.5) -> Callable[[Scripted, Message], Message | None]:
    """Answers every observation with ``count`` steps, or with one step without a dimension for steps."""

    def answer(_: Scripted, message: Message) -> Message | None:
        actions = np.full((7,) if count is None else (count, 7), value, np.float32)
        return Message(ACTION, {"actions": actions}, message.seq) if message.kind == OBSERVATION else None

    return answer


@contextmanager
def playing(server: Scripted, **settings: str) -> Iterator[VlaEvalPolicy]:
    """A policy that is connected to the scripted server."""
    with serve(server.handle, "127.0.0.1", 0, max_size=MAX_MESSAGE_BYTES) as listening:
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        policy = None
        try:
            policy = VlaEvalPolicy(f"ws://127.0.0.1:{listening.socket.getsockname()[1]}", **(DECLARED | settings))
            yield policy
        finally:
            if policy is not None:
                policy.close()
                policy.close()  # a second call does nothing
            listening.shutdown()


# The wire.


plain = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**64 - 1) | some.floats() | some.text() | some.binary(),
    lambda each: some.lists(each, max_size=5) | some.dictionaries(some.text(), each, max_size=5),
    max_leaves=20,
)
hostile = some.fixed_dictionaries(
    {"__ndarray__": plain, "data": plain, "dtype": some.sampled_from(["<f4", "|u1", "O", "V8", "<c8", "|S1000000"]) | plain},
    optional={"shape": some.lists(some.integers(-3, 2**63 - 1), max_size=10) | plain, "more": plain},
)
arrays = some.sampled_from([("<f4", [2]), ("|u1", [8]), ("<f8", [1, 1])]).map(
    lambda kind: {"__ndarray__": True, "data": bytes(8), "dtype": kind[0], "shape": kind[1]}
)
message_like = some.fixed_dictionaries(
    {
        "type": some.sampled_from([ACTION, HELLO]) | arrays | plain,
        "payload": hostile | some.dictionaries(some.text(), hostile) | plain,
    },
    optional={"seq": arrays | plain, "timestamp": plain},
)


@given(some.binary(max_size=200) | message_like.map(msgpack.packb))
def test_what_is_no_message_is_refused_in_one_sentence(data: bytes) -> None:
    try:
        unpack(data)
    except BadMessageError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("dtype", ["|b1", "|u1", "<i4", "<i8", "<f2", "<f4", "<f8"])
def test_arrays_arrive_as_they_were(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    sent = {"a": array, "view": array.transpose(2, 0, 1), "deep": {"number": np.float32(3), "empty": array[:0]}}
    back = unpack(pack(Message(ACTION, sent, 7)))
    assert (back.kind, back.seq) == (ACTION, 7)
    np.testing.assert_array_equal(back.payload["view"], array.transpose(2, 0, 1))
    assert back.payload["a"].dtype == array.dtype
    assert back.payload["deep"]["number"] == 3
    assert back.payload["deep"]["empty"].shape == (0, 3, 4)


def _wire(**fields: Any) -> bytes:
    return msgpack.packb({"type": ACTION, "payload": {}, "seq": 1, "timestamp": 0.0} | fields)


def _array(**fields: Any) -> bytes:
    return _wire(payload={"x": {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | fields})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("text", "message of text"),
        (_wire(type=3), "Expected `str`, got `int` - at `\\$.type`"),
        (_wire(payload=[1]), "has to be a map, and its payload too"),
        (_wire(seq="1"), "Expected `int`, got `str` - at `\\$.seq`"),
        (_array(dtype="O"), "dtype 'O'"),
        (_array(dtype="<c8"), "dtype '<c8'"),
        (_array(shape=[3]), "no array of shape"),
        (_array(shape=[2**62, 2**62]), "no array of shape"),
        (_array(data="12345678"), "a bytes-like object is required, not 'str'"),
        (bytes(MAX_MESSAGE_BYTES + 1), "at most"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_message_that_lies_is_refused_by_name(data: bytes | str, words: str) -> None:
    with pytest.raises(BadMessageError, match=words):
        unpack(data)


# What stops a run before its first episode.


def hello(**changes: Any) -> dict[str, Any]:
    return SPECS | changes


def changed(part: str, **fields: Any) -> dict[str, Any]:
    spec = "action_spec" if part in SPECS["action_spec"] else "observation_spec"
    return {**SPECS, spec: {**SPECS[spec], part: {**SPECS[spec][part], **fields}}}


def test_what_libero_servers_announce_fits_libero() -> None:
    announced = read_hello(hello(), "here")
    assert announced_differences(announced, LIBERO_PANDA) == []
    assert announced.image_names == ["agentview"]
    assert announced.reads_state


@pytest.mark.parametrize(
    ("hello", "env", "words"),
    [
        (changed("rotation", format="euler_xyz"), LIBERO_PANDA, "the rotation is euler_xyz for the server and axis_angle"),
        (changed("rotation", format="rot6d_interleaved", dims=6), LIBERO_PANDA, "the rotation has 6 numbers"),
        (changed("position", format="absolute_xyz"), LIBERO_PANDA, "the position is absolute_xyz"),
        (changed("gripper", format="binary_close_negative"), LIBERO_PANDA, "the gripper is binary_close_negative"),
        (changed("state", format="eef_pos3_quat4_gripper1"), LIBERO_PANDA, "the state is eef_pos3_quat4_gripper1"),
        (hello(action_spec={"joints": {"dims": 7, "format": "joint_positions"}}), LIBERO_PANDA, "have a part 'joints'"),
        (hello(), WIDOWX_BRIDGE, "the gripper is binary_close_positive for the server and continuous_01"),
    ],
)
def test_an_announced_convention_that_the_env_does_not_share_is_found(hello: dict, env: Embodiment, words: str) -> None:
    assert words in "; ".join(announced_differences(read_hello(hello, "here"), env))


@pytest.mark.parametrize(
    "hello",
    [
        {},
        {"action_spec": {"actions": {"name": "raw", "dims": 0, "format": "raw"}}},
        changed("state", format="raw"),
        changed("gripper", format="raw"),
        changed("state", format="joint_positions", accepts=["eef_pos3_axisangle3_gripper2"]),
    ],
)
def test_silence_and_what_else_is_accepted_contradict_nothing(hello: dict) -> None:
    assert announced_differences(read_hello(hello, "here"), LIBERO_PANDA) == []


def test_states_have_vla_evals_names() -> None:
    assert state_format(TABLETOP_PANDA) == "eef_pos3_axisangle3_gripper2"
    assert state_format(WIDOWX_BRIDGE) == "eef_pos3_euler3_gripper1"
    assert state_format(replace(LIBERO_PANDA, state_layout=("elbow",))) is None


@pytest.mark.parametrize(
    "hello",
    [
        {"action_spec": [1]},
        {"action_spec": {"position": 3}},
        {"observation_spec": {"image": {"dims": -1, "format": "raw"}}},
        {"observation_spec": {"image": {"dims": 0, "format": "raw", "accepts": 5}}},
        {"observation_spec": {str(number): {"dims": 0, "format": "raw"} for number in range(100)}},
        {"observation_params": [1]},
        {"observation_params": np.zeros(2)},
        {"observation_spec": np.zeros(2)},
        {"observation_spec": {"image": {"dims": 0, "format": "raw", "accepts": np.zeros(2)}}},
        {"observation_spec": {"image": {"dims": np.zeros(2), "format": np.zeros(2)}}},
        {"model_server": np.zeros(2)},
    ],
)
def test_a_hello_of_another_form_is_refused(hello: dict) -> None:
    with pytest.raises(PolicyError, match="the vla-eval server at here announces"):
        read_hello(hello, "here")


def test_a_hello_with_arrays_is_compared_whole_and_one_of_another_version_refused() -> None:
    with playing(Scripted(steps(), more=np.zeros(3))) as policy:
        policy.act([request(env) for env in range(3)])  # a HELLO for each
    with (
        pytest.raises(PolicyError, match="of vla-eval's protocol and we speak 1"),
        playing(Scripted(steps(), protocol_version=np.ones(2))),
    ):
        pass


def test_a_mismatch_stops_before_the_first_episode() -> None:
    with playing(Scripted(steps(), **changed("gripper", format="binary_close_negative"))) as policy:
        with pytest.raises(PolicyError, match=r"does not fit suite 'libero_object' .*binary_close_negative.*announced=ignored"):
            policy.check("libero_object", LIBERO_PANDA)
        with pytest.raises(PolicyError, match="does not fit suite 'simpler_widowx'"):
            policy.check("simpler_widowx", WIDOWX_BRIDGE)
        with pytest.raises(PolicyError, match="a view that libero_panda does not have; it has ego"):
            playing_with(policy, images="ceiling:agentview").check("libero_object", LIBERO_PANDA)
        playing_with(policy, announced="ignored").check("libero_object", LIBERO_PANDA)


def playing_with(policy: VlaEvalPolicy, **settings: str) -> VlaEvalPolicy:
    """The same server with other settings."""
    other = VlaEvalPolicy(policy._address, **(DECLARED | settings))
    other.close()
    return other


@pytest.mark.parametrize(
    ("leave_out", "words"),
    [
        ("convention", r"declare it: --policy-options convention=EMBODIMENT \(such as libero_panda"),
        ("revision", r"declare it: --policy-options revision=NAME \(of the checkpoint"),
        ("images", r"declare it: --policy-options images=VIEW:NAME,... \(such as ego:agentview; it announces agentview\)"),
    ],
)
def test_what_no_server_announces_has_to_be_declared(leave_out: str, words: str) -> None:
    with (
        playing(Scripted(steps(), **SPECS)) as policy,
        pytest.raises(PolicyError, match=words),
    ):
        VlaEvalPolicy(policy._address, **{name: value for name, value in DECLARED.items() if name != leave_out})


def test_a_server_that_announces_no_images_is_shown_none() -> None:
    spec = {"state": SPECS["observation_spec"]["state"]}
    server = Scripted(steps(), observation_spec=spec)
    with playing(server, images="ego:agentview") as policy:
        assert policy.needs.images  # the user insists
        blind = VlaEvalPolicy(policy._address, convention="libero_panda", revision="1")
        assert not blind.needs.images
        blind.act([request()])
        blind.close()
    assert server.received[-1][1].payload["images"] == {}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"horizn": "3"}, "the policy 'vla-eval' has no option 'horizn'; did you mean horizon"),
        ({"horizon": "0"}, "horizon='0' of the policy 'vla-eval' is not possible: input should be greater than or equal to 1"),
        ({"images": "ego"}, "images='ego' .* expected view:name"),
        ({"images": "ego:a,ego:b"}, "each view and each name once"),
        ({"image_fit": "squash"}, "image_fit='squash' .* is not possible"),
        ({"timeout": "nan"}, "timeout='nan' .* is not possible"),
        ({"convention": "libero_pand"}, "unknown embodiment 'libero_pand'; did you mean libero_panda"),
    ],
)
def test_settings_that_are_wrong_are_named(settings: dict[str, str], words: str) -> None:
    with pytest.raises(PolicyError, match=words), playing(Scripted(steps()), **settings):
        pass


def test_addresses_and_servers_that_are_none_are_refused() -> None:
    for address in ("localhost:8000", "ws://localhost:port", "ws://"):
        with pytest.raises(PolicyError, match=r"no address of a model server; write vla-eval:ws://HOST:PORT"):
            load_policy(f"vla-eval:{address}", DECLARED)
    with pytest.raises(PolicyError, match=r"no vla-eval model server can be reached at ws://127.0.0.1:9"):
        load_policy("vla-eval:ws://127.0.0.1:9", DECLARED)
    with (
        pytest.raises(PolicyError, match="speaks version 2 of vla-eval's protocol"),
        playing(Scripted(steps(), protocol_version=2)),
    ):
        pass


def test_strictness_is_refused_as_it_cannot_be_had() -> None:
    with playing(Scripted(steps())) as policy, pytest.raises(PolicyError, match="leave --strict out"):
        policy.strict()


def test_the_revision_follows_from_what_the_server_says_and_the_user() -> None:
    with playing(Scripted(steps(), **SPECS)) as first, playing(Scripted(steps())) as second:
        assert first.revision.startswith("pi0-step-30000 Mine-0.8.0-")
        assert first.revision != second.revision
        assert playing_with(first, revision="another").revision == first.revision.replace("pi0-step-30000", "another")


# Episodes.


def test_an_episode_is_begun_for_each_env_and_ended_before_the_next() -> None:
    server = Scripted(steps())
    with playing(server) as policy:
        for chunk in range(3):
            replies = policy.act([request(env, chunk) for env in (0, 1)])
        policy.act([request(1, 0, "libero_object/openpi@1/soup/base/4/0")])
    assert [reply.actions.tolist() for reply in replies] == [[[0.5] * 7]] * 2
    assert server.connections == 2
    begun = [HELLO, EPISODE_START, OBSERVATION, OBSERVATION, OBSERVATION]
    first, second = server.kinds(1), server.kinds(2)
    assert sorted([first, second], key=len) == [begun, [*begun, EPISODE_END, EPISODE_START, OBSERVATION]]


def test_the_server_is_shown_images_state_and_instruction_as_they_are() -> None:
    server = Scripted(steps())
    with playing(server, images="ego:primary", state_key="state") as policy:
        policy.act([request(2)])
    initial_state, seen = (message.payload for _, message in server.received[-2:])
    assert initial_state["task"]["suite"] == "libero_object"
    assert seen["task_description"] == initial_state["task"]["name"] == "pick up 2"
    np.testing.assert_array_equal(seen["images"]["primary"], EGO[-1])
    np.testing.assert_array_equal(seen["state"], STATE + 2)
    assert seen["state"].dtype == np.float32


@pytest.mark.parametrize(("fit", "black"), [("pad", True), ("stretch", False), ("crop", False)])
def test_images_get_the_declared_size(fit: str, black: bool) -> None:
    server = Scripted(steps())
    with playing(server, image_size="24", image_fit=fit) as policy:
        policy.act([request()])
    image = server.received[-1][1].payload["images"]["agentview"]
    assert image.shape == (24, 24, 3)
    assert (not image[0].any()) == black


def test_all_envs_are_under_way_at_once() -> None:
    def answer(server: Scripted, message: Message) -> Message | None:
        if message.kind != OBSERVATION:
            return None
        with server.lock:
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
        deadline = time.monotonic() + 5
        while server.most_under_way < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        with server.lock:
            server.under_way -= 1
        return Message(ACTION, {"actions": np.full(7, message.payload["states"][0], np.float32)}, message.seq)

    server = Scripted(answer)
    with playing(server) as policy:
        replies = policy.act([request(env) for env in range(4)])
    assert server.most_under_way == 4
    assert [reply.actions[0, 0] for reply in replies] == [0, 1, 2, 3]


def test_whole_chunks_are_taken_where_they_are_declared() -> None:
    with playing(Scripted(steps(16)), horizon="16") as policy:
        assert policy.horizon == 16
        assert policy.act([request()])[0].actions.shape == (16, 7)


@pytest.mark.parametrize(
    ("count", "horizon", "words"),
    [
        (16, "1", "answers with 16 steps at a time and horizon is 1; declare horizon=16"),
        (None, "16", r"answers with 1 step at a time and horizon is 16; start it with --args.chunk_size=null for whole chunks"),
    ],
)
def test_another_number_of_steps_than_declared_is_refused_with_advice(count: int | None, horizon: str, words: str) -> None:
    with playing(Scripted(steps(count)), horizon=horizon) as policy, pytest.raises(PolicyError, match=words):
        policy.act([request()])


def test_a_repeated_question_is_answered_alike_without_a_further_step() -> None:
    server = Scripted(lambda server, message: steps(value=len(server.received))(server, message))
    with playing(server) as policy:
        policy.act([request()])
        first, again = (policy.act([request(chunk=1)])[0].actions for _ in range(2))
        later = policy.act([request(chunk=2)])[0].actions
    np.testing.assert_array_equal(first, again)
    assert later[0, 0] > first[0, 0]
    assert server.kinds(1).count(OBSERVATION) == 3


def test_an_episode_restarts_after_it_was_cut_off() -> None:
    server = Scripted(steps())
    with playing(server) as policy:
        policy.act([request()])
        policy.act([request(chunk=1)])
        policy.act([request()])
    assert server.kinds(1) == [HELLO, EPISODE_START, OBSERVATION, OBSERVATION, EPISODE_END, EPISODE_START, OBSERVATION]


def test_the_middle_of_an_episode_that_the_server_does_not_know_is_refused() -> None:
    with playing(Scripted(steps())) as policy:
        with pytest.raises(PolicyError, match=r"did not get the first request of libero_object.*type the same command again"):
            policy.act([request(chunk=4)])
        policy.act([request()])
        with pytest.raises(PolicyError, match="did not get the first request of another"):
            policy.act([request(chunk=1, key="another/openpi@1/soup/base/3/0")])
        policy.act([request()])
        with pytest.raises(PolicyError, match=r"is at request 1 of .* and cannot answer request 5"):
            policy.act([request(chunk=5)])


def test_a_connection_lost_in_mid_episode_is_reported_and_the_next_episode_gets_a_new_one() -> None:
    def answer(server: Scripted, message: Message) -> Message | str | None:
        observations = sum(each.kind == OBSERVATION for _, each in server.received)
        return "hang up" if observations == 2 and message.kind == OBSERVATION else steps()(server, message)

    server = Scripted(answer)
    with playing(server) as policy:
        policy.act([request()])
        with pytest.raises(PolicyError, match=r"closed the connection in the middle of libero_object.*has to restart"):
            policy.act([request(chunk=1)])
        with pytest.raises(PolicyError, match="connection was lost"):
            policy.act([request(chunk=1)])
        policy.act([request()])
    assert server.connections == 2


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda _, m: Message(ERROR, {"error": "observation_failed: CUDA\nout of memory"}, m.seq),
            "failed: out of memory; its log",
        ),
        (
            lambda _, m: Message(ERROR, {"error": "initial_state"}, m.seq) if m.kind == EPISODE_START else None,
            "failed: initial_state; its log",
        ),
        (lambda _, m: Message(ACTION, {"actions": np.zeros(7)}, m.seq + 5), "where an action number 3 was due"),
        (lambda _, m: Message(HELLO, {}, m.seq), "sent hello"),
        (lambda _, m: Message(ACTION, {"thoughts": 1}, m.seq) if m.kind == OBSERVATION else None, "without an array 'actions'"),
        (
            lambda _, m: Message(ACTION, {"actions": "none"}, m.seq) if m.kind == OBSERVATION else None,
            "without an array 'actions'",
        ),
        (lambda _, m: b"\x80\x04K\x01.", "does not speak vla-eval's protocol"),
        (lambda _, m: "Traceback ...", "does not speak vla-eval's protocol"),
        (lambda _, m: None, "gave no answer within 0.3 s; raise the policy option timeout"),
    ],
)
def test_a_server_that_misbehaves_is_named_in_one_sentence(answer: Any, words: str) -> None:
    with playing(Scripted(answer), timeout="0.3") as policy:
        with pytest.raises(PolicyError, match=words) as caught:
            policy.act([request()])
        assert "\n" not in str(caught.value)


def test_an_observation_that_is_too_large_is_not_sent() -> None:
    with playing(Scripted(steps())) as policy, pytest.raises(PolicyError, match=r"does not travel.* bytes; at most"):
        policy.act([request(shape=(2400, 2400))])


def test_an_env_has_one_request_at_a_time() -> None:
    with playing(Scripted(steps())) as policy, pytest.raises(PolicyError, match="got two requests for one env"):
        policy.act([request(), request()])


def test_the_views_of_the_protocol_have_to_be_there() -> None:
    with (
        playing(Scripted(steps()), images="ego:a,cam_left_wrist:b") as policy,
        pytest.raises(PolicyError, match="cam_left_wrist:b names a view that the protocol does not show; it shows ego"),
    ):
        policy.act([request()])


# The package itself.


@pytest.fixture(scope="module")
def interpreter() -> Path:
    """Python with vla-eval."""
    return environment("vla_eval")


@contextmanager
def package_server(interpreter: Path, steps: int, columns: int, chunk_size: int) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """vla-eval's own server in a process and an environment of its own."""
    script = Path(__file__).parents[1] / "third_party" / "vla_eval_server.py"
    with subprocess.Popen(
        list(map(str, (interpreter, script, steps, columns, chunk_size))),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}", process
        finally:
            process.kill()


def batches(process: subprocess.Popen[str]) -> list[int]:
    process.kill()
    assert process.stdout is not None
    return [int(line) for line in process.stdout]


TABLETOP = {"convention": "tabletop_panda", "images": "ego:agentview,cam_left_wrist:wrist", "revision": "seen"}


@pytest.mark.slow
def test_a_sweep_of_the_packages_server_equals_one_of_the_same_policy_in_process(
    interpreter: Path, tabletop: Runtime, cli: Any, tmp_path: Path
) -> None:
    tasks = ["push_to", "stack", "pick_into"]
    options = [f"{name}={value}" for name, value in TABLETOP.items()]
    with package_server(interpreter, steps=16, columns=7, chunk_size=0) as (url, process):
        words = ["--episodes", "1", "--workers", "2", "--num-envs", "4", "--tasks", *tasks, "--run", tmp_path / "remote"]
        missing = cli("sweep", "tabletop", "--policy", f"vla-eval:{url}", *words)
        assert missing.returncode == 2
        assert "--policy-options convention=EMBODIMENT" in missing.stderr
        done = cli("sweep", "tabletop", "--policy", f"vla-eval:{url}", "--policy-options", *options, "horizon=16", *words)
        assert done.returncode == 0, done.stderr
        sizes = batches(process)
    twin = evaluate("tabletop", SeenTwin(16, keeps=False), workers=1, episodes=1, tasks=tuple(tasks), run=tmp_path / "twin")
    assert results(tmp_path / "remote") == results(twin.run)
    assert len(results(twin.run)) == 3
    assert sum(sizes) == sum(-(-episode["steps"] // 16) for episode in results(twin.run).values())


@pytest.mark.slow
def test_a_server_that_keeps_its_chunks_gets_a_request_every_step(interpreter: Path, toy_home: Path) -> None:
    Path("toy.json").write_text(json.dumps(embodiment_to_data(TOY_POINT)))
    with package_server(interpreter, steps=8, columns=3, chunk_size=8) as (url, process):
        policy = VlaEvalPolicy(url, **TABLETOP | {"convention": "toy.json", "announced": "ignored"})
        run = evaluate("toy", policy, workers=2, num_envs=4, episodes=3, run=Path("remote")).run
        policy.close()
        sizes = batches(process)
    twin = evaluate("toy", SeenTwin(8, keeps=True), workers=1, num_envs=1, episodes=3, run=Path("twin"))
    assert results(run) == results(twin.run)
    assert len(results(run)) == 6
    assert sum(sizes) == sum(-(-episode["steps"] // 8) for episode in results(run).values())


def test_the_packages_server_batches_what_envs_ask_together(interpreter: Path) -> None:
    with package_server(interpreter, steps=1, columns=7, chunk_size=0) as (url, process):
        policy = VlaEvalPolicy(url, **DECLARED)
        together = [policy.act([request(env, chunk) for env in range(8)]) for chunk in range(3)]
        policy.close()
        sizes = batches(process)
    assert sum(sizes) == 24
    assert max(sizes) > 1
    assert len({reply.actions.tobytes() for reply in together[0]}) == 8
    assert [reply.actions.tolist() for reply in together[0]] == [reply.actions.tolist() for reply in together[2]]


def test_a_suite_of_another_convention_is_refused_before_anything_is_started(
    interpreter: Path, tabletop: Runtime, tmp_path: Path
) -> None:
    with package_server(interpreter, steps=8, columns=7, chunk_size=8) as (url, _):
        policy = VlaEvalPolicy(url, **DECLARED | {"convention": "widowx_bridge"})
        with pytest.raises(VlarigError, match="does not fit suite 'tabletop'"):
            evaluate("tabletop", policy, episodes=1, run=tmp_path / "run")
        policy.close()
    assert not (tmp_path / "run").exists()
