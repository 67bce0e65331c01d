"""Which robot a LeRobotDataset is of: the order of its numbers, its views, its quantiles."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...envs.embodiments import Embodiment
from ...envs.errors import VlarigError, suggestion
from ...envs.home import appearing
from ...envs.untrusted import convert
from ...policies.api import PolicyError
from ...policies.conventions import embodiment_named
from ...policies.qwen_vla.normalization import DatasetStatistics, statistics_from_data, statistics_to_data
from .dataset import Trajectories, fit_statistics
from .errors import DataError
from .lerobot_files import Meta
from .pseudo_actions import pseudo_actions

#: What ``vlarig data record`` writes beside LeRobot's own files.
OURS = "meta/vlarig.json"

#: Quantiles of a dataset that does not bring them.
STATISTICS = "meta/vlarig_statistics.json"

STATE, ACTION = "observation.state", "action"

#: Where actions come from: the dataset's column, or finite differences of its states (:mod:`~.pseudo_actions`).
ActionSource = Literal["recorded", "from_states"]


@dataclass(frozen=True)
class Layout:
    """What the dataset's numbers and images mean.

    Attributes:
        cameras: Name of an image to view tag.
        sizes: Name of an image to ``(h, w, 3)``.
        action_columns: For each of the embodiment's channels its place in the dataset's actions; none where actions are made of the
            states.
        state_columns: The same for the numbers of the state.
        action_size: Numbers of an action in the dataset.
        state_size: Numbers of a state in the dataset.
    """

    embodiment: Embodiment
    cameras: Mapping[str, str]
    sizes: Mapping[str, tuple[int, ...]]
    action_columns: tuple[int, ...]
    state_columns: tuple[int, ...]
    action_size: int
    state_size: int
    action_key: str = ACTION
    state_key: str = STATE

    @property
    def from_states(self) -> bool:
        """Whether actions are made of the states. An episode's last frame, which has no next state, then is no step."""
        return not self.action_columns

    def made_of(self, meta: Meta) -> dict[str, Any]:
        """The inputs of quantiles, and of verdicts on episodes, for this dataset with this layout, as plain JSON data."""
        return {
            "embodiment": self.embodiment.name,
            "action_columns": list(self.action_columns),
            "state_columns": list(self.state_columns),
            "frames": int(meta.lengths.sum()),
        }


def read_layout(
    meta: Meta,
    embodiment: Embodiment | str | None,
    cameras: Mapping[str, str] | None,
    action_names: Sequence[str] | None,
    state_names: Sequence[str] | None,
    source: ActionSource = "recorded",
) -> Layout:
    """The layout that the caller gives, else what ``meta/vlarig.json`` says; arguments as of ``open_lerobot``."""
    ours = _ours(meta)
    if embodiment is None:
        if "embodiment" not in ours:
            raise DataError(
                f"{meta.folder} does not say which robot it is of; give embodiment=NAME, or an Embodiment with its channels, state "
                "and cameras"
            )
        robot = convert(ours["embodiment"], Embodiment, f"the embodiment in {meta.folder / OURS}")
    else:
        robot = _named(embodiment) if isinstance(embodiment, str) else embodiment
    if not np.isclose(robot.control_frequency, meta.fps, rtol=1e-3):
        raise DataError(
            f"{meta.folder / 'meta/info.json'} says {meta.fps:g} frames a second, and {robot.name} acts {robot.control_frequency:g} "
            "times a second, which its prompt states; give an embodiment with the dataset's control_frequency"
        )
    views = _views(meta, robot, cameras if cameras is not None else ours.get("cameras"))
    if source == "from_states":
        if action_names is not None:
            raise DataError(f"{meta.folder} is given action_names, and its actions are made of states; leave one of them out")
        pseudo_actions(np.zeros((2, len(robot.state_layout))), 1 / meta.fps, robot)  # refuses a robot whose states do not tell
        actions: tuple[tuple[int, ...], int] = ((), 0)
    elif source == "recorded":
        if ACTION not in meta.features:
            raise DataError(
                f"{meta.folder} has no feature {ACTION!r}, it has {', '.join(meta.features)}; give actions='from_states' to make them "
                "of its states"
            )
        names = [channel.name for channel in robot.channels]
        actions = _columns(meta, ACTION, names, action_names, "action_names", robot.name)
    else:
        raise DataError(f"the actions of {meta.folder} are {source!r}; {suggestion(source, get_args(ActionSource))}")
    states: tuple[tuple[int, ...], int] = ((), 0)
    if robot.state_layout:
        states = _columns(meta, STATE, list(robot.state_layout), state_names, "state_names", robot.name)
    sizes = {key: tuple(int(size) for size in _shape(meta, key)) for key in views}
    return Layout(robot, views, sizes, actions[0], states[0], actions[1], states[1])


def stored_statistics(
    meta: Meta,
    layout: Layout,
    file: Path | None,
    trajectories: Trajectories,
    dropped: Sequence[int] = (),
) -> DatasetStatistics:
    """The dataset's quantiles: those that it was recorded with, else those in ``file``, else fitted and written there.

    Those that it was recorded with are of all its episodes, so they are not taken where some are left out.

    Args:
        meta: The dataset, without the episodes that are left out.
        layout: Its layout; quantiles of another are not taken.
        file: Where they are kept; ``meta/vlarig_statistics.json`` when ``None``.
        trajectories: Gives the ``actions`` or ``states`` of each episode, as often as it is called.
        dropped: Numbers of the episodes that are left out; quantiles without others are not taken.
    """
    robot, key = layout.embodiment, layout.embodiment.statistics_key
    ours = _ours(meta)
    recorded = ours.get("statistics", {})
    own = (
        not layout.from_states
        and layout.action_columns == tuple(range(layout.action_size))
        and layout.state_columns == tuple(range(layout.state_size))
    )
    if key in recorded and own and not dropped:
        found = _statistics(recorded, meta.folder / OURS)[key]
        if found.actions.size == robot.action_size and (found.state is not None) == bool(robot.state_layout):
            return found
    place = file or meta.folder / STATISTICS
    made_of = layout.made_of(meta) | ({"dropped": list(dropped)} if dropped else {})
    if place.exists():
        try:
            data = json.loads(place.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{place} cannot be read ({error}); delete it, and it is fitted again") from None
        if isinstance(data, dict) and data.get("made_of") == made_of and key in data.get("statistics", {}):
            return _statistics(data["statistics"], place)[key]
    try:
        fitted = fit_statistics([trajectories], bool(robot.state_layout), meta.folder.name)
    except PolicyError as error:
        raise DataError(f"quantiles of {meta.folder} cannot be fitted: {error}") from None
    content = json.dumps({"made_of": made_of, "statistics": statistics_to_data({key: fitted})}, indent=2)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with appearing(place) as draft:
            draft.write_text(content + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"quantiles cannot be kept in {place} ({error.strerror}); give statistics_file=FILE elsewhere"
        ) from None
    return fitted


def _ours(meta: Meta) -> dict[str, Any]:
    file = meta.folder / OURS
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read ({error}); restore it, or delete it and say which robot it is of") from None
    if not isinstance(data, dict) or data.get("version") != 1:
        raise DataError(f"{file} is of a version that is not known; use the vlarig that wrote it")
    return data


def _named(name: str) -> Embodiment:
    try:
        return embodiment_named(name)
    except VlarigError as error:
        raise DataError(str(error)) from None


def _statistics(data: Any, file: Path) -> dict[str, DatasetStatistics]:
    try:
        return statistics_from_data(data)
    except PolicyError as error:
        raise DataError(f"{file}: {error}") from None


def _views(meta: Meta, robot: Embodiment, cameras: Mapping[str, str] | None) -> dict[str, str]:
    if not meta.images and not cameras:
        return {}
    known = ", ".join(meta.images) or "none"
    if not cameras:
        raise DataError(
            f"{meta.folder} does not say which of its images ({known}) is which view ({', '.join(robot.cameras)}); give "
            "cameras={IMAGE: VIEW, ...}"
        )
    for key, view in cameras.items():
        if key not in meta.images:
            raise DataError(f"{meta.folder} has no image {key!r}; it has {known}")
        if view not in robot.cameras:
            raise DataError(f"{robot.name} has no view {view!r} for {key}; it has {', '.join(robot.cameras)}")
    if len(set(cameras.values())) != len(cameras):
        raise DataError(f"two images of {meta.folder} are to be the same view: {dict(cameras)}; name each view once")
    return dict(cameras)


def _shape(meta: Meta, key: str) -> list[int]:
    """Height, width, colours of an image, which some datasets write with the colours first."""
    shape = [int(size) for size in meta.features[key]["shape"]]
    names = meta.features[key].get("names")
    first = isinstance(names, list) and names[:1] in (["channels"], ["channel"])
    return [*shape[1:], shape[0]] if first or (len(shape) == 3 and shape[0] == 3 != shape[2]) else shape


def _columns(
    meta: Meta, key: str, wanted: list[str], given: Sequence[str] | None, option: str, robot: str
) -> tuple[tuple[int, ...], int]:
    """Each wanted number's place among the dataset's, and how many it has."""
    info = meta.folder / "meta" / "info.json"
    if key not in meta.features:
        raise DataError(f"{info} has no feature {key!r}, which {robot} needs; it has {', '.join(meta.features)}")
    (size,) = meta.features[key]["shape"]
    names = _names(meta.features[key].get("names"))
    if given is not None:
        if names is None or len(names) != size:
            raise DataError(
                f"{info} does not name the numbers of {key}, so that {option} cannot choose among them; leave it out"
            )
        missing = [name for name in given if name not in names]
        if missing or len(given) != len(wanted):
            hint = f"{key} has no {missing[0]!r}" if missing else f"it names {len(given)}"
            raise DataError(f"{option} has to name {robot}'s {len(wanted)} numbers among {', '.join(names)} of {info}; {hint}")
        return tuple(names.index(name) for name in given), size
    if size != len(wanted):
        shown = f" ({', '.join(names)})" if names else ""
        raise DataError(
            f"{info} says that {key} has {size} numbers{shown}, and {robot} has {len(wanted)} ({', '.join(wanted)}); give the "
            f"embodiment that it is of, or choose by {option}"
        )
    if names is not None and names != wanted:
        raise DataError(
            f"{info} names the numbers of {key} {', '.join(names)}, and those of {robot} are {', '.join(wanted)}; give "
            f"{option}=(the dataset's names in the order of {robot}'s)"
        )
    return tuple(range(size)), size


def _names(names: Any) -> list[str] | None:
    """A feature's names: a list, or a list below one word such as ``motors``; ``None`` where there are none."""
    if isinstance(names, Mapping) and len(names) == 1:
        names = next(iter(names.values()))
    return [str(name) for name in names] if isinstance(names, list) and names else None
