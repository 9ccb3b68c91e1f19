"""From a config to everything that training starts with: images, splits, network, weights."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import logging
import re
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from sscjax import features, rows, steps
from sscjax.data import anonymous, augment, prepared, recipes, sources, splits
from sscjax.data.dataset import ImageSet
from sscjax.data.masks import IGNORE
from sscjax.data.synthetic import TISSUES
from sscjax.errors import UserError
from sscjax.metrics import MASK_METRIC
from sscjax.models import (
    CNN,
    MODELS,
    FDUNet,
    MobileNetUNet,
    MobileNetV2,
    Model,
    Pooling,
    UNetBlock,
    initial_variables,
)
from sscjax.pretrained import bundled, cache, convention, download, load
from sscjax.rows import Rows

_LOG = logging.getLogger(__name__)

_CALIBRATION_BATCHES = 4


def unnamed(image_set: ImageSet) -> int:
    """Images that name no subject: each stands for itself, and for its copies."""
    pairs = zip(image_set.subjects.tolist(), image_set.files.tolist(), strict=True)
    return sum(subject == re.sub(r"#\d+$", "", file) for subject, file in pairs)


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a run.

    Attributes:
      originals: N images that are split and evaluated.
      splits: [N] str of 'train', 'val', 'test'.
      training: M images that are trained on: the originals of the training split, then their
        augmented copies.
      synthetic: whether they are the embedded synthetic set.
      by: 'subject' or 'image', what the split keeps together.
      ordered: whether the classes stand in their order of severity, so that kappa has a meaning.
    """

    originals: ImageSet
    splits: np.ndarray
    training: ImageSet
    synthetic: bool
    by: str
    ordered: bool

    @property
    def unnamed(self) -> int:
        """Images that name no subject."""
        return unnamed(self.originals)

    @property
    def has_subjects(self) -> bool:
        """Whether any image names its subject."""
        return self.unnamed < len(self.originals)

    @property
    def one_image_each(self) -> bool:
        """Whether all subjects are named and none has two images."""
        return self.unnamed == 0 and len(set(self.originals.subjects)) == len(self.originals)

    def training_for(self, *, online: bool) -> ImageSet:
        """What a stage trains on: a stage that augments on line needs no copies."""
        if not online:
            return self.training
        return self.training.take(np.arange(int((self.splits == "train").sum())))


@dataclasses.dataclass(frozen=True)
class Weights:
    """Where the starting weights come from.

    Attributes:
      kind: 'file', or 'random'; the bundled backbone is a file.
      name: the file's name, or why the weights are random.
      sha256: of the file, or of the drawn parameters.
      convention: what the weights assume.
      fallback: whether the bundled backbone, or random weights, stand in for ImageNet's, which
        could not be had.
    """

    kind: str
    name: str
    sha256: str
    convention: convention.Convention
    fallback: bool = False

    def identity(self) -> dict[str, Any]:
        """What must stay the same for a run to go on, JSON-ready."""
        return {
            "kind": self.kind,
            "sha256": self.sha256,
            "convention": self.convention.name,
            "fallback": self.fallback,
        }


@dataclasses.dataclass(frozen=True)
class Network:
    """A network ready to train.

    Attributes:
      model: the Linen module.
      params: all parameters by layer.
      batch_stats: all running averages by layer; empty without BatchNorm.
      objective: loss and probabilities.
      weights: where they come from.
    """

    model: Model
    params: dict[str, Any]
    batch_stats: dict[str, Any]
    objective: steps.Objective
    weights: Weights


def parse_pairs(text: str, separator: str, field: str) -> dict[str, str]:
    """`a=x,b=y` as a dict, for config fields whose keys the user chooses.

    Raises:
      UserError: a part without the separator, or a name twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, sign, value = (piece.strip() for piece in part.rpartition(separator))
        if not sign or not name or not value or name in found:
            raise UserError(
                f"config.{field}: found {part!r}, expected distinct NAME{separator}VALUE parts "
                "with commas between them"
            )
        found[name] = value
    return found


def _parse_counts(text: str, field: str) -> dict[str, tuple[int, ...]]:
    try:
        return {
            name: tuple(int(number) for number in value.split("/"))
            for name, value in parse_pairs(text, ":", field).items()
        }
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"config.{field}: found {text!r}, expected whole numbers") from error


def load_images(config: ConfigDict) -> tuple[ImageSet, bool]:
    """The image set that a config names, and whether it is the synthetic one."""
    data = config.data
    if data.path and data.tfds:
        raise UserError("config.data.path and config.data.tfds are both set; empty one of them")
    if data.storage not in ("direct", "array_record"):
        raise UserError(
            f"config.data.storage={data.storage!r}: expected 'direct' or 'array_record'"
        )
    # Records of runs that were made before there was such a field are read, too.
    corrupt, private = data.get("corrupt", "error"), bool(config.get("private", False))
    if private and data.storage == "array_record":
        raise UserError(
            "config.private=True and config.data.storage='array_record': a prepared set in the "
            "cache folder holds the names of files and subjects; set data.storage=direct"
        )
    if corrupt not in get_args(sources.Policy):
        raise UserError(f"config.data.corrupt={corrupt!r}: expected 'error' or 'skip'")
    if data.image_size < 32:
        raise UserError(f"config.data.image_size={data.image_size}: expected 32 pixels or more")
    classes = tuple(data.classes)
    merge = parse_pairs(data.merge, "=", "data.merge")
    # The order of the merged classes is applied after merging.
    listed = () if merge else classes
    if data.tfds:
        image_set = sources.load_tfds(data.tfds, data.image_size, classes=listed)
    else:
        recipe = _recipe(config, listed)
        load = prepared.make if data.storage == "direct" else prepared.load
        image_set = load(recipe, cache.cache_dir() / "prepared", _max_bytes(config))
    if merge:
        if not set(merge) <= set(image_set.classes):
            # A user's own folder may hold the merged classes already.
            missing = ", ".join(sorted(set(merge) - set(image_set.classes)))
            _LOG.info("config.data.merge: no class %s in this set", missing)
        present = {old: new for old, new in merge.items() if old in image_set.classes}
        image_set = sources.merge_classes(image_set, present)
        if classes:
            image_set = _reorder(image_set, classes)
    synthetic = not (data.path or data.tfds)
    image_set = _with_mask_classes(config, image_set, synthetic)
    return anonymous.image_set(image_set) if private else image_set, synthetic


def _with_mask_classes(config: ConfigDict, image_set: ImageSet, synthetic: bool) -> ImageSet:
    """The set with names for the values of its masks; every value that occurs has one."""
    weight, named = config.loss.segmentation, tuple(config.data.mask_classes)
    if weight < 0:
        raise UserError(f"config.loss.segmentation={weight}: expected 0 or more")
    if image_set.masks is None:
        if weight:
            raise UserError(
                f"config.loss.segmentation={weight}, and no image has a mask: put name_mask.png "
                "beside the images, or name masks in the manifest's column mask, or set 0"
            )
        return image_set
    names = named or (TISSUES if synthetic else ())
    if not names:
        if weight:
            raise UserError(
                f"config.loss.segmentation={weight}, and config.data.mask_classes=(): name what "
                "the values of the masks mean, in their order from 0"
            )
        return image_set
    for part in rows.chunks(image_set.masks):
        maps = image_set.masks[part]
        unknown = (maps >= len(names)) & (maps != IGNORE)
        if unknown.any():
            place = int(np.flatnonzero(unknown.any(axis=(1, 2)))[0])
            raise UserError(
                f"{image_set.files[part.start + place]}: its mask has the value "
                f"{maps[place][unknown[place]][0]}, and config.data.mask_classes names "
                f"{len(names)} (0 to {len(names) - 1}; {IGNORE} is ignored); correct one of them"
            )
    return dataclasses.replace(image_set, mask_classes=names)


def _max_bytes(config: ConfigDict) -> float:
    """Images of more than this are not held in memory."""
    if config.data.max_megabytes < 0:
        raise UserError(
            f"config.data.max_megabytes={config.data.max_megabytes}: expected 0 or more"
        )
    return float(config.data.max_megabytes) * 2**20


def _reorder(image_set: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    if set(classes) != set(image_set.classes):
        raise UserError(
            f"config.data.classes={classes}: the merged set has {image_set.classes}; name these"
        )
    new = np.array([classes.index(name) for name in image_set.classes], np.int32)
    return dataclasses.replace(image_set, labels=new[image_set.labels], classes=classes)


def _recipe(config: ConfigDict, classes: tuple[str, ...]) -> recipes.Recipe:
    data = config.data
    if data.path:
        path = Path(data.path).expanduser()
        corrupt, private = data.get("corrupt", "error"), bool(config.get("private", False))
        return recipes.from_path(path, data.image_size, classes, corrupt, private=private)
    names = ("normal", "early", "late")
    return recipes.from_synthetic(
        image_size=data.image_size,
        seed=data_seed(config),
        tiles={name: data.synthetic[name] for name in names},
        subjects={name: data.synthetic[f"{name}_subjects"] for name in names},
    )


def data_seed(config: ConfigDict) -> int:
    """Of images that are made before any split."""
    return config.seed if config.data.seed < 0 else config.data.seed


def split_seed(config: ConfigDict) -> int:
    """Of the split, which may differ from that of all else."""
    return config.seed if config.split.seed < 0 else config.split.seed


def split_images(config: ConfigDict, image_set: ImageSet, synthetic: bool) -> Images:
    """Split the set and add the augmented copies, in the order that the config asks for."""
    image_set = without_outer_fold(config, copies_before_split(config, image_set))
    found = make_splits(config, image_set)
    refuse_unmasked(config, image_set, found)
    training = image_set.take(np.flatnonzero(found == "train"))
    how = changes(config)
    training = augment.augmented_copies(training, config.augment.copies, config.seed, how)
    for some in (image_set, training):
        augment.hold_copies(some, _max_bytes(config))
    ordered = is_ordered(config, image_set, synthetic)
    return Images(image_set, found, training, synthetic, config.split.by, ordered)


def with_masks(image_set: ImageSet, chosen: np.ndarray) -> np.ndarray:
    """Those of the chosen rows [K] of which the mask says anything."""
    masks = image_set.masks
    if masks is None:
        return chosen[:0]
    has = [bool((masks[row] != IGNORE).any()) for row in chosen.tolist()]
    return chosen[np.array(has, bool)]


def refuse_unmasked(config: ConfigDict, image_set: ImageSet, found: np.ndarray) -> None:
    """Raise a UserError where validation masks are to choose the epoch, and there are none.

    Args:
      config: of the run.
      image_set: its images.
      found: [N] the split of each.
    """
    if config.select.metric != MASK_METRIC or not config.loss.segmentation:
        return
    if not len(with_masks(image_set, np.flatnonzero(found == "val"))):
        raise UserError(
            f"config.select.metric={MASK_METRIC}, and no validation image has a mask: set another "
            "metric, or enlarge the validation split"
        )


def copies_before_split(config: ConfigDict, image_set: ImageSet) -> ImageSet:
    """The images that are split: with augmented copies among them where the config wants these."""
    before = _parse_counts(config.augment.counts_before_split, "augment.counts_before_split")
    if not before:
        return image_set
    if config.split.by != "image":
        raise UserError(
            "config.augment.counts_before_split puts copies of one image into several splits; "
            "set config.split.by=image to have the paper's protocol, or empty the field"
        )
    single = {name: numbers[0] for name, numbers in before.items()}
    return augment.augment_to_counts(image_set, single, data_seed(config), changes(config))


def changes(config: ConfigDict) -> augment.Changes:
    """What augmentation may do."""
    wish = config.augment
    return augment.Changes(
        flip=bool(wish.flip),
        turn=bool(wish.turn),
        crop=float(wish.crop),
        stain=float(wish.stain),
        brightness=float(wish.brightness),
        contrast=float(wish.contrast),
        blur=float(wish.blur),
        jpeg=int(wish.jpeg),
    )


def without_outer_fold(config: ConfigDict, image_set: ImageSet) -> ImageSet:
    """The images that an inner fold of nested cross-validation may see; else all."""
    wish = config.split
    if not wish.outer_folds:
        return image_set
    found = splits.make_splits(
        image_set,
        by=wish.by,
        fractions=(wish.train, wish.val, wish.test),
        seed=split_seed(config),
        folds=wish.outer_folds,
        fold=wish.outer_fold,
    )
    return image_set.take(np.flatnonzero(found != "test"))


def make_splits(config: ConfigDict, image_set: ImageSet) -> np.ndarray:
    """[N] str of 'train', 'val', 'test', as the config wants them."""
    wish = config.split
    return splits.make_splits(
        image_set,
        by=wish.by,
        fractions=(wish.train, wish.val, wish.test),
        seed=split_seed(config),
        counts=_parse_counts(wish.counts, "split.counts") or None,
        folds=wish.folds,
        fold=wish.fold,
        test_subject=wish.test_subject,
    )


def is_ordered(config: ConfigDict, image_set: ImageSet, synthetic: bool) -> bool:
    """Whether the classes stand in their order of severity; says so where nobody named them."""
    ordered = bool(config.data.ordered) and len(image_set.classes) > 2
    if ordered and not (synthetic or config.data.classes):
        ordered = False
        _LOG.warning(
            "the classes are in the order of their names (%s): no kappa is given; name them in "
            "their order with --config.data.classes to have it",
            ", ".join(image_set.classes),
        )
    return ordered


def build_network(config: ConfigDict, images: Images, *, earlier_fallback: bool) -> Network:
    """Build the model with its starting weights.

    Args:
      config: the run's config.
      images: the run's images; random weights are calibrated on the training images.
      earlier_fallback: the run that is gone on with started from what stands in for ImageNet's
        weights, which could not be had: so it goes on, without looking for them again.
    """
    classes = len(images.originals.classes)
    outputs = output_count(config, classes)
    objective = dataclasses.replace(
        make_objective(config, outputs),
        class_weights=class_weights(
            config.loss.class_weights,
            images.training.labels,
            classes,
            subject_weights(config.loss.subject_weights, images.training.subjects),
        ),
    )
    if objective.segmentation:
        found = images.originals.take(np.flatnonzero(images.splits == "train"))
        assert found.masks is not None
        objective = dataclasses.replace(
            objective,
            mask_weights=mask_weights(
                config.loss.mask_weights, found.masks, len(images.originals.mask_classes)
            ),
        )
    model = build_model(config, outputs, len(images.originals.mask_classes))
    size = config.data.image_size
    variables = jax.tree.map(jnp.asarray, initial_variables(model, size, config.seed))
    params, batch_stats = dict(variables["params"]), dict(variables.get("batch_stats", {}))
    trees = params, batch_stats
    path, weights = _find_weights(config, earlier_fallback)
    if path is not None:
        # What the file cannot hold is left out: the new layers behind the backbone.
        new = set(model.layer_names[model.head_start :])
        loaded = load.load_backbone(
            path, *({name: one[name] for name in one if name not in new} for one in trees)
        )
        own = Path(path).parent == Path(bundled.__file__).parent
        name = f"bundled {Path(path).name}" if own else Path(path).name
        weights = Weights("file", name, loaded.sha256, loaded.convention, weights.fallback)
        params, batch_stats = {**params, **loaded.params}, {**batch_stats, **loaded.batch_stats}
    else:
        # So that a run is not gone on with from other random weights.
        weights = dataclasses.replace(weights, sha256=_digest(params))
    if isinstance(model, (MobileNetV2, MobileNetUNet)):
        assumed = weights.convention
        momentum = assumed.bn_momentum if weights.kind == "file" else config.scratch.momentum
        model = model.clone(
            padding=assumed.padding, bn_epsilon=assumed.bn_epsilon, bn_momentum=momentum
        )
    elif isinstance(model, FDUNet):
        model = model.clone(bn_momentum=config.scratch.momentum)
    # What has averages and no weights from a file: all of it, or what is new behind the backbone.
    first = model.head_start if weights.kind == "file" else 0
    if not isinstance(model, CNN) and set(model.layer_names[first:]) & set(batch_stats):
        batches = _calibration_batches(images.training.images, config, weights)
        measuring = model.clone(bn_momentum=0.0)
        batch_stats = features.calibrate_batch_norm(measuring, params, batch_stats, batches, first)
    return Network(model, params, batch_stats, objective, weights)


def output_count(config: ConfigDict, classes: int) -> int:
    """How many logits the network has for so many classes."""
    outputs = int(config.model.outputs or classes)
    if outputs != 1 and outputs < classes:
        raise UserError(f"config.model.outputs={outputs}: expected at least {classes}, the classes")
    if outputs == 1 and classes != 2:
        raise UserError(f"config.model.outputs=1 is for two classes; the set has {classes}")
    return outputs


def make_objective(config: ConfigDict, outputs: int) -> steps.Objective:
    """Loss and probabilities, but for the weights of classes, which depend on the images."""
    if not 0 <= config.loss.label_smoothing < 1:
        raise UserError(
            f"config.loss.label_smoothing={config.loss.label_smoothing}: expected 0 to less than 1"
        )
    classes, masks = config.loss.classification, config.loss.segmentation
    if classes < 0 or (classes == 0 and masks == 0):
        raise UserError(
            f"config.loss.classification={classes}: expected above 0, or 0 with loss.segmentation "
            "above 0, to train masks alone"
        )
    if config.loss.dice < 0:
        raise UserError(f"config.loss.dice={config.loss.dice}: expected 0 or more")
    if classes == 0:
        _LOG.warning(
            "CLASSES ARE NOT TRAINED (config.loss.classification=0): the run's answers are guesses"
        )
    return steps.Objective(
        kind="sigmoid" if outputs == 1 else "softmax",
        label_smoothing=config.loss.label_smoothing,
        classification=classes,
        segmentation=config.loss.segmentation,
        dice=config.loss.dice,
    )


def _digest(params: Any) -> str:
    """SHA-256 over names, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def build_model(config: ConfigDict, outputs: int, mask_classes: int) -> MobileNetV2 | CNN | FDUNet:
    """The Linen module that a config names, with Keras' conventions where weights have none.

    Args:
      config: of the run.
      outputs: number of logits.
      mask_classes: classes of the masks; without a weight for them in the loss there is no head.
    """
    wish = config.model
    if config.loss.segmentation and wish.name not in ("fd_unet", "mobilenet_unet"):
        raise UserError(
            f"config.loss.segmentation={config.loss.segmentation}: model.name={wish.name!r} has no "
            "head for masks; set model.name=fd_unet or mobilenet_unet, or 0"
        )
    if not 0 <= wish.dropout < 1:
        raise UserError(f"config.model.dropout={wish.dropout}: expected 0 to less than 1")
    if wish.alpha <= 0:
        raise UserError(f"config.model.alpha={wish.alpha}: expected a width above 0")
    if wish.name == "mobilenet_v2":
        layers, pooling = tuple(wish.feature_layers), tuple(wish.pooling)
        network = MobileNetV2(outputs, alpha=wish.alpha, dropout_rate=wish.dropout)
        check_reading(network, layers, pooling)
        return network.clone(feature_layers=layers, pooling=pooling)
    if wish.name == "cnn":
        model = CNN(outputs, tuple(wish.cnn_widths), tuple(wish.cnn_dense), wish.dropout)
        if config.data.image_size < model.smallest_input():
            raise UserError(
                f"config.data.image_size={config.data.image_size}: {len(model.widths)} blocks of "
                f"the CNN need at least {model.smallest_input()} pixels; shorten model.cnn_widths"
            )
        return model
    if wish.name in ("fd_unet", "mobilenet_unet"):
        return _build_unet(config, outputs, mask_classes if config.loss.segmentation else 0)
    raise UserError(f"config.model.name={wish.name!r}: expected one of {', '.join(MODELS)}")


def _build_unet(config: ConfigDict, outputs: int, mask_classes: int) -> FDUNet:
    """The UNet that a config describes."""
    wish, size = config.model, config.data.image_size
    for field in ("unet_depth", "unet_width", "unet_growth", "unet_layers"):
        if wish[field] < 1:
            raise UserError(f"config.model.{field}={wish[field]}: expected 1 or more")
    if wish.unet_block not in get_args(UNetBlock):
        known = " or ".join(map(repr, get_args(UNetBlock)))
        raise UserError(f"config.model.unet_block={wish.unet_block!r}: expected {known}")
    shape: dict[str, Any] = {"depth": wish.unet_depth}
    kind: type[FDUNet] = FDUNet
    if wish.name == "mobilenet_unet":
        if not mask_classes:
            raise UserError(
                "model.name='mobilenet_unet' trains masks, and config.loss.segmentation=0: set it "
                "above 0, or model.name=mobilenet_v2, which is the same network without masks"
            )
        kind, shape = MobileNetUNet, {"alpha": wish.alpha}
    model = kind(
        outputs,
        **shape,
        width=wish.unet_width,
        growth=wish.unet_growth,
        layers_per_block=wish.unet_layers,
        block=wish.unet_block,
        mask_classes=mask_classes,
        dropout_rate=wish.dropout,
    )
    if size % model.multiple:
        below = max(size // model.multiple, 1) * model.multiple
        raise UserError(
            f"config.data.image_size={size}: the UNet halves images {model.depth} times, so that "
            f"the size must be divisible by {model.multiple}, such as {below} or "
            f"{below + model.multiple}"
            + ("; or lower model.unet_depth" if wish.name == "fd_unet" else "")
        )
    return model


def check_reading(model: MobileNetV2, layers: tuple[str, ...], pooling: tuple[str, ...]) -> None:
    """Raise a UserError unless a classifier can read these layers in these ways."""
    # A convolution's own output is never seen: BatchNorm is folded into its kernel.
    known = [
        layer.name
        for layer in model.layers[: model.head_start]
        if layer.kind not in ("conv", "depthwise", "pad")
    ]
    for name in layers:
        if name not in known or layers.count(name) > 1:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UserError(
                f"config.model.feature_layers={layers}: {name!r} is not the output of a BatchNorm, "
                f"an activation or an addition of the backbone, or is there twice{hint}"
            )
    kinds = get_args(Pooling)
    if not pooling or not set(pooling) <= set(kinds) or len(set(pooling)) < len(pooling):
        raise UserError(
            f"config.model.pooling={pooling}: expected some of {', '.join(kinds)}, each once"
        )


def subject_weights(kind: str, subjects: np.ndarray) -> np.ndarray | None:
    """Factor of the loss of each image trained on, [N] float32 with mean 1; None for none.

    Args:
      kind: 'balanced', all images of a subject together weigh as much as those of any other; or
        'none'.
      subjects: [N] names.
    """
    if kind == "none":
        return None
    if kind != "balanced":
        raise UserError(f"config.loss.subject_weights={kind!r}: expected 'balanced' or 'none'")
    _, place, counts = np.unique(subjects, return_inverse=True, return_counts=True)
    return (len(subjects) / len(counts) / counts[place]).astype(np.float32)


def mask_weights(kind: str, masks: Rows, classes: int) -> tuple[float, ...]:
    """Factor of the loss of each mask class's pixels, of mean 1 over the known ones; () for none.

    Args:
      kind: 'root', of the inverse of the class's share of the pixels; or 'none'.
      masks: [N,H,W] uint8, those trained on.
      classes: of the masks.
    """
    if kind == "none":
        return ()
    if kind != "root":
        raise UserError(f"config.loss.mask_weights={kind!r}: expected 'root' or 'none'")
    counts = np.zeros(256, np.int64)
    for part in rows.chunks(masks):
        counts += np.bincount(masks[part].ravel(), minlength=256)
    shares = counts[:classes] / max(1, counts[:classes].sum())
    # A class that is nowhere is learned nowhere.
    found = np.where(shares > 0, 1 / np.sqrt(np.maximum(shares, 1e-12)), 0.0)
    return tuple((found / (found * shares).sum()).tolist())


def class_weights(
    kind: str, labels: np.ndarray, classes: int, weights: np.ndarray | None = None
) -> tuple[float, ...]:
    """Factor of the loss of each class, () for none.

    Args:
      kind: 'balanced', all images of a class together weigh as much as those of any other; or
        'none'.
      labels: [N] of the images trained on.
      classes: number of classes.
      weights: [N] what each image weighs beside that; None for 1.
    """
    if kind == "none":
        return ()
    if kind != "balanced":
        raise UserError(f"config.loss.class_weights={kind!r}: expected 'balanced' or 'none'")
    totals = np.bincount(labels, weights, minlength=classes)
    # Python floats, so that the weights are constants of the compiled step.
    return tuple(float(totals.sum() / (classes * total)) for total in totals)


def _find_weights(config: ConfigDict, earlier_fallback: bool) -> tuple[Path | None, Weights]:
    """The weight file to load, or None with the reason why the weights stay random."""
    random = Weights("random", "config.pretrained is 'none'", "", convention.KERAS)
    if config.pretrained == "none":
        return None, random
    if config.model.name not in ("mobilenet_v2", "mobilenet_unet"):
        raise UserError(
            f"config.pretrained={config.pretrained!r}: there are no weights for "
            f"model.name={config.model.name!r}; set pretrained=none"
        )
    if config.pretrained == "bundled":
        return bundled.bundled_weights(config.model.alpha), random
    if config.pretrained != "imagenet":
        return Path(config.pretrained).expanduser(), random
    instead = config.pretrained_fallback
    if instead not in ("bundled", "random", "error"):
        raise UserError(
            f"config.pretrained_fallback={instead!r}: expected 'bundled', 'random' or 'error'"
        )
    missing = dataclasses.replace(random, name="no ImageNet weights to be had", fallback=True)
    stands_in = None
    if instead == "bundled" and config.model.alpha == bundled.ALPHA:
        stands_in = bundled.bundled_weights(config.model.alpha)
    if earlier_fallback:
        return stands_in, missing
    try:
        return download.imagenet_weights(config.data.image_size, config.model.alpha), random
    except download.WeightsUnavailableError as error:
        if instead == "error":
            raise
        _LOG.warning("%s", error)
        if instead == "bundled" and stands_in is None:
            _LOG.warning("the bundled backbone has alpha %g alone", bundled.ALPHA)
        return stands_in, missing


def _calibration_batches(images: Rows, config: ConfigDict, weights: Weights) -> list[jax.Array]:
    rng = np.random.default_rng(config.seed)
    size = min(len(images), 2 * config.batch_size)
    return [
        jnp.asarray(
            convention.preprocess(
                images[rng.choice(len(images), size, replace=False)], weights.convention.scaling
            )
        )
        for _ in range(_CALIBRATION_BATCHES)
    ]


def make_inputs(config: ConfigDict, scaling: convention.Scaling, *, online: bool) -> steps.Inputs:
    """How stored uint8 images become the network's input, with `online` augmented in training.

    Masks may be a fourth channel behind the colours: they are moved with their image, and else
    stay as they are.
    """
    # Without augmentation nothing is read of it: runs of earlier configs know less of it.
    how = changes(config) if online else None

    def inputs(stored: jax.Array, key: jax.Array | None) -> jax.Array:
        pixels, maps = stored[..., :3].astype(jnp.float32), stored[..., 3:]
        if how is not None and key is not None:
            pixels, maps = augment.augment_with_masks(key, pixels, maps, how)
        pixels = convention.preprocess(pixels, scaling)
        if not maps.shape[-1]:
            return pixels
        return jnp.concatenate([pixels, maps.astype(jnp.float32)], axis=-1)

    return inputs
