"""Messages of others' clients and servers are read within limits, whatever they encode."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from vlarig.envs.errors import BadMessageError
from vlarig.policies.openpi_wire import unpack


def array(dtype: str, shape: list[int], data: bytes) -> bytes:
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


HOSTILE = [
    (b"\x82\xa1a\x01\xa1a\x02", "a map that has a key twice"),
    (b"\x82\xa1a\x81\xa1b\x01\xc4\x01a\x82\xc4\x01b\x01\xc4\x01b\x02", "a map that has a key twice"),
    (b"\xc7\x00\x05", "it holds extension 5, of 0 bytes"),
    (msgpack.packb({"a": msgpack.ExtType(1, b"")}), "it holds extension 1, of 0 bytes"),
    (msgpack.packb({"a": msgpack.ExtType(1, b"x")}), "it holds extension 1, of 1 bytes"),
    (msgpack.packb({"a": msgpack.Timestamp(1, 2)}), "not a msgpack message"),
    (array("|b1", [3], b"\x00\x01\x02"), "an array of truth values whose bytes are not all 0 or 1"),
    (array("<f4", [0, 2**24, 2**24], b""), "which is too large"),
    (array("<f4", [2], b"1234"), "an array of shape [2] and dtype float32 cannot have 4 bytes"),
    (array("<f4", [1], "1234"), "cannot have data of type str"),
    (array("<f4", [True], b"1234"), "a list of sizes"),
    (msgpack.packb([0] * 1025), "exceeds max_array_len(1024)"),
    (msgpack.packb({str(key): 0 for key in range(257)}), "exceeds max_map_len(256)"),
    (msgpack.packb("x" * (2**16 + 1)), "exceeds max_str_len(65536)"),
    (msgpack.packb([[0] * 1000] * 21), "a message of more than 20000 values; send numbers as arrays"),
    (msgpack.packb([[{}] * 1000] * 11), "a message of more than 20000 values"),
    (b"\x91" * 9 + b"\xc0", "nested more than 8 deep"),
    (b"\x81\x01\x02", "not a msgpack message"),
    (b"\xdd\xff\xff\xff\xff", "not a msgpack message"),
]


@pytest.mark.parametrize(("data", "says"), HOSTILE, ids=[says for _, says in HOSTILE])
def test_what_allocates_too_much_or_means_two_things_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(BadMessageError) as refusal:
        unpack(data)
    assert says in str(refusal.value)


def test_what_is_within_the_limits_is_read() -> None:
    values = [[0] * 1024, {str(key): 0 for key in range(256)}, "x" * 2**16, [[0] * 1000] * 19, [[[[[[[[1]]]]]]]], b"x" * 2**20]
    for value in values:
        assert unpack(msgpack.packb(value)) == value
    assert unpack(array("|b1", [2, 1], b"\x00\x01")).tolist() == [[False], [True]]
    assert unpack(array("<f4", [0, 224, 224, 3], b"")).shape == (0, 224, 224, 3)
    assert unpack(array("<i2", [], b"\x05\x00")) == np.int16(5)
