"""Mixed precision on request: bfloat16 where the device computes in it, else float16 with scaling.

Weights, gradients, statistics, losses and updates stay float32.  Small gradients vanish in float16,
so the loss is scaled up, and an update whose gradients are no numbers for that is left out, as
everybody does who trains in float16.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

_BEGIN, _PATIENCE = 2.0**14, 1000
"""First scale, and updates that have to go well before it is doubled."""


class Precision:
    """How a forward pass computes; ``mixed`` False changes nothing at all."""

    def __init__(self, device: torch.device, mixed: bool):
        self._device, self.half = device, half_type(device) if mixed else None
        self.scale = _BEGIN if self.half is torch.float16 else 1.0
        self._good = 0

    def block(self):
        """The block in which forward passes compute."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self._device.type, self.half)

    def unscaled(self, gradients: torch.Tensor) -> bool:
        """Scale all gradients back; False where they are no numbers, and the scale was too high."""
        if self.half is not torch.float16:
            return True
        gradients.mul_(1 / self.scale)
        if not torch.isfinite(gradients).all():
            self.scale, self._good = self.scale / 2, 0
            return False
        self._good += 1
        if self._good == _PATIENCE:
            self.scale, self._good = self.scale * 2, 0
        return True


def half_type(device: torch.device) -> torch.dtype:
    """The half precision that a device is quick in."""
    old = device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 8
    return torch.float16 if old else torch.bfloat16
