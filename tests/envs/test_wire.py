"""The wire: what is sent arrives unchanged, and whatever else arrives is refused with one kind of error."""

from __future__ import annotations

from dataclasses import asdict, replace

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from toy.suite import TOY_SUITE

from vlarig.envs.api import Camera, ChunkResult, Episode, Frames, Needs, Outcome, Row, Snapshot
from vlarig.envs.errors import BadMessageError
from vlarig.envs.messages import Failure, Hello, Message, Start, Step, Stepped, decode, encode
from vlarig.envs.structure import structure
from vlarig.envs.wire import pack, unpack

DTYPES = st.sampled_from(["uint8", "bool", "int32", "int64", "float32", "float64", ">f4", ">i8"])
ARRAYS = arrays.arrays(DTYPES, arrays.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4))
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
PLAIN = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


def message() -> list[Message]:
    suite = TOY_SUITE
    (episode, *_) = suite.episodes(per_task=1)
    frames = Frames((3,), {"ego": np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)})
    rows = (Row(0.5, True, False), Row(0.0, False, False, primitives=3, truncated=True))
    snapshot = Snapshot(
        "go", 3, 4, np.ones(3, np.float32), frames, {"pose": np.eye(3)}, {"d": 0.25}, Outcome(True), "a", "b", {}
    )
    step = Step(1, 2, np.zeros((2, 3), np.float32))
    return [Start(4, 1, episode, Needs(images=False)), Stepped(5, ChunkResult(rows, snapshot)), step, Failure(-1, "crash", "x")]


@given(PLAIN)
def test_plain_data_arrives_unchanged(value: object) -> None:
    assert unpack(pack(value)) == value


@given(ARRAYS)
def test_arrays_arrive_with_their_values_dtype_and_shape(array: np.ndarray) -> None:
    arrived = unpack(pack(array))
    assert arrived.dtype == array.dtype.newbyteorder("=")
    np.testing.assert_array_equal(arrived, array)


def test_messages_arrive_unchanged() -> None:
    for sent in message():
        arrived = decode(encode(sent))
        assert type(arrived) is type(sent)
        assert encode(arrived) == encode(sent)


def test_every_field_of_a_protocol_arrives() -> None:
    camera = Camera("ego", 24, 32, drawn=(48, 64), mirror=True, resize="jpeg_lanczos3", crop=0.9)
    protocol = replace(
        TOY_SUITE.protocols[0],
        cameras=(camera, Camera("cam_left_wrist", 8, 8)),
        wait_steps=2,
        wait_action=(0.0, 0.5, -1.0),
        gripper="sign",
        stop_on_success=False,
    )
    episode = replace(TOY_SUITE.episodes(per_task=1)[0], protocol=protocol)
    arrived = decode(encode(Start(4, 1, episode, Needs())))
    assert isinstance(arrived, Start)
    assert arrived.episode == episode


def test_a_camera_that_cannot_be_shown_is_refused_with_its_place() -> None:
    (episode, *_) = TOY_SUITE.episodes(per_task=1)
    told = asdict(episode)
    told["protocol"]["cameras"][1]["drawn"] = [64, 64, 64]
    with pytest.raises(
        BadMessageError, match=r"episode\.protocol\.cameras\[1\] is no Camera: camera 'cam_left_wrist' is drawn as"
    ):
        structure(Episode, told, "episode")


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        decode(data)


@given(st.integers(0, 3), st.data())
@settings(max_examples=500)
def test_a_damaged_message_is_refused_or_still_a_message(which: int, data: st.DataObject) -> None:
    whole = bytearray(encode(message()[which]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for damaged in (bytes(whole), cut):
        try:
            decode(damaged)
        except BadMessageError as error:
            assert "\n" not in str(error)


@given(PLAIN)
def test_a_message_of_the_right_form_with_other_fields_is_refused(value: object) -> None:
    with pytest.raises(BadMessageError):
        decode(pack(["Step", value]))


ARRAY = 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(["<f4", [10**9, 10**9]]) + b"1234")), "shape"),
        (msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(["<f4", [-1]]) + b"1234")), "sizes"),
        (msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(["|O", [1]]) + b"12345678")), "dtype"),
        (msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(["<f4", [1]]) + b"12345678")), "cannot have 8 bytes"),
        (msgpack.packb(msgpack.ExtType(ARRAY, b"")), ""),
        (msgpack.packb(msgpack.ExtType(ARRAY, msgpack.packb(["<f4", [1] * 50]) + b"1234")), ""),
        (msgpack.packb(msgpack.ExtType(99, b"")), "extension 99"),
        (b"\x91" * 100_000, "not a msgpack message"),
        (pack(["Hello", {"version": 1, "token": "x", "admin": True}]), "unknown ['admin']"),
        (pack(["Hello", {"version": 1}]), "missing ['token']"),
        (pack(["Hello", {"version": "1", "token": "x"}]), "Hello.version is str, expected int"),
        (pack(["Goodbye", {}]), "expected [name, fields]"),
    ],
)
def test_hostile_messages_are_refused_saying_why(data: bytes, says: str) -> None:
    with pytest.raises(BadMessageError) as refusal:
        decode(data)
    assert says in str(refusal.value)


def test_text_frames_and_objects_do_not_travel() -> None:
    with pytest.raises(BadMessageError, match="text frame"):
        decode("hello")
    for unsendable in (object(), np.array([object()]), {1, 2}, np.array(["text"])):
        with pytest.raises(BadMessageError, match="cannot send"):
            pack(unsendable)


def test_a_protocol_that_breaks_its_own_rules_is_refused() -> None:
    plain = unpack(encode(message()[0]))
    plain[1]["episode"]["protocol"]["execute"] = 0
    with pytest.raises(BadMessageError, match="execute is 0"):
        decode(pack(plain))


def test_a_greeting_is_a_message() -> None:
    assert decode(encode(Hello(1, "secret"))) == Hello(1, "secret")
