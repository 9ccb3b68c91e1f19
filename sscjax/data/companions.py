"""What lies beside the images of a set: masks, and patients in the headers of DICOM files."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

from sscjax.data import dicom, masks
from sscjax.data.listing import ImageRecord, refuse_outside

_LOG = logging.getLogger(__name__)


def with_masks(folder: Path, records: list[ImageRecord]) -> list[ImageRecord]:
    """The records with the masks beside their images, which must not lead out of the folder."""
    found = masks.beside([one.path for one in records if one.masks is None], folder)
    for paths in found.values():
        for path in paths:
            refuse_outside(folder, path, str(path))
    return [
        dataclasses.replace(one, masks=found[one.path])
        if one.masks is None and one.path in found
        else one
        for one in records
    ]


def with_patients(records: list[ImageRecord]) -> list[ImageRecord]:
    """The records of DICOM files with PatientID as their subject, where it tells patients apart."""
    patients = dicom.patient_ids([record.path for record in records])
    if len(set(patients.values()) - {""}) < 2:
        return records
    _LOG.info("subjects of %d DICOM files are their PatientID", len(patients))
    return [
        dataclasses.replace(record, subject=patients.get(record.path) or record.subject)
        for record in records
    ]
