"""RoboTwin 2.0's 50 tasks, in the clean scenes (Easy) and in the randomised ones (Hard).

Tasks, scenes and rules are those of RoboTwin-Platform/RoboTwin@13c3c47 (branch ``stable_2.0``): script/eval_policy.py, task_config.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.robotwin.robot import ROBOTWIN_ALOHA, ROBOTWIN_ALOHA_POSE
from ..suite import Footprint, Patience, Preparation, Suite, Task
from ..trial import Trial
from .tasks import STEP_LIMITS

#: ``st_seed`` and ``test_num`` of script/eval_policy.py: seeds are tried from here on, and so many that the expert solves are played.
FIRST_SEED, EPISODES = 100_000, 100

STATES = tuple(range(FIRST_SEED, FIRST_SEED + EPISODES))

#: Upstream's D435 (task_config/_camera_config.yml): height and width.
_RENDERED = (240, 320)
_VIEWS = ("ego", "cam_left_wrist", "cam_right_wrist")

#: StarVLA's client, by whose protocol Qwen-VLA is scored (paper, section 5.1.1): three views of 224 x 224, chunks of 16 to their end.
#: starVLA/starVLA@0ed0aad examples/simBenchmarks/Robotwin/eval_files/: model2robotwin_interface.py, deploy_policy.yml
STARVLA = Protocol(
    name="starvla",
    version=1,
    step_limit=1000,  # eval_policy.py, where a task has none
    task_limits=STEP_LIMITS,
    cameras=tuple(Camera(view, 224, 224, drawn=_RENDERED, resize="cv2_area") for view in _VIEWS),
    n_action_steps=16,
    options={"instructions": "unseen"},  # deploy_policy.yml, ``instruction_type``
)
#: The images as upstream renders them. RoboTwin-Platform/RoboTwin@13c3c47: script/eval_policy.py, task_config/_eval_step_limit.yml,
#: task_config/_camera_config.yml
ROBOTWIN = replace(STARVLA, name="robotwin", cameras=tuple(Camera(view, *_RENDERED) for view in _VIEWS))
#: Templates and names of objects that training data have.
SEEN = replace(ROBOTWIN, name="seen", options={"instructions": "seen"})
PROTOCOLS = (STARVLA, ROBOTWIN, SEEN)

#: Upstream's four cameras, with which the adapter is compared.
ALL_VIEWS = replace(ROBOTWIN, cameras=tuple(Camera(view, *_RENDERED) for view in ROBOTWIN_ALOHA.cameras))

#: The expert solves a seed with one planner or the other (CuRobo with CUDA, mplib without): their seeds are not mixed. It is the same
#: whatever a policy's actions are.
PREPARATION = Preparation(EPISODES, first=FIRST_SEED, same=("planner",), name="robotwin")

#: An expert's plan may take a minute, and an episode that was not prepared begins with one.
PATIENCE = Patience(reset=600.0, step=120.0, prepare=1800.0)

#: stack_blocks_two with images: benchmarks/speed/steps.py.
FOOTPRINT = Footprint(process=800, env=15, task=15)

#: What is played of a suite in tests: a scene of boxes that upstream makes, and one of meshes.
TRIAL = Trial(
    tasks=("stack_blocks_two", "click_bell"),
    steps=8,
    upstream="vlarig.envs.robotwin.evaluator:RobotwinEvaluator",
    always_renders=True,
    protocols=(ALL_VIEWS,),
)


def make_suite(name: str, title: str, given: dict[str, Any]) -> Suite:
    """One of RoboTwin's suites; ``given`` is what the payloads of all its episodes share."""

    def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
        return {**given, "seed": initial_state}

    def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
        """Upstream's data are of seeds from 0 on (script/collect_data.py)."""
        return {**given, "seed": number % FIRST_SEED}

    return Suite(
        name=name,
        title=title,
        adapter="vlarig.envs.robotwin.env:RobotwinEnv",
        runtime="robotwin",
        embodiment=ROBOTWIN_ALOHA,
        tasks=tuple(Task(task, initial_states=STATES) for task in STEP_LIMITS),
        protocols=PROTOCOLS,
        source="RoboTwin-Platform/RoboTwin@13c3c47; for protocols see the comments beside them",
        payload=payload,
        training=training,
        preparation=PREPARATION,
        patience=PATIENCE,
        footprint=FOOTPRINT,
        assets=("robotwin_source", "robotwin_assets"),
        trial=TRIAL,
    )


def _by_pose(suite: Suite) -> Suite:
    """The same suite with upstream's action type ``ee``."""
    return replace(
        suite,
        name=f"{suite.name}_pose",
        title=f"{suite.title}, by poses of the grippers",
        adapter="vlarig.envs.robotwin.env:RobotwinPoseEnv",
        embodiment=ROBOTWIN_ALOHA_POSE,
        trial=replace(TRIAL, tasks=TRIAL.tasks[:1], upstream="vlarig.envs.robotwin.evaluator:RobotwinPoseEvaluator"),
    )


ROBOTWIN_EASY = make_suite(
    "robotwin_easy", "RoboTwin 2.0, Easy: 50 tasks of two arms in clean scenes", {"config": "demo_clean"}
)
ROBOTWIN_HARD = make_suite(
    "robotwin_hard", "RoboTwin 2.0, Hard: 50 tasks of two arms in randomised scenes", {"config": "demo_randomized"}
)
ROBOTWIN_EASY_POSE = _by_pose(ROBOTWIN_EASY)
ROBOTWIN_HARD_POSE = _by_pose(ROBOTWIN_HARD)
