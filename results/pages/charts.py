"""A chart of success rates: its size, and where a rate and a share of its width are in it. The charts are rendered by charts.html."""

from __future__ import annotations

from typing import ClassVar


class RateChart:
    """Base of what is shown as a chart of rates, in the units of its SVG."""

    # The chart's size, and the room at its left and below it for numbers.
    width: ClassVar[int] = 480
    height: ClassVar[int] = 200
    left: ClassVar[int] = 52
    below: ClassVar[int] = 24

    def level(self, percent: float) -> float:
        """Where a rate is, from the top."""
        return round(8 + (1 - percent / 100) * (self.height - self.below - 8), 1)

    @classmethod
    def across(cls, share: float) -> float:
        """Where a share of the axis, 0 to 1, is, from the left."""
        return cls.left + 8 + share * (cls.width - cls.left - 24)
