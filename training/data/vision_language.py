r"""Vision-language data from files: one conversation a line, with paths of its images and videos (paper, section 3.2.5).

A line is a JSON object of one of two layouts. Ours is that of chat templates::

    {"id": "7", "messages": [
        {"role": "user", "content": [
            {"type": "image", "path": "front/0001.jpg", "frame": 1, "view": "front"},
            {"type": "video", "path": "7.mp4", "fps": 2},
            {"type": "text", "text": "What changes?"}]},
        {"role": "assistant", "content": "A car turns left."}]}

* ``content`` is text, or a list of parts. ``frame`` and ``view`` are the tags of multi-frame and surround-view samples.
* ``marks`` of an image are names for places of it, in thousandths: ``{"name": "red cube", "point_2d": [412, 230]}``, see
  :class:`~vlarig.policies.qwen_vla.conversation.Mark`. ``ends`` beside ``messages`` are numbers, or null where one is not known, see
  :func:`~vlarig.policies.qwen_vla.end_numbers.end_numbers`.
* ``path`` of a video is a file, or a list of images. ``fps`` is the rate at which a file is read and a list was taken; ``begin`` and
  ``end`` cut a file, in seconds; ``seconds`` are a list's own times.
* ``image`` and ``video`` are read as ``path`` too, as Qwen's processors name it (QwenLM/Qwen3-VL qwen-vl-finetune/qwenvl/data/
  data_processor.py@23d3cce, ``_build_messages``).

The other is LLaVA's, which Qwen's own finetuning (qwen-vl-finetune/README.md@23ec840) and starVLA (starVLA/dataloader/
vlm_datasets.py@27477c9) read::

    {"image": "001.jpg", "conversations": [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "An apple."}]}

* ``image`` or ``images``, and ``video`` or ``videos``, are a path or a list; each ``<image>`` or ``<video>`` takes the next, and none
  may be left. Blanks around the words between them are dropped, as Qwen's reader does.

Paths are relative to the folder of the file with the line. Boxes in answers are in thousandths of the image (:mod:`.boxes`).
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from msgspec import Meta, Struct, field

from ...envs.errors import VlarigError
from ...policies.qwen_vla.conversation import Conversation, Mark, Still, Turn, Video
from ..samples import LanguageSample
from .boxes import SCALE, check_boxes, pixels_to_thousandths
from .dataset import NothingActs
from .decoding import typed
from .errors import DataError
from .families import FAMILIES, Family
from .frames import read_image, read_video
from .lines import Lines

Role: TypeAlias = Literal["system", "user", "assistant"]

#: LLaVA's names of the sides.
_SIDES: dict[str, Role] = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}

#: Frames a second of a video that a line gives no rate for: Qwen's own (qwen-vl-finetune/README.md@23ec840, ``video_fps``).
VIDEO_FPS = 2.0

#: Most frames of a video. Ours; Qwen's script has 8.
MAX_FRAMES = 32


class _Text(Struct, tag_field="type", tag="text"):
    text: str


class _Mark(Struct, forbid_unknown_fields=True):
    name: str
    point_2d: tuple[float, float]
    role: str | None = None


class _Image(Struct, tag_field="type", tag="image"):
    path: str = ""
    qwen_path: str | None = field(name="image", default=None)
    frame: int | None = None
    view: str | None = None
    marks: tuple[_Mark, ...] = ()

    def __post_init__(self) -> None:
        self.path = self.path or self.qwen_path or ""
        if not self.path:
            raise ValueError("an image has no path")


class _Video(Struct, tag_field="type", tag="video"):
    path: str | list[str] = ""
    qwen_path: str | list[str] | None = field(name="video", default=None)
    fps: Annotated[float, Meta(gt=0)] | None = None
    begin: float = 0.0
    end: float | None = None
    seconds: list[float] | None = None

    def __post_init__(self) -> None:
        self.path = self.path or self.qwen_path or ""
        if not self.path:
            raise ValueError("a video has no path")


class _Message(Struct):
    role: Role
    content: str | list[_Text | _Image | _Video]


class _Line(Struct):
    messages: list[_Message] | None = None
    ends: list[float | None] | None = None


#: What a turn says and shows, in its order.
Content: TypeAlias = list[str | _Image | _Video]

#: Tokens by which a conversation's length is estimated: of an image with 640 x 480 pixels, and of a video with a dozen such frames.
#: A word's token has about four characters.
ABOUT_TOKENS = {_Image: 300, _Video: 1800}


class VisionLanguageDataset(NothingActs):
    """Conversations of a JSONL file, or of all ``*.jsonl`` of a folder in the order of their names.

    Args:
        source: The file or the folder.
        name: Name of the dataset; by default the file's or folder's.
        family: Its family of the mixture.
        boxes: What boxes in answers are in: thousandths, which is checked, or pixels of the line's only image, which are converted.
        fps: Frames a second of a video that a line gives no rate for.
        max_frames: Most frames of a video.
    """

    def __init__(
        self,
        source: str | Path,
        name: str | None = None,
        family: Family = "general_vision_language",
        boxes: Literal["thousandths", "pixels"] = "thousandths",
        fps: float = VIDEO_FPS,
        max_frames: int = MAX_FRAMES,
    ) -> None:
        path = Path(source)
        self.name = name or path.stem
        self.family: Family = family
        if family not in FAMILIES:
            raise DataError(f"{path} is to be of the family {family!r}; expected one of {', '.join(FAMILIES)}")
        if boxes not in ("thousandths", "pixels") or not fps > 0 or max_frames < 1:
            raise DataError(
                f"{path} is to be read with boxes={boxes!r}, fps={fps} and max_frames={max_frames}; expected 'thousandths' or "
                "'pixels', more than 0, and 1 or more"
            )
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        try:
            self._lines = Lines(files)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror}); give a JSONL file, or a folder of some") from None
        if not len(self._lines):
            raise DataError(f"{path} holds no line; give a JSONL file, or a folder of some, with a conversation a line")
        self._boxes, self._fps, self._max_frames = boxes, fps, max_frames

    def __len__(self) -> int:
        return len(self._lines)

    def record(self, index: int) -> dict[str, Any]:
        """The JSON object of a line; no file that it names is opened.

        Raises:
            IndexError: There is no such line.
        """
        try:
            record = json.loads(self._lines[index])
        except ValueError as error:  # text that is not UTF-8, too
            raise self._error(index, f"is no JSON ({error})") from None
        if not isinstance(record, dict):
            raise self._error(index, f"is a JSON {type(record).__name__}; expected an object, one conversation a line")
        return record

    def length(self, index: int) -> int:
        """About how many tokens a conversation has, by its characters and the number of its images; none of these is opened."""
        try:
            parts = [part for _, content in turns_of(self.record(index)) for part in content]
        except (DataError, ValueError):
            return 0
        return sum(len(part) // 4 if isinstance(part, str) else ABOUT_TOKENS[type(part)] for part in parts)

    def __getitem__(self, index: int) -> LanguageSample:
        record = self.record(index)
        try:
            conversation = self._conversation(record, self._lines.file_of(index).parent)
        except (VlarigError, ValueError, TypeError) as error:
            raise self._error(index, f"does not read: {error}") from None
        return LanguageSample(f"{self.name}/{record.get('id', index)}", conversation)

    def where(self, index: int) -> str:
        """The line for a message: its file and its number there, from 1."""
        return self._lines.where(index)

    def _error(self, index: int, what: str) -> DataError:
        return DataError(f"{self.where(index)} {what}")

    def _conversation(self, record: dict[str, Any], folder: Path) -> Conversation:
        turns = [
            Turn(role, tuple(part if isinstance(part, str) else self._seen(part, folder) for part in parts))
            for role, parts in turns_of(record)
        ]
        ends = typed(record, _Line).ends
        held = None if ends is None else tuple(math.nan if each is None else each for each in ends)
        conversation = Conversation(tuple(turns), held)
        return replace(conversation, turns=tuple(self._with_boxes(turn, conversation.seen()) for turn in turns))

    def _seen(self, part: _Image | _Video, folder: Path) -> Still | Video:
        if isinstance(part, _Image):
            marks = tuple(Mark(each.name, each.point_2d[0] / SCALE, each.point_2d[1] / SCALE, each.role) for each in part.marks)
            path = folder / part.path
            return Still(read_image(path, f"its image {path}"), part.frame, part.view, marks)
        path, rate = part.path, part.fps or self._fps
        if isinstance(path, str):
            return read_video(folder / path, rate, self._max_frames, part.begin, part.end)
        seconds = [number / rate for number in range(len(path))] if part.seconds is None else part.seconds
        if len(seconds) != len(path):
            raise ValueError(f"a video of {len(path)} images has the seconds {seconds!r:.80}; expected as many")
        count = min(len(path), self._max_frames)
        kept = [number * len(path) // count for number in range(count)]
        files = [folder / path[each] for each in kept]
        frames = [read_image(file, f"its image {file}") for file in files]
        for file, frame in zip(files, frames, strict=True):
            if frame.shape != frames[0].shape:
                raise DataError(
                    f"the frame {file} of its video is {frame.shape[:2]}, the first {frames[0].shape[:2]}; expected one size"
                )
        return Video(np.stack(frames), tuple(seconds[each] for each in kept))

    def _with_boxes(self, turn: Turn, seen: list[Still | Video]) -> Turn:
        """An answer with its boxes in thousandths."""
        text = "".join(item for item in turn.content if isinstance(item, str))
        if turn.role != "assistant" or '"bbox_2d"' not in text:
            return turn
        if self._boxes == "thousandths":
            check_boxes(text)
            return turn
        if len(seen) != 1 or not isinstance(seen[0], Still):
            raise ValueError(f"its answer has a box in pixels, and it shows {len(seen)} images or videos; expected one image")
        height, width = seen[0].image.shape[:2]
        return Turn(turn.role, (pixels_to_thousandths(text, width, height),))


def turns_of(record: dict[str, Any]) -> list[tuple[Role, Content]]:
    """Role and content of each turn of a line in either layout.

    Raises:
        ValueError: It is in none.
    """
    messages = typed(record, _Line).messages
    if messages is not None:
        return [(turn.role, _parts(turn.content)) for turn in messages]
    if isinstance(record.get("conversations"), list):
        media = {kind: _paths(record, kind) for kind in ("image", "video")}
        turns = [_llava_turn(turn, media) for turn in record["conversations"]]
        for kind, left in media.items():
            if left:
                raise ValueError(
                    f"{len(left)} of its {kind}s have no place, {left[0]} first; write <{kind}> where each is shown"
                )
        return turns
    raise ValueError(
        f"it has the keys {', '.join(record) or 'none'}; expected 'messages', or 'conversations' as LLaVA has them"
    )


def _parts(content: str | list[_Text | _Image | _Video]) -> Content:
    return [content] if isinstance(content, str) else [part.text if isinstance(part, _Text) else part for part in content]


def _paths(record: dict[str, Any], kind: str) -> list[str]:
    given = record.get(kind) or record.get(f"{kind}s") or []
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(each, str) for each in paths):
        raise ValueError(f"its {kind} is {given!r:.80}; expected a path, or a list of paths")
    return list(paths)


def _llava_turn(turn: Any, media: dict[str, list[str]]) -> tuple[Role, Content]:
    if not isinstance(turn, dict) or turn.get("from") not in _SIDES or not isinstance(turn.get("value"), str):
        raise ValueError(f"a turn is {turn!r:.80}; expected 'from', one of {', '.join(_SIDES)}, and 'value', text")
    role = _SIDES[turn["from"]]
    if role == "assistant":
        return role, [turn["value"]]
    parts: Content = []
    for words in re.split(r"(<image>|<video>)", turn["value"]):
        kind = words[1:-1]
        if words not in ("<image>", "<video>"):
            parts += [words.strip()] if words.strip() else []
        elif media[kind]:
            parts.append((_Image if kind == "image" else _Video)(media[kind].pop(0)))
        else:
            raise ValueError(f"it has more places {words} than it has {kind}s")
    return role, parts
