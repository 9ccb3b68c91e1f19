"""The shapes of vision transformers, under the names that timm gives them.

Dosovitskiy et al. 2021 (arXiv:2010.11929), and what DINOv2 (Oquab et al. 2023, arXiv:2304.07193),
register tokens (Darcet et al. 2023, arXiv:2309.16588) and DINOv3 (Siméoni et al. 2025,
arXiv:2508.10104) changed. Encoders trained on pathology are of these shapes: only their weights
are their own.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

Mlp = Literal["gelu", "swiglu"]
Positions = Literal["learned", "rotary"]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The shape of a vision transformer.

    Attributes:
      width: channels of a token.
      depth: number of blocks.
      heads: of attention; they divide the width.
      hidden: width between the two layers of each block's perceptron.
      patch: side of a patch in pixels.
      size: side in pixels of the images that the weights were trained on.
      mlp: 'gelu', or 'swiglu': a gate of SiLU (Shazeer 2020, arXiv:2002.05202), whose first layer
        has twice `hidden` outputs, the gate's first.
      positions: 'learned', one vector for each patch, added once; or 'rotary', which turns queries
        and keys in every block by the patch's place (DINOv3).
      prefix_positions: learned positions of the tokens before the patches: 0, 1 (class token), or
        one for each.
      registers: number of register tokens.
      layer_scale: whether each branch is scaled by channel before it is added (Touvron et al.
        2021, arXiv:2103.17239).
      key_bias: whether keys have a bias; softmax makes no use of it.
      epsilon: added to the variance in LayerNorm.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int = 16
    size: int = 224
    mlp: Mlp = "gelu"
    positions: Positions = "learned"
    prefix_positions: int = 1
    registers: int = 0
    layer_scale: bool = False
    key_bias: bool = True
    epsilon: float = 1e-6

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches: the class token and the registers."""
        return 1 + self.registers

    @property
    def learned_positions(self) -> int:
        """Number of learned position vectors at the size that was trained; 0 if rotary."""
        if self.positions == "rotary":
            return 0
        return (self.size // self.patch) ** 2 + self.prefix_positions


_TINY = Architecture(192, 12, 3, 768)
_SMALL = Architecture(384, 12, 6, 1536)
_BASE = Architecture(768, 12, 12, 3072)
_LARGE = Architecture(1024, 24, 16, 4096)
_HUGE = Architecture(1280, 32, 16, 5120)
_GIANT = Architecture(1536, 40, 24, 4096, mlp="swiglu")

_SIZES = {"tiny": _TINY, "small": _SMALL, "base": _BASE, "large": _LARGE}


def _all() -> dict[str, Architecture]:
    change = dataclasses.replace
    found: dict[str, Architecture] = {}
    for name, shape in _SIZES.items():
        found[f"vit_{name}_patch16_224"] = shape
        if name in ("small", "base"):
            found[f"vit_{name}_patch8_224"] = change(shape, patch=8)
    found["vit_huge_patch14_224"] = change(_HUGE, patch=14)
    for name, shape in {**_SIZES, "giant": _GIANT}.items():
        if name == "tiny":
            continue
        second = change(shape, patch=14, size=518, layer_scale=True)
        found[f"vit_{name}_patch14_dinov2"] = second
        found[f"vit_{name}_patch14_reg4_dinov2"] = change(second, registers=4, prefix_positions=0)
    for name in ("small", "base", "large"):
        found[f"vit_{name}_patch16_dinov3"] = _third(_SIZES[name])
    found["vit_small_plus_patch16_dinov3"] = _third(change(_SMALL, mlp="swiglu"))
    return {**found, **_of_pathology(found)}


def _of_pathology(found: dict[str, Architecture]) -> dict[str, Architecture]:
    """Encoders of tissue by their own names, with the arguments that their authors give timm.

    Others are of a shape that has a name above: docs/encoders.md lists them.
    """
    change = dataclasses.replace
    huge = change(_HUGE, patch=14, hidden=3416, mlp="swiglu", layer_scale=True)
    registered = change(found["vit_giant_patch14_reg4_dinov2"], size=224)
    return {
        "uni": change(_LARGE, layer_scale=True),
        "uni2_h": change(registered, depth=24, registers=8),
        "virchow": huge,
        "virchow2": change(huge, registers=4, prefix_positions=5),
        "gigapath": change(_GIANT, layer_scale=True),
        "h_optimus_0": registered,
        "h0_mini": change(
            found["vit_base_patch14_reg4_dinov2"], size=224, hidden=2048, mlp="swiglu"
        ),
        "phikon": _BASE,
        "phikon_v2": change(_LARGE, layer_scale=True),
        "hibou_b": change(found["vit_base_patch14_reg4_dinov2"], size=224),
        "hibou_l": change(found["vit_large_patch14_reg4_dinov2"], size=224),
    }


def _third(shape: Architecture) -> Architecture:
    """The shape as DINOv3 has it."""
    return dataclasses.replace(
        shape,
        size=256,
        positions="rotary",
        prefix_positions=0,
        registers=4,
        layer_scale=True,
        key_bias=False,
        epsilon=1e-5,
    )


ARCHITECTURES: dict[str, Architecture] = _all()
"""Every vision transformer that a config can name."""
