"""RLinf's LIBERO env, called for whole chunks as its rollout worker calls it (``LiberoEnv.chunk_step``): one process an env.

    python rlinf_loop.py SUITE STEPS EPISODES ENVS     plays the first initial states of task 0, ENVS at a time

The env's settings are those of RLinf's examples/embodiment/config/env/libero_object.yaml (RLinf/RLinf@a3816b5), for evaluation, with
initial states in their order. A chunk is carried out whole, so an episode's last one may exceed STEPS; all steps that were simulated
are counted, which is in RLinf's favour. It prints its result as a line of JSON when the last episode is over.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from chunks import Chunks, note
from omegaconf import OmegaConf
from rlinf.envs.libero.libero_env import LiberoEnv

SIZE = 256
SEED = 7


def main(suite: str, steps: int, episodes: int, count: int) -> None:
    """Play the episodes, ``count`` of them at a time, and print their results."""
    if episodes % count:
        raise SystemExit(f"{episodes} episodes were requested of {count} envs; expected a multiple")
    settings = {
        "task_suite_name": suite,
        "task_id_filter": [0],
        "seed": SEED,
        "group_size": 1,
        "is_eval": True,
        "use_fixed_reset_state_ids": True,
        "use_ordered_reset_state_ids": True,
        "reset_gripper_open": True,
        "auto_reset": False,
        "ignore_terminations": False,
        "max_episode_steps": steps,
        "use_rel_reward": True,
        "reward_coef": 1.0,
        "video_cfg": {"save_video": False},
        "init_params": {"camera_heights": SIZE, "camera_widths": SIZE},
    }
    env = LiberoEnv(OmegaConf.create(settings), count, seed_offset=0, total_num_processes=1, worker_info=None)
    chunks = Chunks()
    played = solved = 0
    for first in range(0, episodes, count):
        for _ in range(count):
            note("begin")
        # The ids of task 0's initial states are their numbers; the env begins with the first ones by itself.
        seen, _ = env.reset(reset_state_ids=np.arange(first, first + count))
        over = np.zeros(count, dtype=bool)
        while not over.all():
            answers = [
                chunks.chunk(ego.numpy(), wrist.numpy(), state.numpy(), instruction)
                for ego, wrist, state, instruction in zip(
                    seen["main_images"], seen["wrist_images"], seen["states"], seen["task_descriptions"], strict=True
                )
            ]
            shown, _, terminations, truncations, _ = env.chunk_step(torch.from_numpy(np.stack(answers)))
            seen = shown[-1]
            played += count * len(shown)
            solved += int((terminations.any(dim=1).numpy() & ~over).sum())
            over |= (terminations | truncations).any(dim=1).numpy()
    env.env.close()
    sys.stdout.write(json.dumps({"episodes": episodes, "steps": played, "successes": solved}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
