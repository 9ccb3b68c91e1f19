"""The layers of a vision transformer."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from sscjax.models import layers as ops
from sscjax.models.ops import elementwise


class LayerNorm(nn.Module):
    """Normalises each token over its channels (Ba et al. 2016): [...,C] to [...,C]."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Subtract the mean, divide by the standard deviation, scale and shift."""
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = jnp.square(centred).mean(axis=-1, keepdims=True)
        normal = centred * lax.rsqrt(variance + self.epsilon)
        return elementwise.add_bias(normal * elementwise.channels(scale, x), bias)


class PatchEmbedding(nn.Module):
    """Cuts images into patches and multiplies each: [B,H,W,3] to [B,h*w,width]."""

    patch: int
    width: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """One matrix product: patches do not overlap. Pixels beyond the last whole one are cut."""
        size, side = self.patch, (x.shape[1] // self.patch, x.shape[2] // self.patch)
        shape = (size, size, x.shape[-1], self.width)
        kernel = self.param("kernel", ops.GLOROT_UNIFORM, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        x = x[:, : side[0] * size, : side[1] * size]
        cut = x.reshape(x.shape[0], side[0], size, side[1], size, x.shape[-1])
        rows = cut.transpose(0, 1, 3, 2, 4, 5).reshape(x.shape[0], side[0] * side[1], -1)
        return elementwise.add_bias(rows @ kernel.reshape(-1, self.width), bias)


class Tokens(nn.Module):
    """Adds learned positions, and puts the class token and the registers before the patches.

    Attributes:
      positions: number of learned positions of patches at this size of image; 0: none.
      prefix_positions: of the tokens before them, 0 or the first 1 or all; they stand first.
      registers: number of register tokens.
    """

    positions: int
    prefix_positions: int
    registers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,N,D] to [B,1+registers+N,D]."""
        width, draw = x.shape[-1], nn.initializers.truncated_normal(0.02)
        first = self.param("class_token", draw, (1, width))
        if self.registers:
            registers = self.param("registers", draw, (self.registers, width))
            first = jnp.concatenate([first, registers])
        if self.positions:
            own = self.prefix_positions
            learned = self.param("positions", draw, (own + self.positions, width))
            x = x + learned[None, own:]
            first = first + jnp.pad(learned[:own], ((0, len(first) - own), (0, 0)))
        return jnp.concatenate([jnp.broadcast_to(first, (len(x), *first.shape)), x], axis=1)


class QueriesKeysValues(nn.Module):
    """Queries, keys and values side by side: [...,D] to [...,3*D].

    Attributes:
      key_bias: whether keys have a bias; without, 'bias' holds those of queries and values.
    """

    key_bias: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Multiply and add the bias."""
        width = x.shape[-1]
        kernel = self.param("kernel", ops.GLOROT_UNIFORM, (width, 3 * width))
        count = 3 if self.key_bias else 2
        bias = self.param("bias", nn.initializers.zeros, (count * width,), jnp.float32)
        if not self.key_bias:
            bias = jnp.concatenate([bias[:width], jnp.zeros((width,)), bias[width:]])
        return elementwise.add_bias(x @ kernel, bias)


class LayerScale(nn.Module):
    """Multiplies each channel by a number of its own: [...,C] to [...,C]."""

    start: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scale."""
        scale = self.param("scale", nn.initializers.constant(self.start), (x.shape[-1],))
        return x * elementwise.channels(scale, x)


def attend(
    x: jax.Array, heads: int, rotation: tuple[jax.Array, jax.Array] | None, prefix: int
) -> jax.Array:
    """Attention of every token to all: queries, keys, values [B,N,3*D] to [B,N,D].

    Args:
      x: what `QueriesKeysValues` gives.
      heads: number of heads; each has D/heads channels of queries, keys and values.
      rotation: cosines and sines [P,D/heads] of the P patches, see `positions.rotary`; None: none.
      prefix: tokens before those of the patches, which are not turned.
    """
    batch, tokens, width = x.shape[0], x.shape[1], x.shape[2] // 3
    parts = x.reshape(batch, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    queries, keys, values = parts[0], parts[1], parts[2]
    if rotation is not None:
        queries, keys = (_turned(part, rotation, prefix) for part in (queries, keys))
    scale = (width // heads) ** -0.5
    weights = jax.nn.softmax((queries * scale) @ keys.swapaxes(-1, -2), axis=-1)
    return (weights @ values).transpose(0, 2, 1, 3).reshape(batch, tokens, width)


def _turned(x: jax.Array, rotation: tuple[jax.Array, jax.Array], prefix: int) -> jax.Array:
    """[B,heads,N,C] with the two halves of the patches' channels turned as pairs."""
    cosines, sines = rotation
    first, patches = x[:, :, :prefix], x[:, :, prefix:]
    half = patches.shape[-1] // 2
    across = jnp.concatenate([-patches[..., half:], patches[..., :half]], axis=-1)
    turned = patches * cosines[None, None] + across * sines[None, None]
    return jnp.concatenate([first, turned], axis=2)
