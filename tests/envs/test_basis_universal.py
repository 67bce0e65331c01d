"""Basis Universal images have the pixels that the real transcoder makes of them, and damage is an error of one sentence.

``basis.npz`` holds, by name, a file as ``<name>_file`` and its pixels as ``<name>``, ``uint8[height, width, 3]``. The pixels
are those of the npm package three's basis_transcoder, target RGBA32, without alpha. The encoder is basisu of
basis_universal@9bebe16, and of @0cc6736, January 2020, for ``flipped_alpha``, ``grey`` and ``global_codebook``.
"""

from __future__ import annotations

import random
from binascii import crc_hqx
from pathlib import Path

import numpy as np
import pytest

from vlarig.envs.basis_universal import decode_basis
from vlarig.envs.errors import VlarigError

with np.load(Path(__file__).parent / "data" / "basis.npz") as kept:
    KEPT = {name: kept[name] for name in kept.files}
FILES = {name[:-5]: array.tobytes() for name, array in KEPT.items() if name.endswith("_file")}
IMAGES = sorted(name for name in FILES if name in KEPT)


def with_checksums(data: bytes) -> bytes:
    """The file with checksums, and a length, that fit what is in it."""
    body = data[77:]
    header = len(body).to_bytes(4, "little") + (crc_hqx(body, 0xFFFF) ^ 0xFFFF).to_bytes(2, "little") + data[14:77]
    return data[:6] + (crc_hqx(header, 0xFFFF) ^ 0xFFFF).to_bytes(2, "little") + header + body


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_the_real_transcoders(name: str) -> None:
    pixels = decode_basis(FILES[name] + b"\0\0\0")
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous and pixels.flags.writeable
    np.testing.assert_array_equal(pixels, KEPT[name][::-1] if name.startswith("flipped") else KEPT[name])


def outcome(data: bytes) -> object:
    """The shape of the image, or what the error says."""
    try:
        return decode_basis(data).shape
    except VlarigError as error:
        return str(error)


@pytest.mark.parametrize("name", [*IMAGES, "uastc"])
def test_damage_is_an_error_or_an_image(name: str) -> None:
    data, outcomes = FILES[name], set()
    assert with_checksums(data) == data
    for seed in range(300):
        chance = random.Random(seed)
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 30))):  # in the header and the tables more often than in the blocks
            damaged[chance.randrange(min(chance.choice((77, 300, len(data))), len(data)))] = chance.randrange(256)
        if chance.random() < 0.3:
            del damaged[chance.randrange(77, len(data)) :]
        outcomes |= {outcome(bytes(damaged)), outcome(with_checksums(bytes(damaged)))}
    assert len(outcomes) > 5  # the damage reaches many places


@pytest.mark.parametrize("data", [b"", b"sB", b"\x89PNG" * 40, bytes(200)])
def test_what_is_no_basis_file_is_refused(data: bytes) -> None:
    with pytest.raises(VlarigError, match="does not begin with the header"):
        decode_basis(data)


def test_damage_is_noticed_by_the_checksums() -> None:
    data = bytearray(FILES["mipmaps"])
    data[-1] ^= 1
    with pytest.raises(VlarigError, match="the data's checksum is wrong"):
        decode_basis(bytes(data))


@pytest.mark.parametrize(
    ("name", "said"), [("uastc", "of format 1, such as UASTC"), ("global_codebook", "a global codebook of patterns")]
)
def test_other_kinds_are_refused(name: str, said: str) -> None:
    with pytest.raises(VlarigError, match=said):
        decode_basis(FILES[name])
