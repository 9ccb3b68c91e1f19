"""Small sound files of every format that is read, for tests and scripts that change them."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = b"file,label,subject,split\na/one.png,a,p,train\nb/two.png,b,q,test\n"

MAGICS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"II+\0", b"BM")
"""How image files begin."""


def images() -> list[bytes]:
    """One of each format: JPEG, PNG, TIFF and BMP of 16x16 pixels."""
    from PIL import Image

    row, column = np.mgrid[:16, :16]
    colours = (16 * row + 4, 120 + 4 * column, 250 - 6 * row - 6 * column)
    image = Image.fromarray(np.stack(colours, axis=-1).astype(np.uint8))
    contents = []
    for name in ("JPEG", "PNG", "TIFF", "BMP"):
        file = io.BytesIO()
        image.save(file, name, **({"quality": 95, "subsampling": 0} if name == "JPEG" else {}))
        contents.append(file.getvalue())
    return contents


def more_images(folder: Path) -> list[bytes]:
    """WebP, JPEG 2000, a TIFF of three channels, a deep PNG, and DICOM and HEIC where installed."""
    import tifffile
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(images()[1])))
    contents = []
    for name in ("WEBP", "JPEG2000"):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, name)
        contents.append(file.getvalue())
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    for options in ({"imagej": True, "metadata": {"axes": "CYX"}}, {"ome": True}):
        file = io.BytesIO()
        metadata: dict[str, Any] = {"metadata": {"axes": "CYX"}, **options}
        tifffile.imwrite(file, channels, photometric="minisblack", **metadata)
        contents.append(file.getvalue())
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 16).save(file, "PNG")
    contents.append(file.getvalue())
    try:
        from small_dicom import dicom_file

        for kind, array in (("RGB", pixels), ("MONOCHROME1", pixels[..., 0].astype(np.uint16))):
            path = dicom_file(folder / "a.dcm", array, kind, WindowCenter=99, WindowWidth=150)
            contents.append(path.read_bytes())
    except ImportError:
        pass
    try:
        import pillow_heif

        file = io.BytesIO()
        pillow_heif.from_pillow(Image.fromarray(pixels)).save(file)
        contents.append(file.getvalue())
    except ImportError:
        pass
    return contents


def flat_slides() -> list[bytes]:
    """A PNG, and a TIFF of strips, of one strip, and of one deflated strip."""
    import tifffile
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    contents = [file.getvalue()]
    for rows, compression in ((9, "lzw"), (40, None), (40, "zlib")):
        file = io.BytesIO()
        tifffile.imwrite(
            file, pixels, photometric="rgb", rowsperstrip=rows, compression=compression
        )
        contents.append(file.getvalue())
    return contents


def weights(place: Path) -> dict[str, bytes]:
    """One of each format that needs no torch, by its suffix; `w.*` in the folder."""
    import h5py
    import safetensors.numpy

    arrays = {"params/Conv1/kernel": np.ones((3, 3), np.float32)}
    note = '{"convention": "keras"}'
    with h5py.File(place / "w.h5", "w") as file:
        group = file.create_group("Conv1")
        group["Conv1/kernel:0"] = arrays["params/Conv1/kernel"]
        group.attrs["weight_names"] = [b"Conv1/kernel:0"]
        file.attrs["layer_names"] = [b"Conv1"]
    np.savez(place / "w.npz", allow_pickle=False, sscjax=np.array(note), **arrays)
    safetensors.numpy.save_file(arrays, place / "w.safetensors", {"sscjax": note})
    names = ("w.h5", "w.npz", "w.safetensors")
    return {Path(name).suffix: (place / name).read_bytes() for name in names}


def torch_weights(place: Path) -> list[bytes]:
    """A state dict as torch writes it now, and as it did before 1.6; `w.pth` in the folder."""
    import torch

    state = {"features.0.0.weight": torch.ones(2, 3), "features.0.1.bias": torch.arange(4)}
    found = []
    for zipped in (True, False):
        torch.save(state, place / "w.pth", _use_new_zipfile_serialization=zipped)
        found.append((place / "w.pth").read_bytes())
    return found


def slides(place: Path) -> list[bytes]:
    """A pyramid as any program writes it, and one that says it is a scanner's."""
    import tifffile

    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    found = []
    for about in (None, "Aperio Image Library v11\r\n48x48 (32x32)|AppMag = 20|MPP = 0.5"):
        with tifffile.TiffWriter(place / "slide.svs") as writer:
            for level, side in enumerate((48, 32)):
                writer.write(
                    pixels[:side, :side],
                    tile=(32, 32),
                    photometric="rgb",
                    metadata=None,
                    description=about,
                    subfiletype=1 if level else 0,
                    compression="zlib" if about is None else None,
                )
        found.append((place / "slide.svs").read_bytes())
    return found


def png_bytes(
    width: int, height: int, depth: int, colour: int, rows: bytes, key: bytes = b""
) -> bytes:
    """A PNG written chunk by chunk: Pillow cannot write these kinds."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + key
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
