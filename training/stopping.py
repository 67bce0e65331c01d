"""How a training ends on a signal: after the step that is under way, or at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any, Self

from ..harness.termination import Terminated


class Stopped(Terminated):
    """A signal ended the training; it is saved."""


class StopSignals:
    """Keeps SIGTERM and SIGINT until a step is finished; a second one acts as it did before. Use it as a context manager.

    Attributes:
        requested: Whether one came.
    """

    def __init__(self) -> None:
        self.requested = False
        self._sentence: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Take the signals over; in another thread than the main one there are none to take."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._came) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self, sentence: str) -> Iterator[None]:
        """Do not wait for the end of what is done here.

        Raises:
            Stopped: A signal came, with that sentence.
        """
        self._sentence = sentence
        try:
            yield
        except Stopped:
            raise
        except Terminated:  # a sweep takes SIGTERM over
            raise Stopped(sentence) from None
        finally:
            self._sentence = None

    @contextlib.contextmanager
    def after(self, sentence: str) -> Iterator[None]:
        """Wait for the end of what is done here, though it is within :meth:`at_once`.

        Raises:
            Stopped: A signal came, with that sentence.
        """
        outside, self._sentence = self._sentence, None
        try:
            yield
        finally:
            self._sentence = outside
        if self.requested:
            raise Stopped(sentence)

    def _came(self, number: int, _: object) -> None:
        self.requested = True
        signal.signal(number, self._before[number])
        if self._sentence is not None:
            raise Stopped(self._sentence)
