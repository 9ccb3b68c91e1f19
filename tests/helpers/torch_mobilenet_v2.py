"""MobileNetV2 in PyTorch, from the published architecture (arXiv:1801.04381, table 2).

Module names are those of torchvision's state dict, so that its released files fit.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

# expansion, channels, repeats, stride of the first
TABLE_2 = [
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
]


def rounded(channels: float) -> int:
    """To a multiple of 8, at least 8, and not more than 10 % below what was asked."""
    nearest = max(8, 8 * int((channels + 4) // 8))
    return nearest if nearest >= 0.9 * channels else nearest + 8


def conv_bn(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(outputs)]


def conv_bn_relu(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(*conv_bn(inputs, outputs, kernel, stride, groups), nn.ReLU6())


class Bottleneck(nn.Module):
    """Expand, filter by depth, project; with a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [conv_bn_relu(inputs, hidden, 1, 1, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu(hidden, hidden, 3, stride, hidden),
            *conv_bn(hidden, outputs, 1, 1, 1),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x)
        return x + y if self.shortcut else y


class MobileNetV2(nn.Module):
    def __init__(self, alpha: float, classes: int = 10) -> None:
        super().__init__()
        inputs = rounded(32 * alpha)
        features = [conv_bn_relu(3, inputs, 3, 2, 1)]
        for expansion, channels, repeats, stride in TABLE_2:
            for repeat in range(repeats):
                outputs = rounded(channels * alpha)
                features.append(Bottleneck(inputs, outputs, expansion, 1 if repeat else stride))
                inputs = outputs
        last = rounded(1280 * max(1.0, alpha))
        self.features = nn.Sequential(*features, conv_bn_relu(inputs, last, 1, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


def build(alpha: float, seed: int) -> MobileNetV2:
    """In inference mode, with random kernels and BatchNorm statistics far from 0 and 1.

    Their ranges keep activations of every depth between about -20 and 20: with larger ones the
    network itself amplifies rounding a thousandfold, in PyTorch as in any other implementation.
    """
    model = MobileNetV2(alpha).eval()
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                inputs = int(np.prod(module.weight.shape[1:]))
                draw = rng.normal(0, np.sqrt(1 / inputs), module.weight.shape)
                module.weight.copy_(torch.from_numpy(draw))
            elif isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.weight, 0.4, 1.2),
                    (module.bias, -1.0, 3.0),
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 2.0),
                ):
                    assert tensor is not None
                    tensor.copy_(torch.from_numpy(rng.uniform(low, high, tensor.shape)))
    return model


def activations(model: MobileNetV2, images: np.ndarray) -> list[np.ndarray]:
    """[B,H,W,C] output of every convolution, BatchNorm, ReLU6 and shortcut, as they run."""
    found: list[np.ndarray] = []

    def keep(_module: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        found.append(output.numpy().transpose(0, 2, 3, 1))

    hooked = [
        m
        for m in model.features.modules()
        if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.ReLU6)
        or (isinstance(m, Bottleneck) and m.shortcut)
    ]
    handles = [module.register_forward_hook(keep) for module in hooked]
    with torch.no_grad():
        model.features(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for handle in handles:
        handle.remove()
    return found
