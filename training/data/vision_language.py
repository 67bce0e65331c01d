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
  :func:`~vlarig.policies.qwen_vla.ends.end_numbers`.
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
from typing import Any, Literal

from ...policies.api import PolicyError
from ...policies.qwen_vla.conversation import Conversation, Mark, Still, Turn, Video
from ..samples import LanguageSample
from .boxes import SCALE, check_boxes, pixels_to_thousandths
from .dataset import NothingActs
from .errors import DataError
from .families import FAMILIES, Family
from .lines import Lines
from .media import MediaError, read_frames, read_image, read_video

#: LLaVA's names of the sides.
_SIDES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}

#: Frames a second of a video that a line gives no rate for: Qwen's own (qwen-vl-finetune/README.md@23ec840, ``video_fps``).
VIDEO_FPS = 2.0

#: Most frames of a video. Ours; Qwen's script has 8.
MAX_FRAMES = 32

#: Tokens by which a conversation's length is estimated: of an image with 640 x 480 pixels, and of a video with a dozen such frames.
#: A word's token has about four characters.
ABOUT_TOKENS = {"image": 300, "video": 1800}


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
        return sum(len(part) // 4 if isinstance(part, str) else ABOUT_TOKENS[part["type"]] for part in parts)

    def __getitem__(self, index: int) -> LanguageSample:
        record = self.record(index)
        try:
            conversation = self._conversation(record, self._folder(index))
        except (MediaError, PolicyError, ValueError, TypeError) as error:
            raise self._error(index, f"does not read: {error}") from None
        return LanguageSample(f"{self.name}/{record.get('id', index)}", conversation)

    def _folder(self, index: int) -> Path:
        return self._lines.file_of(index).parent

    def where(self, index: int) -> str:
        """The line for a message: its file and its number there, from 1."""
        return self._lines.where(index)

    def _error(self, index: int, what: str) -> DataError:
        return DataError(f"{self.where(index)} {what}")

    def _conversation(self, record: dict[str, Any], folder: Path) -> Conversation:
        turns = [self._turn(role, parts, folder) for role, parts in turns_of(record)]
        conversation = Conversation(tuple(turns), _ends(record.get("ends")))
        return replace(conversation, turns=tuple(self._with_boxes(turn, conversation.seen()) for turn in turns))

    def _turn(self, role: str, parts: list[Any], folder: Path) -> Turn:
        content = [part if isinstance(part, str) else self._seen(part, folder) for part in parts]
        return Turn(role, tuple(content))  # pyright: ignore[reportArgumentType]  # which Turn checks

    def _seen(self, part: dict[str, Any], folder: Path) -> Still | Video:
        kind = part["type"]
        path = part.get("path", part.get(kind))
        if kind == "image":
            if not isinstance(path, str):
                raise ValueError(f"an image has the path {path!r}; expected text")
            marks = part.get("marks", [])
            if not isinstance(marks, list):
                raise ValueError(f"an image has the marks {marks!r:.80}; expected a list")
            return Still(read_image(folder / path), part.get("frame"), part.get("view"), tuple(map(_mark, marks)))
        rate = part.get("fps", self._fps)
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not rate > 0:
            raise ValueError(f"a video has the fps {rate!r}; expected more than 0")
        if isinstance(path, str):
            return read_video(folder / path, rate, self._max_frames, part.get("begin", 0.0), part.get("end"))
        if not isinstance(path, list) or not all(isinstance(each, str) for each in path):
            raise ValueError(f"a video has the path {path!r}; expected a file, or a list of images")
        seconds = part.get("seconds", [number / rate for number in range(len(path))])
        if not isinstance(seconds, list) or len(seconds) != len(path):
            raise ValueError(f"a video of {len(path)} images has the seconds {seconds!r:.80}; expected a list of as many")
        count = min(len(path), self._max_frames)
        kept = [number * len(path) // count for number in range(count)]
        return read_frames([folder / path[each] for each in kept], [seconds[each] for each in kept])

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


def turns_of(record: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """Role and content of each turn of a line in either layout: text, and objects with ``type`` ``image`` or ``video``.

    Raises:
        ValueError: It is in none.
    """
    if isinstance(record.get("messages"), list):
        return [_message(turn) for turn in record["messages"]]
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


def _message(turn: Any) -> tuple[str, list[Any]]:
    if not isinstance(turn, dict) or not isinstance(turn.get("role"), str):
        raise ValueError(f"a message is {turn!r:.80}; expected an object with role and content")
    content = turn.get("content")
    if isinstance(content, str):
        return turn["role"], [content]
    if not isinstance(content, list):
        raise ValueError(f"a message has the content {content!r:.80}; expected text, or a list of parts")
    return turn["role"], [_part(part) for part in content]


def _part(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("image", "video"):
        return part
    raise ValueError(f"a message has the part {part!r:.80}; expected type text, image or video")


def _mark(given: Any) -> Mark:
    match given:
        case {"name": str(name), "point_2d": [int() | float() as x, int() | float() as y], **rest} if _is_role(rest):
            return Mark(name, x / SCALE, y / SCALE, rest.get("role"))
    raise ValueError(
        f"an image has the mark {given!r:.80}; expected a name, and a point_2d of two numbers in thousandths, and a role or none"
    )


def _ends(given: Any) -> tuple[float, ...] | None:
    if given is None:
        return None
    if not isinstance(given, list) or not all(each is None or isinstance(each, (int, float)) for each in given):
        raise ValueError(f"it has the ends {given!r:.80}; expected a list of numbers or null")
    return tuple(math.nan if each is None else float(each) for each in given)


def _is_role(rest: dict[str, Any]) -> bool:
    """Whether these are the keys that a mark may lack."""
    return rest.keys() <= {"role"} and all(isinstance(each, str) for each in rest.values())


def _paths(record: dict[str, Any], kind: str) -> list[str]:
    given = record.get(kind) or record.get(f"{kind}s") or []
    return [given] if isinstance(given, str) else list(given)


def _llava_turn(turn: Any, media: dict[str, list[str]]) -> tuple[str, list[Any]]:
    if not isinstance(turn, dict) or turn.get("from") not in _SIDES or not isinstance(turn.get("value"), str):
        raise ValueError(f"a turn is {turn!r:.80}; expected 'from', one of {', '.join(_SIDES)}, and 'value', text")
    role = _SIDES[turn["from"]]
    if role == "assistant":
        return role, [turn["value"]]
    parts: list[Any] = []
    for words in re.split(r"(<image>|<video>)", turn["value"]):
        kind = words[1:-1]
        if words not in ("<image>", "<video>"):
            parts += [words.strip()] if words.strip() else []
        elif media[kind]:
            parts.append({"type": kind, "path": media[kind].pop(0)})
        else:
            raise ValueError(f"it has more places {words} than it has {kind}s")
    return role, parts
