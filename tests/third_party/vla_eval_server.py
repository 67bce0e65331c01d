"""A model server of vla-eval's, run in an environment that has the package: its actions depend on its whole input.

    python vla_eval_server.py STEPS COLUMNS CHUNK_SIZE     CHUNK_SIZE 0: none, so that whole chunks are answered

It prints its port, then for each batch that it predicts how many observations are in it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import anyio
import numpy as np
from seen import actions_seen
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import serve_async
from vla_eval.specs import GRIPPER_CLOSE_POS, IMAGE_RGB, LANGUAGE, POSITION_DELTA, ROTATION_AA, STATE_EEF_POS_AA_GRIP, DimSpec


class SeenServer(PredictModelServer):
    """Predicts in batches."""

    def __init__(self, steps: int, columns: int, chunk_size: int | None) -> None:
        super().__init__(chunk_size=chunk_size, max_batch_size=4, max_wait_time=0.05)
        self.shape = steps, columns

    def predict_batch(self, obs_batch: list[dict[str, Any]], ctx_batch: list[Any]) -> list[dict[str, Any]]:
        print(len(obs_batch), flush=True)
        return [{"actions": self._predict(obs)} for obs in obs_batch]

    def _predict(self, obs: dict[str, Any]) -> np.ndarray:
        return actions_seen(obs["images"], obs["states"], obs["task_description"], self.shape)

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {"position": POSITION_DELTA, "rotation": ROTATION_AA, "gripper": GRIPPER_CLOSE_POS}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        return {"agentview": IMAGE_RGB, "wrist": IMAGE_RGB, "state": STATE_EEF_POS_AA_GRIP, "language": LANGUAGE}


async def main(steps: int, columns: int, chunk_size: int) -> None:
    async with anyio.create_task_group() as group:
        print(
            await group.start(partial(serve_async, SeenServer(steps, columns, chunk_size or None), "127.0.0.1", 0)), flush=True
        )


if __name__ == "__main__":
    anyio.run(main, *map(int, sys.argv[1:]))
