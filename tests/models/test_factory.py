"""Networks from their settings: what is built, and what is refused."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sscjax.errors import UserError
from sscjax.models import CNN, FDUNet, MobileNetUNet, MobileNetV2, factory
from sscjax.models.factory import ModelSettings, Task
from sscjax.models.pretrained import preprocessing

SETTINGS = ModelSettings(
    alpha=0.35, dropout=0.1, cnn_widths=(4, 8), cnn_dense=(6,), unet_depth=2, unet_width=3
)
UNET = {"width": 3, "growth": 4, "layers_per_block": 4, "block": "dense", "dropout_rate": 0.1}


@pytest.mark.parametrize(
    ("name", "masks", "expected"),
    [
        ("mobilenet_v2", 0, MobileNetV2(3, alpha=0.35, dropout_rate=0.1)),
        ("cnn", 0, CNN(3, (4, 8), (6,), 0.1)),
        ("fd_unet", 0, FDUNet(outputs=3, depth=2, **UNET)),  # type: ignore[arg-type]
        ("fd_unet", 5, FDUNet(outputs=3, depth=2, mask_classes=5, **UNET)),  # type: ignore[arg-type]
        (
            "mobilenet_unet",
            5,
            MobileNetUNet(outputs=3, alpha=0.35, mask_classes=5, **UNET),  # type: ignore[arg-type]
        ),
    ],
)
def test_each_backbone_takes_its_own_fields(name: str, masks: int, expected: Any) -> None:
    assert factory.build_model(dataclasses.replace(SETTINGS, name=name), Task(3, 64, masks)) == (
        expected
    )


@pytest.mark.parametrize("name", sorted(factory.BACKBONES))
def test_what_a_row_says_of_its_backbone_is_so(name: str) -> None:
    """Its head for masks is there where they are trained; its convention is that of its weights."""
    backbone = factory.BACKBONES[name]
    masks = 4 if backbone.predicts_masks else 0
    model: Any = factory.build_model(ModelSettings(name), Task(2, 224, masks))
    assert model.mask_classes == masks
    adapted: Any = factory.with_convention(model, preprocessing.TORCH)
    assert (adapted != model) == backbone.published
    exported = (MobileNetV2, CNN, FDUNet)
    assert backbone.exported == isinstance(model, exported)


def test_the_plain_unet_is_a_setting() -> None:
    settings = dataclasses.replace(SETTINGS, name="fd_unet", unet_block="plain")
    names = factory.build_model(settings, Task(3, 64)).layer_names
    assert [name for name in names if name.startswith("bottom")] == [
        *("bottom_1", "bottom_1_bn", "bottom_1_relu"),
        *("bottom_2", "bottom_2_bn", "bottom_2_relu"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "resnet"}, "expected one of mobilenet_v2, cnn, fd_unet, mobilenet_unet"),
        ({"alpha": 0.0}, "config.model.alpha=0.0: expected a width above 0"),
        ({"dropout": 1.0}, "config.model.dropout=1.0: expected 0 to less than 1"),
        ({"outputs": -1}, "config.model.outputs=-1"),
        ({"cnn_widths": (4, 0)}, "cnn_widths=.*: expected 1 or more"),
        ({"unet_depth": 0}, "unet_depth=0: expected 1 or more"),
        ({"unet_growth": 0}, "unet_growth=0: expected 1 or more"),
        ({"unet_block": "residual"}, "unet_block='residual': expected 'dense' or 'plain'"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelSettings(**fields)


@pytest.mark.parametrize(
    ("fields", "size", "message"),
    [
        ({"name": "cnn"}, 32, "4 blocks of the CNN need at least"),
        (
            {"name": "fd_unet", "unet_depth": 2},
            50,
            "image_size=50: the UNet halves images 2 times, .* by 4, such as 48 or 52; or lower",
        ),
        ({"name": "mobilenet_unet"}, 64, "trains masks, and config.loss.segmentation=0"),
        ({"feature_layers": ("Conv1",)}, 64, "'Conv1' is not the output"),
        ({"feature_layers": ("out_relu", "out_relu")}, 64, "or is there twice"),
    ],
)
def test_settings_that_do_not_suit_the_task(
    fields: dict[str, Any], size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        factory.build_model(ModelSettings(**fields), Task(3, size))
