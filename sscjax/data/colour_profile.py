"""Colour profiles of images: not applied, and it is said where they would change colours."""

from __future__ import annotations

import re

from PIL import Image

# Profiles of screens that are sRGB by another name, and of grey images.
_SRGB = re.compile(rb"sRGB|IEC ?61966|s\0R\0G\0B|R\0G\0B\0 \0I\0E\0C", re.IGNORECASE)
_COLOUR_SPACE, _RGB = slice(16, 20), b"RGB "


def differs(image: Image.Image) -> bool:
    """Whether an image has a profile of RGB colours that are not sRGB, such as Adobe RGB or P3.

    Example:
      >>> differs(Image.new("RGB", (8, 8)))
      False
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or profile[_COLOUR_SPACE] != _RGB:
        return False
    return _SRGB.search(profile) is None
