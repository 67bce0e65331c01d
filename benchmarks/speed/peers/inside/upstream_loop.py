"""LIBERO's plain loop, as the public evaluators write it (openpi's examples/libero/main.py): one process, one episode at a time.

    python upstream_loop.py SUITE STEPS START...     plays task 0 from these of its initial states

It prints its result as a line of JSON when the last episode is over, as they do.
"""

from __future__ import annotations

import json
import os
import sys
from collections import deque

import numpy as np
from chunks import Chunks, note
from libero.libero import benchmark, get_libero_path
from libero.libero.envs import OffScreenRenderEnv
from robosuite.utils.transform_utils import quat2axisangle

SIZE = 256
WAIT_STEPS = 10
WAIT_ACTION = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
SEED = 7


def main(suite_name: str, steps: int, initial_states: list[int]) -> None:
    suite = benchmark.get_benchmark_dict()[suite_name]()
    task, states = suite.get_task(0), suite.get_task_init_states(0)
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)  # noqa: PTH118
    env = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=SIZE, camera_widths=SIZE)
    env.seed(SEED)
    chunks = Chunks()
    played = solved = 0
    for initial_state in initial_states:
        note("begin")
        env.reset()
        seen = env.set_init_state(states[initial_state])
        for _ in range(WAIT_STEPS):
            seen, _, _, _ = env.step(WAIT_ACTION)
        chunk: deque[np.ndarray] = deque()
        for _ in range(steps):
            ego, wrist = seen["agentview_image"][::-1, ::-1], seen["robot0_eye_in_hand_image"][::-1, ::-1]
            if not chunk:
                rotation = quat2axisangle(seen["robot0_eef_quat"])
                state = np.concatenate([seen["robot0_eef_pos"], rotation, seen["robot0_gripper_qpos"]])
                chunk.extend(chunks.chunk(ego, wrist, state, task.language))
            seen, _, done, _ = env.step(chunk.popleft().tolist())
            played += 1
            if done:
                solved += 1
                break
    env.close()
    sys.stdout.write(json.dumps({"episodes": len(initial_states), "steps": played, "successes": solved}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(word) for word in sys.argv[3:]])
