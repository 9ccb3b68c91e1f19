"""The verdict on maps: counts by hand, the words, and what a folder keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sscjax.errors import UserError
from sscjax.evaluation.map_check import Check, Maps

GOOD, POOR = (0.4,), (0.39,)


@pytest.mark.parametrize(
    ("occlusion", "random", "passed", "words"),
    [
        (GOOD * 6 + POOR * 2, (0.7,) * 8, True, "on 6 of 8 images and change with a random "),
        (
            GOOD * 5 + POOR * 3,
            (0.7,) * 8,
            False,
            "on 5 of 8 images and change with a random classifier on 8; both have to be 6",
        ),
        (GOOD * 8, (0.71,) * 3 + (0.1,) * 5, False, "change with a random classifier on 5"),
        # Flat maps agree with nothing.
        ((None,) * 8, (None,) * 8, False, "on 0 of 8 images"),
        (GOOD, (0.0,), True, "on 1 of 1 image and"),
    ],
)
def test_verdict(
    occlusion: tuple[float, ...], random: tuple[float, ...], passed: bool, words: str
) -> None:
    maps = Maps("hires_cam", ("a",), Check(occlusion, random))
    assert maps.shown == maps.drawn("checked") == passed
    assert maps.drawn("anyway") and not maps.drawn("none")
    assert maps.verdict.startswith("Passed" if passed else "Failed") and words in maps.verdict
    assert Maps.of_folder(json.loads(json.dumps(maps.to_json())), Path("run")) == maps


def test_unchecked_maps_are_not_shown() -> None:
    for maps in (Maps("hires_cam", ("a",)), Maps("hires_cam", ("a",), Check((), ()))):
        assert not maps.shown and "not checked" in maps.verdict


def test_models_together_are_checked_on_the_images_of_all() -> None:
    one, other = (
        Maps("hires_cam", ("a",), Check(part, (0.1, 0.1))) for part in (GOOD * 2, POOR * 2)
    )
    joined = Maps.join([one, other])
    assert joined.check == Check(GOOD * 2 + POOR * 2, (0.1,) * 4) and not joined.shown
    assert Maps.join([one, Maps("hires_cam", ("a",))]).check is None


@pytest.mark.parametrize(
    "change", [{"method": "cam"}, {"check": {"occlusion": [0.1]}}, {"layers": 3}]
)
def test_a_damaged_file_is_named(change: dict[str, object]) -> None:
    content = {**Maps("hires_cam", ("a",), Check((0.5,), (0.5,))).to_json(), **change}
    with pytest.raises(UserError, match=r"maps.json is damaged"):
        Maps.of_folder(content, Path("run"))
