"""Conversations: text with images and videos, whose answers the vision-language loss teaches (paper, sections 2.5 and 3.2.5).

The text is that of Qwen3.5's chat template (chat_template.jinja of Qwen/Qwen3.5-4B, as in huggingface/trl
trl/chat_templates/qwen3_5_think.jinja@c4142f2), and videos are laid out by the processor that Qwen3.5 takes (``Qwen3VLProcessor``,
transformers models/qwen3_vl/processing_qwen3_vl.py, v5.23.0): each temporal patch of two frames has its mean time before it.

    <|im_start|>user
    Frame 1: <|vision_start|><|image_pad|>...<|vision_end|>What does the robot hold?<|im_end|>
    <|im_start|>assistant
    <think>

    </think>

    A cube.<|im_end|>

What they leave open is decided here:

* Learned are the words of each answer and its ``<|im_end|>``; the template's line feed after it is not.
* The empty reasoning, by which the template requests an answer without reasoning, precedes every answer. The template itself drops it
  from all answers but the last. But each earlier answer was the last one once, and then it was there.
* The marks of images are learned too, see :mod:`.losses`.
* The frame tag of a multi-frame sample is ``Frame 1: `` before the image, the view tag of a surround-view sample ``front left: ``, both
  together ``Frame 1, front left: ``. The paper prints neither (section 3.2.5). A robot's view that has tokens of its own (section
  3.2.1) gets these around the image instead of words before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from ..api import PolicyError
from ..conventions import check_pixels
from .end_numbers import NUMBERS
from .prompt import IM_END, IM_START, IMAGE_PAD, VIEW_TAGS, VISION_END, VISION_START, check_words, view_end, view_start
from .tokenizer import VIDEO_PAD

ROLES = ("system", "user", "assistant")

#: What an answer without reasoning comes after, in the template of Qwen3.5.
NO_REASONING = "<think>\n\n</think>\n\n"


#: The name of a place where no object is.
NOTHING = "nothing"


@dataclass(frozen=True)
class Mark:
    """An object in an image, which the image's token there is to name.

    Attributes:
        name: What it is: ``red cube``; :data:`NOTHING` where there is none.
        x: Where its centre is: share of the image's width, 0 to less than 1.
        y: Share of its height.
        role: What it is to the prompt, in a word; ``None`` where the prompt does not mean it.
    """

    name: str
    x: float
    y: float
    role: str | None = None

    def __post_init__(self) -> None:
        if (
            not self.name.strip()
            or not (0 <= self.x < 1 and 0 <= self.y < 1)
            or (self.role is not None and not self.role.strip())
        ):
            raise PolicyError(
                f"a mark is {self.name!r} at ({self.x}, {self.y}) with the role {self.role!r}; expected a name, shares of 0 to less "
                "than 1, and a word or no role"
            )
        check_words("mark's name", f"{self.name} {self.role or ''}")


@dataclass(frozen=True, eq=False)
class Still:
    """A still in a conversation.

    Attributes:
        image: ``uint8[h, w, 3]`` of any size.
        frame: Its number in a multi-frame sample, from 1.
        view: Its camera: one of :data:`~.prompt.VIEW_TAGS`, or words (``front left``).
        marks: Objects that it shows, which its tokens learn to name, beside the answers.
    """

    image: np.ndarray
    frame: int | None = None
    view: str | None = None
    marks: tuple[Mark, ...] = ()

    def __post_init__(self) -> None:
        check_pixels("an image of a conversation", self.image)
        if self.frame is not None and self.frame < 1:
            raise PolicyError(f"an image is frame {self.frame}; expected 1 or more")
        if self.view is not None and not self.view.strip():
            raise PolicyError(f"an image has the view {self.view!r}; name the camera, or give no view")


@dataclass(frozen=True, eq=False)
class Video:
    """Frames in their order, of which every two share their tokens.

    Attributes:
        frames: ``uint8[T, h, w, 3]`` of any size.
        seconds: Time of each frame.
    """

    frames: np.ndarray
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        check_pixels("a video of a conversation", self.frames, axes=4)
        if len(self.seconds) != len(self.frames) or not all(time >= 0 for time in self.seconds):
            raise PolicyError(
                f"a video of {len(self.frames)} frames has times {list(self.seconds)}; expected one of 0 or more for each frame"
            )


@dataclass(frozen=True, eq=False)
class Turn:
    """What one side says.

    Attributes:
        role: ``system``, ``user`` or ``assistant``.
        content: Words, images and videos in their order; words alone but for the user's.
    """

    role: Literal["system", "user", "assistant"]
    content: tuple[str | Still | Video, ...]

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise PolicyError(f"a turn has the role {self.role!r}; expected one of {', '.join(ROLES)}")
        for item in self.content:
            if not isinstance(item, (str, Still, Video)):
                raise PolicyError(f"a turn of the {self.role} holds a {type(item).__name__}; expected text, Still or Video")
        words = "".join(item if isinstance(item, str) else f"{_tag(item)}\n" for item in self.content)
        check_words(f"{self.role}'s text", words)
        seen = [item for item in self.content if not isinstance(item, str)]
        if self.role != "user" and seen:
            what = "an image" if isinstance(seen[0], Still) else "a video"
            raise PolicyError(f"a turn of the {self.role} shows {what}; only the user shows any")
        if not seen and not words.strip():
            raise PolicyError(f"a turn of the {self.role} is empty; give it text")


@dataclass(frozen=True, eq=False)
class Conversation:
    """One sample of vision-language data.

    Attributes:
        turns: The system's where there is one, then the user's and the assistant's in alternation, an assistant's last.
        ends: What the end of its last prompt learns to hold, beside the answers: the numbers of :func:`~.end_numbers.end_numbers`.
    """

    turns: tuple[Turn, ...]
    ends: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        roles = [turn.role for turn in self.turns]
        pairs = roles[1:] if roles[:1] == ["system"] else roles
        if not pairs or len(pairs) % 2 or pairs != ["user", "assistant"] * (len(pairs) // 2):
            raise PolicyError(
                f"a conversation has turns of {', '.join(roles) or 'nothing'}; expected the system's where there is one, then the "
                "user's and the assistant's in alternation, an assistant's last"
            )
        if self.ends is not None and len(self.ends) != NUMBERS:
            raise PolicyError(f"a conversation has {len(self.ends)} numbers of its prompt's end; expected {NUMBERS}")

    def seen(self) -> list[Still | Video]:
        """Its images and videos in their order."""
        return [item for turn in self.turns for item in turn.content if not isinstance(item, str)]


@dataclass(frozen=True)
class Limits:
    """How large a conversation may be. Images keep their aspect and are brought between the bounds.

    Attributes:
        min_pixels: Fewest pixels of an image or a frame: Qwen3.5's own (``shortest_edge`` of its preprocessor_config.json). A token is
            1,024 pixels of an image and 2,048 of a video.
        max_pixels: Most pixels of an image or a frame. Ours, 1,024 tokens; Qwen3.5's own, 16,777,216, would be 16,384.
        max_video_pixels: Most pixels of all frames of a video together, unless ``min_pixels`` each are more. Ours, 4,096 tokens.
        max_tokens: Longest sequence. Ours.
    """

    min_pixels: int = 65_536
    max_pixels: int = 1_048_576
    max_video_pixels: int = 8_388_608
    max_tokens: int = 16_384

    def __post_init__(self) -> None:
        if not 1 <= self.min_pixels <= self.max_pixels or self.max_video_pixels < 1 or self.max_tokens < 1:
            raise PolicyError(
                f"the limits of conversations are {self}; expected min_pixels up to max_pixels, and all 1 or more"
            )


def fitted(item: Still | Video, limits: Limits, unit: int, frames: int) -> list[np.ndarray]:
    """The images that the vision tower reads, in the size that Qwen's rule gives them.

    The rule is transformers' ``smart_resize`` with Pillow's bicubic filter, as in ``Qwen2VLImageProcessor``. All frames of a video have
    one size.

    Args:
        item: An image or a video.
        limits: Bounds of the size.
        unit: What the sides must be multiples of, in pixels.
        frames: Frames of a temporal patch; a video's last frame is repeated to a multiple of them.

    Returns:
        ``uint8[1, h, w, 3]`` of a still; ``uint8[frames, h, w, 3]`` for each temporal patch of a video.
    """
    # It imports torch, which what only reads data does without.
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    stack = item.frames if isinstance(item, Video) else item.image[None]
    most = limits.max_pixels
    if isinstance(item, Video):
        most = max(min(most, limits.max_video_pixels // len(stack)), limits.min_pixels)
    try:
        height, width = smart_resize(*stack.shape[1:3], factor=unit, min_pixels=limits.min_pixels, max_pixels=most)
    except ValueError as error:
        raise PolicyError(f"an image of {stack.shape[1]} x {stack.shape[2]} pixels does not fit: {error}") from None
    sized = np.stack([_resized(image, height, width) for image in stack])
    if not isinstance(item, Video):
        return [sized]
    padded = np.concatenate([sized, sized[-1:].repeat(-len(sized) % frames, axis=0)])
    return list(padded.reshape(-1, frames, *padded.shape[1:]))


def segments(conversation: Conversation, tokens: Sequence[int], frames: int) -> Iterator[tuple[str, bool]]:
    """The sequence in parts, and whether a part is learned. Parts can be tokenised apart: control tokens or line feeds part them.

    Args:
        conversation: The sample.
        tokens: For each image and video, in order: tokens of the language model that an image or a temporal patch takes.
        frames: Frames of a temporal patch.
    """
    left = iter(tokens)
    before = ""
    for turn in conversation.turns:
        said = "".join(item if isinstance(item, str) else _shown(item, next(left), frames) for item in turn.content).strip()
        before += f"{IM_START}{turn.role}\n"
        if turn.role == "assistant":
            yield before, False
            yield NO_REASONING, False
            yield said + IM_END, True
            before = "\n"
        else:
            before += f"{said}{IM_END}\n"
    yield before, False


def _shown(item: Still | Video, tokens: int, frames: int) -> str:
    """An image or a video as text, with ``tokens`` places for each of the vision tower's images."""
    if isinstance(item, Still):
        image = f"{VISION_START}{IMAGE_PAD * tokens}{VISION_END}"
        if item.view in VIEW_TAGS:
            image = f"{view_start(item.view)}{image}{view_end(item.view)}"
        return _tag(item) + image
    patches = [item.seconds[begin : begin + frames] for begin in range(0, len(item.seconds), frames)]
    return "".join(
        f"<{(patch[0] + patch[-1]) / 2:.1f} seconds>{VISION_START}{VIDEO_PAD * tokens}{VISION_END}" for patch in patches
    )


def _tag(item: Still | Video) -> str:
    """The words before an image: ``Frame 1, front left: ``."""
    if isinstance(item, Video):
        return ""
    words = [] if item.frame is None else [f"Frame {item.frame}"]
    if item.view is not None and item.view not in VIEW_TAGS:
        words.append(item.view.strip())
    return f"{', '.join(words)}: " if words else ""


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.BICUBIC))
