"""The site of a new image is carried into what is predicted for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hand_rules import rules
from image_folders import write_folder, write_manifest

from sscjax.data import anonymize, inputs
from sscjax.inference import decisions
from sscjax.inference.outputs import Outputs


def test_predictions_carry_the_site(tmp_path: Path) -> None:
    write_folder(tmp_path, "1.png", "2.png", "3.png")
    rows = ("1.png,p1,North", "2.png,p1,North", "3.png,p2,South")
    write_manifest(tmp_path, *rows, header="file,subject,Centre")
    images = inputs.find(tmp_path, ("a", "b"))
    shares = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]])
    table = decisions.decide(images, Outputs(shares, np.zeros(3)), rules(), 2, 1.0)
    entries = decisions.as_rows(table, ("a", "b"), "image")
    assert [entry["site"] for entry in entries] == ["North", "North", "South"]
    by_subject = decisions.by_subject(table, rules(), 2)
    entries = decisions.as_rows(by_subject, ("a", "b"), "subject")
    assert [(one["subject"], one["site"]) for one in entries] == [("p1", "North"), ("p2", "South")]
    assert decisions.csv_text(entries).splitlines()[0].startswith("subject,site,images")
    private = anonymize.input_images(images)
    assert [image.site for image in private] == ["site 01", "site 01", "site 02"]
