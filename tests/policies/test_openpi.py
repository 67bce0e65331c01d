"""The client of openpi servers: its wire, its layouts, and what stops a run before its first episode."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from served import served
from toy.env import TOY_POINT
from toy.policies import ImageReader
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from vlarig.envs.api import Observation
from vlarig.envs.embodiments import Embodiment
from vlarig.envs.errors import BadMessageError, VlarigError
from vlarig.envs.libero.robot import LIBERO_PANDA
from vlarig.envs.simpler.robot import WIDOWX_BRIDGE
from vlarig.policies.api import PolicyError, Request
from vlarig.policies.conventions import embodiment_to_data
from vlarig.policies.registry import load_policy
from vlarig.policies.remote.openpi import OpenpiPolicy
from vlarig.policies.remote.openpi_layouts import ALOHA, DROID, LAYOUTS, LIBERO, VLARIG
from vlarig.policies.remote.wire import DTYPES, Announcement, pack, unpack

EGO = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), np.uint8)
WRIST = np.random.default_rng(1).integers(0, 255, (1, 96, 128, 3), np.uint8)
STATE = np.arange(8, dtype=np.float32)


def observation(**views: np.ndarray) -> Observation:
    return Observation(images=views or {"ego": EGO, "cam_left_wrist": WRIST}, state=STATE, instruction="pick it up")


def request(env: int = 0, embodiment: Any = LIBERO_PANDA, seen: Observation | None = None) -> Request:
    return Request(env, f"a/b@1/c/base/{env}/0", 0, env, seen or observation(), embodiment, 5)


# The wire.


@given(some.binary(max_size=200))
def test_bytes_that_are_no_message_never_do_more_than_be_refused(data: bytes) -> None:
    try:
        unpack(data)
    except BadMessageError as error:
        assert "\n" not in str(error)


plain = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**64 - 1) | some.floats() | some.text() | some.binary(),
    lambda each: some.lists(each, max_size=5) | some.dictionaries(some.text() | some.binary(), each, max_size=5),
    max_leaves=20,
)
hostile = some.fixed_dictionaries(
    {b"__ndarray__": plain, b"data": plain, b"dtype": some.sampled_from([*DTYPES, "O", "V8", "<c8", "|S1000000"]) | plain},
    optional={b"shape": some.lists(some.integers(-3, 2**63 - 1), max_size=10) | plain, b"more": plain},
)
arrays = some.sampled_from([np.zeros(2, np.float32), np.zeros((0,)), np.ones((2, 3), np.uint8), np.float64(1.0)])
hostile_number = some.fixed_dictionaries({b"__npgeneric__": plain, b"data": plain, b"dtype": some.sampled_from(DTYPES) | plain})


@given(some.recursive(plain | hostile | hostile_number, lambda each: some.lists(each, max_size=3), max_leaves=5))
def test_messages_that_lie_about_their_arrays_are_refused(value: object) -> None:
    try:
        unpack(msgpack.packb(value))
    except BadMessageError as error:
        assert "\n" not in str(error)


@given(some.fixed_dictionaries({"__ndarray__": plain, "data": plain, "dtype": plain | arrays, "shape": plain | arrays}))
def test_arrays_where_words_are_due_are_refused(value: dict[str, Any]) -> None:
    with pytest.raises(BadMessageError):
        unpack(pack({key.encode(): each for key, each in value.items()}))


announced_like = some.fixed_dictionaries(
    {"version": arrays | some.just(1)},
    optional=dict.fromkeys([field.name for field in fields(Announcement)], plain | arrays),
)


@given(announced_like | arrays | plain)
def test_announcements_of_anything_are_refused(value: object) -> None:
    with pytest.raises(PolicyError) as refused:
        Announcement.from_data(value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_and_numbers_of_every_dtype_arrive_as_they_were(dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    back = unpack(pack({"a": array, "view": array.transpose(2, 0, 1), "number": array[1, 1, 1], "empty": array[:0]}))
    for sent, got in [(array, back["a"]), (array.transpose(2, 0, 1), back["view"]), (array[:0], back["empty"])]:
        assert got.dtype == sent.dtype
        np.testing.assert_array_equal(got, sent)
    assert back["number"] == array[1, 1, 1]
    assert type(back["number"]) in (array.dtype.type, float)  # a numpy float64 is a float for msgpack


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({b"__ndarray__": True, b"data": b"12345678", b"dtype": "|O", b"shape": [1]}, "dtype '|O'; expected one of"),
        (
            {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [2]},
            "no array of shape [2] and dtype float32: cannot reshape array of size 1",
        ),
        ({b"__ndarray__": True, b"data": b"", b"dtype": "<f4", b"shape": [2**62, 2**62]}, "no array of shape"),
        ({b"__ndarray__": True, b"data": "1234", b"dtype": "<f4", b"shape": [1]}, "a bytes-like object is required, not 'str'"),
        ({b"__ndarray__": True, b"data": b""}, "a map of __ndarray__, data, dtype and shape"),
        ({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}, "cannot be 300"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_message_may_not_hold(value: object, says: str) -> None:
    with pytest.raises(BadMessageError) as refused:
        unpack(msgpack.packb(value))
    assert says in str(refused.value)


def test_what_does_not_travel_is_not_sent() -> None:
    for value in (object(), np.array([object()]), np.zeros(2, np.complex64), {"a": 2**70}):
        with pytest.raises(BadMessageError, match="cannot send"):
            pack(value)


# Layouts.


def test_the_libero_layout_is_the_one_of_openpis_own_client() -> None:
    message = LIBERO.message(observation())
    assert set(message) == {"observation/image", "observation/wrist_image", "observation/state", "prompt"}
    assert message["observation/image"].shape == message["observation/wrist_image"].shape == (224, 224, 3)
    assert not message["observation/wrist_image"][:28].any()  # 96 of 128 steps: padded above and below, not stretched
    assert message["observation/wrist_image"][112].any()
    np.testing.assert_array_equal(message["observation/state"], STATE)
    assert message["prompt"] == "pick it up"


def test_the_droid_layout_splits_the_state() -> None:
    message = DROID.message(observation())
    assert message["observation/joint_position"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert message["observation/gripper_position"].tolist() == [7]
    assert {"observation/exterior_image_1_left", "observation/wrist_image_left"} < set(message)


def test_the_aloha_layout_has_channels_first_and_images_apart() -> None:
    seen = observation(ego=EGO, cam_left_wrist=WRIST, cam_right_wrist=WRIST) | {"state": np.zeros(14, np.float32)}
    message = ALOHA.message(seen)
    assert set(message) == {"images", "state", "prompt"}
    assert {image.shape for image in message["images"].values()} == {(3, 224, 224)}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda layout: layout.name)
def test_what_a_layout_writes_it_reads(layout: Any) -> None:
    size = sum(count or 8 for count in layout.state.values())
    views = {"ego": "a", "cam_left_wrist": "b", "cam_right_wrist": "c"}
    embodiment = replace(LIBERO_PANDA, cameras=views, state_layout=tuple(map(str, range(size))))
    history = np.concatenate([EGO, 255 - EGO])
    sent = Observation(images=dict.fromkeys(views, history), state=np.arange(size, dtype=np.float32), instruction="pick it up")
    message = unpack(pack(layout.message(sent)))
    got = layout.observation(message, embodiment, reads_images=True, reads_state=True)
    assert got["instruction"] == "pick it up"
    np.testing.assert_array_equal(got["state"], sent["state"])
    assert set(got["images"]) == set(layout.images.values()) or (layout is VLARIG and set(got["images"]) == set(views))
    for image in got["images"].values():
        if layout is VLARIG:
            np.testing.assert_array_equal(image, history)  # untouched, with its history
        else:
            assert image.shape == (1, 224, 224, 3)
            assert abs(float(image.mean()) - float(history[-1].mean())) < 2


def test_a_robot_without_cameras_sends_no_image() -> None:
    blind = replace(LIBERO_PANDA, cameras={})
    message = unpack(pack(VLARIG.message({**observation(), "images": {}})))
    assert VLARIG.observation(message, blind, reads_images=True, reads_state=True)["images"] == {}
    with pytest.raises(BadMessageError, match="the message shows no image"):
        VLARIG.observation(message, LIBERO_PANDA, reads_images=True, reads_state=True)
    with pytest.raises(BadMessageError, match="libero_panda has no view 'ego'; it has none"):
        VLARIG.observation(VLARIG.message(observation(ego=EGO)), blind, reads_images=True, reads_state=True)


# Settings and conventions, against a server without an announcement, as openpi's own are.


@contextmanager
def silent_server(
    answer: Callable[[dict], Any] = lambda _: {"actions": np.zeros((10, 7))},
    metadata: object = None,
    port: int = 0,
) -> Iterator[tuple[str, list[dict]]]:
    """Answers as openpi's server does; yields its address and the messages that it got."""
    got: list[dict] = []

    def handle(connection: ServerConnection) -> None:
        connection.send(metadata if isinstance(metadata, (str, bytes)) else msgpack.packb(metadata or {}))
        try:
            for data in connection:
                got.append(unpack(data) | {"connection": id(connection)})
                reply = answer(got[-1])
                if reply is None:
                    connection.socket.close()
                    return
                connection.send(reply if isinstance(reply, (str, bytes)) else pack(reply))
        except (ConnectionClosed, OSError):
            pass

    with serve(handle, "127.0.0.1", port, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", got
        server.shutdown()
        thread.join()


DECLARED = {"layout": "libero", "convention": "libero_panda", "horizon": "10", "revision": "pi0-step-30000"}


@contextmanager
def remote(url: str, **settings: str) -> Iterator[OpenpiPolicy]:
    policy = load_policy(f"openpi:{url}", settings)
    assert isinstance(policy, OpenpiPolicy)
    try:
        yield policy
    finally:
        policy.close()
        policy.close()  # a second call does nothing


def test_a_declared_server_gets_its_layout_over_many_connections() -> None:
    def answer(message: dict) -> dict:
        time.sleep(0.2)
        return {"actions": np.full((10, 7), message["observation/state"][0]), "server_timing": {"infer_ms": 200.0}}

    with silent_server(answer) as (url, got), remote(url, **DECLARED) as policy:
        policy.check("libero_goal", LIBERO_PANDA)
        assert (policy.name, policy.horizon) == ("openpi", 10)
        requests = [request(env, seen=observation() | {"state": np.full(8, env, np.float32)}) for env in range(8)]
        began = time.monotonic()
        replies = policy.act(requests)
        assert time.monotonic() - began < 1.0
        assert [reply.actions[0, 0] for reply in replies] == list(range(8))
        assert len({message["connection"] for message in got}) == 8
        assert not any(str(key).startswith("vlarig") for message in got for key in message)


@pytest.mark.parametrize("missing", ["layout", "convention", "horizon", "revision"])
def test_a_server_without_an_announcement_stops_the_run_with_the_options_to_give(missing: str) -> None:
    options = {name: value for name, value in DECLARED.items() if name != missing}
    with silent_server() as (url, _), pytest.raises(PolicyError, match="does not say what its numbers mean") as refused:
        load_policy(f"openpi:{url}", options)
    assert f"--policy-options {missing}=" in str(refused.value)


def test_a_convention_that_does_not_fit_stops_the_run() -> None:
    with silent_server() as (url, _), remote(url, **DECLARED) as policy:
        with pytest.raises(PolicyError, match=r"'openpi'.*does not fit suite 'simpler_widowx'.*5 Hz"):
            policy.check("simpler_widowx", WIDOWX_BRIDGE)
        with pytest.raises(PolicyError, match="does not announce that it is strict; start it with --strict"):
            policy.strict()


@pytest.mark.parametrize(
    ("options", "suite", "embodiment", "says"),
    [
        (
            {"convention": "widowx_bridge"},
            "simpler_widowx",
            WIDOWX_BRIDGE,
            "the layout 'libero' shows the view 'cam_left_wrist'",
        ),
        (
            {"layout": "aloha"},
            "libero_goal",
            LIBERO_PANDA,
            "shows the view 'cam_right_wrist', which libero_panda does not have",
        ),
        (
            {"layout": "droid", "convention": "widowx_bridge"},
            "simpler_widowx",
            WIDOWX_BRIDGE,
            "shows the view 'cam_left_wrist'",
        ),
    ],
)
def test_a_layout_that_the_suite_cannot_fill_stops_the_run(
    options: dict, suite: str, embodiment: Embodiment, says: str
) -> None:
    with silent_server() as (url, _), remote(url, **DECLARED | options) as policy, pytest.raises(PolicyError) as refused:
        policy.check(suite, embodiment)
    assert f"suite {suite!r}: the layout" in str(refused.value)
    assert says in str(refused.value)


def test_a_convention_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(embodiment_to_data(replace(LIBERO_PANDA, name="mine"))))
    with silent_server() as (url, _), remote(url, **DECLARED | {"convention": str(path)}) as policy:
        policy.check("libero_goal", LIBERO_PANDA)


def test_images_get_the_size_that_is_declared() -> None:
    options = DECLARED | {"image_size": "64x48", "image_fit": "stretch"}
    with silent_server() as (url, got), remote(url, **options) as policy:
        policy.act([request()])
    assert got[0]["observation/image"].shape == (64, 48, 3)
    assert got[0]["observation/wrist_image"][0].any()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layuot": "libero"}, "has no option 'layuot'; did you mean layout"),
        ({"horizon": "ten"}, "the option horizon='ten' of the openpi policy is not possible"),
        (
            {"horizon": "0"},
            "horizon='0' of the openpi policy is not possible: input should be greater than or equal to 1 (horizon: Steps",
        ),
        ({"timeout": "-1"}, "timeout='-1' of the openpi policy is not possible"),
        ({"image_size": "small"}, "image_size='small' of the openpi policy is not possible"),
        (
            {"image_fit": "squeeze"},
            "image_fit='squeeze' of the openpi policy is not possible: input should be 'pad', 'stretch' or 'crop'",
        ),
        ({"layout": "liberoo"}, "unknown layout 'liberoo'; did you mean libero"),
        ({"convention": "libero_pand"}, "unknown embodiment 'libero_pand'"),
        ({"token_file": "no/such/file"}, "the token file no/such/file cannot be read"),
        ({"token_file": __file__}, "holds a token of more than one line"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_setting_gets_one_sentence(options: dict, says: str) -> None:
    with silent_server() as (url, _), pytest.raises(VlarigError) as refused:
        load_policy(f"openpi:{url}", DECLARED | options)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert str(refused.value).isprintable()


def test_an_address_without_a_server_or_that_is_none() -> None:
    with silent_server() as (url, _):
        pass
    with pytest.raises(PolicyError, match="no policy server can be reached at ws://127"):
        load_policy(f"openpi:{url}", DECLARED)
    with pytest.raises(PolicyError, match="write openpi:ws://HOST:PORT"):
        load_policy("openpi:localhost:8000", DECLARED)
    for address in ("ws://localhost:port", "ws://localhost:80000", "ws://"):
        with pytest.raises(PolicyError, match=f"^'{address}' is no address of a policy server; write ws://HOST:PORT$"):
            load_policy(f"openpi:{address}", DECLARED)


@pytest.mark.parametrize("scheme", ["openpi", "vla-eval"])
@pytest.mark.parametrize(
    "address", ["ws://me:hunter2@localhost:8000", "ws://localhost:8000/?token=hunter2", "me:hunter2@localhost"]
)
def test_an_address_with_a_secret_in_it_is_refused_unseen(scheme: str, address: str) -> None:
    with pytest.raises(PolicyError, match="VLARIG_POLICY_TOKEN") as refused:
        load_policy(f"{scheme}:{address}", {})
    assert "hunter2" not in str(refused.value)


def test_a_proxy_of_the_surroundings_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with silent_server() as (url, _), remote(url, **DECLARED) as policy:
        assert policy.act([request()])


@pytest.mark.parametrize("token", ["two\nlines", "s\u00e9cret", "bell\x07"])
def test_a_token_that_no_header_can_carry_is_refused_unseen(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    monkeypatch.setenv("VLARIG_POLICY_TOKEN", token)
    with silent_server() as (url, _), pytest.raises(VlarigError, match="VLARIG_POLICY_TOKEN holds a token of more") as refused:
        load_policy(f"openpi:{url}", DECLARED)
    assert token not in str(refused.value)


def test_a_server_that_never_greets_leaves_no_connection_behind() -> None:
    ended = threading.Event()

    def handle(connection: ServerConnection) -> None:
        with pytest.raises(ConnectionClosed):
            connection.recv(timeout=10)
        ended.set()

    with serve(handle, "127.0.0.1", 0, compression=None) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"ws://127.0.0.1:{server.socket.getsockname()[1]}"
        with pytest.raises(PolicyError, match=r"no answer within 0.3 s"):
            load_policy(f"openpi:{url}", DECLARED | {"connect_timeout": "0.3"})
        assert ended.wait(5)
        server.shutdown()
    assert "vlarig-openpi" not in [thread.name for thread in threading.enumerate()]


def test_the_revision_is_the_declared_one_and_what_else_the_server_says() -> None:
    revisions = []
    for metadata, revision in [({}, "a"), ({}, "b"), ({"config": 1}, "a")]:
        with silent_server(metadata=metadata) as (url, _), remote(url, **DECLARED | {"revision": revision}) as policy:
            revisions.append(policy.revision)
    assert revisions[0].startswith("a ")
    assert len(set(revisions)) == 3


@pytest.mark.parametrize("metadata", ["hello", b"\xc1", b"\x01"], ids=["text", "garbage", "number"])
def test_a_server_that_speaks_something_else(metadata: str | bytes) -> None:
    with silent_server(metadata=metadata) as (url, _), pytest.raises(PolicyError, match="does not speak openpi's protocol"):
        load_policy(f"openpi:{url}", DECLARED)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (
            "Traceback (most recent call last):\n  File ...\nKeyError: 'observation/image'",
            "failed on a request: KeyError: 'observation",
        ),
        ("Traceback:\n\x1b[31mKeyError: 'action'\x1b[0m", "KeyError: 'action'"),
        (b"\xc1", "answered with not a msgpack message"),
        ({"action": np.zeros((10, 7))}, "answered without an array 'actions'"),
        (None, "closed the connection"),
    ],
    ids=["error", "coloured error", "garbage", "no actions", "closed"],
)
def test_a_malformed_answer_gives_one_sentence(reply: object, says: str) -> None:
    with silent_server(lambda _: reply) as (url, _), remote(url, **DECLARED) as policy, pytest.raises(PolicyError) as refused:
        policy.act([request()])
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_server_that_takes_too_long() -> None:
    def answer(_: dict) -> None:
        time.sleep(1.0)

    options = DECLARED | {"timeout": "0.2"}
    with silent_server(answer) as (url, _), remote(url, **options) as policy, pytest.raises(PolicyError) as refused:
        policy.act([request()])
    assert "gave no answer within 0.2 s; raise the policy option timeout" in str(refused.value)


def test_a_connection_that_was_lost_is_made_again() -> None:
    lost = iter([True, False])
    server = silent_server(lambda _: None if next(lost) else {"actions": np.ones((10, 7))})
    with server as (url, got), remote(url, **DECLARED) as policy:
        (reply,) = policy.act([request()])
        assert reply.actions.all()
        assert len(got) == 2


def test_a_server_that_comes_back_as_another_is_refused() -> None:
    with silent_server(metadata={"config": "a"}) as (url, _):
        policy = load_policy(f"openpi:{url}", DECLARED)
    other = silent_server(metadata={"config": "b"}, port=int(url.rpartition(":")[2]))
    with other, pytest.raises(PolicyError, match="now announces another policy than before"):
        policy.act([request()])
    policy.close()  # pyright: ignore[reportAttributeAccessIssue]


# A server of ours announces itself.


def test_what_is_announced_need_not_be_declared_and_must_not_be_contradicted() -> None:
    noted = ImageReader()
    noted.table_note, noted.n_action_steps = "zero-shot", 7
    with served(noted, TOY_POINT) as server:
        with remote(server.address) as policy:
            assert (policy.name, policy.horizon, policy.needs.images, policy.reads_state) == ("image-reader", 10, True, True)
            assert (policy.table_note, policy.n_action_steps) == ("zero-shot", 7)
            assert policy.revision.startswith("image-reader 1 ")
            assert policy.embodiments == (TOY_POINT,)
            policy.check("toy", TOY_POINT)
            with pytest.raises(PolicyError, match=r"'image-reader'.*toy_point.*does not fit suite 'libero_goal'"):
                policy.check("libero_goal", LIBERO_PANDA)
        with remote(server.address, layout="vlarig", horizon="10"):
            pass
        for options, says in [
            ({"layout": "libero"}, "announces layout vlarig, and layout=libero was declared"),
            ({"horizon": "5"}, "announces horizon 10, and horizon=5 was declared"),
            (
                {"convention": "libero_panda"},
                "announces the conventions of toy_point, and convention=libero_panda was declared",
            ),
        ]:
            with pytest.raises(PolicyError, match=says):
                load_policy(f"openpi:{server.address}", options)


NO_STEPS = Announcement("notebook", "4", 0, "vlarig", True, True, False, LIBERO_PANDA).to_data()


@pytest.mark.parametrize(
    ("announced", "says"),
    [
        ({"version": 7}, "announces itself in version '7' and we speak 2; run the same vlarig on both ends"),
        ("hello", "announces itself in version 'hello'"),
        ({"version": True}, "announces itself in version 'True'"),
        (
            {"version": 2, "name": "x"},
            "announcement: Object missing required field `revision`; run the same vlarig on both ends",
        ),
        (NO_STEPS, "announcement: Expected `int` >= 1 - at `$.horizon`; run the same"),
        ({**NO_STEPS, "horizon": 1, "more": 2}, "announcement: Object contains unknown field `more`"),
    ],
    ids=["version", "text", "flag", "incomplete", "no steps", "unknown"],
)
def test_an_announcement_that_is_not_ours_is_refused(announced: object, says: str) -> None:
    with silent_server(metadata={"vlarig": announced}) as (url, _), pytest.raises(PolicyError) as refused:
        load_policy(f"openpi:{url}")
    assert says in str(refused.value)
