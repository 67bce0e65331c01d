"""Conventions: what a policy's numbers mean, as data, compared with what an env takes; the form of its images; and a robot new to it.

A wrong convention makes no error of its own, only a low score. So a difference stops a run before its first episode.

Zero-shot transfer: "At deployment, we simply replace the embodiment prompt with the textual description of the physical robot platform,
including its arm configuration, control frequency, and action space, while keeping the VLM backbone and DiT action decoder unchanged"
(paper, section 4.2). Actions still have to be denormalised, and the paper does not say by which statistics. Here the user names one of
the checkpoint's embodiments, the source:

* The prompt is the env's robot's: its tag, arms, waist, mobile base and control frequency are free to differ.
* The numbers are the source's: its statistics of actions and states, and its weights where the action projections have some for each
  embodiment. So every channel must be the source's in name, unit, kind, frame, rotation and gripper convention, and the state's layout
  where the model reads it. Another convention would turn the same numbers into another motion, without an error.
* The views are those that both have: the model has not learned the tokens of another one.

Clients of other policies and the embedded policy bring images to size by :func:`fit_image`, so that a policy sees the same through all
of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, TypeAlias

import msgspec
import numpy as np

from ..envs.embodiments import Channel, Embodiment
from ..envs.errors import BadMessageError, suggestion
from ..envs.images import pil_bilinear
from ..envs.plugins import only, registered_suites
from ..envs.untrusted import convert
from .api import PolicyError

#: Differences that a refusal spells out; the others are counted.
_SHOWN = 3


def embodiment_to_data(embodiment: Embodiment) -> dict[str, Any]:
    """The embodiment as plain data for JSON or msgpack; :func:`embodiment_from_data` is the way back."""
    return msgspec.to_builtins(embodiment)


def embodiment_from_data(data: object) -> Embodiment:
    """The embodiment that :func:`embodiment_to_data` wrote down. ``data`` is not trusted."""
    try:
        return convert(data, Embodiment, "this is no embodiment")
    except BadMessageError as error:
        raise PolicyError(str(error)) from None


def known_embodiments() -> tuple[dict[str, Embodiment], list[str]]:
    """The paper's robots and those of all suites, by name; and the names of those suites that cannot be loaded."""
    from .qwen_vla.embodiments import EMBODIMENTS  # not every policy needs them

    found, broken = {}, []
    for name, registered in registered_suites().items():
        try:
            embodiment = resolve_name(only("suite", name, registered).place).embodiment
        except KeyboardInterrupt:
            raise
        except BaseException:  # 'vlarig envs list' shows the error
            broken.append(name)
        else:
            if isinstance(embodiment, Embodiment):
                found[embodiment.name] = embodiment
    return {**found, **EMBODIMENTS}, broken


def embodiment_named(name: str) -> Embodiment:
    """The embodiment of that name, of the paper's robots or of an installed suite."""
    from .qwen_vla.embodiments import EMBODIMENTS  # the paper's are known without loading suites

    if name in EMBODIMENTS:
        return EMBODIMENTS[name]
    known, broken = known_embodiments()
    if name in known:
        return known[name]
    unread = f"; not checked: the broken suites {', '.join(broken)}, see 'vlarig envs list'" if broken else ""
    raise PolicyError(
        f"unknown embodiment {name!r}; {suggestion(name, known)} (or the path of a JSON file that describes one{unread})"
    )


def find_embodiment(name: str) -> Embodiment:
    """The embodiment of that name, as :func:`embodiment_named`; or in a JSON file, as :func:`embodiment_to_data` has it."""
    path = Path(name)
    if path.suffix != ".json" and not path.is_file():
        return embodiment_named(name)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"the embodiment file {name} cannot be read ({error}); give a JSON file that describes one") from None
    try:
        return embodiment_from_data(data)
    except PolicyError as error:
        raise PolicyError(f"{name}: {error}") from None


def differences(policy: Embodiment, env: Embodiment, reads_state: bool) -> list[str]:
    """The conventions of ``policy`` from which ``env`` differs, a phrase each; empty where the two fit.

    Names of embodiments, bounds of channels and the key of the statistics are no conventions. The layout of the state counts only
    for a policy that reads it, and the env may have more views than the policy reads.
    """
    controlled = {True: "controlled", False: "absent"}
    found = _unlike(
        ("the robot", policy.robot_tag, env.robot_tag),
        ("the control frequency", f"{policy.control_frequency:g} Hz", f"{env.control_frequency:g} Hz"),
        ("the robot's arms", policy.arms, env.arms),
        ("the waist", controlled[policy.waist], controlled[env.waist]),
        ("the mobile base", controlled[policy.mobile_base], controlled[env.mobile_base]),
    )
    found += number_differences(policy, env, reads_state)
    missing = [view for view in policy.cameras if view not in env.cameras]
    if missing:
        found.append(
            f"the policy needs the view{'s' * (len(missing) > 1)} {_joined(missing)} and the env has {_joined(env.cameras)}"
        )
    return found


def number_differences(policy: Embodiment, env: Embodiment, reads_state: bool) -> list[str]:
    """The part of :func:`differences` that is about the numbers: an action's channels, and the state's layout where it is read."""
    found = []
    if policy.action_size != env.action_size:
        found.append(f"the policy's actions are {_listed(policy)} and the env's are {_listed(env)}")
    else:
        for position, (ours, theirs) in enumerate(zip(policy.channels, env.channels, strict=True)):
            found += _channel_differences(position, ours, theirs)
    if reads_state and policy.state_layout != env.state_layout:
        found.append(
            f"the policy reads the state as [{_joined(policy.state_layout)}] and the env gives [{_joined(env.state_layout)}]"
        )
    return found


def refuse_differences(name: str, suite: str, policy: Embodiment, env: Embodiment, reads_state: bool) -> None:
    """Make sure that the conventions of a policy fit a suite's; ``reads_state`` is whether the policy reads the state vector."""
    found = differences(policy, env, reads_state)
    if found:
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise PolicyError(
            f"the policy {name!r} ({policy.name}) does not fit suite {suite!r} ({env.name}): {'; '.join(found[:_SHOWN])}{more}"
        )


def _channel_differences(position: int, policy: Channel, env: Channel) -> list[str]:
    if policy.name != env.name:
        return [f"channel {position} of an action is {policy.name} for the policy and {env.name} for the env"]
    of = f"of channel {policy.name}"
    return _unlike(
        (f"the unit {of}", policy.unit, env.unit),
        (f"the kind {of}", policy.kind, env.kind),
        (f"the frame {of}", policy.frame, env.frame),
        (f"the rotation {of}", policy.rotation, env.rotation),
        (f"the gripper convention {of}", _quoted(policy.gripper), _quoted(env.gripper)),
    )


def _unlike(*pairs: tuple[str, object, object]) -> list[str]:
    return [f"{what} is {ours} for the policy and {theirs} for the env" for what, ours, theirs in pairs if ours != theirs]


def _quoted(text: str | None) -> str:
    return "none" if text is None else repr(text)


def _joined(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def _listed(embodiment: Embodiment) -> str:
    return f"{embodiment.action_size} numbers ({_joined(channel.name for channel in embodiment.channels)})"


def was_trained_on(trained: Mapping[str, Embodiment], env: Embodiment, reads_state: bool) -> bool:
    """Whether one of the checkpoint's embodiments is the env's, with the same conventions."""
    return any(not differences(each, env, reads_state) for each in trained.values())


def transferred(source: Embodiment, env: Embodiment, suite: str, reads_state: bool) -> Embodiment:
    """The env's robot as a model shows it that was trained on ``source``: its own prompt, and the views that both have."""
    found = number_differences(source, env, reads_state)
    views = {tag: camera for tag, camera in env.cameras.items() if tag in source.cameras}
    if source.cameras and not views:
        found.append(f"the policy sees {', '.join(source.cameras)} and the env has {', '.join(env.cameras) or 'no view'}")
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise PolicyError(
            f"zero_shot={source.name} does not fit suite {suite!r} ({env.name}): {found[0]}{more}. Its statistics are kept, so only "
            "what the prompt says may differ"
        )
    return replace(env, cameras=views)


ImageFit: TypeAlias = Literal["pad", "stretch", "crop"]
"""How an image gets its size where the aspect differs, see :func:`fit_image`."""


def fit_image(image: np.ndarray, height: int, width: int, fit: ImageFit) -> np.ndarray:
    """``image`` in the size ``uint8[height, width, 3]``; itself where it has that size already.

    Scaling is Pillow's antialiased bilinear filter (:func:`~vlarig.envs.images.pil_bilinear`).

    Args:
        image: ``uint8[h, w, 3]``.
        height: Wanted height, in pixels.
        width: Wanted width, in pixels.
        fit: What is done where the aspect differs: ``pad`` keeps all of the image between black borders, as openpi does
            (Physical-Intelligence/openpi packages/openpi-client/src/openpi_client/image_tools.py@15a9616, ``resize_with_pad``);
            ``stretch`` gives up the aspect; ``crop`` keeps the largest central part that has the wanted aspect.
    """
    check_pixels("an image", image)
    if image.shape[:2] == (height, width):
        return image
    if fit == "pad":
        return _padded(image, height, width)
    if fit == "crop":
        image = _cropped(image, height, width)
    return image if image.shape[:2] == (height, width) else pil_bilinear(np.ascontiguousarray(image), height, width)


def _padded(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The whole image, as large as it can be, in the centre of a black one; fractions are cut off as openpi cuts them."""
    ratio = max(image.shape[0] / height, image.shape[1] / width)
    inner = max(int(image.shape[0] / ratio), 1), max(int(image.shape[1] / ratio), 1)
    scaled = image if image.shape[:2] == inner else pil_bilinear(np.ascontiguousarray(image), *inner)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    padded = np.zeros((height, width, 3), np.uint8)
    padded[top : top + inner[0], left : left + inner[1]] = scaled
    return padded


def _cropped(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest part about the centre with the aspect of ``height`` to ``width``, to the nearest pixel."""
    ratio = min(image.shape[0] / height, image.shape[1] / width)
    inner = max(round(height * ratio), 1), max(round(width * ratio), 1)
    top, left = (image.shape[0] - inner[0]) // 2, (image.shape[1] - inner[1]) // 2
    return image[top : top + inner[0], left : left + inner[1]]


def check_pixels(what: str, pixels: object, axes: int = 3) -> None:
    """Make sure that a value is ``uint8[h, w, 3]``, or with 4 axes a video, ``uint8[frames, h, w, 3]``; ``what`` names it."""
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.ndim != axes
        or pixels.shape[-1] != 3
        or 0 in pixels.shape
    ):
        found = f"{pixels.dtype}{list(pixels.shape)}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise PolicyError(f"{what} is {found}; expected uint8[{'frames, ' * (axes - 3)}height, width, 3]")
