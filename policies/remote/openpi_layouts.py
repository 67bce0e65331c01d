"""Observation layouts: the keys and the form of the observations that an openpi server reads.

Shapes: ``P`` numbers of the state vector, ``M`` frames of an observation's history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...envs.api import Observation
from ...envs.embodiments import Embodiment
from ...envs.errors import BadMessageError, suggestion
from ..api import PolicyError
from ..conventions import ImageFit, fit_image


@dataclass(frozen=True)
class ObservationLayout:
    """How an observation becomes a message.

    Attributes:
        name: Name of the layout.
        images: Key of an image to the view tag that it shows; empty for all views, each under ``image_prefix`` and its tag.
        state: Key of a part of the state vector to how many numbers it takes, in order; ``None``: all that are left.
        image_prefix: What the keys of images begin with where ``images`` is empty.
        image_group: Key of the map that holds the images; empty where they lie beside the others.
        image_size: Height and width of an image; ``None``: as the env shows it, with its history, ``uint8[M, h, w, 3]``.
        image_fit: How an image gets that size; one of :func:`vlarig.policies.conventions.fit_image`'s ways.
        channels_first: Whether an image is ``uint8[3, h, w]``, not ``uint8[h, w, 3]``.
    """

    name: str
    images: Mapping[str, str]
    state: Mapping[str, int | None]
    image_prefix: str = ""
    image_group: str = ""
    image_size: tuple[int, int] | None = (224, 224)
    image_fit: ImageFit = "pad"
    channels_first: bool = False

    def refuse_unfit(self, name: str, embodiment: Embodiment, reads_images: bool, reads_state: bool) -> None:
        """Make sure that observations of ``embodiment`` can be shown in this layout."""
        missing = [view for view in self.images.values() if view not in embodiment.cameras] if reads_images else []
        if missing:
            raise PolicyError(
                f"{name}: the layout {self.name!r} shows the view {missing[0]!r}, which {embodiment.name} does not have "
                f"(it has {', '.join(embodiment.cameras) or 'none'}); choose another layout"
            )
        size, counts = len(embodiment.state_layout), list(self.state.values())
        if reads_state and None not in counts and sum(count or 0 for count in counts) != size:
            parts = ", ".join(f"{count} of {key}" for key, count in self.state.items())
            raise PolicyError(
                f"{name}: the layout {self.name!r} has {parts}, but the state of {embodiment.name} has {size} numbers; "
                "choose another layout"
            )

    def message(self, observation: Observation, reads_images: bool = True) -> dict[str, Any]:
        message: dict[str, Any] = {"prompt": observation["instruction"]}
        message.update(self._split(np.asarray(observation["state"], np.float32)))
        if reads_images:
            images = self._shown(observation["images"])
            message.update({self.image_group: images} if self.image_group else images)
        return message

    def observation(
        self, message: Mapping[str, Any], embodiment: Embodiment, reads_images: bool, reads_state: bool
    ) -> Observation:
        """The observation in ``message``.

        Raises:
            BadMessageError: A key is missing, or its value is not what it should be; the sentence names it.
        """
        prompt = message.get("prompt")
        if not isinstance(prompt, str):
            raise BadMessageError(f"'prompt' has to be a text; got {_described(prompt)}")
        images = self._read_images(message, embodiment) if reads_images else {}
        size = len(embodiment.state_layout)
        state = self._read_state(message, size) if reads_state else np.zeros(size, np.float32)
        return Observation(images=images, state=state, instruction=prompt)

    def _split(self, state: np.ndarray) -> dict[str, np.ndarray]:
        parts, begin = {}, 0
        for key, count in self.state.items():
            end = len(state) if count is None else begin + count
            parts[key], begin = state[begin:end], end
        return parts

    def _shown(self, images: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        keys = self.images or {self.image_prefix + view: view for view in images}
        shown = {}
        for key, view in keys.items():
            if view not in images:
                raise PolicyError(
                    f"the layout {self.name!r} shows the view {view!r}, and the protocol has {', '.join(images) or 'no images'}; "
                    "choose another protocol or layout"
                )
            image = images[view]
            if self.image_size is not None:
                image = fit_image(image[-1], *self.image_size, self.image_fit)
            shown[key] = image.transpose(2, 0, 1) if self.channels_first else image
        return shown

    def _read_images(self, message: Mapping[str, Any], embodiment: Embodiment) -> dict[str, np.ndarray]:
        holder = message.get(self.image_group) if self.image_group else message
        if not isinstance(holder, Mapping):
            raise BadMessageError(f"{self.image_group!r} has to be a map of images; got {_described(holder)}")
        keys = self.images
        if not keys:
            keys = {key: key.removeprefix(self.image_prefix) for key in holder if str(key).startswith(self.image_prefix)}
            if not keys and embodiment.cameras:
                views = ", ".join(f"{self.image_prefix}{view}" for view in embodiment.cameras)
                raise BadMessageError(f"the message shows no image; expected one or more of {views}")
        images = {}
        for key, view in keys.items():
            if view not in embodiment.cameras:
                raise BadMessageError(
                    f"{embodiment.name} has no view {view[:80]!r}; it has {', '.join(embodiment.cameras) or 'none'}"
                )
            images[view] = self._read_image(key, holder.get(key))
        return images

    def _read_image(self, key: str, image: object) -> np.ndarray:
        wanted = "uint8[3, h, w]" if self.channels_first else "uint8[h, w, 3]"
        if self.image_size is None:
            wanted = f"uint8[M, h, w, 3] or {wanted}"
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
            if self.channels_first and image.ndim == 3:
                image = image.transpose(1, 2, 0)
            if image.ndim == 3:
                image = image[None]
            if image.ndim == 4 and image.shape[-1] == 3 and (self.image_size is None or len(image) == 1):
                return image
        raise BadMessageError(f"{key!r} has to be an image, {wanted}; got {_described(image)}")

    def _read_state(self, message: Mapping[str, Any], size: int) -> np.ndarray:
        parts, left = [], size
        for key, count in self.state.items():
            wanted = left if count is None else count
            part = message.get(key)
            if isinstance(part, (np.ndarray, np.generic, list, int, float)):
                try:
                    part = np.asarray(part, np.float32).reshape(-1)
                except (TypeError, ValueError):
                    raise BadMessageError(f"{key!r} has to be {wanted} numbers; got no array of numbers") from None
            if not isinstance(part, np.ndarray) or len(part) != wanted:
                raise BadMessageError(f"{key!r} has to be {wanted} numbers; got {_described(part)}")
            if not np.isfinite(part).all():
                raise BadMessageError(f"{key!r} has a value that is not finite")
            parts.append(part)
            left -= wanted
        return np.concatenate(parts)


#: What openpi's LIBERO policies read (Physical-Intelligence/openpi src/openpi/policies/libero_policy.py@15a9616; images of 224 pixels,
#: resized with padding: examples/libero/main.py). Their images are LIBERO's turned by 180 degrees, which is the business of a protocol.
LIBERO = ObservationLayout(
    name="libero",
    images={"observation/image": "ego", "observation/wrist_image": "cam_left_wrist"},
    state={"observation/state": None},
)

#: What openpi's DROID policies read: seven joint angles and a gripper (src/openpi/policies/droid_policy.py@15a9616, and
#: examples/droid/main.py).
DROID = ObservationLayout(
    name="droid",
    images={"observation/exterior_image_1_left": "ego", "observation/wrist_image_left": "cam_left_wrist"},
    state={"observation/joint_position": 7, "observation/gripper_position": 1},
)

#: What openpi's ALOHA policies read: two arms of six joints and a gripper each (src/openpi/policies/aloha_policy.py@15a9616). Views of
#: wrists may be left out there; here they are shown, as the policies were trained.
ALOHA = ObservationLayout(
    name="aloha",
    images={"cam_high": "ego", "cam_left_wrist": "cam_left_wrist", "cam_right_wrist": "cam_right_wrist"},
    state={"state": 14},
    image_group="images",
    channels_first=True,
)

#: Our own: every view by its tag, untouched, so that a served policy sees what it would see in process.
VLARIG = ObservationLayout(
    name="vlarig",
    images={},
    state={"observation/state": None},
    image_prefix="observation/images/",
    image_size=None,
)

LAYOUTS = {layout.name: layout for layout in (LIBERO, DROID, ALOHA, VLARIG)}


def find_layout(name: str) -> ObservationLayout:
    if name not in LAYOUTS:
        raise PolicyError(f"unknown layout {name!r}; {suggestion(name, LAYOUTS)}")
    return LAYOUTS[name]


def _described(value: object) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__
