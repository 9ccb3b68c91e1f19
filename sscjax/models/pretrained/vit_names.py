"""From the names and layouts of timm and transformers to the parameter tree of `VisionTransformer`.

As in `convert.py`, every function is a renaming plus a transposition, and `load.py` decides whether
the result is the model. Two things are more: transformers stores queries, keys and values apart,
and learned positions are brought to the size of the model's images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

import numpy as np

from sscjax.models.pretrained.convert import Converted, Tree
from sscjax.models.vit import positions
from sscjax.models.vit.module import VisionTransformer

# What wraps the encoder in the state dict of a larger model.
_WRAPPERS = re.compile(
    r"^(?:module\.|model\.|teacher\.|backbone\.|vit\.|dinov2\.|dinov2_with_registers\.|dinov3_vit\.)+"
)

# What a file may hold beyond the encoder. Everything else that is not recognised is an error.
_DROPPED = re.compile(
    r"""
      (head|classifier|pooler(\.dense)?|head_drop)\.(weight|bias)    # classifiers, BERT's pooler
    | (embeddings\.)?mask_token                                  # of training by masked patches
    | (rope_embed\.periods|rope_embeddings\.inv_freq|rope\.periods)   # computed from the shape
    | .*attn\.qkv\.bias_mask                                     # which biases are zero (DINOv3)
    """,
    re.VERBOSE,
)

# Of timm: the class token, registers and positions, which have a batch of one before them.
_TOKENS = {
    "cls_token": "class_token",
    "reg_token": "registers",
    "register_tokens": "registers",
    "pos_embed": "positions",
    "embeddings.cls_token": "class_token",
    "embeddings.register_tokens": "registers",
    "embeddings.position_embeddings": "positions",
}
_SINGLE = {
    "patch_embed.proj": "patches",
    "embeddings.patch_embeddings.projection": "patches",
    "embeddings.patch_embeddings": "patches",
    "norm": "norm",
    "fc_norm": "norm",
    "layernorm": "norm",
}
# Within a block: timm, then transformers' ViT, DINOv2 and DINOv3.
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.qkv": "qkv",
    "attn.proj": "projection",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
    "mlp.w12": "fc1",
    "mlp.w3": "fc2",
    "ls1": "scale1",
    "ls2": "scale2",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "projection",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "mlp.weights_in": "fc1",
    "mlp.weights_out": "fc2",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    "attention.o_proj": "projection",
    "layer_scale1": "scale1",
    "layer_scale2": "scale2",
}
# Parts of one kernel that a file stores apart, in their order.
_PARTS = {
    "attention.attention.query": ("qkv", 0),
    "attention.attention.key": ("qkv", 1),
    "attention.attention.value": ("qkv", 2),
    "attention.q_proj": ("qkv", 0),
    "attention.k_proj": ("qkv", 1),
    "attention.v_proj": ("qkv", 2),
    "mlp.gate_proj": ("fc1", 0),
    "mlp.fc1_g": ("fc1", 0),
    "mlp.fc1_x": ("fc1", 1),
}
_IN_BLOCK = re.compile(r"(?:blocks|encoder\.layer|layers?)\.(\d+)\.(.+)")
_VARIABLES = ("weight", "bias", "gamma", "lambda1")


def convert(weights: Mapping[str, np.ndarray], model: VisionTransformer) -> Converted:
    """Rename and transpose what `read_weights` returned.

    Args:
        weights: arrays by name, as timm (`blocks.0.attn.qkv.weight`) or transformers
            (`encoder.layer.0.attention.attention.query.weight`, `layer.0.attention.q_proj.weight`)
            name them.
        model: for its shape, and for the size of its images.

    Returns:
        the tree: kernels (in, out), that of the patches (patch, patch, 3, width).
    """
    tree: Tree = {}
    apart: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    dropped, unknown = [], []
    for name, array in weights.items():
        bare = _WRAPPERS.sub("", name)
        if _DROPPED.fullmatch(bare):
            dropped.append(name)
        elif not _place(bare, array, model, tree, apart):
            unknown.append(name)
    for (layer, variable), found in apart.items():
        whole = np.concatenate([found[index] for index in sorted(found)], axis=-1)
        tree.setdefault(layer, {})[variable] = whole
    _fill_biases(tree, model)
    _bring_positions(tree, weights, model)
    return Converted(tree, {}, tuple(dropped), tuple(unknown))


def _place(
    name: str,
    array: np.ndarray,
    model: VisionTransformer,
    tree: Tree,
    apart: dict[tuple[str, str], dict[int, np.ndarray]],
) -> bool:
    """Put an array where it belongs; False if it belongs nowhere."""
    if name in _TOKENS:
        tree.setdefault("tokens", {})[_TOKENS[name]] = array.reshape(-1, array.shape[-1])
        return True
    within = _IN_BLOCK.fullmatch(name)
    prefix, inner = (f"block_{within[1]}_", within[2]) if within else ("", name)
    names = _BLOCK if within else _SINGLE
    if within and inner in ("gamma_1", "gamma_2"):  # timm's EVA, of which its DINOv3 is one
        tree.setdefault(f"{prefix}scale{inner[-1]}", {})["scale"] = array
        return True
    if within and inner in ("attn.q_bias", "attn.v_bias", "attn.k_bias"):
        place = {"q": 0, "k": 1, "v": 2}[inner[5]]
        apart.setdefault((f"{prefix}qkv", "bias"), {})[place] = array
        return True
    module, _, variable = inner.rpartition(".")
    if variable not in _VARIABLES:
        return False
    gated = model.shape.mlp == "swiglu"
    if within and (module in _PARTS or (module == "mlp.up_proj" and gated)):
        layer, place = _PARTS.get(module, ("fc1", 1))
        kind = "kernel" if variable == "weight" else "bias"
        apart.setdefault((f"{prefix}{layer}", kind), {})[place] = _transposed(array)
        return True
    if module not in names:
        return False
    layer = prefix + names[module]
    variables = tree.setdefault(layer, {})
    if variable in ("gamma", "lambda1") or (array.ndim == 1 and variable == "weight"):
        variables["scale"] = array
    elif variable == "weight":
        variables["kernel"] = _transposed(array)
    else:
        variables["bias"] = array
    return True


def _transposed(array: np.ndarray) -> np.ndarray:
    """From PyTorch's (out, in) or (out, in, h, w); a bias stays."""
    if array.ndim == 4:
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return np.ascontiguousarray(array.T) if array.ndim == 2 else array


def _fill_biases(tree: Tree, model: VisionTransformer) -> None:
    """Zeros, where timm leaves out the biases of DINOv3's queries and values in all blocks."""
    layers = [f"block_{index}_qkv" for index in range(model.shape.depth)]
    if model.shape.key_bias or any("bias" in tree.get(layer, {}) for layer in layers):
        return
    for layer in layers:
        if layer in tree:
            tree[layer]["bias"] = np.zeros(2 * model.shape.width, np.float32)


def _bring_positions(tree: Tree, names: Iterable[str], model: VisionTransformer) -> None:
    """Learned positions for the size of the model's images, as the file's own library does it."""
    learned = tree.get("tokens", {}).get("positions")
    if learned is None:
        return
    side = model.image_size // model.shape.patch
    # What is more than a square are those of the tokens before the patches.
    own = next(
        (count for count in (0, 1, model.shape.prefix) if _is_square(len(learned) - count)), None
    )
    if own is None:
        return  # `load.py` says that the shape is not the model's
    grid = learned[own:]
    if own == 1 and model.shape.prefix_positions == 0 and "class_token" in tree["tokens"]:
        # Both are constants, and only their sum is used: timm adds them up when it converts.
        tree["tokens"]["class_token"] = tree["tokens"]["class_token"] + learned[:1]
        learned, own = learned[1:], 0
    # Of transformers' models those without registers do not smooth.
    cubic = any("position_embeddings" in name for name in names) and not model.shape.registers
    resized = positions.resize(grid, side, "cubic" if cubic else "antialias")
    tree["tokens"]["positions"] = np.concatenate([learned[:own], resized])


def _is_square(count: int) -> bool:
    return count > 0 and math.isqrt(count) ** 2 == count
