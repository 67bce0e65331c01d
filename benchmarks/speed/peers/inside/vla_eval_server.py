"""A model server of vla-eval's that answers with our chunks, and prints its port. Like all, it sends a step of a chunk at a time."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import anyio
from chunks import STEPS, Chunks, note
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_AA, STATE_EEF_POS_AA_GRIP, DimSpec


class ChunkServer(PredictModelServer):
    """Answers what :class:`Chunks` does."""

    def __init__(self) -> None:
        super().__init__(chunk_size=STEPS)
        self._chunks = Chunks()

    async def on_episode_start(self, config: dict[str, Any], ctx: Any) -> None:
        """Note it, and forget the chunk of the episode before."""
        note("begin")
        await super().on_episode_start(config, ctx)

    def predict(self, obs: dict[str, Any], ctx: Any) -> dict[str, Any]:
        images = obs["images"]
        return {"actions": self._chunks.chunk(images["agentview"], images["wrist"], obs["states"], obs["task_description"])}

    def get_action_spec(self) -> dict[str, DimSpec]:
        """What the LIBERO benchmark announces too."""
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"agentview": IMAGE_RGB, "wrist": IMAGE_RGB, "state": STATE_EEF_POS_AA_GRIP, "language": LANGUAGE}


async def main() -> None:
    async with anyio.create_task_group() as group:
        port = await group.start(partial(serve_async, ChunkServer(), "127.0.0.1", 0))
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(main)
