"""onnxruntime-web, the runtime that an exported page brings along: two files, pinned by hash."""

from __future__ import annotations

from sscjax.system.npm_package import File, Package

PACKAGE = Package(
    "onnxruntime-web",
    "1.30.0",
    "--ort-web",
    {
        "ort.js": File(
            "dist/ort.wasm.bundle.min.mjs",
            73_054,
            "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
        ),
        "ort.wasm": File(
            "dist/ort-wasm-simd-threaded.wasm",
            14_239_897,
            "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        ),
    },
)
"""The address that it is fetched from is the one that onnxruntime's own documentation uses."""

VERSION, HINT, read = PACKAGE.version, PACKAGE.hint, PACKAGE.read
