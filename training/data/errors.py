"""What is wrong with data."""

from __future__ import annotations

from ..config import TrainingError


class DataError(TrainingError):
    """Data do not read, or are not what they say: one sentence with the file and the sample in it."""


class MissingFrames(DataError):
    """A video is not there, or ends before what happened in it."""
