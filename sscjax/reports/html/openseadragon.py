"""OpenSeadragon, which pans and zooms slides in a page: pinned by hash, BSD licence beside it."""

from __future__ import annotations

from sscjax.system.npm_package import File, Package

PACKAGE = Package(
    "openseadragon",
    "6.1.1",
    "--openseadragon",
    {
        "openseadragon.min.js": File(
            "build/openseadragon/openseadragon.min.js",
            352_735,
            "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
        ),
        "openseadragon_LICENSE.txt": File(
            "LICENSE.txt",
            1_525,
            "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
        ),
    },
)
