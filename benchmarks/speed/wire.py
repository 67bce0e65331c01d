"""CPU that a chunk's messages cost: written and read by the wire's codec (msgspec), and by cattrs over msgpack on the same layout.

Needs cattrs and msgpack (``pip install cattrs msgpack``) and no simulator: ``python benchmarks/speed/wire.py``.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import make_dataclass
from statistics import median
from typing import Any, get_type_hints

import cattrs
import msgpack
import numpy as np

from vlarig.benchmarks.tabletop.suite import TABLETOP
from vlarig.envs import messages
from vlarig.envs.api import ChunkResult, Frames, Needs, Outcome, Snapshot, StepResult
from vlarig.envs.untrusted import build_array
from vlarig.envs.wire import pack, unpack

STEPS = 8
REPEATS = 500
TURNS = 7

Coded = tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def chunk_messages(images: bool) -> list[messages.Message]:
    """What an episode's begin and a chunk of 8 steps send, with two views of 256x256 pixels or without cameras."""
    (episode, *_) = TABLETOP.episodes(per_task=1)
    views = {view: np.zeros((1, 256, 256, 3), np.uint8) for view in ("ego", "cam_left_wrist")} if images else {}
    frames = Frames((STEPS,), views) if images else Frames()
    metrics, seconds = {"distance": 0.25, "height": 0.5}, {"simulate": 0.5, "render": 0.25}
    state = np.linspace(-1, 1, 8, dtype=np.float32)
    snapshot = Snapshot("go", STEPS, STEPS, state, frames, {}, metrics, Outcome(), "a" * 64, "b" * 64, seconds)
    return [
        messages.Start(episode, Needs(images=images)),
        messages.Started(snapshot),
        messages.Step(np.zeros((STEPS, 7), np.float32)),
        messages.Stepped(ChunkResult((StepResult(0.5, False, False),) * STEPS, snapshot)),
    ]


def with_cattrs() -> Coded:
    """The same layout, by cattrs and msgpack, as strict about types."""
    kinds: dict[str, Any] = {
        kind.__name__: make_dataclass(kind.__name__, get_type_hints(kind).items())
        for kind in (messages.Start, messages.Started, messages.Step, messages.Stepped)
    }
    dtypes = [np.dtype(name) for name in ("|u1", "|b1", "<i4", "<i8", "<f4", "<f8")]
    converter = cattrs.Converter(forbid_extra_keys=True)

    def exactly(*accepted: type) -> Callable[[Any, Any], Any]:
        def check(value: Any, kind: Any) -> Any:
            if type(value) not in accepted:
                raise ValueError(f"{type(value).__name__}, expected {kind.__name__}")
            return value

        return check

    for plain in (int, str, bool, np.ndarray):
        converter.register_structure_hook(plain, exactly(plain))
        converter.register_unstructure_hook(plain, lambda value: value)
    converter.register_structure_hook(float, exactly(float, int))

    def encode(message: Any) -> bytes:
        bodies: list[Any] = []

        def array_to_extension(array: Any) -> msgpack.ExtType:
            bodies.append(np.ascontiguousarray(array))
            return msgpack.ExtType(1, struct.pack(f"<B{array.ndim}I", dtypes.index(array.dtype), *array.shape))

        name = type(message).__name__
        fields = kinds[name](*(getattr(message, field) for field in message.__struct_fields__))
        head = msgpack.packb([name, converter.unstructure(fields)], default=array_to_extension)
        return b"".join([struct.pack(">I", len(head)), head, *bodies])

    def decode(data: bytes) -> Any:
        end = 4 + int.from_bytes(data[:4], "big")

        def extension_to_array(_: int, described: bytes) -> np.ndarray:
            nonlocal end
            dtype, shape = dtypes[described[0]], struct.unpack_from(f"<{len(described) // 4}I", described, 1)
            begin, end = end, end + dtype.itemsize * int(np.prod(shape))
            return build_array(dtype, shape, data[begin:end])

        name, fields = msgpack.unpackb(data[4:end], ext_hook=extension_to_array)
        return converter.structure(fields, kinds[name])

    return encode, decode


def measure(coded: Coded, message: messages.Message) -> tuple[float, float]:
    """Median CPU of encoding and of decoding, in microseconds."""
    encode, decode = coded
    data = encode(message)
    return _cost(lambda: encode(message)), _cost(lambda: decode(data))


def _cost(call: Callable[[], object]) -> float:
    spans = []
    for _ in range(TURNS):
        began = time.process_time()
        for _ in range(REPEATS):
            call()
        spans.append((time.process_time() - began) / REPEATS * 1e6)
    return median(spans)


def main() -> None:
    """Measure and print."""
    codecs: dict[str, Coded] = {"the wire": (pack, lambda data: unpack(data, messages.Message)), "cattrs": with_cattrs()}
    for images in (False, True):
        print(f"{STEPS} steps, {'two 256x256 views' if images else 'no cameras'}; microseconds to encode + to decode")
        for message in chunk_messages(images):
            figures = {name: measure(coded, message) for name, coded in codecs.items()}
            listed = ", ".join(f"{name} {encoding:.0f} + {decoding:.0f}" for name, (encoding, decoding) in figures.items())
            print(f"  {type(message).__name__}: {listed}")


if __name__ == "__main__":
    main()
