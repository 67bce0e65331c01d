"""The VLN-CE adapter's promises; runs under the Python of the ``vlnce`` runtime."""

from __future__ import annotations

import gzip
import json
import math
import os
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlarig.benchmarks.suite import Suite
from vlarig.benchmarks.vlnce.episodes import read_objects
from vlarig.benchmarks.vlnce.suites import R2R_VAL_UNSEEN, RXR_VAL_UNSEEN, VLN_OBJECT_SEARCH, VLN_TARGET_TRACKING
from vlarig.envs.api import Episode, Needs
from vlarig.envs.errors import UnfitEpisodeError, VlarigError
from vlarig.envs.vlnce.env import RxrEnv, VlnceEnv
from vlarig.envs.vlnce.lite import Canvas, LiteWorld
from vlarig.envs.vlnce.measures import Measures
from vlarig.envs.vlnce.scan import read_scan
from vlarig.envs.vlnce.world import DEFAULT_AGENT, Lens

DATA = Path(os.environ["VLARIG_ASSETS_VLNCE_R2R"])
HOUSES = sorted((DATA / "data/scene_datasets/mp3d").glob("*/*.glb"))
ORACLE = Needs(images=False, privileged=True)
LENS = Lens(90.0, 1.25)

#: What the package fastdtw 0.3.4 gives for five pairs of ways, radius 1.
FASTDTW = [0.410597126, 18.258760304, 26.190800245, 152.275472408, 537.684566093]


def whole(suite: Suite) -> Suite:
    """The suite with the initial states of its data."""
    read = suite.read_states({name: Path(os.environ[f"VLARIG_ASSETS_{name.upper()}"]) for name in suite.assets})
    tasks = tuple(replace(task, initial_states=tuple(read.states.get(task.name, ()))) for task in suite.tasks)
    return replace(suite, tasks=tasks, prepared=read.states)


def episodes(suite: Suite, protocol: str | None = None, **changes: Any) -> list[Episode]:
    named = suite.protocol(protocol)
    return whole(suite).episodes(protocol=replace(named, **changes))


def play_oracle(env: VlnceEnv, episode: Episode) -> dict[str, float]:
    """The measures of an episode that the waypoint oracle plays."""
    snapshot = env.open(episode, ORACLE)
    while True:
        result = env.step_chunk(snapshot.privileged["waypoints"])
        snapshot = result.snapshot
        if result.over:
            return {"success": float(snapshot.outcome.final), **snapshot.metrics}


@pytest.mark.parametrize(
    ("suite", "env", "truth", "protocol", "rules"),
    [
        (R2R_VAL_UNSEEN, VlnceEnv, "R2R_VLNCE_v1-3_preprocessed/val_unseen/val_unseen_gt", "vlnce", {}),
        (RXR_VAL_UNSEEN, RxrEnv, "RxR_VLNCE_v0/val_unseen/val_unseen_guide_gt", "vlnce_all", {"sliding": "true"}),
    ],
)
def test_replayed_ground_truth_is_the_reference(suite: Suite, env: Any, truth: str, protocol: str, rules: dict) -> None:
    """Stop, forward, left and right of the data as waypoints. RxR's ways of the stand-ins were made with sliding."""
    with gzip.open(DATA / "data/datasets" / f"{truth}.json.gz", "rt") as text:
        known = json.load(text)
    named, player = suite.protocol(protocol), env()
    turn = math.radians(float(named.options["turn"]))
    waypoints = {0: (0, 0, 0), 1: (0.25, 0, 0), 2: (0, 0, turn), 3: (0, 0, -turn)}
    for episode in episodes(suite, protocol, options=named.options | rules, n_action_steps=500)[::5]:
        player.open(episode, Needs(images=False))
        actions = [waypoints[action] for action in known[str(episode.initial_state)]["actions"]]
        snapshot = player.step_chunk(np.array([*actions, (0, 0, 0)], np.float32)[:500]).snapshot
        assert snapshot.metrics["ndtw"] > 0.99999 and snapshot.outcome.final


def test_the_oracle_comes_to_the_same_with_one_four_and_eight_of_eight_waypoints() -> None:
    env = VlnceEnv()
    for kept in episodes(R2R_VAL_UNSEEN)[::20]:
        found = [play_oracle(env, replace(kept, protocol=replace(kept.protocol, n_action_steps=count))) for count in (1, 4, 8)]
        assert found[0] == found[1] == found[2]
        assert found[0]["success"] == 1.0 and found[0]["spl"] > 0.99


def test_fast_warping_is_that_of_the_package_that_vln_ce_calls() -> None:
    """Its cost is an upper bound of the exact one, and so no measure of the exact one."""
    rng, apart = np.random.default_rng(7), 0
    for (n, m), known in zip([(1, 1), (2, 9), (17, 5), (40, 61), (90, 33)], FASTDTW, strict=True):
        one, other = (np.round(rng.normal(size=(count, 3)).cumsum(0) * 0.3, 3) for count in (n, m))
        found = {}
        for fast in (False, True):
            measures = Measures(lambda position: 1.0, one[0].astype(np.float32), 3.0, other, fast)
            for point in one[1:].astype(np.float32):
                measures.move(point, False)
            found[fast] = -3 * m * math.log(measures.report()["ndtw"])
        assert found[True] == pytest.approx(known, abs=1e-4)
        apart += found[True] > found[False] + 1e-3
    assert apart


@pytest.mark.parametrize("control", ["primitive", "pursuit", "continuous"])
@pytest.mark.parametrize("stop", ["waypoint", "chunk"])
def test_every_control_reaches_the_goal_and_stops(control: str, stop: str) -> None:
    options = R2R_VAL_UNSEEN.protocols[0].options | {"control": control, "stop": stop}
    env = VlnceEnv()
    for episode in episodes(R2R_VAL_UNSEEN, options=options)[::30]:
        found = play_oracle(env, episode)
        assert found["success"] == 1.0 and found["steps_taken"] < 200


def test_no_episode_is_longer_than_its_limit_though_a_waypoint_is_many_moves() -> None:
    options = R2R_VAL_UNSEEN.protocols[0].options | {"control": "continuous"}
    env = VlnceEnv()
    env.open(episodes(R2R_VAL_UNSEEN, options=options, step_limit=30)[0], Needs(images=False))
    result = env.step_chunk(np.array([(2.0, 0, 1.0)] * 4, np.float32))
    assert result.over and result.snapshot.primitives == result.snapshot.metrics["steps_taken"] == 30


@pytest.mark.parametrize("suite", [VLN_OBJECT_SEARCH, VLN_TARGET_TRACKING])
def test_objects_are_found_and_people_followed_and_who_stays_does_neither(suite: Suite) -> None:
    env = VlnceEnv()
    for episode in episodes(suite)[::20]:
        assert play_oracle(env, episode)["success"] == 1.0
        env.open(episode, Needs(images=False))
        while not (result := env.step_chunk(np.zeros((4, 3), np.float32))).over:
            pass
        assert not result.snapshot.outcome.final


def test_what_is_on_the_left_is_on_the_left_and_the_image_stands_upright() -> None:
    canvas = Canvas()
    scene = HOUSES[0]
    world = LiteWorld(scene, DEFAULT_AGENT, canvas)
    rooms = json.loads(scene.with_suffix(".rooms.json").read_text())["rooms"]
    centre = np.array(next(room["center"] for room in rooms if room["color"] == "purple"), np.float32)
    bed = np.array(read_objects([scene])["mp3d/proc_house_01/proc_house_01.glb"]["yellow bed"][0])
    ahead = math.atan2(centre[0] - bed[0], centre[2] - bed[2])  # the yaw that looks at the bed

    def yellow(yaw: float) -> float:
        image = world.render(centre, yaw, LENS, 64, 64).astype(int)
        return float(np.argwhere((image[..., 0] > 150) & (image[..., 1] > 130) & (image[..., 2] < 110)).mean(axis=0)[1])

    assert yellow(ahead + 0.5) > 36 and yellow(ahead - 0.5) < 28  # turned to the left, it is on the right
    assert world.render(centre, ahead, LENS, 64, 64)[:4].mean() > 220  # the ceiling is white
    beside = centre + np.array([-math.sin(ahead + math.pi), 0, -math.cos(ahead + math.pi)]) * 1.5
    seen = world.render(centre, ahead + math.pi, LENS, 64, 64, person=beside.astype(np.float32)).astype(int)
    assert (seen[..., 2] - seen[..., 0] > 60).sum() > 60


def test_a_texture_by_basis_universal_is_seen(tmp_path: Path) -> None:
    """A house with one of its images packed, as Matterport3D's houses come for habitat."""
    with np.load(Path(__file__).parents[2] / "envs" / "data" / "basis.npz") as kept:
        packed, pixels = kept["mipmaps_file"].tobytes(), kept["mipmaps"]
    content = HOUSES[0].read_bytes()
    size = int.from_bytes(content[12:16], "little")
    head, numbers = json.loads(content[20 : 20 + size]), content[28 + size :] + packed + bytes(-len(packed) % 4)
    head["images"][0] = {"bufferView": len(head["bufferViews"]), "mimeType": "image/x-basis"}
    head["bufferViews"].append({"buffer": 0, "byteOffset": len(content) - 28 - size, "byteLength": len(packed)})
    for texture in head["textures"]:
        if texture["source"] == 0:
            texture["extensions"] = {"GOOGLE_texture_basis": {"source": texture.pop("source")}}
    head["extensionsRequired"], head["buffers"][0]["byteLength"] = ["GOOGLE_texture_basis"], len(numbers)
    text = json.dumps(head).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(numbers), b"BIN\0") + numbers
    scene = tmp_path / "house.glb"
    scene.write_bytes(struct.pack("<4s2I", b"glTF", 2, 12 + len(chunks)) + chunks)
    parts, images = read_scan(scene)
    plain = read_scan(HOUSES[0])
    assert len(parts) == len(plain[0]) and len(images) == len(plain[1])
    assert sum(np.array_equal(image, pixels) for image in images) == 1
    scene.write_bytes(scene.read_bytes().replace(packed[77:200], bytes(123)))
    with pytest.raises(VlarigError, match=r"the scene .*house.glb cannot be read"):
        read_scan(scene)


def test_images_do_not_depend_on_what_was_rendered_before_nor_on_the_canvas() -> None:
    one, other = Canvas(), Canvas()
    first = LiteWorld(HOUSES[1], DEFAULT_AGENT, one)
    at = first.surface.snap(np.array([3, 0, -4], np.float32))
    alone = first.render(at, 0.7, LENS, 120, 160)
    second = LiteWorld(HOUSES[2], DEFAULT_AGENT, one)
    second.render(at, 0.1, LENS, 224, 224)
    again = LiteWorld(HOUSES[1], DEFAULT_AGENT, other).render(at, 0.7, LENS, 120, 160)
    assert np.array_equal(first.render(at, 0.7, LENS, 120, 160), alone) and np.array_equal(again, alone)


def test_a_film_shows_a_map_with_both_ways() -> None:
    env = VlnceEnv()
    episode = episodes(R2R_VAL_UNSEEN)[0]
    snapshot = env.open(episode, Needs(every_frame=True, film_views=True, privileged=True))
    before = snapshot.frames.views["map"][-1].astype(int)
    for _ in range(5):
        snapshot = env.step_chunk(snapshot.privileged["waypoints"]).snapshot
    after = snapshot.frames.views["map"][-1].astype(int)
    red, blue = ((after[..., channel] - after[..., 1] > 60) for channel in (0, 2))
    assert blue.sum() > 50 and red.sum() > ((before[..., 0] - before[..., 1]) > 60).sum() + 20
    assert set(env.open(episode, Needs()).frames.views) == {"ego"}


def test_an_episode_that_does_not_belong_to_its_house_is_unfit() -> None:
    episode = episodes(R2R_VAL_UNSEEN)[0]
    for change, says in (
        ({"scene": "mp3d/nowhere/nowhere.glb"}, r"nowhere.navmesh, is missing"),
        ({"position": [500.0, 0.0, 0.0]}, r"it starts at \(500.00, 0.00, 0.00\), which is not on the walkable surface"),
    ):
        with pytest.raises(UnfitEpisodeError, match=says):
            VlnceEnv().open(replace(episode, payload=episode.payload | change), Needs(images=False))
