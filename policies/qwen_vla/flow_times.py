"""Where the flow times of training come from (paper, section 5.2.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class SigmoidNormal:
    """Times that are the sigmoid of a normal variable: most of them between clean and noise (paper, section 5.2.1: stage T2A).

    Attributes:
        mean: Mean of the normal; the paper prints none, 0 is symmetric in time.
        std: Its standard deviation; the paper prints none.
    """

    mean: float = 0.0
    std: float = 1.0

    def sample(self, count: int, generator: np.random.Generator) -> Tensor:
        """``float32[count]`` times; the first ones are the same whatever the count."""
        return torch.from_numpy(generator.normal(self.mean, self.std, count)).sigmoid().float()


@dataclass(frozen=True)
class Beta:
    """Times from a Beta distribution, dense towards one end (paper, section 5.2.1: stages CPT and SFT, towards the clean end).

    The paper prints no parameters. Those of the field are alpha 1.5, beta 1 and scale 0.999, in two directions: with
    ``u ~ Beta(alpha, beta)``, ``clean`` is ``(scale - u) / scale``, cut off at 0 (starVLA/starVLA
    starVLA/model/modules/action_model/GR00T_ActionHeader.py@0ed0aad, ``sample_time``, read in the paper's time), and ``noise`` is
    ``scale u + 1 - scale`` (Physical-Intelligence/openpi src/openpi/models/pi0.py@15a9616, ``compute_loss``).

    Attributes:
        alpha: First parameter of the distribution.
        beta: Second parameter.
        scale: Keeps the sampled time off the far end, in 0 to 1.
        toward: The end near which most times lie.
    """

    alpha: float = 1.5
    beta: float = 1.0
    scale: float = 0.999
    toward: Literal["clean", "noise"] = "clean"

    def sample(self, count: int, generator: np.random.Generator) -> Tensor:
        """``float32[count]`` times; the first ones are the same whatever the count."""
        sampled = generator.beta(self.alpha, self.beta, count)
        times = (self.scale - sampled) / self.scale if self.toward == "clean" else self.scale * sampled + 1 - self.scale
        return torch.from_numpy(times.clip(0, 1)).float()


TimeSampler: TypeAlias = SigmoidNormal | Beta
"""Where training times come from."""
