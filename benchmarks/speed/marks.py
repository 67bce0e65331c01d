"""Where a training step goes: its parts, by a clock that is read where one ends and the next begins."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from machine import counting
from torch import Tensor

from vlarig.policies.qwen_vla.model import Batch, QwenVla

#: Forward parts, in their order.
FORWARD = ("vision", "language model", "expert")
BACKWARD = tuple(f"{part}, backward" for part in reversed(FORWARD))


class Marks:
    """Splits what a model does by a clock.

    Forward passes are split by hooks on modules. In the backward pass a part ends when the gradient of its input has come, which is the
    output of the part before: autograd goes through the nodes of a graph in the reverse of their order. Activations that are computed
    again belong to that pass. The embedding, which is looked up first and has its gradient last, is with the vision tower. The clock is
    whatever grows: seconds, or operations.

    Attributes:
        spent: What the clock went on in each part since :meth:`begin`.
        on: Whether it is read.
    """

    def __init__(self, model: QwenVla, clock: Callable[[], float]) -> None:
        self.spent: dict[str, float] = {}
        self.on = True
        self._clock = clock
        self._trained: list[str] = []
        inner = model.backbone.model
        self._hooks = [
            model.register_forward_pre_hook(lambda *_: self._start()),
            inner.visual.merger.register_forward_hook(partial(self._passed, "vision")),
            inner.language_model.register_forward_hook(partial(self._passed, "language model")),
            model.register_forward_hook(partial(self._passed, "expert")),
        ]

    def begin(self) -> None:
        self.spent = {}
        self._last = self._clock() if self.on else 0.0

    def __call__(self, part: str) -> None:
        """A part ends here."""
        if self.on:
            now = self._clock()
            self.spent[part] = self.spent.get(part, 0) + now - self._last
            self._last = now

    def backward_ended(self) -> None:
        """The backward pass ends here, in the first part that is trained."""
        self(f"{self._trained[0]}, backward")

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def _start(self) -> None:
        self._trained.clear()
        self("data")

    def _passed(self, part: str, module: object, arguments: object, output: Any) -> None:
        self(part)
        if part == "expert":
            self._trained.append(part)
            return
        state: Tensor = getattr(output, "last_hidden_state", output)
        if state.requires_grad:
            self._trained.append(part)
            after = FORWARD[FORWARD.index(part) + 1]
            state.register_hook(lambda _: self(f"{after}, backward"))


def operations_by_part(model: QwenVla, batch: Batch) -> dict[str, int]:
    """Floating-point operations of a batch's forward and backward pass; gradients are gone after it."""
    with counting(model) as counter:
        marks = Marks(model, counter.get_total_flops)
        marks.begin()
        model(batch).action.mean.backward()
        marks.backward_ended()
    marks.remove()
    model.zero_grad()
    return {part: int(marks.spent.get(part, 0)) for part in FORWARD + BACKWARD}
