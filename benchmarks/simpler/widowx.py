"""SimplerEnv's four WidowX tasks, and the protocols of the public evaluators that score policies on them.

The tasks are those of SimplerEnv (Li et al., 2024; simpler-env/SimplerEnv), in the order of its table; scenes and initial states are in
:mod:`vlarig.benchmarks.simpler.scenes`. Published numbers differ in how they were taken, so every evaluator is a protocol of its own,
named after its repository or branch; ``docs/simpler.md`` compares them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...envs.api import Camera, Protocol
from ...envs.episode import Ensemble
from ...envs.errors import VlarigError
from ...envs.simpler.robot import WIDOWX_BRIDGE
from ..suite import Footprint, Suite, Task
from ..trial import Trial
from .scenes import CARROT_AND_PLATE, CUBES, EGGPLANT_AND_BASKET, MANISKILL3_EGGPLANT, SPOON_AND_TOWEL, Definition, Scene

EGGPLANT = "put_eggplant_in_basket"

#: Seeds the initial states for training together with the task's number and theirs.
TRAINING_SEED = 20261

#: What every evaluator renders: height and width of the Bridge camera.
_RENDERED = (480, 640)

#: Everything that StarVLA's evaluator does; Qwen-VLA is scored by it (paper, section 5.1.1).
#: starVLA/starVLA@0ed0aad examples/simBenchmarks/SimplerEnv/: eval_files/auto_eval_scripts/star_bridge.sh, eval_files/
#: model2simpler_interface.py, eval_files/adaptive_ensemble.py, train_files/starvla_cotrain_oxe.yaml
STARVLA = Protocol(
    name="starvla",
    version=1,
    step_limit=120,  # star_bridge.sh, ``--max-episode-steps``, the same for all tasks
    cameras=(Camera("ego", 224, 224, drawn=_RENDERED, resize="cv2_area"),),  # ``_resize_image``
    n_action_steps=1,
    repeats=4,  # star_bridge.sh, ``TSET_NUM``
    stop_on_success=False,
    success_rule="final",  # maniskill2_evaluator.py: ``done`` of the last step, where the limit truncates
    gripper="half",
    ensemble=Ensemble("adaptive", horizon=7, alpha=0.1),
    options={"rotation": "fixed_axes", "predicates": "original"},
)
#: simpler-env/SimplerEnv@4ab7178: scripts/octo_bridge.sh, simpler_env/{evaluation/maniskill2_evaluator,policies/octo/octo_model,
#: utils/action/action_ensemble}.py
SIMPLERENV = replace(
    STARVLA,
    name="simplerenv",
    step_limit=60,  # octo_bridge.sh, ``--max-episode-steps``
    task_limits={EGGPLANT: 120},
    cameras=(Camera("ego", 256, 256, drawn=_RENDERED, resize="lanczos3"),),
    repeats=3,  # octo_bridge.sh, ``init_rng``
    ensemble=Ensemble("mean", horizon=4),  # ``pred_action_horizon`` and ``action_ensemble_temp``
)
#: simpler-env/SimplerEnv@52a5088 (branch ``maniskill3``): simpler_env/{real2sim_eval_maniskill3,policies/octo/octo_model,
#: utils/action/action_ensemble}.py
MANISKILL3 = replace(
    SIMPLERENV,  # limits: ``max_episode_steps`` of mani-skill's own tasks
    name="maniskill3",
    repeats=1,
    options={"rotation": "maniskill3", "predicates": "maniskill3"},
)
#: NVIDIA/Isaac-GR00T@626af89: examples/SimplerEnv/README.md, gr00t/eval/{rollout_policy,sim/SimplerEnv/simpler_env,
#: sim/wrapper/multistep_wrapper}.py
GROOT = Protocol(
    name="groot",
    version=1,
    step_limit=300,  # README.md, ``--max-episode-steps``
    cameras=(Camera("ego", 256, 256, drawn=_RENDERED, resize="cv2_linear"),),  # simpler_env.py, ``cv2.resize`` as it comes
    n_action_steps=4,  # README.md, ``--n-action-steps`` for the WidowX
    repeats=5,  # README.md, ``--n-envs``; see groot_seeds
    gripper="half",
    options={"rotation": "rotation_vector", "predicates": "original"},
)
#: Ours, for policies that answer with whole chunks: the paper's 16 steps (section 5.1.1; StarVLA's ``action_horizon``) are carried out.
CHUNKED = replace(STARVLA, name="chunked", n_action_steps=16, ensemble=None)
PROTOCOLS = (STARVLA, SIMPLERENV, MANISKILL3, GROOT, CHUNKED)

#: What RL plays: a third of the steps of an episode that succeeds come after its success.
LEARNED = replace(CHUNKED, name="learned", stop_on_success=True, success_rule="first")

#: mani-skill's own env, with which the adapter is compared: its camera, its reading of a step, its predicates, its initial states.
PLAIN = replace(
    MANISKILL3,
    cameras=(Camera("ego", *_RENDERED),),
    ensemble=None,
    gripper="as_given",
    options={"rotation": "moving_axes", "predicates": "maniskill3"},
)

#: 200 episodes are behind each number that GR00T N1.6 published (NVIDIA/Isaac-GR00T@4e62473 examples/SimplerEnv/README.md; later ones
#: have 100), and five envs play each initial state.
GROOT_INITIAL_STATES = 40

#: The fork's words (put_on_in_scene.py, ``get_language_instruction``).
GROOT_EGGPLANT = "put the eggplant in the yellow basket"


def groot_seeds(count: int) -> tuple[int, ...]:
    """The literal seeds of the first episodes of every env that GR00T's evaluator makes.

    It gives none by default. An env of ManiSkill2_real2sim seeds itself with 2022 when it is made, and a reset without a seed samples
    one from the generator of the seed before (mani_skill2_real2sim/envs/sapien_env.py@ef7a4d4, ``set_main_rng``, ``set_episode_rng``).
    So all of its envs play the same states. According to its maintainers N1.6's numbers are of seed 2022 (NVIDIA/Isaac-GR00T#685).
    """
    seeds = [2022]
    for _ in range(count):
        seeds.append(int(np.random.RandomState(seeds[-1]).randint(2**32, dtype=np.int64)))
    return tuple(seeds[1:])


def groot_sample(seed: int, initial_states: int) -> int:
    """The initial state that ManiSkill2_real2sim samples for a seed (put_on_in_scene.py@ef7a4d4, ``PutOnBridgeInSceneEnv.reset``)."""
    return int(np.random.RandomState(seed).randint(initial_states))


def _onto(scene: Scene, instruction: str, slack: float = 0.02, contact: bool = False) -> Definition:
    return Definition(scene, instruction, [{"is": "on_target", "slack": slack, "contact": contact}])


#: ``get_language_instruction`` and ``evaluate`` of put_on_in_scene.py; the same in the original and in mani-skill 3.
_TASKS = {
    "put_spoon_on_towel": _onto(SPOON_AND_TOWEL, "put the spoon on the towel"),
    "put_carrot_on_plate": _onto(CARROT_AND_PLATE, "put carrot on plate", contact=True),
    "stack_green_on_yellow": _onto(CUBES, "stack the green block on the yellow block", contact=True),
    EGGPLANT: _onto(EGGPLANT_AND_BASKET, "put eggplant into yellow basket", slack=0.06),
}


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """Those of the objects of an initial state, which the evaluator may sample by a seed."""
    evaluator = protocol.derived_from or protocol.name
    scene = _TASKS[task.name].scene
    if task.name == EGGPLANT and evaluator == "maniskill3":
        scene = MANISKILL3_EGGPLANT
    episode_id = (
        groot_sample(initial_state, scene.initial_states)
        if evaluator == "groot" and 0 <= initial_state < 2**32
        else initial_state
    )
    if not 0 <= episode_id < scene.initial_states:
        expected = "0 to 4294967295, a seed" if evaluator == "groot" else f"0 to {scene.initial_states - 1}"
        raise VlarigError(
            f"task {task.name!r} has no initial state {initial_state} under protocol {protocol.name!r}; expected {expected}"
        )
    return _definition(task, evaluator).payload(scene.objects(episode_id))


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """The same with objects at sampled places, between those of upstream's initial states."""
    definition = _definition(task, protocol.derived_from or protocol.name)
    rng = np.random.default_rng([TRAINING_SEED, list(_TASKS).index(task.name), number])
    return definition.payload(definition.scene.sampled_objects(rng))


def _definition(task: Task, evaluator: str) -> Definition:
    """The task's, in the evaluator's words."""
    definition = _TASKS[task.name]
    return replace(definition, instruction=GROOT_EGGPLANT) if (task.name, evaluator) == (EGGPLANT, "groot") else definition


def _task(name: str) -> Task:
    initial_states_under = {"groot": groot_seeds(GROOT_INITIAL_STATES)}
    if name == EGGPLANT:
        initial_states_under["maniskill3"] = tuple(range(MANISKILL3_EGGPLANT.initial_states))
    return Task(name, initial_states=tuple(range(_TASKS[name].scene.initial_states)), initial_states_under=initial_states_under)


#: The sink's scene, the larger one, and four tasks at once: benchmarks/speed/steps.py.
FOOTPRINT = Footprint(process=880, env=15, task=45)

SIMPLER_WIDOWX = Suite(
    name="simpler_widowx",
    title="SimplerEnv, WidowX: four tasks of BridgeData",
    adapter="vlarig.envs.simpler.env:BridgeEnv",
    runtime="simpler",
    embodiment=WIDOWX_BRIDGE,
    tasks=tuple(_task(name) for name in _TASKS),
    protocols=PROTOCOLS,
    source="simpler-env/ManiSkill2_real2sim@ef7a4d4 put_on_in_scene.py, mani_skill 3.0.1; for protocols see the comments beside them",
    payload=payload,
    training=training,
    learned=LEARNED,
    footprint=FOOTPRINT,
    assets=("simpler_bridge",),
    trial=Trial(
        tasks=(EGGPLANT, "stack_green_on_yellow"),
        steps=20,
        upstream="vlarig.envs.simpler.evaluator:ManiSkillEvaluator",
        always_renders=True,
        protocols=(PLAIN,),
    ),
)
