"""DOMINO: 35 of RoboTwin's tasks with an object that moves, a suite for each of its three levels and one for randomised scenes.

Tasks, motions and rules are those of H-EmbodVis/DOMINO@9fd1271 (script/eval_policy.py, envs/_base_task.py, script/eval_metrics.py).
"""

from __future__ import annotations

from dataclasses import replace

from ..suite import Suite, Task
from .suites import STATES, TRIAL, make_suite
from .tasks import DOMINO_TASKS

# The protocols are RoboTwin's, played by DOMINO's evaluator: H-EmbodVis/DOMINO@9fd1271 script/eval_policy.py, script/eval_metrics.py,
# task_config/demo_clean_dynamic.yml. The paper (section 5.1.5) plays Qwen-VLA zero-shot, with the current frame alone, and names
# neither level nor coefficient; StarVLA's README has clean scenes and a coefficient of 0.1.

#: ``dynamic_coefficient`` of task_config/demo_clean_dynamic.yml: the greatest mean speed of an object, in m/s.
COEFFICIENT = 0.1

#: Suite to its title, upstream's configuration and level: 1 a constant velocity, 2 a polynomial, 3 segments.
SETTINGS = {
    "domino": ("DOMINO, level 1: an object moves with constant velocity", "demo_clean_dynamic", 1),
    "domino_level2": ("DOMINO, level 2: an object moves along a polynomial", "demo_clean_dynamic", 2),
    "domino_level3": ("DOMINO, level 3: an object changes its direction", "demo_clean_dynamic", 3),
    "domino_random": ("DOMINO, level 1, in randomised scenes", "demo_random_dynamic", 1),
}


def _suite(name: str) -> Suite:
    title, config, level = SETTINGS[name]
    return replace(
        make_suite(name, title, {"config": config, "level": level, "coefficient": COEFFICIENT}),
        adapter="vlarig.envs.robotwin.domino:DominoEnv",
        tasks=tuple(Task(task, initial_states=STATES) for task in DOMINO_TASKS),
        source="H-EmbodVis/DOMINO@9fd1271; for protocols see the comments beside them",
        assets=("domino_source", "robotwin_assets"),
        trial=replace(TRIAL, tasks=("move_stapler_pad",), upstream="vlarig.envs.robotwin.domino_evaluator:DominoEvaluator"),
    )


DOMINO = _suite("domino")
DOMINO_LEVEL2 = _suite("domino_level2")
DOMINO_LEVEL3 = _suite("domino_level3")
DOMINO_RANDOM = _suite("domino_random")
