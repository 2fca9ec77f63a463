"""Muon: momentum made orthogonal, for the matrices inside a model; AdamW for everything else, in one optimiser.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); scaled so that AdamW's learning rate serves (Moonshot AI,
arXiv 2502.16982). One optimiser, so that a checkpoint, a schedule and a resumed run know of one.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
MOMENTUM = 0.95


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """[N, R, C] -> about U·Vᵀ of each one's singular value decomposition, by Newton-Schulz iterations."""
    a, b, c = _COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.transpose(1, 2)
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.transpose(1, 2) if tall else x


class MuonAdamW(torch.optim.AdamW):
    """Groups with `muon: True` hold matrices that Muon moves; AdamW the others."""

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        mine = [(group, group["params"]) for group in self.param_groups if group.get("muon")]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        gradients = {}
        for _, weights in mine:  # AdamW passes over what has no gradient
            for weight in weights:
                gradients[weight], weight.grad = weight.grad, None
        super().step()
        for group, weights in mine:
            self._move(group, [w for w in weights if gradients[w] is not None], gradients)
        for weight, gradient in gradients.items():
            weight.grad = gradient
        return loss

    def _move(self, group: dict[str, Any], weights: list[Tensor], gradients: dict[Tensor, Tensor]) -> None:
        by_shape: dict[torch.Size, list[Tensor]] = {}
        for weight in weights:
            by_shape.setdefault(weight.shape, []).append(weight)
        for shape, alike in by_shape.items():
            directions = [gradients[weight].float() for weight in alike]
            momenta = []
            for weight, direction in zip(alike, directions, strict=True):
                state = self.state[weight]
                state.setdefault("step", torch.zeros(()))  # AdamW, when it is loaded, looks for one
                momenta.append(state.setdefault("momentum", torch.zeros_like(direction)))
            torch._foreach_lerp_(momenta, directions, 1 - MOMENTUM)
            moved = orthogonal(torch.stack(torch._foreach_lerp(directions, momenta, MOMENTUM)))
            rate, scale = group["lr"], 0.2 * max(shape) ** 0.5
            torch._foreach_mul_(alike, 1 - rate * group["weight_decay"])
            torch._foreach_add_(alike, [m.to(w.dtype) for m, w in zip(moved, alike, strict=True)], alpha=-rate * scale)
