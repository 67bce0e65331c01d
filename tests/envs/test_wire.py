"""The wire: what is sent arrives unchanged, and whatever else arrives is refused with one kind of error."""

from __future__ import annotations

import struct
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
from vlarig.envs.wire import MAX_MESSAGE_BYTES, pack, unpack

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


def framed(head: bytes, bodies: bytes = b"") -> bytes:
    """A message of that head and those bytes of arrays."""
    return len(head).to_bytes(4, "big") + head + bodies


def array(dtype: int, *sizes: int, code: int = 1) -> bytes:
    """How a head describes an array."""
    return msgpack.packb(msgpack.ExtType(code, struct.pack(f"<B{len(sizes)}I", dtype, *sizes)))


U1, B1, I4, F8 = 0, 1, 2, 5
TIMESTAMP = msgpack.packb(msgpack.Timestamp(1, 2))


HOSTILE = [
    (
        framed(array(F8, 10**9, 10**9), b"1234"),
        "an array of shape [1000000000, 1000000000] and dtype float64 cannot have 4 bytes",
    ),
    (framed(array(I4, 1), b"12345678"), "a message of 20 bytes that ends at 16"),
    (framed(array(I4, 3), b"12345678"), "an array of shape [3] and dtype int32 cannot have 8 bytes"),
    (framed(b"\x92" + 2 * array(U1, 5), b"12345678"), "an array of shape [5] and dtype uint8 cannot have 3 bytes"),
    (framed(array(I4, 0, 2**32 - 1, 2**32 - 1)), "which is too large"),
    (framed(array(6, 1), b"1"), "described by a dtype's number below 6"),
    (framed(array(U1, *[1] * 9), b"1"), "at most 8 sizes"),
    (framed(b"\xc7\x00\x01"), "described by a dtype's number"),
    (framed(b"\xc7\x03\x01\x00\x00\x00", b"1"), "described by a dtype's number"),
    (framed(array(B1, 4), b"\x00\x01\x02\x01"), "an array of truth values whose bytes are not all 0 or 1"),
    (framed(array(U1, 1, code=99), b"1"), "msgpack extension 99; only 1 (an array) is known"),
    (framed(TIMESTAMP), "it holds a timestamp"),
    (framed(msgpack.packb({"a": [msgpack.Timestamp(1, 2)]})), "it holds a timestamp"),
    (framed(b"\x82\xa1a\x01\xa1a\x02"), "a map that has a key twice"),
    (framed(b"\x81\x01\x02"), "not a msgpack message"),
    (framed(b"\xa2\xff\xfe"), "not a msgpack message"),
    (framed(b"\x91" * 100_000), "not a msgpack message"),
    (framed(b"\x91" * 33 + b"\xc0"), "nested more than 32 deep"),
    (framed(b"\x81\xa1a" * 33 + b"\xc0"), "nested more than 32 deep"),
    (framed(msgpack.packb([0] * 5000)), "exceeds max_array_len(4096)"),
    (framed(msgpack.packb({str(key): 0 for key in range(5000)})), "exceeds max_map_len(4096)"),
    (framed(msgpack.packb([[0] * 4096] * 20)), "a message of more than 65536 values"),
    (framed(msgpack.packb([[[]] * 4000] * 17)), "a message of more than 65536 values"),
    (framed(msgpack.packb([[{"a": 0}] * 4000] * 12)), "a message of more than 65536 values"),
    (framed(b"\xdc\x0f\xa0" * 20 + array(U1) * 70_000, bytes(70_000)), "a message of more than 65536 values"),
    (framed(b"\xc0" * 2**20 + b"\xc0"), "a message of 1048577 bytes; at most 1048576 are allowed"),
    (bytes(MAX_MESSAGE_BYTES + 1), "a message of 67108865 bytes; at most 67108864 are allowed"),
    (b"", "a message of 0 bytes cannot have a head that ends at 4"),
    (b"\x00\x00", "a message of 2 bytes cannot have a head that ends at 4"),
    (b"\x00\x00\x00\x02\xc0", "a message of 5 bytes cannot have a head that ends at 6"),
    (b"\xff\xff\xff\xff\xc0", "cannot have a head that ends at 4294967299"),
    (framed(b""), "not a msgpack message"),
    (framed(b"\xc0\xc0"), "not a msgpack message"),
    (pack(["Hello", {"version": 1, "token": "x", "admin": True}]), "unknown ['admin']"),
    (pack(["Hello", {"version": 1}]), "missing ['token']"),
    (pack(["Hello", {"version": "1", "token": "x"}]), "Hello.version is str, expected int"),
    (pack(["Hello", {"version": True, "token": "x"}]), "Hello.version is bool, expected int"),
    (pack(["Hello", {"version": 1.0, "token": "x"}]), "Hello.version is float, expected int"),
    (pack(["Hello", {"version": 1, "token": b"x"}]), "Hello.token is bytes, expected str"),
    (pack(["Goodbye", {}]), "expected [name, fields]"),
]


@pytest.mark.parametrize(("data", "says"), HOSTILE, ids=[says for _, says in HOSTILE])
def test_hostile_messages_are_refused_saying_why(data: bytes, says: str) -> None:
    with pytest.raises(BadMessageError) as refusal:
        decode(data)
    assert says in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= 300


def test_what_is_within_the_limits_arrives() -> None:
    deep: object = 1
    for level in range(32):
        deep = [deep] if level % 2 else {"a": deep}
    many = [[0] * 4096] * 15
    text = "x" * (2**20 - 100)
    for value in (deep, many, text, {str(number): [] for number in range(4096)}, np.zeros((0, 3, 2**20)), np.ones([1] * 8)):
        arrived = unpack(pack(value))
        assert np.array_equal(arrived, value) if isinstance(value, np.ndarray) else arrived == value
    frames = Frames(tuple(range(64)), {view: np.zeros((64, 256, 256, 3), np.uint8) for view in ("ego", "wrist")})
    snapshot = Snapshot("go", 3, 4, np.ones(3, np.float32), frames, {}, {}, Outcome(True), "a", "b", {})
    arrived = decode(encode(Stepped(5, ChunkResult((Row(0.5, True, False),) * 64, snapshot))))
    assert isinstance(arrived, Stepped)
    assert len(arrived.result.rows) == 64
    assert arrived.result.snapshot.frames.views["wrist"].shape == (64, 256, 256, 3)


def test_an_array_does_not_keep_its_message_and_cannot_be_written_to() -> None:
    small, large = unpack(pack([np.zeros(3), np.zeros(10**6)]))
    assert small.base is not None
    assert len(small.base if isinstance(small.base, bytes) else small.base.base) == 24
    assert small.ctypes.data % 8 == large.ctypes.data % 8 == 0
    with pytest.raises(ValueError, match="read-only"):
        small[0] = 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["x" * 2**20], "1048582 bytes beside arrays, at most 1048576 are allowed; make arrays of numbers"),
        (np.zeros([1] * 9), "arrays of 9 dimensions do not travel"),
        (2**64, "cannot send int"),
        ("\ud800", "cannot send str"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isascii() else "",
)
def test_what_would_be_refused_is_not_sent(value: object, says: str) -> None:
    with pytest.raises(BadMessageError, match="cannot send") as refusal:
        pack(value)
    assert says in str(refusal.value)


@given(st.text(min_size=1))
def test_a_refusal_is_one_printable_line_whatever_is_named(name: str) -> None:
    (episode, *_) = TOY_SUITE.episodes(per_task=1)
    told = asdict(episode)
    told["protocol"]["cameras"] = [{"view": name, "height": 8, "width": 8}] * 2
    told["payload"] = {}
    with pytest.raises(BadMessageError, match="cameras show a view twice") as refusal:
        structure(Episode, told, "episode")
    assert str(refusal.value).isprintable()
    with pytest.raises(BadMessageError) as refusal:
        decode(pack(["Hello", {name: 1}]))
    assert str(refusal.value).isprintable()


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
