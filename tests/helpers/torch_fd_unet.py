"""FD-UNet and UNet in PyTorch, from the description of Guan et al. 2020, for comparison.

Modules are created in the order in which they are applied, so that weights can be handed over in
order, whatever they are called elsewhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional


def conv_bn_relu(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding="same", bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1), nn.ReLU())


class DenseBlock(nn.Module):
    """Each layer reads all that was there before it: 1x1 to f channels, 3x3 to k."""

    def __init__(self, f: int, k: int, count: int):
        super().__init__()
        self.steps = nn.ModuleList(
            nn.Sequential(conv_bn_relu(f + i * k, f, 1), conv_bn_relu(f, k, 3))
            for i in range(count)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            x = torch.cat([x, step(x)], dim=1)
        return x


class Up(nn.Module):
    def __init__(self, inputs: int, outputs: int, rest: nn.Module):
        super().__init__()
        self.widen = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.1),
            nn.ReLU(),
        )
        self.rest = rest

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.rest(torch.cat([skip, self.widen(x)], dim=1))


class Network(nn.Module):
    """Channels f and growth k at first; k doubles by level, and the bottom is one more level."""

    def __init__(
        self, plain: bool, depth: int, f: int, k: int, count: int, masks: int, classes: int
    ):
        super().__init__()
        starts = [f]
        for level in range(depth + 1):
            starts.append(starts[-1] + count * k * 2**level)

        def block(level: int, inputs: int) -> nn.Module:
            if plain:
                end = starts[level + 1]
                return nn.Sequential(conv_bn_relu(inputs, end, 3), conv_bn_relu(end, end, 3))
            dense = DenseBlock(starts[level], k * 2**level, count)
            if inputs == starts[level]:
                return dense
            return nn.Sequential(conv_bn_relu(inputs, starts[level], 1), dense)

        self.stem = nn.Identity() if plain else conv_bn_relu(3, f, 3)
        firsts = [3, *starts[1:]] if plain else starts
        self.down = nn.ModuleList(block(level, firsts[level]) for level in range(depth + 1))
        self.up = nn.ModuleList(
            Up(starts[level + 2], starts[level + 1], block(level, 2 * starts[level + 1]))
            for level in reversed(range(depth))
        )
        self.masks = nn.Conv2d(starts[1], masks, 1) if masks else None
        self.classes = nn.Linear(starts[1], classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        x, skips = self.stem(x), []
        for index, block in enumerate(self.down):
            x = block(functional.max_pool2d(x, 2) if index else x)
            skips.append(x)
        skips.pop()
        for up in self.up:
            x = up(x, skips.pop())
        return self.classes(x.mean(dim=(2, 3))), None if self.masks is None else self.masks(x)


def weighted(module: Network) -> list[nn.Module]:
    """The modules that have weights, in the order in which they are applied."""
    return [one for one in module.modules() if list(one.parameters(recurse=False))]


def to_torch(name: str, leaf: np.ndarray, module: nn.Module) -> tuple[str, np.ndarray]:
    """A layer's array under the name and in the layout that torch has for it."""
    names = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}
    if name != "kernel":
        return names[name], leaf
    if isinstance(module, nn.Linear):
        return "weight", leaf.T
    axes = (2, 3, 0, 1) if isinstance(module, nn.ConvTranspose2d) else (3, 2, 0, 1)
    return "weight", leaf.transpose(axes)


def load(module: Network, layers: list[dict[str, Any]]) -> None:
    """Copy the arrays of each layer, in order, into the modules."""
    with torch.no_grad():
        for one, arrays in zip(weighted(module), layers, strict=True):
            for name, leaf in arrays.items():
                place, value = to_torch(name, np.asarray(leaf), one)
                getattr(one, place).copy_(torch.from_numpy(value.copy()))
