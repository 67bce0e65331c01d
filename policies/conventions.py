"""Conventions: what a policy's numbers mean, as data, compared with what an env takes.

A wrong convention makes no error of its own, only a low score. So a difference stops a run before its first episode.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from ..envs import embodiments
from ..envs.embodiments import Channel, Embodiment
from ..envs.errors import suggestion
from .api import PolicyError

_TEXT, _OPTIONAL_TEXT, _NUMBER, _TEXTS, _FLAG, _MAP = (
    "text",
    "text or null",
    "a number",
    "a list of texts",
    "true or false",
    "a map",
)
_CHANNELS = "a list of channels"

_CHANNEL_FIELDS = {
    "name": _TEXT,
    "unit": _TEXT,
    "kind": _TEXT,
    "frame": _TEXT,
    "low": _NUMBER,
    "high": _NUMBER,
    "rotation": _OPTIONAL_TEXT,
    "gripper": _OPTIONAL_TEXT,
}

_EMBODIMENT_FIELDS = {
    "name": _TEXT,
    "robot_tag": _TEXT,
    "arms": _TEXT,
    "control_frequency": _NUMBER,
    "channels": _CHANNELS,
    "state_layout": _TEXTS,
    "cameras": _MAP,
    "statistics_key": _TEXT,
    "waist": _FLAG,
    "mobile_base": _FLAG,
}

#: Differences that a refusal spells out; the others are counted.
_SHOWN = 3


def embodiment_to_data(embodiment: Embodiment) -> dict[str, Any]:
    """The embodiment as plain data for JSON or msgpack; :func:`embodiment_from_data` is the way back."""
    data = {name: getattr(embodiment, name) for name in _EMBODIMENT_FIELDS}
    data["channels"] = [{name: getattr(channel, name) for name in _CHANNEL_FIELDS} for channel in embodiment.channels]
    data["state_layout"] = list(embodiment.state_layout)
    data["cameras"] = dict(embodiment.cameras)
    return data


def embodiment_from_data(data: object) -> Embodiment:
    """The embodiment that :func:`embodiment_to_data` wrote down. ``data`` may come from anyone.

    Raises:
        PolicyError: A key is missing or unknown, or a value is of another type than it should be.
    """
    fields = _checked(data, _EMBODIMENT_FIELDS, "an embodiment")
    channels = []
    for position, each in enumerate(fields["channels"]):
        channel = _checked(each, _CHANNEL_FIELDS, f"channel {position} of an embodiment")
        channel["low"], channel["high"] = float(channel["low"]), float(channel["high"])
        channels.append(Channel(**channel))
    fields["channels"] = tuple(channels)
    fields["state_layout"] = tuple(fields["state_layout"])
    fields["control_frequency"] = float(fields["control_frequency"])
    try:
        return Embodiment(**fields)
    except ValueError as error:
        raise PolicyError(f"an embodiment does not hold together: {error}") from None


def known_embodiments() -> dict[str, Embodiment]:
    """The embodiments that come with the rig, by name: those of its suites, and those of the paper's Table 2."""
    from .qwen_vla.embodiments import EMBODIMENTS  # not every policy speaks of them

    own = [value for value in vars(embodiments).values() if isinstance(value, Embodiment)]
    return {**EMBODIMENTS, **{each.name: each for each in own}}


def plugin_embodiments() -> tuple[dict[str, Embodiment], list[str]]:
    """The embodiments of third parties' suites, by name; and the names of those suites that cannot be loaded."""
    found, broken = {}, []
    for point in entry_points(group="vlarig.suites"):
        try:
            embodiment = point.load().embodiment
        except KeyboardInterrupt:
            raise
        except BaseException:  # 'vlarig envs list' says what is wrong with it
            broken.append(point.name)
        else:
            if isinstance(embodiment, Embodiment):
                found[embodiment.name] = embodiment
    return found, broken


def find_embodiment(name: str) -> Embodiment:
    """The embodiment of that name, of the rig or of an installed suite; or in a JSON file, as :func:`embodiment_to_data` has it.

    Raises:
        PolicyError: There is no such name or file, or the file holds something else.
    """
    known = known_embodiments()
    if name in known:
        return known[name]
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        installed, broken = plugin_embodiments()
        if name in installed:
            return installed[name]
        unread = f"; not looked at: the broken suites {', '.join(broken)}, see 'vlarig envs list'" if broken else ""
        raise PolicyError(
            f"unknown embodiment {name!r}; {suggestion(name, {**installed, **known})} "
            f"(or the path of a JSON file that describes one{unread})"
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"the embodiment file {name} cannot be read ({error}); give a JSON file that describes one") from None
    try:
        return embodiment_from_data(data)
    except PolicyError as error:
        raise PolicyError(f"{name}: {error}") from None


def differences(policy: Embodiment, env: Embodiment, reads_state: bool) -> list[str]:
    """What ``policy`` takes for granted and ``env`` does otherwise, a phrase each; empty where the two fit.

    Names of embodiments, bounds of channels and the key of the statistics are no conventions. The layout of the state counts only
    for a policy that reads it, and the env may have more views than the policy wants.
    """
    found = []
    for what, ours, theirs in (
        ("the robot", policy.robot_tag, env.robot_tag),
        ("the control frequency", f"{policy.control_frequency:g} Hz", f"{env.control_frequency:g} Hz"),
        ("the robot's arms", policy.arms, env.arms),
        ("the waist", _controlled(policy.waist), _controlled(env.waist)),
        ("the mobile base", _controlled(policy.mobile_base), _controlled(env.mobile_base)),
    ):
        if ours != theirs:
            found.append(f"{what} is {ours} for the policy and {theirs} for the env")
    if policy.action_size != env.action_size:
        found.append(f"the policy's actions are {_listed(policy)} and the env's are {_listed(env)}")
    else:
        for position, (ours, theirs) in enumerate(zip(policy.channels, env.channels, strict=True)):
            found += _channel_differences(position, ours, theirs)
    if reads_state and policy.state_layout != env.state_layout:
        found.append(
            f"the policy reads the state as [{_joined(policy.state_layout)}] and the env gives [{_joined(env.state_layout)}]"
        )
    missing = [view for view in policy.cameras if view not in env.cameras]
    if missing:
        found.append(
            f"the policy wants the view{'s' * (len(missing) > 1)} {_joined(missing)} and the env has {_joined(env.cameras)}"
        )
    return found


def refuse_differences(who: str, suite: str, policy: Embodiment, env: Embodiment, reads_state: bool) -> None:
    """Make sure that the conventions of a policy fit a suite's.

    Args:
        who: Names the policy in the sentence.
        suite: Name of the suite.
        policy: What the policy was made for.
        env: The suite's embodiment.
        reads_state: Whether the policy reads the state vector.

    Raises:
        PolicyError: They do not fit; the sentence names the first differences.
    """
    found = differences(policy, env, reads_state)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise PolicyError(
            f"the policy {who!r} ({policy.name}) does not fit suite {suite!r} ({env.name}): {'; '.join(found[:_SHOWN])}{more}"
        )


def _channel_differences(position: int, policy: Channel, env: Channel) -> list[str]:
    if policy.name != env.name:
        return [f"channel {position} of an action is {policy.name} for the policy and {env.name} for the env"]
    return [
        f"the {what} of channel {policy.name} is {ours} for the policy and {theirs} for the env"
        for what, ours, theirs in (
            ("unit", policy.unit, env.unit),
            ("kind", policy.kind, env.kind),
            ("frame", policy.frame, env.frame),
            ("rotation", policy.rotation, env.rotation),
            ("gripper convention", _quoted(policy.gripper), _quoted(env.gripper)),
        )
        if ours != theirs
    ]


def _controlled(part: bool) -> str:
    return "controlled" if part else "absent"


def _quoted(text: str | None) -> str:
    return "none" if text is None else repr(text)


def _joined(names: object) -> str:
    assert isinstance(names, (tuple, list, dict))
    return ", ".join(names) or "none"


def _listed(embodiment: Embodiment) -> str:
    return f"{embodiment.action_size} numbers ({_joined([channel.name for channel in embodiment.channels])})"


def _checked(data: object, kinds: Mapping[str, str], what: str) -> dict[str, Any]:
    """A copy of ``data``, which has exactly the keys of ``kinds`` with values of those kinds."""
    if not isinstance(data, dict):
        raise PolicyError(f"{what} is a map of {', '.join(kinds)}; got {type(data).__name__}")
    for key in data:
        if key not in kinds:
            raise PolicyError(f"{what} has the unknown key {str(key)[:80]!r}; {suggestion(str(key)[:80], kinds)}")
    for key, kind in kinds.items():
        if key not in data:
            raise PolicyError(f"{what} lacks the key {key!r}; it has to be {kind}")
        if not _is(data[key], kind):
            raise PolicyError(f"{key!r} of {what} is {str(data[key])[:80]!r}; it has to be {kind}")
    return dict(data)


def _is(value: object, kind: str) -> bool:
    if kind == _NUMBER:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind == _FLAG:
        return isinstance(value, bool)
    if kind == _MAP:
        return isinstance(value, dict) and all(isinstance(each, str) for pair in value.items() for each in pair)
    if kind == _TEXTS:
        return isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value)
    if kind == _CHANNELS:
        return isinstance(value, (list, tuple))
    return isinstance(value, str) or (kind == _OPTIONAL_TEXT and value is None)
