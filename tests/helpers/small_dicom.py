"""Small DICOM files, written by pydicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def whole_slide(path: Path, series: str, side: int, kind: str = "VOLUME") -> Path:
    """Write one file of a DICOM whole slide of 0.25 micrometres per pixel at 512 pixels."""
    from pydicom.dataset import Dataset

    tile = 128
    across = -(-side // tile)
    rng = np.random.default_rng(side)
    grains = rng.normal(0, 30, (across * across, tile, tile, 3))
    pixels = np.clip(np.array([200, 110, 170]) + grains, 0, 255).astype(np.uint8)
    spacing, measures, light = Dataset(), Dataset(), Dataset()
    spacing.PixelSpacing = [0.00025 * 512 / side] * 2
    measures.PixelMeasuresSequence = [spacing]
    light.OpticalPathIdentifier = "1"
    derived = ["DERIVED", "PRIMARY", kind, "RESAMPLED"]
    return dicom_file(
        path, pixels.reshape(-1, tile, 3), "RGB",
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.6",
        ImageType=["ORIGINAL", "PRIMARY", kind, "NONE"] if side == 512 else derived,
        Modality="SM", SeriesInstanceUID=series, StudyInstanceUID="1.2.3",
        FrameOfReferenceUID="1.2.4", NumberOfFrames=across * across, Rows=tile, Columns=tile,
        TotalPixelMatrixColumns=side, TotalPixelMatrixRows=side,
        DimensionOrganizationType="TILED_FULL", ImagedVolumeWidth=0.128, ImagedVolumeHeight=0.128,
        SharedFunctionalGroupsSequence=[measures], OpticalPathSequence=[light],
        NumberOfOpticalPaths=1, TotalPixelMatrixFocalPlanes=1,
    )  # fmt: skip


def dicom_file(path: Path, pixels: np.ndarray | None, kind: str, **elements: Any) -> Path:
    """Write [H,W], [H,W,3] or [frames,H,W] pixels, 12 bits stored of 16, or 8 of 8."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = elements.pop("SOPClassUID", _CAPTURE)
    data.SOPInstanceUID = generate_uid()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    if pixels is not None:
        height, width = pixels.shape[-2:] if kind != "RGB" else pixels.shape[:2]
        data.Rows, data.Columns = height, width
        data.SamplesPerPixel = 3 if kind == "RGB" else 1
        if kind == "RGB":
            data.PlanarConfiguration = 0
        data.PhotometricInterpretation = kind
        data.BitsAllocated = 8 * pixels.dtype.itemsize
        data.BitsStored = 12 if data.BitsAllocated == 16 else 8
        data.HighBit = data.BitsStored - 1
        data.PixelRepresentation = 0
        data.PixelData = pixels.tobytes() + b"\0" * (pixels.nbytes % 2)
    for name, value in elements.items():
        setattr(data, name, value)
    data.save_as(path, enforce_file_format=True)
    return path
