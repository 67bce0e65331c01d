"""Runs where openpi-client is installed and vlarig is not: sends its input to a policy server, and passes the actions on.

On standard input come observations, one after the other: a 4-byte length and the arrays ``ego``, ``wrist``, ``state`` and ``prompt`` as
npz. The server's answers go to standard output in the same form. Images are resized as openpi's examples/libero/main.py does.
"""

import io
import struct
import sys

import numpy as np
from openpi_client import image_tools
from openpi_client.websocket_client_policy import WebsocketClientPolicy


def write(**arrays):
    held = io.BytesIO()
    np.savez(held, **arrays)
    sys.stdout.buffer.write(struct.pack("<I", len(held.getvalue())) + held.getvalue())
    sys.stdout.buffer.flush()


def main():
    client = WebsocketClientPolicy("127.0.0.1", int(sys.argv[1]), api_key=sys.argv[2])
    metadata = client.get_server_metadata()["vlarig"]
    write(name=np.array(metadata["name"]), horizon=np.array(metadata["horizon"]), layout=np.array(metadata["layout"]))
    while head := sys.stdin.buffer.read(4):
        seen = np.load(io.BytesIO(sys.stdin.buffer.read(*struct.unpack("<I", head))))
        element = {
            "observation/image": image_tools.convert_to_uint8(image_tools.resize_with_pad(seen["ego"], 224, 224)),
            "observation/wrist_image": image_tools.convert_to_uint8(image_tools.resize_with_pad(seen["wrist"], 224, 224)),
            "observation/state": seen["state"].astype(np.float64),
            "prompt": str(seen["prompt"]),
        }
        if not element["prompt"]:
            del element["prompt"]
        try:
            answer = client.infer(element)
        except RuntimeError as error:
            write(error=np.array(str(error)))
        else:
            write(actions=answer["actions"], infer_ms=np.array(answer["server_timing"]["infer_ms"]))


if __name__ == "__main__":
    main()
