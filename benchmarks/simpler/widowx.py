"""SimplerEnv's four WidowX tasks, and the protocols of the public evaluators that score policies on them.

The tasks are those of SimplerEnv (Li et al., 2024; simpler-env/SimplerEnv), in the order of its table; scenes and initial states are in
:mod:`vlarig.benchmarks.simpler.scenes`. Published numbers differ in how they were taken, so every evaluator is a protocol of its own,
named after its repository or branch; ``docs/simpler.md`` compares them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...envs.api import Camera, Protocol
from ...envs.episode import Ensemble
from ...envs.errors import VlarigError
from ...envs.simpler.robot import WIDOWX_BRIDGE
from ..provenance import Evaluator
from ..suite import Footprint, Suite, Task
from ..trial import Trial
from .scenes import CARROT_AND_PLATE, CUBES, EGGPLANT_AND_BASKET, MANISKILL3_EGGPLANT, SPOON_AND_TOWEL, Pose, Scene

EGGPLANT = "put_eggplant_in_basket"

#: Seeds the initial states for training together with the task's number and theirs.
TRAINING_SEED = 20261


_ORIGINAL = "simpler-env/ManiSkill2_real2sim@ef7a4d4, SAPIEN 2.2.2"

#: Protocol to its source.
EVALUATORS = {
    "starvla": Evaluator(
        repository="starVLA/starVLA",
        commit="0ed0aad2c83f587714f6167ef60cf7218b786590",
        files=(
            "examples/simBenchmarks/SimplerEnv/eval_files/auto_eval_scripts/star_bridge.sh",
            "examples/simBenchmarks/SimplerEnv/eval_files/model2simpler_interface.py",
            "examples/simBenchmarks/SimplerEnv/eval_files/adaptive_ensemble.py",
            "examples/simBenchmarks/SimplerEnv/train_files/starvla_cotrain_oxe.yaml",
        ),
        recorded={"simulator": _ORIGINAL},
        trials=96,  # 24 initial states, ``TSET_NUM=4``
        remark="makes a new env for every episode",
    ),
    "simplerenv": Evaluator(
        repository="simpler-env/SimplerEnv",
        commit="4ab7178e83e84ee06894034ec6dbf9e7aad1e882",
        files=(
            "scripts/octo_bridge.sh",
            "simpler_env/evaluation/maniskill2_evaluator.py",
            "simpler_env/policies/octo/octo_model.py",
            "simpler_env/utils/action/action_ensemble.py",
        ),
        recorded={"simulator": _ORIGINAL},
        trials=72,  # 24 initial states, ``init_rng`` 0, 2 and 4
        remark="makes a new env for every episode; seeds its policy with 0, 2 and 4 once a process; Octo sees the last two images",
    ),
    "maniskill3": Evaluator(
        repository="simpler-env/SimplerEnv",
        commit="52a5088ca4bfc3a7159828af08874a198d6f95c3",
        files=(
            "simpler_env/real2sim_eval_maniskill3.py",
            "simpler_env/policies/octo/octo_model.py",
            "simpler_env/utils/action/action_ensemble.py",
        ),
        recorded={"simulator": "mani_skill 3, on a GPU where several envs run at once"},
        trials=100,
        remark="numbers its episodes on and on, which plays every initial state again after 24 (64 for the eggplant); Octo as in "
        "`simplerenv`",
    ),
    "groot": Evaluator(
        repository="NVIDIA/Isaac-GR00T",
        commit="626af89d3e914ec92eab5323e23b9ed44a7b26c8",
        files=(
            "examples/SimplerEnv/README.md",
            "gr00t/eval/rollout_policy.py",
            "gr00t/eval/sim/SimplerEnv/simpler_env.py",
            "gr00t/eval/sim/wrapper/multistep_wrapper.py",
        ),
        recorded={
            "simulator": "squarefk/SimplerEnv@8a2d286; the tasks of its ManiSkill2_real2sim are "
            "youliangtan/ManiSkill2_real2sim@c2a9e87's"
        },
        trials=200,  # of GR00T N1.6: the table in its README at 4e62473; later ones have 100
        remark="counts the first episodes that finish, of five envs with the same initial states; N1.7's numbers are of other seeds",
    ),
}

#: What every evaluator renders: height and width of the Bridge camera.
_RENDERED = (480, 640)

#: Everything that StarVLA's evaluator does; Qwen-VLA is scored by it (paper, section 5.1.1).
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
SIMPLERENV = replace(
    STARVLA,
    name="simplerenv",
    step_limit=60,  # octo_bridge.sh, ``--max-episode-steps``
    task_limits={EGGPLANT: 120},
    cameras=(Camera("ego", 256, 256, drawn=_RENDERED, resize="lanczos3"),),
    repeats=3,  # octo_bridge.sh, ``init_rng``
    ensemble=Ensemble("mean", horizon=4),  # ``pred_action_horizon`` and ``action_ensemble_temp``
)
MANISKILL3 = replace(
    SIMPLERENV,  # limits: ``max_episode_steps`` of mani-skill's own tasks
    name="maniskill3",
    repeats=1,
    options={"rotation": "maniskill3", "predicates": "maniskill3"},
)
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

#: Episodes behind the numbers that GR00T N1.6 published, by the envs that play each initial state.
GROOT_INITIAL_STATES = EVALUATORS["groot"].trials // GROOT.repeats

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


@dataclass(frozen=True)
class _Definition:
    """A task: its scene, its words, and what its success requires."""

    scene: Scene
    instruction: str
    slack: float = 0.02
    contact: bool = False


#: ``get_language_instruction`` and ``evaluate`` of put_on_in_scene.py; the same in the original and in mani-skill 3.
_TASKS = {
    "put_spoon_on_towel": _Definition(SPOON_AND_TOWEL, "put the spoon on the towel"),
    "put_carrot_on_plate": _Definition(CARROT_AND_PLATE, "put carrot on plate", contact=True),
    "stack_green_on_yellow": _Definition(CUBES, "stack the green block on the yellow block", contact=True),
    EGGPLANT: _Definition(EGGPLANT_AND_BASKET, "put eggplant into yellow basket", slack=0.06),
}


def payload(task: Task, initial_state: int, protocol: Protocol) -> dict[str, Any]:
    """The scene, the instruction and the goal of an episode, as :class:`~vlarig.envs.simpler.env.BridgeEnv` takes them."""
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
    return _payload(task, evaluator, scene.objects(episode_id))


def training(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
    """The same with objects at sampled places, between those of upstream's initial states."""
    rng = np.random.default_rng([TRAINING_SEED, list(_TASKS).index(task.name), number])
    return _payload(task, protocol.derived_from or protocol.name, _TASKS[task.name].scene.sampled_objects(rng))


def _payload(task: Task, evaluator: str, objects: dict[str, Pose]) -> dict[str, Any]:
    definition = _TASKS[task.name]
    scene = definition.scene
    return {
        "instruction": GROOT_EGGPLANT if task.name == EGGPLANT and evaluator == "groot" else definition.instruction,
        "scene": scene.environment,
        "objects": objects,
        "source": scene.source,
        "target": scene.target,
        "goal": [{"is": "on_target", "slack": definition.slack, "contact": definition.contact}],
    }


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
    source="simpler-env/ManiSkill2_real2sim@ef7a4d4 put_on_in_scene.py and mani_skill 3.0.1; for protocols see EVALUATORS here",
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
