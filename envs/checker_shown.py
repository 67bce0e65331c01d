"""Checks of what an env shows: embodiment, state, instruction, images, metrics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from gymnasium import spaces

from .api import observe
from .checker_bench import LENGTH, Bench, broken
from .embodiments import Channel


def the_embodiment_is_complete(bench: Bench) -> None:
    """The embodiment names its robot, and every channel declares its bounds and its convention."""
    embodiment = bench.env.embodiment
    why = "a policy's numbers are turned into motion by these entries; a wrong one looks like a weak policy"
    needed = ("name", "robot_tag", "statistics_key", "channels", "cameras")
    # A robot that only moves about may have no state.
    for name in (*needed, *(() if embodiment.arms == "none" else ("state_layout",))):
        if not getattr(embodiment, name):
            broken(f"embodiment.{name} is filled in", f"{getattr(embodiment, name)!r}", why, f"give the Embodiment its {name}")
    names = list(embodiment.state_layout)
    if len(set(names)) != len(names):
        broken("unique state_layout names", f"{names}", why, "give each number a name of its own")
    for channel in embodiment.channels:
        _check_channel(channel, why)


def _check_channel(channel: Channel, why: str) -> None:
    name = channel.name
    if not channel.low < channel.high:
        broken(f"low < high for channel {name!r}", f"{channel.low} and {channel.high}", why, "put the bounds in order")
    if channel.kind not in ("delta", "absolute"):
        broken(f"kind of channel {name!r} is delta or absolute", f"{channel.kind!r}", why, "declare one of the two")
    if "grip" in name and channel.gripper is None:
        do = "set gripper to the convention, such as '+1 closes, -1 opens'"
        broken(f"channel {name!r} declares which sign closes", "gripper is None", why, do)
    if any(part in name for part in ("rotation", "roll", "pitch")) and channel.frame != "joint" and channel.rotation is None:
        do = "set rotation, such as 'axis_angle' or 'euler_xyz'"
        broken(f"channel {name!r} declares its rotation representation", "rotation is None", why, do)


def the_state_fits_its_layout(bench: Bench) -> None:
    """The state is one finite float32 number for each name of the state layout."""
    state, layout = bench.reference.shown[0].state, bench.env.embodiment.state_layout
    why = "a policy reads the state by position, so a missing or shifted number is taken for another joint"
    if state.dtype != np.float32 or state.shape != (len(layout),):
        do = "let state() return the numbers of state_layout, in that order"
        broken(f"float32[{len(layout)}] ({', '.join(layout)})", f"{state.dtype}{list(state.shape)}", why, do)
    for index in np.flatnonzero(~np.isfinite(state)):
        do = "read the number after the simulator has settled, or take it out of state_layout"
        broken("finite numbers", f"{layout[index]} is {state[index]} after the reset", why, do)


def the_instruction_is_words(bench: Bench) -> None:
    """The instruction is a string with words in it."""
    instruction = bench.reference.shown[0].instruction
    if not isinstance(instruction, str) or not instruction.strip():
        why = "a policy without an instruction guesses the task, and the score measures the guess"
        broken("words", repr(instruction), why, "return the task's instruction from begin()")


def the_instruction_stays(bench: Bench) -> None:
    """The instruction is the same from the reset to the end."""
    first, last = (bench.reference.shown[index].instruction for index in (0, -1))
    if first != last:
        why = "a policy that caches the instruction plays another task than one that reads it each time"
        do = "set the instruction in begin() alone; a task of several goals names them all there"
        broken(repr(first), f"{last!r} after {LENGTH} steps", why, do)


def the_images_fit_the_protocol(bench: Bench) -> None:
    """The images are exactly the protocol's cameras, each contiguous uint8[1, height, width, 3]."""
    cameras, images = bench.first.protocol.cameras, observe(bench.reference.shown[0])["images"]
    why = "a resized or reordered image still runs through a network, and costs success without an error"
    wanted = sorted(camera.view for camera in cameras)
    if sorted(images) != wanted:
        broken(f"views {wanted}", f"{sorted(images)}", why, "render the protocol's cameras, no more and no fewer")
    for camera in cameras:
        image, shape = images[camera.view], (1, camera.height, camera.width, 3)
        if image.dtype != np.uint8 or image.shape != shape or not image.flags.c_contiguous:
            do = "let render_view() return uint8[height, width, 3] at the camera's own size, rendered so rather than resized"
            broken(f"{camera.view}: uint8{list(shape)}", f"{image.dtype}{list(image.shape)}", why, do)


def the_images_are_not_blank(bench: Bench) -> None:
    """Every view shows something: more than one colour."""
    for view, image in observe(bench.reference.shown[0])["images"].items():
        if _is_blank(image):
            why = "a renderer without a working driver often gives black instead of an error, and a blind policy is scored"
            do = "check the renderer's driver and its environment variables, and the camera's name and clipping planes"
            broken(f"{view}: an image with more than one colour", f"every pixel is {image.reshape(-1, 3)[0].tolist()}", why, do)


def the_views_differ(bench: Bench) -> None:
    """No two views show the same image."""
    images = [(view, image) for view, image in observe(bench.reference.shown[0])["images"].items() if not _is_blank(image)]
    for index, (view, image) in enumerate(images):
        for twin, other in images[:index]:
            if np.array_equal(image, other):
                why = "a policy then sees one camera twice and lacks the other, most often the wrist"
                do = "pass camera.view through embodiment.cameras to the simulator's camera name"
                broken(f"{twin} and {view} differ", "equal images", why, do)


def _is_blank(image: np.ndarray) -> bool:
    return bool((image == image.reshape(-1, image.shape[-1])[0]).all())


def nothing_is_rendered_unasked(bench: Bench) -> None:
    """An observer without images costs no rendering."""
    take, _, calls = bench.without_images
    shown = [view for snapshot in take.shown for view in snapshot.frames.views]
    if calls or shown:
        why = "rendering is the larger part of a step in most simulators, so a sweep becomes several times slower"
        do = "render in render_view() alone; the base class calls it where a frame is due"
        broken("no call of render_view", f"{len(calls)} calls ({', '.join(sorted(set(calls or shown)))})", why, do)


def privileged_is_empty_unless_requested(bench: Bench) -> None:
    """Simulator truth reaches only an observer that requests it."""
    for snapshot in bench.reference.shown:
        if snapshot.privileged:
            why = "a policy that reads the simulator's truth is not measured on what a robot can see"
            do = "give truth in privileged() alone, and leave open() and step_chunk() to the base class"
            broken("no privileged entries", f"{sorted(snapshot.privileged)}", why, do)


def the_metrics_are_finite_numbers(bench: Bench) -> None:
    """Every metric is a finite float, after the reset and at the end."""
    for snapshot in bench.reference.shown:
        for name, value in snapshot.metrics.items():
            if not isinstance(value, float) or not math.isfinite(value):
                why = "one NaN makes the mean of a whole table NaN, and a number of another type does not survive the ledger"
                do = "convert with float(), and leave a metric out while it is undefined"
                seen = f"{value!r} ({type(value).__name__}) at step {snapshot.step}"
                broken(f"metric {name!r} is a finite float", seen, why, do)


def observations_lie_in_the_observation_space(bench: Bench) -> None:
    """Observations of Gymnasium's reset and step lie within observation_space."""
    for index, (observation, *_) in enumerate(bench.gymnasium_steps):
        for name, space, value in _pairs(bench.env.observation_space, observation):
            if not space.contains(value):
                seen = repr(value)
                if isinstance(value, np.ndarray):
                    seen = f"{value.dtype}{list(value.shape)} from {value.min()} to {value.max()}"
                why = "wrappers and RL libraries allocate by the space, and cut or cast what does not fit"
                do = "let the hooks return what the space describes"
                broken(f"{name} in {space}", f"{seen} at step {index}", why, do)


def _pairs(space: Any, value: Any, name: str = "observation") -> Iterator[tuple[str, spaces.Space[Any], Any]]:
    """The simple spaces within ``space``, each with its part of ``value``."""
    if not isinstance(space, spaces.Dict):
        yield name, space, value
        return
    for key, part in space.items():
        yield from _pairs(part, value[key], key)
