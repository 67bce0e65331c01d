"""Decoding Basis Universal images, which the scans of Matterport3D for habitat hold since February 2020.

A ``.basis`` file of the ETC1S kind has two codebooks: colours ("endpoints") and patterns of 4 x 4 pixels ("selectors"). A
image is a Huffman-coded stream of one number of each codebook per block. The layout follows basis_universal@9bebe16 (licence
Apache-2.0): transcoder/basisu_file_headers.h, transcoder/basisu_transcoder_internal.h, and ``basisu_lowlevel_etc1s_transcoder``
in transcoder/basisu_transcoder.cpp.
"""

from __future__ import annotations

from binascii import crc_hqx

import numpy as np

from .errors import VlarigError

#: What a block adds to its colour for each of a pattern's four values, one row per intensity of the colour codebook.
_MODIFIERS = np.array(
    [(-b, -a, a, b) for a, b in ((2, 8), (5, 17), (9, 29), (13, 42), (18, 60), (24, 80), (33, 106), (47, 183))]
)

#: The order in which a Huffman table lists the code lengths of its own code lengths.
_LENGTHS_ORDER = (17, 18, 19, 20, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15, 16)

#: Bytes of a file's header, and the most pixels on a side that the encoder accepts.
_HEADER_BYTES, _MAX_SIDE = 77, 16384

#: The version that is read; values of the header's ``m_tex_format`` and ``m_tex_type``; and bits of its ``m_flags``.
_VERSION, _ETC1S, _VIDEO, _FLIPPED, _GLOBAL_CODEBOOK = 0x13, 0, 3, 2, 8

#: The symbol that repeats the last prediction of endpoints, and the run length symbol that an explicit length follows.
_REPEAT_PREDICTION, _LONG_RUN = 256, 63

#: For each value of the bits at the reader's place, a symbol times 32 plus the length of its code; and a mask of those bits.
_Table = tuple[list[int], int]


def decode_basis(data: bytes) -> np.ndarray:
    """The first image of a ``.basis`` file at its largest size, RGB, ``uint8[height, width, 3]``, upper row first.

    The pixels are those of the real transcoder's target RGBA32 without alpha. An image that is flipped before encoding, as its
    header says, is flipped back, as habitat-sim does.

    Args:
        data: The whole file; bytes after its end have no effect.
    """
    try:
        return _decode(data)
    except IndexError as error:  # of the reader's words, or of a table that has no symbols
        raise _damaged("a stream ends too early") from error


def _damaged(reason: str) -> VlarigError:
    """The error for a file that contradicts itself, or is of a kind that is not read."""
    return VlarigError(
        f"a Basis Universal image does not read: {reason}; get another copy of it, or one as ETC1S, version 0x13"
    )


def _decode(data: bytes) -> np.ndarray:
    """What ``decode_basis`` returns; raises IndexError too, where bits are read beyond the end of a stream."""

    def number(offset: int, size: int) -> int:
        return int.from_bytes(data[offset : offset + size], "little")

    def stream(offset: int, size_bytes: int) -> _Bits:
        """The stream whose place and size in the file are at ``offset``, in 4 and ``size_bytes`` bytes."""
        start = number(offset, 4)
        return _Bits(data[start : start + number(offset + 4, size_bytes)])

    body, first = data[_HEADER_BYTES : _HEADER_BYTES + number(8, 4)], number(65, 4)
    width, height, columns, rows = (number(first + at, 2) for at in (5, 7, 9, 11))
    flags, blocks = number(21, 2), (-(-width // 4), -(-height // 4))
    for sound, reason in (
        (
            data[:2] == b"sB" and number(4, 2) == _HEADER_BYTES <= len(data),
            "it does not begin with the header of a .basis file",
        ),
        (crc_hqx(data[8:_HEADER_BYTES], 0xFFFF) ^ 0xFFFF == number(6, 2), "the header's checksum is wrong"),
        (len(body) == number(8, 4), "its end is missing"),
        (crc_hqx(body, 0xFFFF) ^ 0xFFFF == number(12, 2), "the data's checksum is wrong"),
        (number(2, 2) == _VERSION, f"it is of version {number(2, 2):#x}"),
        (number(20, 1) == _ETC1S, f"it is of format {number(20, 1)}, such as UASTC"),
        (number(23, 1) != _VIDEO and not flags & _GLOBAL_CODEBOOK, "it is a video, or without codebooks of its own"),
        (not number(first, 5), "its first slice is not the first image at its largest size"),  # and not the alpha of one
        (min(width, height) > 0 and max(width, height) <= _MAX_SIDE and (columns, rows) == blocks, "its size is wrong"),
    ):
        if not sound:
            raise _damaged(reason)
    colours = _colours(stream(41, 3), number(39, 2))
    patterns = _patterns(stream(50, 3), number(48, 2))
    counts = len(colours), len(patterns)
    endpoints, selectors = _indices(stream(57, 4), stream(first + 13, 4), (rows, columns), counts)
    which = 4 * endpoints[:, None, :, None] + patterns[selectors].transpose(0, 2, 1, 3)
    pixels = colours.take(which).view(np.uint8).reshape(4 * rows, 4 * columns, 4)[:height, :width, :3]
    return np.ascontiguousarray(pixels[::-1] if flags & _FLIPPED else pixels)


def _colours(bits: _Bits, count: int) -> np.ndarray:
    """The codebook of endpoints as the four colours of each, ``uint32[count, 4]``: the bytes red, green, blue, 0."""
    steps = [bits.table() for _ in range(3)]
    intensity_steps, grey = bits.table(), bits.take(1)
    coded: list[tuple[int, ...]] = []
    intensity, values = 0, [16, 16, 16]
    for _ in range(count):
        intensity = (intensity + bits.symbol(intensity_steps)) & 7
        for channel in range(1 if grey else 3):
            value = values[channel]
            values[channel] = (value + bits.symbol(steps[(value > 9) + (value > 21)])) & 31
        coded.append((intensity, *(values[:1] * 3 if grey else values)))
    intensities, base = np.split(np.array(coded, np.int64).reshape(count, 4), [1], axis=1)
    colours = np.zeros((count, 4, 4), np.uint8)
    colours[:, :, :3] = np.clip((base << 3 | base >> 2)[:, None, :] + _MODIFIERS[intensities[:, 0]][:, :, None], 0, 255)
    return colours.view(np.uint32)[:, :, 0]


def _patterns(bits: _Bits, count: int) -> np.ndarray:
    """The codebook of selectors, ``uint8[count, 4, 4]``: which of four colours each pixel of a block has, upper row first."""
    if bits.take(1) or bits.take(1):
        raise _damaged("it has a global codebook of patterns")
    if bits.take(1):
        values = np.array([bits.take(8) for _ in range(4 * count)], np.uint8).reshape(count, 4)
    else:
        table = bits.table()
        coded = [bits.take(8) if i < 4 else bits.symbol(table) for i in range(4 * count)]
        values = np.bitwise_xor.accumulate(np.array(coded, np.int64).reshape(count, 4) & 255, axis=0)
    return (values[:, :, None] >> np.array([0, 2, 4, 6]) & 3).astype(np.uint8)


def _indices(tables: _Bits, bits: _Bits, shape: tuple[int, int], counts: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Each block's numbers in the codebooks of endpoints and selectors, ``counts`` long: both ``int64[rows, columns]``."""
    (rows, columns), (endpoint_count, selector_count) = shape, counts
    predictions, steps, selector_symbols, run_lengths = (tables.table() for _ in range(4))
    history = [0] * tables.take(13)
    middle = rover = len(history) // 2
    run_symbol = selector_count + len(history)
    if not history or not endpoint_count or not selector_count:
        raise _damaged("a codebook is empty")
    endpoints, selectors = [], []
    symbol, endpoint, repeats, run, prediction, ways = bits.symbol, 0, 0, 0, 0, 0
    upper = [endpoint_count] * (columns + 1)  # no endpoint, so that a block that takes one from beyond the edge is refused
    pairs = [0] * ((columns + 1) // 2)
    for y in range(rows):
        row = upper[:1]
        for x in range(columns):
            if x & 1:
                ways >>= 2
            elif y & 1:
                ways = pairs[x >> 1] >> 4
            else:  # one symbol for four blocks
                if repeats:
                    repeats -= 1
                elif (value := symbol(predictions)) == _REPEAT_PREDICTION:
                    repeats = bits.chunks(4) + 2
                else:
                    prediction = value
                pairs[x >> 1] = ways = prediction

            way = ways & 3
            if way == 3:
                endpoint += symbol(steps)
                endpoint -= endpoint_count if endpoint >= endpoint_count else 0
            else:  # that of the block to the left, above, or above to the left
                endpoint = upper[x + 2 - way] if way else row[x]
            if endpoint >= endpoint_count:
                raise _damaged("a block's colours are not in the codebook")
            row.append(endpoint)

            if run:
                run -= 1
                selectors.append(history[0])
                continue
            value = symbol(selector_symbols)
            if value < selector_count:
                history[rover] = value
                rover = rover + 1 if rover + 1 < len(history) else middle
            elif value < run_symbol:
                at = value - selector_count
                value = history[at]
                history[at], history[at >> 1] = history[at >> 1], value
            elif value > run_symbol:
                raise _damaged("a block's pattern is not in the codebook")
            else:
                run = symbol(run_lengths)
                run = (bits.chunks(7) if run == _LONG_RUN else run) + 2
                value = history[0]
            selectors.append(value)
        endpoints += row[1:]
        upper = row
    if repeats:
        raise _damaged("a run is longer than the image")
    return np.array(endpoints).reshape(shape), np.array(selectors).reshape(shape)


class _Bits:
    """Reads a stream from each byte's lowest bit up; an IndexError says that it ends too early."""

    def __init__(self, data: bytes) -> None:
        padded = np.frombuffer(data + bytes(3), np.uint8).astype(np.uint32)
        words = padded[:-3] | padded[1:-2] << 8 | padded[2:-1] << 16 | padded[3:] << 24
        self._words: list[int] = words.tolist()  # the four bytes from each byte on
        self._place = 0  # how many bits are read

    def take(self, count: int) -> int:
        """The next ``count`` bits, at most 25, as a number."""
        place = self._place
        self._place = place + count
        return self._words[place >> 3] >> (place & 7) & ((1 << count) - 1)

    def chunks(self, size: int) -> int:
        """A number in chunks of ``size`` bits, the lowest first, each with a bit that says whether another follows."""
        value = 0
        for shift in range(0, 32, size):
            chunk = self.take(size + 1)
            value |= (chunk & ((1 << size) - 1)) << shift
            if not chunk >> size:
                break
        return value

    def symbol(self, table: _Table) -> int:
        """The next symbol of a Huffman code."""
        symbols, mask = table
        place = self._place
        entry = symbols[self._words[place >> 3] >> (place & 7) & mask]
        self._place = place + (entry & 31)
        return entry >> 5

    def table(self) -> _Table:
        """Reads a table of a Huffman code; one of no symbols is allowed as long as none is read by it."""
        count = self.take(14)
        if not count:
            return [], 0
        own = [0] * 21
        for place in _LENGTHS_ORDER[: self.take(5)]:
            own[place] = self.take(3)
        lengths_table = _table(own)
        lengths: list[int] = []
        while len(lengths) < count:
            length = self.symbol(lengths_table)
            if length <= 16:
                lengths.append(length)
            elif length <= 18:
                lengths += [0] * (self.take(3) + 3 if length == 17 else self.take(7) + 11)
            else:
                lengths += lengths[-1:] * (self.take(2) + 3 if length == 19 else self.take(7) + 7)
        if len(lengths) != count:
            raise _damaged("a Huffman table has the wrong length")
        return _table(lengths)


def _table(lengths: list[int]) -> _Table:
    """The canonical Huffman code with codes of these lengths, in bits, 0 for symbols without a code."""
    sizes = np.array(lengths)
    symbols = np.argsort(sizes, kind="stable")[np.count_nonzero(sizes == 0) :]
    sizes = sizes[symbols]
    width = int(sizes.max(initial=0))
    spans = 1 << (width - sizes)  # how many values of ``width`` bits begin with a symbol's code, the first bit highest
    if spans.sum() != 1 << width and len(symbols) != 1:
        raise _damaged("a Huffman table is no code")
    entries = np.zeros(1 << width, np.int64)
    entries[: spans.sum()] = np.repeat(32 * symbols + sizes, spans)
    order = np.zeros(1, np.int64)
    for _ in range(width):
        order = np.concatenate([2 * order, 2 * order + 1])  # bits backwards, as the first bit is the lowest in the stream
    return entries[order].tolist(), (1 << width) - 1
