"""The rules by which an episode is left out, each of which looks at it alone (paper, section 3.2.1).

Of instructions the paper drops "trajectories whose language annotations are inconsistent with the observed motion" and prints no
method. :func:`contradicted` is ours. It needs the motion that it names at some time step of the episode, not in sum: a hand that pushes
to the left first goes to the right of the object. Where the words or the channels leave a doubt, it says nothing.

Shapes: ``J`` steps of an episode, ``A`` action channels, ``P`` numbers of the state.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...envs.embodiments import Embodiment
from ...policies.api import PolicyError
from ...policies.qwen_vla.normalization import parse_gripper
from .errors import DataError

_NEGATION = re.compile(r"\b(?:not|no|never|without|avoid|don't|doesn't|instead of)\b")
_GRASP = re.compile(r"\b(?:pick|picks|picking|grasp|grasps|grasping|grab|grabs|grabbing)\b")

#: A verb of pushing, then a direction that ends the clause: "to the left burner", "to the left of the plate" are places.
_PUSH = re.compile(
    r"\b(?:push|pull|slide|drag|shift|sweep|nudge|move)(?:s|es|ing)?\b[^.;,]*?"
    r"\b(?P<way>left|right|forwards?|backwards?|up|down|upwards?|downwards?)(?=\s*(?:$|[.;,]|and\b|then\b|by\b))"
)
_SPATIAL_WORDS = re.compile(r"\b(?:left|right|forwards?|backwards?|up|down|upwards?|downwards?)\b")
_FURNITURE = ("drawer", "door", "microwave", "cabinet", "fridge", "oven", "lid")


@dataclass(frozen=True, eq=False)
class EpisodeArrays:
    """An episode, as far as the rules look at it.

    Attributes:
        name: Names it in the report: ``bridge/1234``.
        task: The task, among whose episodes lengths are compared.
        instruction: The task in words; empty where the data have none.
        embodiment: The robot, whose channels and state layout name the columns.
        actions: ``[J, A]`` in the embodiment's units; ``None`` where the data have no actions.
        states: ``[J, P]``; ``None`` where the data have no states.
        timestamps: Seconds of each step, ``[J]``.
        frames: View to ``bool[J]``: whether the step's image is there and decodes.
    """

    name: str
    task: str
    instruction: str
    embodiment: Embodiment
    actions: np.ndarray | None
    states: np.ndarray | None
    timestamps: np.ndarray
    frames: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of the rules.

    Attributes:
        missing_share: Share of a view's frames that may be missing.
        longest_gap: Longest time between two steps, in control periods; beyond it a step is missing. One lost frame is 2.
        still_delta: Unit to the root mean square below which a channel of deltas counts as still, a step.
        still_absolute: Unit to the standard deviation below which a channel of absolute values counts as still.
        still_state: Standard deviation below which a number of the state counts as still, where there are no actions.
        fewest_steps: Shortest episode.
        length_spread: ``k``: lengths outside [q1 - k IQR, q3 + k IQR] of the logarithm are anomalous. 3 is Tukey's "far out".
        length_slack: Factor about the quartiles within which no length is anomalous, however alike the others are.
        length_episodes: Fewest episodes of a task whose lengths are compared with each other; those of a task that has fewer are
            compared with all episodes of the data set, as where every episode has words of its own.
        moved: Least motion that counts as having moved in a direction, in m (of a drawer or door: in its own unit).
        closed: How far a gripper has to close, as a share of its way, for a grasp.
        gripper_moved: A gripper that moves by that share of its way may have grasped something thick.
        directions: What the data set's words (``left``, ``right``, ``forward``, ``backward``, ``up``, ``down``) mean, as unit vectors
            in the frame of the end effector's position. Empty: instructions about directions are not judged, as their point of view is
            not known.
    """

    missing_share: float = 0.0
    longest_gap: float = 2.5
    still_delta: Mapping[str, float] = field(
        default_factory=lambda: {"m": 1e-4, "rad": 5e-4, "normalized": 1e-2, "share": 1e-2, "weight": 1e-2}
    )
    still_absolute: Mapping[str, float] = field(
        default_factory=lambda: {"m": 1e-3, "rad": 5e-3, "normalized": 1e-2, "share": 1e-2, "weight": 1e-2}
    )
    still_state: float = 1e-3
    fewest_steps: int = 2
    length_spread: float = 3.0
    length_slack: float = 2.0
    length_episodes: int = 8
    moved: float = 0.02
    closed: float = 0.5
    gripper_moved: float = 0.2
    directions: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)


def missing_frames(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """A view has frames that are missing or do not decode."""
    for view, present in episode.frames.items():
        missing = np.flatnonzero(~np.asarray(present, bool))
        if len(missing) > thresholds.missing_share * len(present):
            return f"{len(missing)} of {len(present)} frames of {view} are missing or damaged, the first is {missing[0]}"
    return None


def odd_times(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """Times do not increase, or there is a gap between two steps, for which frames are missing in all views alike."""
    steps = np.diff(np.asarray(episode.timestamps, np.float64))
    if not np.isfinite(steps).all() or (steps <= 0).any():
        worst = int(np.argmin(np.where(np.isfinite(steps), steps, -np.inf)))
        return f"time does not increase after step {worst}"
    longest = thresholds.longest_gap / episode.embodiment.control_frequency
    if (steps > longest).any():
        worst = int(np.argmax(steps))
        return f"{steps[worst]:.3g} s pass after step {worst}, expected {longest:.3g} s at most"
    return None


def broken_numbers(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """Actions or states have another shape than the robot's, or hold a number that is not finite."""
    del thresholds
    robot, steps = episode.embodiment, len(episode.timestamps)
    for what, array, size in (
        ("actions", episode.actions, robot.action_size),
        ("states", episode.states, len(robot.state_layout)),
    ):
        if array is None:
            continue
        if array.shape != (steps, size):
            return f"the {what} have the shape {list(array.shape)}, expected {[steps, size]} for {robot.name}"
        if not np.isfinite(array).all():
            step = int(np.argwhere(~np.isfinite(array))[0][0])
            return f"the {what} hold a number that is not finite at step {step}"
    return None


def static(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """No channel moves: near-zero variance.

    Deltas are compared with zero, not with their mean: a constant one is a constant motion.
    """
    if episode.actions is None:
        if episode.states is None:
            return None
        spread = np.std(episode.states, axis=0).max(initial=0.0)
        return f"no number of the state varies by more than {spread:.2g}" if spread < thresholds.still_state else None
    for channel, values in zip(episode.embodiment.channels, np.asarray(episode.actions, np.float64).T, strict=True):
        delta = channel.kind == "delta"
        limits = thresholds.still_delta if delta else thresholds.still_absolute
        if channel.unit not in limits:
            raise DataError(
                f"{episode.name}: channel {channel.name} has the unit {channel.unit!r}; give its threshold of stillness"
            )
        if (np.sqrt(np.mean(values**2)) if delta else np.std(values)) >= limits[channel.unit]:
            return None
    return f"no channel of its {len(episode.actions)} actions moves"


def contradicted(episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """The motion contradicts the instruction, where a rule can tell."""
    words = " ".join(episode.instruction.lower().replace("’", "'").split())
    if _NEGATION.search(words):
        return None
    return (
        never_grasps(words, episode, thresholds)
        or never_goes(words, episode, thresholds)
        or never_opens(words, episode, thresholds)
    )


def never_grasps(words: str, episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """The words say pick, grasp or grab, and no gripper ever closes. Commands are judged, of grippers with absolute ones."""
    said, actions = _GRASP.search(words), episode.actions
    channels = [(index, channel) for index, channel in enumerate(episode.embodiment.channels) if channel.gripper is not None]
    if not said or not channels or actions is None or any(channel.kind != "absolute" for _, channel in channels):
        return None
    for index, channel in channels:
        try:
            convention = parse_gripper(channel.gripper or "")
        except PolicyError:
            return None
        share = (np.asarray(actions[:, index], np.float64) - convention.open) / (convention.close - convention.open)
        if share.max() >= thresholds.closed or np.ptp(share) >= thresholds.gripper_moved:
            return None
    return f"the instruction says {said[0]!r}, and no gripper closes"


def never_goes(words: str, episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """The words say to push, pull or slide in a direction, and no end effector ever goes that way."""
    found, directions = _PUSH.search(words), thresholds.directions
    if not found or not directions or len(set(_SPATIAL_WORDS.findall(words))) != 1:
        return None
    way = re.sub(r"^(forward|backward|up|down)(?:s|wards?)?$", r"\1", found["way"])
    paths = end_effector_paths(episode.embodiment, episode.actions, episode.states)
    if way not in directions or not paths:
        return None
    gone = max(_longest_rise(path @ np.asarray(directions[way], np.float64)) for path in paths)
    return (
        f"the instruction says {found['way']!r}, and the hand goes {gone:.3f} m that way" if gone < thresholds.moved else None
    )


def never_opens(words: str, episode: EpisodeArrays, thresholds: Thresholds) -> str | None:
    """The words say to open or close furniture whose opening is in the state (``drawer_open``, larger is wider), and it never does."""
    if episode.states is None:
        return None
    verbs = set(re.findall(r"\b(open|close|shut)\b", words))
    if len(verbs) != 1:
        return None
    (verb,) = verbs
    for index, name in enumerate(episode.embodiment.state_layout):
        nouns = [noun for noun in _FURNITURE if noun in name and re.search(rf"\b{verb}\b[^.;,]*\b{noun}\b", words)]
        if nouns and re.search(r"_open(?:ing)?$", name):
            opening = np.asarray(episode.states[:, index], np.float64)
            if _longest_rise(opening if verb == "open" else -opening) < thresholds.moved:
                return f"the instruction says {verb!r}, and {name} goes from {opening[0]:.3g} to {opening[-1]:.3g}"
    return None


def end_effector_paths(embodiment: Embodiment, actions: np.ndarray | None, states: np.ndarray | None) -> list[np.ndarray]:
    """Where each arm's end effector is, ``float64[J, 3]`` in m, from the state or by adding deltas up; empty where neither tells.

    Deltas without a unit of length, or in another frame than the robot's base, tell nothing.
    """
    arms = ("", "left_", "right_")
    if states is not None:
        layout = {name: index for index, name in enumerate(embodiment.state_layout)}
        names = [[f"{arm}position_{axis}" for axis in "xyz"] for arm in arms]
        found = [[layout[name] for name in three] for three in names if all(name in layout for name in three)]
        if found:
            return [np.asarray(states[:, columns], np.float64) for columns in found]
    if actions is None:
        return []
    channels = {channel.name: (index, channel) for index, channel in enumerate(embodiment.channels)}
    paths = []
    for arm in arms:
        three = [channels.get(f"{arm}{axis}") for axis in "xyz"]
        if all(found and found[1].unit == "m" and found[1].frame == "base" for found in three):
            columns = np.asarray(actions, np.float64)[:, [found[0] for found in three if found]]
            delta = channels[f"{arm}x"][1].kind == "delta"
            paths.append(np.concatenate((np.zeros((1, 3)), np.cumsum(columns, axis=0))) if delta else columns)
    return paths


def _longest_rise(values: np.ndarray) -> float:
    """The most that a later value is above an earlier one, 0 at least."""
    return float((values - np.minimum.accumulate(values)).max(initial=0.0))


#: The rules that look at an episode alone, by the name under which a drop is counted. Before them come ``does not read`` and
#: ``odd length``.
RULES: dict[str, Callable[[EpisodeArrays, Thresholds], str | None]] = {
    "missing frames": missing_frames,
    "odd times": odd_times,
    "broken numbers": broken_numbers,
    "static": static,
    "contradicts instruction": contradicted,
}
