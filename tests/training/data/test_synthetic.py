"""Language-action data: the arms are those that their makers describe, and motions do what their instructions say."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from vlarig.policies.qwen_vla.embodiments import LANGUAGE_ACTION
from vlarig.training.data.errors import DataError
from vlarig.training.data.synthetic import timing
from vlarig.training.data.synthetic.arms import ARMS, Arm
from vlarig.training.data.synthetic.collision import Collisions
from vlarig.training.data.synthetic.dataset import SyntheticDataset, synthetic_datasets
from vlarig.training.data.synthetic.generate import SynthesizeOptions, Task, synthesize, write
from vlarig.training.data.synthetic.kinematics import Chain, quaternion_of, rotation_by, rotation_vector, solve, turn
from vlarig.training.data.synthetic.planner import CLEARANCE, connect, path_clearance
from vlarig.training.data.synthetic.templates import TEMPLATES, sample
from vlarig.training.data.synthetic.trajectories import Trajectory, make
from vlarig.training.data.synthetic.words import VIEWS

#: Joint vectors and the flange's poses (metres; quaternion w, x, y, z) that MuJoCo 3.3.7 computes for another publisher's models,
#: google-deepmind/mujoco_menagerie: franka_emika_panda/panda_nohand.xml@251ca9e, kinova_gen3/gen3.xml@3966424,
#: ufactory_xarm7/xarm7_nohand.xml@45bb7fe, universal_robots_ur5e/ur5e.xml@1b428b0, universal_robots_ur10e/ur10e.xml@5f4c663. The last
#: two round lengths to a millimetre, begin a quarter turn apart, and end 100 mm from the last joint's axis.
PUBLISHED = {
    "franka_language_action": [
        ((0.65, 1.4, 1.434, -2.03, -1.039, 2.269, -2.573),
         (-0.216107, 0.553306, 0.258865), (0.100645, 0.924953, -0.218364, -0.294365)),
        ((1.67, 1.047, -0.167, -1.833, -1.152, 0.65, -0.286),
         (0.150384, 0.436497, 0.10958), (0.734426, 0.032053, 0.333948, -0.589975)),
        ((0.024, 0.189, 2.577, -0.594, 0.635, 2.571, -1.48),
         (-0.093206, 0.163914, 1.166348), (0.471561, 0.322745, -0.301282, -0.763345)),
    ],
    "ur10e": [
        ((-1.767, 0.585, -2.372, -2.414, 0.077, -0.176),
         (0.213836, -0.328143, 0.452227), (0.06077, -0.70817, 0.178986, -0.680269)),
        ((2.169, 0.672, 0.073, -0.016, -1.313, -2.539),
         (-0.585758, 0.505267, -0.612836), (0.468049, 0.118212, 0.404932, -0.776521)),
        ((-1.6, 0.999, -1.557, -0.678, -2.581, 1.716),
         (0.062639, -0.914195, -0.121797), (0.426166, -0.60915, -0.616458, 0.25942)),
    ],
    "ur5e": [
        ((-1.797, -1.208, 1.978, 0.051, 1.805, 0.727),
         (0.012572, -0.439368, 0.148117), (0.379268, 0.801555, -0.46199, -0.015215)),
        ((1.257, -2.124, 0.214, 0.04, 1.931, -0.721),
         (-0.182138, -0.241325, 1.013174), (0.457981, 0.203119, -0.10779, 0.858707)),
        ((0.511, -2.292, -0.584, -0.92, -1.819, 1.645),
         (-0.614237, -0.218925, 0.723417), (0.867922, 0.013278, 0.452555, 0.204277)),
    ],
    "kinova_gen3": [
        ((-0.627, 2.145, 0.468, 0.54, 0.718, 0.738, -1.816),
         (0.543788, 0.117504, -0.314495), (0.311165, 0.153369, 0.894193, -0.282972)),
        ((-0.31, -1.167, -0.507, -2.073, 2.433, -1.191, 0.893),
         (-0.405669, -0.257998, 0.069049), (0.093387, -0.872592, -0.232805, 0.419123)),
        ((-1.038, 1.676, 0.844, -1.893, 1.794, 1.86, 2.1),
         (0.119501, 0.313532, 0.538405), (0.317337, -0.283423, 0.422021, -0.800542)),
    ],
    "xarm7": [
        ((0.363, -1.455, -1.599, 2.399, 0.272, -0.918, 1.997),
         (-0.583709, -0.368893, 0.308459), (0.257769, 0.726869, -0.140464, -0.620876)),
        ((0.736, 0.307, -0.643, 0.955, -1.355, -1.53, 1.956),
         (0.357482, 0.16195, 0.376698), (0.666929, -0.725232, -0.097054, -0.140799)),
        ((-0.168, 0.216, -0.925, 1.906, -2.469, -0.095, -2.442),
         (0.343818, -0.395944, 0.634261), (0.070388, -0.304333, 0.590702, -0.743974)),
    ],
}  # fmt: skip

#: Those models' flanges in the last link's frame.
FLANGES = {
    "franka_language_action": (0, 0, 0.107, 0, 0, -math.pi / 4),
    "ur10e": (0, 0, 0.1 - 0.11655, 0, 0, 0),
    "ur5e": (0, 0, 0.1 - 0.0996, 0, 0, 0),
    "kinova_gen3": (0, 0, -0.061525, math.pi, 0, 0),
    "xarm7": (0, 0, 0, 0, 0, 0),
}

#: The TM12's Denavit-Hartenberg table as its maker prints it: degrees of turn and twist, millimetres of length and offset
#: (TechmanRobotInc/tmr_ros1@3075175 tm_description/scripts/modify_urdf.py, ``DHTable``).
TM12_TABLE = (
    (0, -90, 0, 165.2),
    (-90, 0, 636.1, 0),
    (0, 0, 557.9, 0),
    (90, 90, 0, -156.3),
    (0, 90, 0, 106),
    (0, 0, 0, 113.15),
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_arms_flange_is_where_another_publishers_model_has_it(name: str) -> None:
    chain = Chain.of(replace(ARMS[name], tool=FLANGES[name]))
    joints, places, turns = (torch.tensor(column, dtype=torch.float64) for column in zip(*PUBLISHED[name], strict=True))
    links = chain.links(joints)
    rounding = 2e-3 if name.startswith("ur") else 2e-6
    assert (links.tool_position - places).abs().max() < rounding
    assert ((quaternion_of(links.tool_rotation) * turns).sum(-1).abs() - 1).abs().max() < 1e-5


def test_the_tm12s_flange_is_where_its_makers_printed_table_has_it() -> None:
    chain = Chain.of(replace(ARMS["tm12"], tool=(0, 0, 0, 0, 0, 0)))
    joints = np.random.default_rng(0).uniform(-2.5, 2.5, (20, 6))
    links = chain.links(torch.tensor(joints))
    for index, angles in enumerate(joints):
        pose = np.eye(4)
        for angle, (theta, alpha, a, d) in zip(angles, TM12_TABLE, strict=True):
            turned, twisted = np.eye(4), np.eye(4)
            turned[:3, :3] = turn("z", torch.tensor(angle + math.radians(theta), dtype=torch.float64))
            twisted[:3, :3] = turn("x", torch.tensor(math.radians(alpha), dtype=torch.float64))
            turned[2, 3], twisted[0, 3] = d / 1000, a / 1000
            pose = pose @ turned @ twisted
        assert np.abs(pose[:3, 3] - links.tool_position[index].numpy()).max() < 1e-9
        assert np.abs(pose[:3, :3] - links.tool_rotation[index].numpy()).max() < 1e-9


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_the_jacobian_is_how_the_tool_moves(arm: Arm) -> None:
    chain = Chain.of(arm)
    joints = torch.tensor(arm.home, dtype=torch.float64) + 0.3
    links = chain.links(joints)
    nudged = chain.links(joints + 1e-6 * torch.eye(arm.joints, dtype=torch.float64))
    jacobian = chain.jacobian(links)
    assert ((nudged.tool_position - links.tool_position) / 1e-6 - jacobian[:3].T).abs().max() < 1e-5
    turned = rotation_vector(nudged.tool_rotation @ links.tool_rotation.T) / 1e-6
    assert (turned - jacobian[3:].T).abs().max() < 1e-5


@pytest.mark.parametrize("arm", ARMS.values(), ids=ARMS)
def test_inverse_kinematics_finds_what_forward_kinematics_says_is_there(arm: Arm) -> None:
    chain = Chain.of(arm)
    rng = np.random.default_rng(1)
    home = torch.tensor(arm.home, dtype=torch.float64)
    goals = chain.links(home + torch.tensor(rng.uniform(-0.4, 0.4, (50, arm.joints))).clamp(-0.4, 0.4))
    begin = home + torch.tensor(rng.normal(0, 0.3, (50, 4, arm.joints)))
    found = solve(chain, goals.tool_position, goals.tool_rotation, begin.clamp(chain.lower, chain.upper))
    assert found.reached.any(-1).float().mean() > 0.9
    links = chain.links(found.joints)
    miss = (links.tool_position - goals.tool_position[:, None]).norm(dim=-1)
    assert miss[found.reached].max() < 1e-4
    assert ((found.joints > chain.lower) & (found.joints < chain.upper)).all()


def test_rotation_vectors_and_quaternions_name_the_same_rotations() -> None:
    vectors = torch.tensor(np.random.default_rng(2).normal(0, 1, (200, 3)))
    rotations = rotation_by(vectors)
    assert (rotation_vector(rotations) - vectors)[vectors.norm(dim=-1) < 3].abs().max() < 1e-9
    w, x, y, z = quaternion_of(rotations).unbind(-1)
    assert (1 - 2 * (y * y + z * z) - rotations[:, 0, 0]).abs().max() < 1e-12
    assert (2 * (x * y + w * z) - rotations[:, 1, 0]).abs().max() < 1e-12


def test_a_way_leads_around_a_wall() -> None:
    arm = ARMS["franka_language_action"]
    shapes = Collisions.of(arm)
    home = torch.tensor(arm.home, dtype=torch.float64)
    start, goal = home.clone(), home.clone()
    start[0], goal[0] = -0.8, 0.8
    # A wall between them, thirty centimetres wide and a hand higher than the tool.
    wall = torch.tensor([[[0.42, 0, 0.3, 0.15, 0.02, 0.3, 1, 0, 0.005]]], dtype=torch.float64)
    nothing = torch.zeros(1, dtype=torch.float64)
    ways = connect(shapes, start[None], goal[None], wall, nothing, np.random.default_rng(0))
    assert bool(ways.blocked[0])
    assert int(ways.planner[0]) > 0
    assert float(path_clearance(shapes, ways.paths, wall, nothing)) > CLEARANCE
    assert torch.equal(ways.paths[0, 0], start)
    assert torch.equal(ways.paths[0, -1], goal)
    assert not bool(connect(shapes, start[None], goal[None], wall[:, :0], nothing, np.random.default_rng(0)).blocked[0])


def test_rrt_finds_a_way_where_curves_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlarig.training.data.synthetic.planner._ROUNDS", ())
    test_a_way_leads_around_a_wall()


def test_a_piece_takes_the_fewest_samples_within_the_limits() -> None:
    arm = ARMS["ur5e"]
    velocity, acceleration = (
        torch.tensor(arm.velocity, dtype=torch.float64),
        torch.tensor(arm.acceleration, dtype=torch.float64),
    )
    ends = torch.tensor(np.random.default_rng(3).uniform(-2, 2, (30, 1, 6)))
    paths = ends * torch.linspace(0, 1, 17, dtype=torch.float64)[:, None]
    counts = timing.durations(paths, velocity, acceleration, torch.ones(30, dtype=torch.float64))
    samples = timing.sample(paths, counts, torch.zeros_like(counts))
    load = torch.maximum((samples.velocities.abs() / velocity).amax(-1), (samples.accelerations.abs() / acceleration).amax(-1))
    hardest = torch.stack([load[samples.piece == piece].max() for piece in range(30)])
    assert hardest.max() <= 1
    assert hardest.min() > 0.9
    last = torch.stack([samples.positions[samples.piece == piece][-1] for piece in range(30)])
    assert (last - ends[:, 0]).abs().max() < 1e-9


@cache
def trajectories(template: str, arm: str = "ur5e") -> list[Trajectory]:
    return make(ARMS[arm], template, 0, 0, 8, Collisions.of(ARMS[arm]))[0]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("template", "arm"), list(zip(TEMPLATES, ARMS, strict=True)))
def test_no_sample_is_beyond_a_limit_or_off_its_goals(template: str, arm: str) -> None:
    data = ARMS[arm]
    made = trajectories(template, arm)
    assert len(made) > 4
    for each in made:
        assert (each.positions >= np.float32(data.lower)).all()
        assert (each.positions <= np.float32(data.upper)).all()
        assert (np.abs(each.velocities) <= np.float32(data.velocity)).all()
        # What is recorded as velocity is how positions change, and both are smooth.
        change = np.diff(each.positions, axis=0) * timing.RATE
        assert np.abs(change - (each.velocities[1:] + each.velocities[:-1]) / 2).max() < 0.05
        assert (np.abs(np.diff(each.velocities, axis=0)) * timing.RATE <= np.array(data.acceleration) * 1.02).all()
        links = Chain.of(data).links(torch.tensor(each.positions, dtype=torch.float64))
        assert np.abs(links.tool_position.numpy() - each.tool[:, :3]).max() < 1e-5
        for place in each.instance.positions.reshape(-1, 3):
            assert np.linalg.norm(each.tool[:, :3] - place, axis=1).min() < 1e-3


def test_the_tool_keeps_to_a_stroke() -> None:
    for each in trajectories("push"):
        start, end = each.instance.positions[0, 1], each.instance.positions[0, 2]
        first, last = (int(np.linalg.norm(each.tool[:, :3] - place, axis=1).argmin()) for place in (start, end))
        along = each.tool[first : last + 1, :3] - start
        way = (end - start) / np.linalg.norm(end - start)
        assert np.linalg.norm(along - (along @ way)[:, None] * way, axis=1).max() < 1e-3


def held(each: Trajectory) -> list[tuple[np.ndarray, np.ndarray]]:
    """Where the tool closes and opens again, in turn."""
    closed = each.gripper < 0.5
    edges = np.flatnonzero(np.diff(closed.astype(int)))
    return [(each.tool[a, :3], each.tool[b, :3]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def test_a_push_moves_away_with_closed_fingers_and_a_pull_comes_near_holding() -> None:
    for each in trajectories("push"):
        start, end = each.instance.positions[0, 1:3]
        assert end[0] > start[0]
        assert np.linalg.norm(end[:2]) > np.linalg.norm(start[:2])
        assert not each.gripper.any()
        assert re.match("Push|Slide|Shove|Nudge", each.instance.instruction)
    for each in trajectories("pull"):
        ((start, end),) = held(each)
        assert end[0] < start[0]
        assert np.linalg.norm(end[:2]) < np.linalg.norm(start[:2])
        assert re.match("Pull|Drag|Draw|Tug|Haul", each.instance.instruction)


def test_sides_and_distances_in_words_are_those_of_the_motion() -> None:
    rng_checked = 0
    for seed in range(300):
        for template in ("push", "pull", "pick_place"):
            instance = sample(ARMS["ur5e"], template, np.random.default_rng([9, seed]))
            first, last = (0, -1) if template == "pick_place" else (0, 0)
            start, end = instance.positions[first, 1], instance.positions[last, 1 if template == "pick_place" else 2]
            text = instance.instruction
            if by := re.search(r"by (\d+) c", text):
                assert abs(int(by[1]) / 100 - math.dist(start[:2], end[:2])) <= 0.005 + 1e-9
                rng_checked += 1
            if "to the left" in text or "leftward" in text:
                assert end[1] > start[1]
            if "to the right" in text or "rightward" in text:
                assert end[1] < start[1]
            if "on the left" in text:
                assert end[1] > 0
    assert rng_checked > 50


def test_a_turn_is_by_the_angle_in_words() -> None:
    for each in trajectories("rotate_reposition", "kinova_gen3"):
        first, last = each.instance.yaws[0, 1], each.instance.yaws[1, 1]
        said = re.search(r"(\d+) degrees|quarter", each.instance.instruction)
        assert said is not None
        degrees = float(said[1]) if said[1] else 90.0
        sign = 1 if "counterclockwise" in each.instance.instruction else -1
        assert math.degrees(last - first) == pytest.approx(sign * degrees)


def test_a_thing_is_turned_toward_the_view_in_words() -> None:
    for each in trajectories("rotate_view"):
        view = next(view for view in sorted(VIEWS, key=len, reverse=True) if each.instance.instruction.endswith(view))
        turned = each.tool[-1, 3:]
        w, x, y, z = turned
        axis = np.array((1 - 2 * (y * y + z * z), 2 * (x * y + w * z)))
        along = axis @ np.array((math.cos(VIEWS[view]), math.sin(VIEWS[view]))) / np.linalg.norm(axis)
        assert abs(along) > 0.97


def test_a_swap_exchanges_two_things() -> None:
    for each in trajectories("swap", "xarm7"):
        moves = held(each)
        assert len(moves) == 3
        (first, spare), (second, there), (again, other) = moves
        assert np.linalg.norm(there - first) < 2e-3
        assert np.linalg.norm(other - second) < 2e-3
        assert np.linalg.norm(again - spare) < 2e-3


def test_a_shard_is_the_same_made_again_and_in_another_order(tmp_path: Path) -> None:
    tasks = [Task("xarm7", "push", shard, 0, 3, "cpu", tmp_path / "a") for shard in (0, 1)]
    others = [replace(task, to=tmp_path / "b") for task in reversed(tasks)]
    for task in (*tasks, *others):
        write(task)
    for task in tasks:
        assert task.path.read_bytes() == replace(task, to=tmp_path / "b").path.read_bytes()
    assert tasks[0].path.read_bytes() != tasks[1].path.read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("synthetic")
    made = list(synthesize(SynthesizeOptions(to, arm="xarm7", template="pull", shards="0-1", attempts=5)))
    assert [new for _, _, new in made] == [True, True]
    for _, report, _ in made:
        assert report.kept + sum(report.rejected.values()) == report.attempts == 5
    return to


def test_what_is_there_is_not_made_again(folder: Path) -> None:
    options = SynthesizeOptions(folder, arm="xarm7", template="pull", shards="0-1", attempts=5)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.parquet")}
    again = list(synthesize(options))
    assert [new for _, _, new in again] == [False, False]
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.parquet")} == before
    with pytest.raises(DataError, match=r"shard-00000\.parquet: made with seed 0, expected 1"):
        list(synthesize(replace(options, seed=1)))


def test_a_dataset_has_whole_trajectories_or_windows_of_them(folder: Path) -> None:
    whole, windows = SyntheticDataset(folder, "xarm7", "pull"), SyntheticDataset(folder, "xarm7", "pull", horizon=50)
    (embodiment,) = whole.embodiments
    assert whole.cleaning is not None
    assert (whole.cleaning.total, whole.cleaning.total - whole.cleaning.dropped) == (10, len(whole))
    sample = whole[len(whole) - 1]
    assert sample.embodiment is embodiment
    assert embodiment in LANGUAGE_ACTION
    assert sample.observation["images"] == {}
    assert sample.observation["state"].shape == (len(embodiment.state_layout),)
    assert sample.actions.shape[1] == len(embodiment.channels)
    assert [whole.length(index) for index in range(len(whole))] == [len(whole[index].actions) for index in range(len(whole))]
    assert windows.length(0) == windows.horizon
    pieces = [windows[index] for index in range(len(windows))]
    assert sum(len(piece.actions) for piece in pieces) == sum(len(whole[index].actions) for index in range(len(whole)))
    assert {piece.horizon for piece in pieces} == {50}
    np.testing.assert_array_equal(np.concatenate([piece.actions for piece in pieces])[-len(sample.actions) :], sample.actions)
    # A window's state is where the one before it ends.
    np.testing.assert_array_equal(pieces[1].observation["state"], pieces[0].actions[-1])
    copied = copy.deepcopy(windows)
    np.testing.assert_array_equal(copied[3].actions, windows[3].actions)
    low, high = (np.array(limit) for limit in (whole.statistics["xarm7"].actions.q01, whole.statistics["xarm7"].actions.q99))
    assert ((sample.actions >= low) & (sample.actions <= high)).mean() > 0.8
    assert [each.name for each in synthetic_datasets(folder)] == ["synthetic/pull/xarm7"]
    with pytest.raises(DataError, match=r"elsewhere holds no language-action data; make some: vlarig data synthesize --to"):
        synthetic_datasets(folder / "elsewhere")
    with pytest.raises(IndexError):
        whole[len(whole)]


def test_what_is_wrong_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unknown arm 'ur5'"):
        list(synthesize(SynthesizeOptions(tmp_path, arm="ur5")))
    with pytest.raises(DataError, match="shards are '3-1'"):
        list(synthesize(SynthesizeOptions(tmp_path, shards="3-1")))
    with pytest.raises(DataError, match=r"push.xarm7: expected shards"):
        SyntheticDataset(folder, "xarm7", "push")
    broken = tmp_path / "pull" / "xarm7" / "shard-00000.parquet"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(next(folder.glob("*/*/*.parquet")).read_bytes()[:-20])
    with pytest.raises(DataError, match=r"shard-00000\.parquet: expected a shard"):
        SyntheticDataset(tmp_path, "xarm7", "pull")
