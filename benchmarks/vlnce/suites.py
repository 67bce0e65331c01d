"""R2R and RxR in VLN-CE, and the two other kinds of navigation data: search for an object, follow a person."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...envs.api import Camera, Protocol
from ...envs.vlnce import robot
from ...envs.vlnce.rules import Rules
from ..suite import Footprint, Patience, ReadStates, Suite, Task
from ..trial import Trial
from .episodes import LANGUAGES, ROLES, SCENES, read_objects, read_r2r, read_rxr

#: Episodes of the official data, as public repositories count them.
OFFICIAL = {"R2R": 1839, "RxR": 11006}

#: Waypoints of a chunk that are run: the window slides by half a chunk, as InternNav's does (MAX_LOCAL_STEPS) and StreamVLN's
#: (num_future_steps).
N_ACTION_STEPS = 4

#: Frames of an observation: StreamVLN's num_history. Each waypoint has one; at the data's 2 Hz a waypoint is half a second.
HISTORY = 8


def _protocol(name: str, rules: Rules, height: int, width: int, **changes: Any) -> Protocol:
    values: dict[str, Any] = {"step_limit": 500, "success_rule": "final"} | changes
    return Protocol(
        name=name,
        version=1,
        limit_unit="primitives",
        cameras=(Camera("ego", height, width),),
        n_action_steps=N_ACTION_STEPS,
        history=HISTORY,
        stop_on_success=False,
        options=rules.options(),
        **values,
    )


#: jacobkrantz/VLN-CE@729d141 habitat_extensions/: config/{vlnce,rxr_vlnce_english,rxr_vlnce_hindi,rxr_vlnce_telugu}_task.yaml,
#: measures.py. It has discrete actions; waypoints, their window, the history and the rule of stopping are ours: envs/vlnce/rules.py.
R2R_RULES = Rules()
RXR_RULES = Rules(turn=30.0, sliding=False, height=0.88, radius=0.18, hfov=79.0, elevation=0.88)
#: InternRobotics/StreamVLN@e48f6ff: config/vln_r2r.yaml, streamvln/streamvln_eval.py. One configuration for both data sets; agent and
#: sliding are habitat-lab's defaults.
STREAMVLN = _protocol("streamvln", Rules(hfov=79.0), 480, 640)
#: InternRobotics/InternNav@7a5c624: scripts/eval/configs/{vln_r2r.yaml,vln_rxr.yaml,habitat_dual_system_cfg.py}, internnav/
#: {habitat_extensions/vln/habitat_vln_evaluator,model/utils/vln_utils}.py
INTERNNAV = _protocol("internnav", Rules(hfov=79.0, control="pursuit"), 480, 640)
#: jzhzhang/NaVid-VLN-CE@cf066cc VLN_CE/habitat_extensions/config/: vlnce_task_navid_r2r.yaml, vlnce_task_navid_rxr.yaml
NAVID = _protocol("navid", Rules(turn=30.0), 480, 640)
R2R_PROTOCOLS = (_protocol("vlnce", R2R_RULES, 224, 224), STREAMVLN, INTERNNAV, NAVID)

#: Tasks of RxR: guides' instructions by language, and the same for ways as followers of the instructions went them.
GUIDES = LANGUAGES
FOLLOWERS = tuple(f"follower_{language}" for language in LANGUAGES)

#: What each of RxR's protocols plays; VLN-CE has a configuration for each group of languages, and the others evaluate in English.
ENGLISH = ("en-US", "en-IN")
PLAYED = {
    "vlnce": ENGLISH,
    "vlnce_hindi": ("hi-IN",),
    "vlnce_telugu": ("te-IN",),
    "vlnce_all": GUIDES,
    "vlnce_follower": FOLLOWERS,
}
RXR_PROTOCOLS = (*(_protocol(name, RXR_RULES, 480, 640) for name in PLAYED), STREAMVLN, INTERNNAV, NAVID)


def _r2r(folders: Mapping[str, Path], split: str) -> ReadStates:
    ((bundle, folder),) = folders.items()
    found = read_r2r(folder, bundle, split)
    return ReadStates({split: found}, _training(lambda: {split: read_r2r(folder, bundle, "train")}), _count("R2R", len(found)))


def _rxr(folders: Mapping[str, Path], split: str) -> ReadStates:
    ((bundle, folder),) = folders.items()

    def both(split: str) -> dict[str, dict[int, dict[str, Any]]]:
        guides, followers = (read_rxr(folder, bundle, split, role) for role in ROLES)
        return guides | {f"follower_{language}": states for language, states in followers.items()}

    found = both(split)
    return ReadStates(found, _training(lambda: both("train")), _count("RxR", sum(len(found[task]) for task in GUIDES)))


def _count(data: str, count: int) -> str:
    return "" if count == OFFICIAL[data] else f"the data have {count} episodes, and official {data} {OFFICIAL[data]}"


def _training(
    read: Callable[[], Mapping[str, Mapping[int, dict[str, Any]]]],
) -> Callable[[Task, int, Protocol], dict[str, Any]]:
    """The episodes of the split ``train``, read when one is wanted, again and again."""
    kept: dict[str, list[dict[str, Any]]] = {}

    def payload(task: Task, number: int, protocol: Protocol) -> dict[str, Any]:
        if not kept:
            kept.update({name: list(each.values()) for name, each in read().items()})
        return kept[task.name][number % len(kept[task.name])]

    return payload


_DEFAULTS = {
    "runtime": "vlnce",
    "patience": Patience(reset=180.0),
    "footprint": Footprint(process=400, env=60, task=0),
    "source": "jacobkrantz/VLN-CE@729d141; for protocols see the comments beside them",
}

R2R_VAL_UNSEEN = Suite(
    name="r2r_val_unseen",
    title="VLN-CE, R2R Val-Unseen: follow an instruction through a house",
    adapter="vlarig.envs.vlnce.env:VlnceEnv",
    embodiment=robot.VLNCE_R2R,
    tasks=(Task("val_unseen", ()),),
    protocols=R2R_PROTOCOLS,
    read_states=partial(_r2r, split="val_unseen"),
    assets=("vlnce_r2r",),
    trial=Trial(tasks=("val_unseen",), steps=24),
    walks="instruction_following",
    **_DEFAULTS,
)

RXR_VAL_UNSEEN = Suite(
    name="rxr_val_unseen",
    title="VLN-CE, RxR Val-Unseen: longer ways, three languages",
    adapter="vlarig.envs.vlnce.env:RxrEnv",
    embodiment=robot.VLNCE_RXR,
    tasks=tuple(
        Task(
            name,
            (),
            initial_states_under={each.name: () for each in RXR_PROTOCOLS if name not in PLAYED.get(each.name, ENGLISH)},
        )
        for name in (*GUIDES, *FOLLOWERS)
    ),
    protocols=RXR_PROTOCOLS,
    read_states=partial(_rxr, split="val_unseen"),
    assets=("vlnce_rxr",),
    trial=Trial(tasks=ENGLISH, steps=24),
    walks="instruction_following",
    **_DEFAULTS,
)

#: Initial states of each house that are searched, and walks that are followed.
EPISODES = 20


def _houses(folders: Mapping[str, Path], kind: str) -> ReadStates:
    """An object of each house in turn to look for, or a person to follow; where they begin is sampled from the episode's seed."""
    ((bundle, folder),) = folders.items()
    scenes = sorted((folder / SCENES / "mp3d").glob("*/*.glb"))
    known = read_objects(scenes)
    states: dict[int, dict[str, Any]] = {}
    for round_ in range(EPISODES):
        for place, objects in known.items():
            name = sorted(objects)[round_ % len(objects)] if objects else ""
            task = (
                {"instruction": f"Find the {name} and stop beside it.", "objects": objects.get(name, [])}
                if kind == "object_searching"
                else {"instruction": "Follow the person in blue."}
            )
            states[len(states)] = {"kind": kind, "bundle": bundle, "scene": place, **task}
    return ReadStates({kind: states}, lambda task, number, protocol: states[number % len(states)])


def _of_kind(name: str, kind: str, title: str, protocol: Protocol) -> Suite:
    return Suite(
        name=name,
        title=title,
        adapter="vlarig.envs.vlnce.env:VlnceEnv",
        embodiment=robot.VLNCE_R2R,
        tasks=(Task(kind, ()),),
        protocols=(protocol,),
        read_states=partial(_houses, kind=kind),
        assets=("vlnce_r2r",),
        note="a task of ours: the paper names the kind of data, and no benchmark",
        trial=Trial(tasks=(kind,), steps=24),
        walks=kind,
        **_DEFAULTS,
    )


#: Within the radius of habitat's ObjectNav, a metre.
SEARCH = _protocol("standard", replace(R2R_RULES, success=1.0), 224, 224)
VLN_OBJECT_SEARCH = _of_kind("vln_object_search", "object_searching", "Find an object in a house", SEARCH)

#: The person's walk ends an episode, and success is known there alone; an agent that stays where it is waits.
FOLLOW = _protocol("standard", replace(R2R_RULES, stop="never"), 224, 224, step_limit=400, success_rule="first")
VLN_TARGET_TRACKING = _of_kind("vln_target_tracking", "target_tracking", "Follow a person through a house", FOLLOW)
