"""The wire: what is sent arrives unchanged, and whatever else arrives is refused with one kind of error."""

from __future__ import annotations

import struct
from dataclasses import asdict, replace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from toy.suite import TOY_SUITE

from vlarig.envs.api import Camera, ChunkResult, Episode, Frames, Needs, Outcome, Snapshot, StepResult
from vlarig.envs.errors import BadMessageError
from vlarig.envs.framing import Frame
from vlarig.envs.messages import KINDS, Failure, Message, Start, Step, Stepped, decode, encode
from vlarig.envs.untrusted import convert
from vlarig.envs.wire import MAX_HEAD_BYTES, MAX_MESSAGE_BYTES, pack, unpack

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
    steps = (StepResult(0.5, True, False), StepResult(0.0, False, False, primitives=3, truncated=True))
    snapshot = Snapshot(
        "go", 3, 4, np.ones(3, np.float32), frames, {"pose": np.eye(3)}, {"d": 0.25}, Outcome(True), "a", "b", {}
    )
    step = Step(np.zeros((2, 3), np.float32))
    return [Start(episode, Needs(images=False)), Stepped(ChunkResult(steps, snapshot)), step, Failure("crash", "x")]


def read(data: bytes) -> Message:
    """The message of any kind in the body of a frame."""
    return unpack(data, Message)


@given(PLAIN)
def test_plain_data_arrives_unchanged(value: object) -> None:
    assert unpack(pack(value), Any) == value


@given(ARRAYS)
def test_arrays_arrive_with_their_values_dtype_and_shape(array: np.ndarray) -> None:
    arrived = unpack(pack(array), Any)
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
    arrived = decode(encode(Start(episode, Needs())))
    assert isinstance(arrived, Start)
    assert arrived.episode == episode


def test_a_camera_that_cannot_be_shown_is_refused_with_its_place() -> None:
    (episode, *_) = TOY_SUITE.episodes(per_task=1)
    data = asdict(episode)
    data["protocol"]["cameras"][1]["drawn"] = [0, 64]
    with pytest.raises(
        BadMessageError,
        match=r"^the episode: camera 'cam_left_wrist' is rendered as .* - at `\$\.protocol\.cameras\[1\]`$",
    ):
        convert(data, Episode, "the episode")


@given(st.binary(max_size=200))
@settings(max_examples=500)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(BadMessageError):
        read(data)


@given(st.integers(0, 3), st.data())
@settings(max_examples=500)
def test_a_damaged_message_is_refused_or_still_a_message(which: int, data: st.DataObject) -> None:
    whole = bytearray(pack(message()[which]))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for damaged in (bytes(whole), cut):
        try:
            read(damaged)
        except BadMessageError as error:
            assert "\n" not in str(error)


@given(PLAIN)
def test_a_message_of_the_right_form_with_other_fields_is_refused(value: object) -> None:
    with pytest.raises(BadMessageError):
        read(pack({"type": "Step", "actions": value}))


def framed(head: bytes, bodies: bytes = b"") -> bytes:
    """A message of that head and those bytes of arrays."""
    return len(head).to_bytes(4, "big") + head + bodies


def array(dtype: int, *sizes: int, code: int = 1) -> bytes:
    """How a head describes an array."""
    return msgpack.packb(msgpack.ExtType(code, struct.pack(f"<B{len(sizes)}I", dtype, *sizes)))


U1, B1, I4, F8 = 0, 1, 2, 5
TIMESTAMP = msgpack.packb(msgpack.Timestamp(1, 2))


def in_payload(node: bytes, bodies: bytes = b"") -> bytes:
    """A Start whose episode's payload holds that piece of msgpack, the one field that may hold any plain data."""
    plain = unpack(pack(message()[0]), Any)
    plain["episode"]["payload"] = {"here": "@"}
    head, here = msgpack.packb(plain), msgpack.packb("@")
    assert head.count(here) == 1
    return framed(head.replace(here, node), bodies)


DIED = {"type": "Died", "kind": "crash", "message": "x", "running": 1}

HOSTILE = [
    (
        in_payload(array(F8, 10**9, 10**9), b"1234"),
        "no array of shape (1000000000, 1000000000) and dtype float64",
    ),
    (in_payload(array(I4, 3), b"12345678"), "no array of shape (3,) and dtype int32: cannot reshape array of size 2"),
    (
        in_payload(b"\x92" + 2 * array(U1, 5), b"12345678"),
        "no array of shape (5,) and dtype uint8: cannot reshape array of size 3",
    ),
    (in_payload(array(I4, 0, 2**32 - 1, 2**32 - 1)), "array is too big"),
    (in_payload(array(6, 1), b"1"), "described by a dtype's number below 6"),
    (in_payload(array(U1, *[1] * 65), b"1"), "maximum supported dimension"),
    (in_payload(b"\xc7\x00\x01"), "described by a dtype's number"),
    (in_payload(b"\xc7\x03\x01\x00\x00\x00", b"1"), "described by a dtype's number"),
    (in_payload(array(U1, 1, code=99), b"1"), "msgpack extension 99; only 1 (an array) is known"),
    (in_payload(b"\x81\x81\x00\x00\x00"), "not a message of ours: MessagePack data is malformed: map keys must be hashable"),
    (in_payload(b"\xa2\xff\xfe"), "not a message of ours: 'utf-8' codec can't decode"),
    (in_payload(b"\x91" * 100_000 + b"\xc0"), "not a message of ours: maximum recursion depth exceeded"),
    (in_payload(b"\xdd\xff\xff\xff\xff"), "not a message of ours: Input data was truncated"),
    (in_payload(b"\xdd\x00\x0f\x00\x00" * 100), "not a message of ours: Input data was truncated"),
    (pack(DIED) + b"1234", "a message of 49 bytes that ends at 45"),
    (framed(b"\xc0" * 2**19 + b"\xc0"), "a message with 524289 bytes beside arrays; at most 524288 are allowed"),
    (bytes(MAX_MESSAGE_BYTES + 1), "a message of 67108865 bytes; at most 67108864 are allowed"),
    (b"", "a message of 0 bytes cannot have a head that ends at 4"),
    (b"\x00\x00", "a message of 2 bytes cannot have a head that ends at 4"),
    (b"\x00\x00\x00\x02\xc0", "a message of 5 bytes cannot have a head that ends at 6"),
    (b"\xff\xff\xff\xff\xc0", "cannot have a head that ends at 4294967299"),
    (framed(b""), "not a message of ours: Input data was truncated"),
    (framed(msgpack.packb(DIED) + b"\xc0"), "not a message of ours: MessagePack data is malformed: trailing characters"),
    (framed(TIMESTAMP), "not a message of ours: Expected `object`, got"),
    (framed(array(I4, 1), b"1234"), "not a message of ours: Expected `object`, got `ext`"),
    (pack({**DIED, "message": np.zeros(3)}), "Expected `str`, got `ext` - at `$.message`"),
    (pack({**DIED, "admin": True}), "Object contains unknown field `admin`"),
    (pack({"type": "Died", "kind": "crash", "running": 1}), "Object missing required field `message`"),
    (pack({**DIED, "running": "1"}), "Expected `int`, got `str` - at `$.running`"),
    (pack({**DIED, "running": True}), "Expected `int`, got `bool` - at `$.running`"),
    (pack({**DIED, "running": 1.5}), "Expected `int`, got `float` - at `$.running`"),
    (pack({**DIED, "message": b"x"}), "Expected `str`, got `bytes` - at `$.message`"),
    (pack({**DIED, "type": "Goodbye"}), "Invalid value 'Goodbye' - at `$.type`"),
    (pack({"kind": "x"}), "Object missing required field `type`"),
    (pack({"type": "Step", "actions": b"x"}), "Expected `numpy.ndarray`, got `bytes` - at `$.actions`"),
    (pack({"type": "Step", "actions": [[0.0]]}), "Expected `numpy.ndarray`, got `list` - at `$.actions`"),
    (pack(["Died", {"message": "x"}]), "Expected `object`, got `array`"),
]


@pytest.mark.parametrize(("data", "says"), HOSTILE, ids=[says for _, says in HOSTILE])
def test_hostile_messages_are_refused_saying_why(data: bytes, says: str) -> None:
    with pytest.raises(BadMessageError) as refusal:
        read(data)
    assert says in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) <= 300


def test_what_is_within_the_limits_arrives() -> None:
    deep: object = 1
    for level in range(500):
        deep = [deep] if level % 2 else {"a": deep}
    many = [[0] * 4096] * 120
    text = "x" * (MAX_HEAD_BYTES - 5)
    for value in (deep, many, text, {str(number): [] for number in range(4096)}, np.zeros((0, 3, 2**20)), np.ones([1] * 8)):
        arrived = unpack(pack(value), Any)
        assert np.array_equal(arrived, value) if isinstance(value, np.ndarray) else arrived == value
    frames = Frames(tuple(range(64)), {view: np.zeros((64, 256, 256, 3), np.uint8) for view in ("ego", "wrist")})
    snapshot = Snapshot("go", 3, 4, np.ones(3, np.float32), frames, {}, {}, Outcome(True), "a", "b", {})
    arrived = decode(encode(Stepped(ChunkResult((StepResult(0.5, True, False),) * 64, snapshot))))
    assert isinstance(arrived, Stepped)
    assert len(arrived.result.steps) == 64
    assert arrived.result.snapshot.frames.views["wrist"].shape == (64, 256, 256, 3)


def test_an_array_does_not_keep_its_message_and_cannot_be_written_to() -> None:
    small, large = unpack(pack([np.zeros(3), np.zeros(10**6)]), Any)
    assert small.base is not None
    assert len(small.base if isinstance(small.base, bytes) else small.base.base) == 24
    assert small.ctypes.data % 8 == large.ctypes.data % 8 == 0
    with pytest.raises(ValueError, match="read-only"):
        small[0] = 1


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (["x" * 2**20], "1048582 bytes beside arrays, at most 524288 are allowed; make arrays of numbers"),
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
    data = asdict(episode)
    data["protocol"]["cameras"] = [{"view": name, "height": 8, "width": 8}] * 2
    data["payload"] = {}
    with pytest.raises(BadMessageError, match="cameras show a view twice") as refusal:
        convert(data, Episode, "the episode")
    assert str(refusal.value).isprintable()
    with pytest.raises(BadMessageError) as refusal:
        read(pack({**DIED, name: 1}))
    assert str(refusal.value).isprintable()


def test_a_frame_of_an_unknown_kind_or_of_another_kind_than_its_message_is_refused() -> None:
    for kind in (len(KINDS), 255):
        with pytest.raises(BadMessageError, match=f"a message of kind {kind}; kinds are numbered from 0 to"):
            decode(Frame(1, kind, 0, 0, b""))
    sent = encode(message()[2])
    with pytest.raises(BadMessageError, match="Invalid value 'Step'"):
        decode(sent._replace(kind=KINDS.index(Start)))


def test_objects_do_not_travel() -> None:
    for unsendable in (object(), np.array([object()]), np.array(["text"])):
        with pytest.raises(BadMessageError, match="cannot send"):
            pack(unsendable)


def test_a_protocol_that_breaks_its_own_rules_is_refused() -> None:
    plain = unpack(pack(message()[0]), Any)
    plain["episode"]["protocol"]["n_action_steps"] = 0
    with pytest.raises(BadMessageError, match="n_action_steps is 0"):
        read(pack(plain))
