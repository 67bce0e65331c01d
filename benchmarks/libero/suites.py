"""LIBERO's five suites, and the protocols of the public evaluators that score policies on them.

Suites, tasks and their order are those of LIBERO (Liu et al., 2023; Lifelong-Robot-Learning/LIBERO libero/libero/benchmark/
libero_suite_task_map.py@8f1084e). Each task has fifty initial states: the rows of its file of initial states. Published numbers differ
in how they were taken, so every evaluator is a protocol of its own, named after its repository, and so is the Qwen-VLA paper's
setting; ``docs/libero.md`` compares them.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.libero.robot import LIBERO_PANDA
from ..suite import Footprint, Patience, Suite, Task
from ..trial import Trial

#: Suite to its tasks, in LIBERO's order.
TASKS: dict[str, list[str]] = json.loads(Path(__file__).with_name("tasks.json").read_text())

#: Rows of a task's initial states that the evaluators play (``num_trials_per_task`` of all but LeRobot).
INITIAL_STATES = tuple(range(50))

#: Steps an episode may last: openvla-oft experiments/robot/libero/run_libero_eval.py@213c5ff, ``TASK_MAX_STEPS``; the same numbers in
#: starVLA examples/simBenchmarks/LIBERO/eval_files/eval_libero.py@0ed0aad and openpi examples/libero/main.py@15a9616.
STEP_LIMITS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}

#: LeRobot gives LIBERO-Spatial more time: lerobot src/lerobot/envs/libero.py@7427f31, ``TASK_SUITE_MAX_STEPS``.
LEROBOT_STEP_LIMITS = STEP_LIMITS | {"libero_spatial": 280}

#: All let the objects fall first: ``num_steps_wait`` steps that leave the arm where it is and open the gripper.
WAIT_STEPS = 10
WAIT_ACTION = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)


#: Numbers of the tasks that tests play of each suite: scenes with a stove, with drawers and doors that a reset opens, with bowls in
#: drawers and on objects, and with neither.
TRIAL_TASKS = {
    "libero_spatial": (0, 4, 7),
    "libero_object": (1, 7),
    "libero_goal": (7, 3, 8),
    "libero_10": (3, 9),
    "libero_90": (0, 40),
}


def protocols(suite: str) -> tuple[Protocol, ...]:
    """The protocols of a suite, the default first. Trials and seeds of the evaluators, which are not reproduced: docs/libero.md."""
    # starVLA/starVLA@0ed0aad examples/simBenchmarks/LIBERO/: eval_files/eval_libero.py, eval_files/model2libero_interface.py,
    # train_files/starvla_cotrain_libero.yaml
    starvla = _protocol(
        "starvla",
        STEP_LIMITS[suite],
        _cameras(height=224, width=224, drawn=(256, 256), resize="pil_bilinear"),
        n_action_steps=8,  # the whole chunk: starvla_cotrain_libero.yaml, ``action_horizon``
        gripper="binary",
    )
    return (
        starvla,
        # The paper sets the chunk to 16 and evaluates as StarVLA does (section 5.1.1), which executes whole chunks. It prints no waits,
        # cameras, image sizes, limits, success rule or initial states: they are StarVLA's.
        replace(starvla, name="qwen-vla", n_action_steps=16),
        # moojink/openvla-oft@213c5ff experiments/robot/: libero/run_libero_eval.py, libero/libero_utils.py, openvla_utils.py,
        # robot_utils.py
        _protocol(
            "openvla-oft",
            STEP_LIMITS[suite],
            _cameras(height=224, width=224, drawn=(256, 256), resize="jpeg_lanczos3", crop=0.9),
            n_action_steps=8,  # run_libero_eval.py, ``num_open_loop_steps``
            gripper="sign",
        ),
        # Physical-Intelligence/openpi@15a9616: examples/libero/main.py, packages/openpi-client/src/openpi_client/image_tools.py
        _protocol(
            "openpi",
            STEP_LIMITS[suite],
            _cameras(height=224, width=224, drawn=(256, 256), resize="pil_bilinear"),
            n_action_steps=5,  # main.py, ``replan_steps``
        ),
        # huggingface/lerobot@7427f31: src/lerobot/{envs/libero,envs/configs,processor/env_processor,scripts/lerobot_eval,
        # configs/eval}.py, docs/source/libero.mdx
        _protocol(
            "lerobot",
            LEROBOT_STEP_LIMITS[suite],
            _cameras(height=360, width=360),
            n_action_steps=10,  # docs/source/libero.mdx, ``--policy.n_action_steps=10`` of its published results
        ),
    )


def _protocol(
    name: str, step_limit: int, cameras: tuple[Camera, ...], n_action_steps: int, gripper: str = "as_given"
) -> Protocol:
    """What the evaluators have in common: waiting, and a first success that ends the episode."""
    return Protocol(
        name=name,
        version=1,
        step_limit=step_limit,
        cameras=cameras,
        n_action_steps=n_action_steps,
        wait_steps=WAIT_STEPS,
        wait_action=WAIT_ACTION,
        gripper=gripper,
    )


def _cameras(**size: Any) -> tuple[Camera, ...]:
    """Both views. Every evaluator turns robosuite's bottom-up images by 180 degrees, which leaves them upright and mirrored."""
    return tuple(Camera(view, mirror=True, **size) for view in LIBERO_PANDA.cameras)


def instruction(task: str) -> str:
    """The instruction of a task: its name's words, without the scene that the names of LIBERO-100 begin with.

    This is what LIBERO calls a task's language and what its evaluators send a policy (libero/libero/benchmark/__init__.py@8f1084e,
    ``grab_language_from_filename``); the sentence in the task's bddl file may be another.

    >>> instruction("KITCHEN_SCENE10_close_the_top_drawer_of_the_cabinet")
    'close the top drawer of the cabinet'
    """
    return re.sub(r"^[A-Z_]+SCENE\d+_", "", task).replace("_", " ")


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """The instruction; all else is found by the names of suite and task."""
    return {"instruction": instruction(task.name)}


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """The instruction; objects are placed by upstream's own samplers, seeded by the episode, and not by a file of initial states."""
    return {**payload(task, number, protocol), "sampled": True}


def _suite(name: str, title: str) -> Suite:
    tasks = tuple(Task(task, INITIAL_STATES) for task in TASKS[name])
    return Suite(
        name=name,
        title=title,
        adapter="vlarig.envs.libero.env:LiberoEnv",
        runtime="libero",
        embodiment=LIBERO_PANDA,
        tasks=tasks,
        protocols=protocols(name),
        source="Lifelong-Robot-Learning/LIBERO libero/libero/benchmark@8f1084e; for protocols see the comments beside them",
        payload=payload,
        training=training,
        assets=("libero",),
        patience=Patience(reset=300.0),  # a task's first episode compiles its scene: three seconds on a core to itself
        footprint=Footprint(process=900, env=6, task=510),  # benchmarks/speed/steps.py, libero_object's; others take less
        trial=Trial(
            tuple(tasks[number].name for number in TRIAL_TASKS[name]), upstream="vlarig.envs.libero.evaluator:LiberoEvaluator"
        ),
    )


LIBERO_SPATIAL = _suite("libero_spatial", "LIBERO-Spatial: which of two bowls")
LIBERO_OBJECT = _suite("libero_object", "LIBERO-Object: which object")
LIBERO_GOAL = _suite("libero_goal", "LIBERO-Goal: which goal, in one scene")
LIBERO_10 = _suite("libero_10", "LIBERO-Long: long-horizon tasks")
LIBERO_90 = _suite("libero_90", "LIBERO-90: short tasks in many scenes")
