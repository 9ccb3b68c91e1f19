"""A network with its starting weights, before it is trained, and the features that it computes."""

from __future__ import annotations

import dataclasses
import difflib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sscjax.configs import default
from sscjax.data import batches
from sscjax.errors import UserError
from sscjax.experiments import overrides
from sscjax.inference.classifier import Classifier
from sscjax.models.factory import BACKBONES
from sscjax.system import formatting
from sscjax.training import evaluate, programs, settings, setup
from sscjax.training.network import Network

# Images per call, one compiled shape for any number of them; and of these at a time through the
# network, so that their activations stay in the processor's cache.
BATCH, _MICRO_BATCH = 32, 8


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A network before training, as `create` makes it.

    Attributes:
      config: a run's config with the fields that make this network.
      network: its module and its starting weights.
      num_classes: number of classes.
      mask_classes: number of classes of its masks; 0 for a network without.
    """

    config: ConfigDict
    network: Network
    num_classes: int
    mask_classes: int

    @property
    def name(self) -> str:
        """Of the architecture."""
        return str(self.config.model.name)

    @property
    def image_size(self) -> int:
        """Side of its images in pixels."""
        return int(self.config.data.image_size)

    @property
    def parameters(self) -> int:
        """Number of parameters, without running averages."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.network.params))

    @property
    def weights(self) -> str:
        """Where the starting weights come from."""
        weights = self.network.weights
        text = weights.name if weights.kind == "file" else "random"
        return f"{text}, in place of ImageNet's" if weights.fallback else text

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, from the input on."""
        return self.network.model.layer_names

    @functools.cached_property
    def program(self) -> programs.Program:
        """How the network is run on uint8 images."""
        return programs.Program(
            self.network.model,
            self.network.objective,
            setup.make_inputs(self.network.weights.convention.scaling),
            micro_batch=_MICRO_BATCH,
        )

    def __repr__(self) -> str:
        weights = formatting.clean_name(self.weights, 60)
        return (
            f"Model({self.name}, {self.num_classes} classes, {self.image_size}x{self.image_size} "
            f"pixels, {self.parameters:,} parameters, weights: {weights})"
        )


# The arguments of `sscjax.create_model`.
def create(
    name: str,
    num_classes: int,
    *,
    pretrained: str = "imagenet",
    image_size: int = 128,
    seed: int = 0,
    mask_classes: int = 0,
    fallback: str = "bundled",
    fields: dict[str, Any] | None = None,
) -> Model:
    """A network with its starting weights; for arguments see `sscjax.create_model`."""
    config = default.get_config()
    if name not in BACKBONES:
        near = difflib.get_close_matches(str(name), BACKBONES, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"there is no model {name!r}: expected one of {', '.join(BACKBONES)}{hint}")
    for argument, value, least in (
        ("num_classes", num_classes, 2),
        ("image_size", image_size, 32),
        ("mask_classes", mask_classes, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise UserError(f"{argument}={value!r}: expected a whole number, {least} or more")
    overrides.set_fields(config, {"name": name, **(fields or {})}, "model")
    given = {"pretrained": pretrained, "pretrained_fallback": fallback, "seed": seed}
    overrides.set_fields(config, {**given, "data.image_size": image_size})
    config.loss.segmentation = 1.0 if mask_classes else 0.0
    network = setup.create_network(
        settings.read(config), num_classes, mask_classes, earlier_fallback=False
    )
    return Model(config, network, int(num_classes), int(mask_classes))


def extract_features(
    model: Model | Classifier, images: batches.Images, layers: Sequence[str] = ()
) -> np.ndarray:
    """Features of images; for arguments see `sscjax.extract_features`."""
    if isinstance(model, Model):
        params, batch_stats = model.network.params, model.network.batch_stats
    elif isinstance(model, Classifier):
        params, batch_stats = model.params, model.batch_stats
    else:
        raise UserError(
            f"model is a {type(model).__name__}: expected what sscjax.create_model or sscjax.load "
            "returns"
        )
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    find = _function(model.program, names, model.image_size)
    parts = [
        _filled(functools.partial(find, params, batch_stats), pixels)
        for pixels in batches.of(images, model.image_size, BATCH, classes=())
    ]
    if parts:
        return np.concatenate(parts)
    batch = jax.ShapeDtypeStruct((BATCH, model.image_size, model.image_size, 3), np.uint8)
    width = jax.eval_shape(find, params, batch_stats, batch).shape[-1]
    return np.zeros((0, width), np.float32)


def _filled(find: Callable[..., jax.Array], pixels: np.ndarray) -> np.ndarray:
    """Repeating the last image keeps one compiled shape; its results are dropped."""
    index = np.minimum(np.arange(BATCH), len(pixels) - 1)
    return np.asarray(find(jnp.asarray(pixels[index])))[: len(pixels)]


def _function(
    program: programs.Program, layers: tuple[str, ...], image_size: int
) -> Callable[..., jax.Array]:
    """A jitted f(params, batch_stats, images [B,H,W,3]) -> [B,D]."""
    if not layers:
        return evaluate.make_penultimate(program)
    model = program.model
    known = _readable(model, image_size)
    for name in layers:
        if name not in known or layers.count(name) > 1:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"layers={layers}: {name!r} is no layer whose output can be read, or is there "
                f"twice{hint}"
            )

    @programs.jit
    def find(params: Any, batch_stats: Any, images: jax.Array) -> jax.Array:
        _, seen = program.captured(params, batch_stats, images, None, layers)
        return jnp.concatenate([evaluate.spatial_mean(seen[name]) for name in layers], axis=-1)

    return find


def _readable(model: Any, image_size: int) -> list[str]:
    """Layers whose outputs are seen: BatchNorm is folded into the convolution before it."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), image)
    names = model.layer_names[: model.head_start]
    _, seen = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=False, capture=names), variables, image
    )
    hidden = set(model.norm_after)
    return [name for name in names if name in seen and name not in hidden]
