"""A training's reporter that keeps what it gets."""

from __future__ import annotations


class Numbers:
    """A reporter that keeps what it gets."""

    def __init__(self) -> None:
        self.first = -1
        self.numbers: dict[int, dict[str, float]] = {}
        self.notes: list[str] = []

    def start(self, step: int, steps: int) -> None:
        self.first = step

    def report(self, step: int, numbers: dict[str, float]) -> None:
        self.numbers.setdefault(step, {}).update(numbers)

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def without_times(self) -> dict[int, dict[str, str]]:
        """Also what is no number is equal to itself."""
        return {
            step: {name: repr(value) for name, value in numbers.items() if not name.startswith(("time/", "charts/"))}
            for step, numbers in self.numbers.items()
        }
