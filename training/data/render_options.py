"""What to render and ask: the options of ``vlarig data render-questions``, which need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .errors import DataError
from .synthetic.options import Count

#: Sides of an image in pixels: a token's, and what every renderer renders.
SMALLEST, LARGEST = 32, 2048


@dataclass(frozen=True)
class RenderOptions:
    """Render scenes of a suite and write questions about them, with the simulator's own answers. The same command goes on."""

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """The suite."""
    scenes: Count
    """How many scenes; of a recording, most episodes."""
    to: Annotated[Path, tyro.conf.arg(metavar="FOLDER")]
    """Folder of the data."""
    recording: Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")] = None
    """A folder of `vlarig data record`: its demonstrations are played again and looked at, instead of new scenes."""
    frames: Count = 1
    """Images of each of its episodes."""
    held_out: bool = False
    """Scenes that no training has, for scoring."""
    seed: Count = 0
    """Another seed gives other scenes."""
    questions: Count = 4
    """Most questions on an image."""
    instructions: Count = 0
    """Most tasks in words on a scene, each put to a model as when it acts: every token of the images learns what it shows."""
    size: int | None = None
    """Sides of the images in pixels; the protocol's by default."""
    workers: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Simulator processes; one a core by default."""
    motion: Annotated[int, tyro.conf.Fixed, tyro.conf.Suppress] = 16
    """Most steps of random motion before the image is rendered."""
    views: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """Views that are rendered; all of the protocol's when empty."""

    def __post_init__(self) -> None:
        if self.frames < 1 or (self.recording is None and self.frames > 1):
            raise DataError(
                f"{self.frames} frames of an episode were requested; expected 1 without a recording, and 1 or more of one"
            )
        if self.recording is not None and self.held_out:
            raise DataError("held-out scenes of a recording were requested, which has its own; expected one of the two")
        if (
            self.scenes < 1
            or min(self.seed, self.questions, self.motion, self.instructions) < 0
            or (not self.questions and not self.instructions)
        ):
            raise DataError(
                f"{self.scenes} scenes of the split {self.split!r} with seed {self.seed}, {self.questions} questions an image, "
                f"{self.instructions} instructions and {self.motion} steps of motion were requested; expected no negative number, "
                "1 or more scenes, and questions or instructions"
            )
        if self.size is not None and not SMALLEST <= self.size <= LARGEST:
            raise DataError(f"images of {self.size} x {self.size} pixels were requested; expected {SMALLEST} to {LARGEST}")

    @property
    def split(self) -> Literal["train", "held_out"]:
        return "held_out" if self.held_out else "train"

    @property
    def identity(self) -> dict[str, Any]:
        """What a shard's content depends on, as plain data."""
        return {
            "suite": self.suite,
            "split": self.split,
            "seed": self.seed,
            "questions": self.questions,
            "motion": self.motion,
            "views": list(self.views),
            "size": self.size,
            "protocol": None,  # as the format below: a folder that an earlier version began with another one is refused
            "picture_format": "png",
            "instructions": self.instructions,
            "recording": None if self.recording is None else str(self.recording),
            "moments": self.frames,
        }
