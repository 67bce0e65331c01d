"""RoboCasa-GR1's 24 tabletop tasks.

Tasks, scenes and rules are those of robocasa/robocasa-gr1-tabletop-tasks@4840e67.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.robocasa import robot
from ..suite import Footprint, Patience, Suite, Task
from ..trial import Trial

#: Into a drawer, a microwave or a cabinet, which is closed then.
CLOSING = (
    "PnPCupToDrawerClose",
    "PnPPotatoToMicrowaveClose",
    "PnPMilkToMicrowaveClose",
    "PnPBottleToCabinetClose",
    "PnPWineToCabinetClose",
    "PnPCanToDrawerClose",
)

#: From one container into another: one of ten kinds of objects, beside other containers and objects.
FROM_TO = {
    "Cuttingboard": ("Basket", "Cardboardbox", "Pan", "Pot", "Tieredbasket"),
    "Placemat": ("Basket", "Bowl", "Plate", "Tieredshelf"),
    "Plate": ("Bowl", "Cardboardbox", "Pan", "Plate"),
    "Tray": ("Cardboardbox", "Plate", "Pot", "Tieredbasket", "Tieredshelf"),
}
MOVING = tuple(f"PosttrainPnPNovelFrom{source}To{target}SplitA" for source, targets in FROM_TO.items() for target in targets)

#: Initial states of a task that are evaluated (StarVLA's batch_eval_args.sh); those of training come after them.
EPISODES = 50

#: Upstream's image; see RobocasaEnv.render_view.
_IMAGE = (256, 256)

#: StarVLA's client, by whose protocol Qwen-VLA is scored (paper, section 5.1.1).
#: starVLA/starVLA@0ed0aad examples/simBenchmarks/Robocasa_tabletop/eval_files/: simulation_env.py, model2robocasa_interface.py,
#: wrappers/multistep_wrapper.py, batch_eval_args.sh
STARVLA = Protocol(
    name="starvla",
    version=1,
    step_limit=720,
    cameras=(Camera("ego", 224, 224, drawn=_IMAGE, resize="cv2_area"),),
    n_action_steps=12,
    options={"success": "chunk_end"},
)
#: NVIDIA/Isaac-GR00T@680daf8: gr00t/eval/rollout_policy.py, examples/robocasa-gr1-tabletop-tasks/README.md
GR00T = replace(
    STARVLA,
    name="gr00t",
    cameras=(Camera("ego", *_IMAGE),),
    n_action_steps=8,
    stop_on_success=True,
    options={"success": "step"},
)
#: robocasa/robocasa-gr1-tabletop-tasks@4840e67 robocasa/utils/gym_utils/: gymnasium_groot.py, gymnasium_basic.py. An env without an
#: evaluator: limit, trials and the length of a chunk are the others'.
ROBOCASA = replace(GR00T, name="robocasa", stop_on_success=False)


_PLACES = {name: place for place, name in enumerate((*CLOSING, *MOVING))}


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """The seed of all that a reset samples; each task has seeds of its own, since equal ones sample equal objects."""
    return {"seed": initial_state * len(_PLACES) + _PLACES[task.name]}


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """Seeds that no protocol evaluates."""
    return payload(task, EPISODES + number, protocol)


ROBOCASA_GR1 = Suite(
    name="robocasa_gr1",
    title="RoboCasa-GR1: 24 tabletop tasks of a humanoid",
    adapter="vlarig.envs.robocasa.env:RobocasaEnv",
    runtime="robocasa",
    embodiment=robot.ROBOCASA_GR1,
    tasks=tuple(Task(name, initial_states=tuple(range(EPISODES))) for name in _PLACES),
    protocols=(STARVLA, GR00T, ROBOCASA),
    source="robocasa/robocasa-gr1-tabletop-tasks@4840e67; for protocols see the comments beside them",
    payload=payload,
    training=training,
    # An episode may begin with an expert's plan, which is tried in the simulation.
    patience=Patience(reset=600.0),
    footprint=Footprint(process=800, env=150, task=0),
    assets=("robocasa_gr1",),
    trial=Trial(
        tasks=(
            "PosttrainPnPNovelFromPlateToPlateSplitA",
            "PnPCanToDrawerClose",
            "PnPPotatoToMicrowaveClose",
            "PnPWineToCabinetClose",
            "PosttrainPnPNovelFromTrayToTieredshelfSplitA",
            "PosttrainPnPNovelFromCuttingboardToBasketSplitA",
        ),
        steps=24,
        upstream="vlarig.envs.robocasa.evaluator:RobocasaEvaluator",
        protocols=(STARVLA, ROBOCASA),
    ),
)

ROBOCASA_GR1_GR00T = replace(
    ROBOCASA_GR1,
    name="robocasa_gr1_gr00t",
    title="RoboCasa-GR1 in the channel order of GR00T's data",
    adapter="vlarig.envs.robocasa.env:RobocasaGr00tEnv",
    embodiment=robot.ROBOCASA_GR1_GR00T,
    protocols=(GR00T, STARVLA, ROBOCASA),
    trial=replace(ROBOCASA_GR1.trial, tasks=ROBOCASA_GR1.trial.tasks[:1], upstream=""),
)
