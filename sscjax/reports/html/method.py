"""What was done in a run, as sentences: each follows from the run's record, none is always there.

The page, the model card and the paragraph for an author's Methods are made of the same sentences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sscjax.reports.html.run_data import Folder
from sscjax.system import formatting

# How pixels are scaled, by the name of what the starting weights expect.
_SCALINGS = {
    "keras": "scaled from -1 to 1",
    "torch": "standardised by the mean and standard deviation of ImageNet's pixels",
}
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD with Nesterov momentum of 0.9"}
_PROTOCOLS = {
    "kfold": "{folds}-fold cross-validation",
    "nested": "nested cross-validation with {folds} outer and {inner} inner folds",
    "loso": "leave-one-subject-out cross-validation",
    "leave_one_site_out": "leave-one-site-out cross-validation",
    "repeated": "repeated hold-out",
}


# ---- images -------------------------------------------------------------------------------------


def preparation(folder: Folder) -> str:
    """How files became the network's inputs."""
    data, size = folder.config["data"], folder.config["data"]["image_size"]
    scaling = _SCALINGS.get(folder.record["weights"].get("convention", ""), "scaled")
    side = f"{size} x {size} pixels"
    if folder.record["data"]["synthetic"]:
        return f"Images were drawn at {side} of 8 bits in red, green and blue, and {scaling}."
    if data.get("tfds"):
        first = "The central square of each image"
    else:
        first = "The central square of each image file"
    if data.get("mpp", 0) > 0:
        first += f", cut to {data['mpp']:g} micrometres per pixel where its resolution is known,"
    bits = folder.record["data"].get("pixel_bits")
    deep = f" Of files of 16 bits, {bits} bits were taken as the range." if bits else ""
    return (
        f"{first} was brought to {side} (Lanczos) of 8 bits in red, green and blue, and "
        f"{scaling}.{deep}"
    )


def uses_copies(config: Mapping[str, Any]) -> bool:
    """Whether any stage is trained on augmented copies that are made after the split."""
    stages = (config["stages"][name] for name in config["stage_order"])
    return bool(config["augment"]["copies"]) and any(not one["online_augment"] for one in stages)


def augmentation(config: Mapping[str, Any]) -> str:
    """What was done to the training images of a run: a sentence or more.

    Args:
      config: the run's, as nested dicts.
    """
    block = config["augment"]
    stages = {name: config["stages"][name]["online_augment"] for name in config["stage_order"]}
    online = [name for name, is_online in stages.items() if is_online]
    offline = [name for name, is_online in stages.items() if not is_online]
    changes = [
        text
        for applies, text in (
            (block["flip"], "horizontal and vertical flips"),
            (block["rot90"], "quarter turns"),
            (block["stain"], f"amounts of stain changed by up to {block['stain']:.0%}"),
            (
                block["crop"] < 1,
                f"crops of at least {block['crop']:.0%} of the side, enlarged back",
            ),
        )
        if applies
    ]
    sources = []
    if block["counts_before_split"]:
        sources.append(
            f"in copies made BEFORE the split, up to {block['counts_before_split']} per class"
        )
    if block["copies"] and offline:
        sources.append(
            f"in {block['copies']} cop{'y' if block['copies'] == 1 else 'ies'} of each training "
            f"image, made after the split (stage {', '.join(offline)})"
        )
    if online and changes:
        sources.append(f"on-line, drawn again for every step (stage {', '.join(online)})")
    if not sources:
        return "Training images were not augmented."
    if not changes:
        return f"Training images were repeated without any change, {'; '.join(sources)}."
    return f"Random augmentation of training images: {', '.join(changes)}; {'; '.join(sources)}."


# ---- network and training -----------------------------------------------------------------------


def start(folder: Folder) -> str:
    """Which weights a run began with, by name."""
    weights, pretrained = folder.record["weights"], folder.config["pretrained"]
    if weights["kind"] != "file":
        return "random weights" + (
            " (no ImageNet weights could be had)" if weights.get("fallback") else ""
        )
    if weights.get("fallback") or pretrained == "bundled":
        return "the backbone bundled with sscjax, trained on drawn textures"
    manifests = [one.optional["manifest"] for one in (folder, *folder.folds.values())]
    found = [(about or {}).get("weights", {}).get("name", "") for about in manifests]
    names = [name for name in found if name]
    # Of a path of either system only the file's own name.
    name = names[0].replace("\\", "/").rsplit("/", 1)[-1] if names else ""
    what = "ImageNet weights" if pretrained == "imagenet" else "weights of a file"
    return f"{what} ({name})" if name else what


def layers_read(folder: Folder) -> str:
    """Which layers the classifier reads; '' for networks that have no such choice."""
    if folder.config["model"]["name"] != "mobilenet_v2":
        return ""
    layers = list(folder.config["model"].get("feature_layers") or ())
    if not layers:
        return "The classifier reads the last layer of the backbone, averaged over the image."
    noun = "layer" if len(layers) == 1 else f"{len(layers)} layers"
    return (
        f"The classifier reads the {noun} {', '.join(layers)}, each channel averaged over the "
        "image."
    )


def course(folder: Folder) -> list[str]:
    """How each stage was trained, in plain text, hyperparameters included."""
    source = next(iter(folder.folds.values())) if folder.folds else folder
    # As they were run: without weights they differ from the config.
    recorded = {one["name"]: one for one in source.record.get("stages", [])}
    config = folder.config
    lines = []
    for name in config["stage_order"]:
        stage = {**config["stages"][name], **recorded.get(name, {})}
        fitted = _by_lbfgs(stage)
        lines.append(_fitted(name, stage, folder) if fitted else _trained(name, stage, config))
    if folder.config["protocol"] == "nested":
        lines.append(
            "Each fold chose these settings by its own inner folds, among: "
            f"{'; '.join(config['cv']['search'])}. What is given here is the config's."
        )
    return lines


def _by_lbfgs(stage: Mapping[str, Any]) -> bool:
    return stage.get("optimizer") == "lbfgs"


def penalties(folder: Folder) -> dict[str, list[float]]:
    """By stage the penalties that its fits ended with; of a cross-validation each fold's."""
    found: dict[str, list[float]] = {}
    for source in folder.folds.values() or (folder,):
        for name, about in source.stages.items():
            if about["progress"].get("l2") is not None:
                found.setdefault(name, []).append(about["progress"]["l2"])
    return found


def _fitted(name: str, stage: Mapping[str, Any], folder: Folder) -> str:
    line = (
        f"Stage {name}: L2-regularised logistic regression on the standardised features of the "
        "frozen network, fitted by L-BFGS to convergence (at most "
        f"{stage['epochs']} iterations)"
    )
    values = sorted(set(penalties(folder).get(name, [])))
    used = f", {', '.join(f'{value:g}' for value in values)}" if values else ""
    given = stage["l2"] if isinstance(stage["l2"], Sequence) else [stage["l2"]]
    if len(given) == 1:
        return f"{line}; the penalty{used} was given."
    among = ", ".join(f"{value:g}" for value in given)
    line += f"; the penalty{used and used + ','} was chosen among {among} by cross-validation over "
    line += "the training subjects"
    # Out-of-fold predictions are there only where the subjects sufficed for folds.
    abouts = [one.stages.get(name, {}) for one in folder.folds.values() or (folder,)]
    if all(about.get("out_of_fold") for about in abouts):
        return f"{line}."
    return f"{line}, or is the middle one where a class had too few of them."


def _trained(name: str, stage: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    what = "the classifier alone"
    if stage["trainable"] == "all":
        frozen = stage["freeze_first"]
        what = f"all layers but the first {frozen}" if frozen else "all layers"
    parts = [
        f"{_OPTIMIZERS.get(stage['optimizer'], stage['optimizer'])}",
        f"learning rate {stage['learning_rate']:g}, {stage['schedule']}",
    ]
    if stage["warmup_epochs"]:
        epochs = stage["warmup_epochs"]
        parts.append(f"{epochs:g} epoch{'' if epochs == 1 else 's'} of warm-up")
    if stage["weight_decay"]:
        parts.append(f"weight decay {stage['weight_decay']:g}")
    if stage["clip_norm"]:
        parts.append(f"gradients clipped to a norm of {stage['clip_norm']:g}")
    if config["model"].get("dropout"):
        parts.append(f"dropout {config['model']['dropout']:g}")
    if config["loss"].get("label_smoothing"):
        parts.append(f"label smoothing {config['loss']['label_smoothing']:g}")
    if stage["patience"]:
        parts.append(f"ended after {stage['patience']} epochs without a better validation figure")
    norm = "the batch's statistics" if stage["batch_norm"] == "batch" else "running averages"
    if stage["trainable"] == "all" and config["model"]["name"] != "cnn":
        parts.append(f"BatchNorm by {norm}")
    return (
        f"Stage {name}: {what}, {stage['epochs']} epoch{'' if stage['epochs'] == 1 else 's'} in "
        f"batches of {config['batch_size']} images; {', '.join(parts)}."
    )


def choice(folder: Folder) -> list[str]:
    """How epochs and stages were chosen, and what classes weigh: sentences."""
    config, lines = folder.config, []
    stages = [config["stages"][name] for name in config["stage_order"]]
    metric, rule = config["select"]["metric"], config["select"]["stage"]
    last = metric == "none"
    if not all(map(_by_lbfgs, stages)):
        lines.append(
            "The last epoch was kept."
            if last
            else f"The epoch was kept that is best by {metric.replace('_', ' ')} on validation."
        )
    if len(stages) > 1:
        lines.append(
            "The model is that of the last stage."
            if last or rule == "last"
            else f"The model is that of the stage that is best by {metric.replace('_', ' ')}."
        )
    if config["loss"].get("classification", 1.0) == 0:
        lines.append("Masks alone were trained: the predicted classes are random.")
    elif config["loss"]["class_weights"] == "balanced":
        lines.append("Classes were weighted by the inverse of their number of training images.")
    else:
        lines.append("All classes had the same weight.")
    return lines


def new_images(folder: Folder) -> str:
    """What predicts for new images, and whether that was tested."""
    if not folder.is_cross_validation:
        return "One network predicts."
    if folder.hands_on:
        return (
            "For new images one model predicts, fitted in the same way to all images; its own "
            "performance cannot be measured: the figures are of the models of the folds."
        )
    return (
        "The figures are of the single models of the folds; for new images `sscjax predict` "
        f"averages the probabilities of these {len(folder.folds)} models, an ensemble whose own "
        "performance was not measured."
    )


# ---- the test -----------------------------------------------------------------------------------


def design(folder: Folder, named: bool) -> str:
    """How images were divided into training and test."""
    config = folder.config
    by = config["split"]["by"]
    apart = {
        "image": "images of one subject may stand in training and test alike",
        "subject": "all images of a subject stand on one side"
        if named
        else "no image names its subject, so that each counted as one",
    }[by]
    if folder.is_cross_validation:
        title = _PROTOCOLS.get(config["protocol"], "cross-validation").format(
            folds=config["cv"]["folds"], inner=config["cv"]["inner_folds"]
        )
        if (folder.metrics.get("sites") or {}).get("apart"):
            apart += ", and all images of a site"
        return f"Models were tested by {title} ({len(folder.folds)} models); {apart}."
    sizes = [
        f"{len(rows)} images for {title}"
        for split, title in (("train", "training"), ("val", "validation"), ("test", "testing"))
        if len(rows := folder.predictions.where(split))
    ]
    return f"Images were divided once ({', '.join(sizes)}); {apart}."


def calibrated(folder: Folder) -> str:
    """Whether probabilities were scaled; '' where they were not."""
    content = folder.optional["calibration"] or {}
    units = [
        unit
        for unit in ("subject", "image")
        if (block := content.get(unit))
        and (block["temperature"] != 1 or any(one != 1 for one in block.get("temperatures") or []))
    ]
    if not units:
        return ""
    rows = " and ".join(f"{unit}s" for unit in units)
    return f"Probabilities of {rows} were calibrated by a temperature, chosen on held-out rows."


# ---- when and on what ---------------------------------------------------------------------------


def sessions(folder: Folder) -> dict[str, Any] | None:
    """Dates, hardware and seconds of all that was trained; None without a manifest."""
    every = [
        session
        for one in (folder, *folder.folds.values())
        if one.optional["manifest"] is not None
        for session in one.optional["manifest"].get("sessions", [])
    ]
    if not every:
        return None
    machines = []
    for session in every:
        about = session["environment"]
        threads = about["threads"]
        machines.append(
            f"{about['processor'] or about['machine']}, {threads} "
            f"thread{'' if threads == 1 else 's'}, {about['platform']}; computed on "
            f"{about['device']}"
        )
    return {
        "started": min(session["started"] for session in every),
        "finished": max((one["finished"] for one in every if one["finished"]), default=""),
        "machines": list(dict.fromkeys(machines)),
        "training": sum(
            about["progress"]["seconds"]
            for one in (folder.folds.values() or (folder,))
            for about in one.stages.values()
        ),
    }


def result(folder: Folder, named: bool) -> str:
    """The figure that counts, with its interval, as a sentence for Results; '' without a test."""
    if "test" not in folder.metrics["splits"]:
        return ""
    unit = "subject" if named and folder.config["split"]["by"] == "subject" else "image"
    figures = folder.metrics["splits"]["test"][unit]
    ranges = (folder.metrics.get("test_intervals") or {}).get(unit, {})
    shown = []
    for key, title in (
        ("accuracy", "accuracy"),
        ("balanced_accuracy", "balanced accuracy"),
        ("macro_auroc", "mean AUROC of one class against the others"),
    ):
        value, ends = figures.get(key), ranges.get(key)
        if value is None:
            continue
        show = formatting.number if key == "macro_auroc" else formatting.percent
        interval = f" (95 % CI {formatting.span(key, ends)})" if ends else ""
        shown.append(f"{title} {show(value)}{interval}")
    count = f"{figures['n']:,} {unit}s"
    if folder.repeated:
        test = folder.metrics.get("tested")
        of = f" ({test['number']:,} different ones)" if test and test["unit"] == unit else ""
        count = f"{figures['n']:,} tests of {unit}s{of}"
    if figures["n"] == 1 and not folder.repeated:
        count = f"1 {unit}"
    seen = ", none of them used for training"
    if folder.config["split"]["by"] == "image":
        seen = ", whose subjects may have been trained on"
    elif folder.is_cross_validation:
        seen = ", each by a model that was not trained on it"
    elif not named:
        seen = ", none of them used for training, though other images of their patients may be"
    return f"Of {count}{seen}: {'; '.join(shown)}."
