"""Actions in the ledger: bit for bit, and never more than they claim to be."""

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlarig.envs.errors import BadMessageError
from vlarig.results.actions import decode_actions, decode_shape, encode_actions

ANY_ACTIONS = arrays.arrays(
    np.float32, arrays.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=40), elements=st.floats(width=32)
)


@given(ANY_ACTIONS)
def test_actions_come_back_bit_for_bit(actions):
    blob = encode_actions(actions)
    decoded = decode_actions(blob)
    assert decoded.dtype == np.float32
    assert decoded.shape == actions.shape == decode_shape(blob)
    assert decoded.tobytes() == actions.tobytes()


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(blob):
    with pytest.raises(BadMessageError):
        decode_actions(blob)


@given(ANY_ACTIONS, st.data())
def test_a_changed_byte_is_noticed_or_harmless(actions, data):
    blob = bytearray(encode_actions(actions))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode_actions(bytes(blob))
    except BadMessageError:
        return
    assert decoded.tobytes() == actions.tobytes()


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_missing_or_further_bytes_are_noticed(cut):
    blob = encode_actions(np.ones((20, 7), np.float32))
    for damaged in (blob[:-cut], blob + b"x" * cut):
        with pytest.raises(BadMessageError):
            decode_actions(damaged)


def test_only_two_dimensions():
    with pytest.raises(ValueError, match=r"\[H, A\]"):
        encode_actions(np.zeros(7, np.float32))
