"""The page of predictions says what its document says: by html5lib, and as a reader uses it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import html5lib
import pytest
from prediction_pages import FAILED, document, picture, row, three_patients

from sscjax.reports.html.predictions import render_page

SHOWN = [[2, 0], [3], [6]]


def page(**more: Any) -> str:
    drawn = more.get("drawn", True)
    pictures = {number: picture(number, with_map=drawn) for number in (0, 2, 3, 6)}
    return render_page(three_patients(**more), SHOWN, pictures, "subject")


def parsed(text: str) -> Any:
    return html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)


def words(element: Any) -> str:
    return " ".join("".join(element.itertext()).split())


def of_class(element: Any, name: str) -> list[Any]:
    return [one for one in element.iter() if name in (one.get("class") or "").split()]


def test_each_patient_has_answer_probabilities_and_pictures() -> None:
    cards = of_class(parsed(page()), "patient")
    assert [words(card.find(".//h2")) for card in cards] == ["p1", "p2 <b>", "p3"]
    answers = [words(of_class(card, "answer")[0]) for card in cards]
    assert answers == ["late", "No answer", "Unlike the training images"]
    reasons = [[words(one) for one in of_class(card, "reason")] for card in cards]
    assert reasons[0] == []
    assert reasons[1] == ["Most probable is normal with 40.0 %; an answer needs 55.0 %."]
    assert "More than half of its images" in reasons[2][0]
    values = [[words(one) for one in of_class(card, "value")] for card in cards]
    assert values[0] == ["10.0 %", "20.0 %", "70.0 %"]
    bars = [one.find("span").get("style") for one in of_class(cards[0], "bar")]
    assert bars == ["width: 10.0%", "width: 20.0%", "width: 70.0%"]
    assert [len(of_class(card, "map")) for card in cards] == [2, 1, 1]
    names = [one.get("alt") for one in cards[0].iter("img") if one.get("class") != "map"]
    assert names == ["p1/2.png", "p1/0.png"]
    [facts] = of_class(cards[0], "facts")
    assert [words(one) for one in facts] == [
        *("Cannot be excluded", "late"),
        *("early or late", "90.0 %, positive"),
    ]
    # All images in a table, with their own probabilities.
    rows = [[words(cell) for cell in one] for one in cards[0].iter("tr")]
    assert rows[1] == ["p1/0.png", "late", "10.0 %", "20.0 %", "70.0 %"] and len(rows) == 4


def test_nothing_is_asked_for() -> None:
    text = page()
    assert not re.search(r"""(src|href)=["'](?!data:image/jpeg|#)""", text)
    assert "url(" not in text and "default-src 'none'" in text


@pytest.mark.parametrize(
    ("maps", "drawn", "said"),
    [
        ({}, True, "Passed: maps agree with occlusion on 8 of 8 images"),
        (
            {"maps": FAILED},
            False,
            "both have to be 6 or more: not shown; --maps=anyway shows them.",
        ),
        ({"maps": FAILED}, True, "Shown because --maps=anyway was given."),
    ],
)
def test_the_verdict_stands_beside_the_maps(maps: dict[str, Any], drawn: bool, said: str) -> None:
    tree = parsed(page(**maps, drawn=drawn))
    assert said in words(of_class(tree, "maps")[0])
    assert bool(of_class(tree, "map")) == bool(of_class(tree, "scale")) == drawn
    assert any(one.get("id") == "maps" for one in tree.iter("input")) == drawn


def test_images_without_patients_have_the_rules_of_images() -> None:
    images = [
        row(f"{number}.png", (0.35, 0.0, 0.65), "abstain", file=f"{number}.png")
        for number in range(2)
    ]
    # Of subjects, other rules gave an answer.
    subjects = [row(f"{number}.png", (0.3, 0.0, 0.7), images=1) for number in range(2)]
    text = render_page(document(images, subjects), [[0], [1]], {0: picture(0)}, "image")
    cards = of_class(parsed(text), "patient")
    assert "Predictions of 2 images" in text
    assert words(of_class(cards[0], "reason")[0]).endswith("with 65.0 %; an answer needs 70.0 %.")
    assert "Pictures are shown of the first 500 images." in words(cards[1])


def test_what_a_reader_must_know_comes_first() -> None:
    known = {
        "subjects": 3,
        "images": 9,
        "figures": {"subject": {"accuracy": 2 / 3, "n": 3}},
        "intervals": {"subject": {"accuracy": [0.09, 0.99]}},
    }
    text = page(trained_on=4, failed=["x.png: damaged"], against_labels=known)
    said = words(of_class(parsed(text), "tested")[0])
    assert "40 patients never seen in training: 32 right, 80 % (64 to 91 %)." in said
    assert "trained on, or chosen by, 4 of these 9 images" in said
    assert "3 patients here with a known class: 2 right, 66.7 % (9.0 to 99.0 %" in said
    assert "1 file could not be read" in said and "x.png: damaged" in said
    empty = three_patients()
    empty["run"]["tested"] = []
    text = render_page(empty, SHOWN, {}, "subject")
    assert "does not say: do not rely on" in text


@pytest.mark.slow
def test_a_reader_searches_filters_orders_and_toggles(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "index.html"
    path.write_text(page(), encoding="utf-8")
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.goto(path.as_uri())

    def shown() -> list[str]:
        found = opened.locator(".patient:visible h2").all_inner_texts()
        return [name.strip() for name in found]

    assert shown() == ["p1", "p2 <b>", "p3"]
    opened.get_by_label("Order").select_option("confidence")
    assert shown() == ["p2 <b>", "p1", "p3"]
    opened.get_by_label("Answer").select_option("No answer")
    assert shown() == ["p2 <b>"] and opened.get_by_role("status").inner_text() == "1 of 3 shown"
    opened.get_by_label("Answer").select_option("")
    opened.get_by_label("Find").fill("P3")
    assert shown() == ["p3"]
    first = opened.locator(".patient:visible .map").first
    assert not first.is_visible()
    # By keyboard alone.
    opened.get_by_label("Show maps").focus()
    opened.keyboard.press("Space")
    assert first.is_visible()
    wide = opened.evaluate("document.documentElement.scrollWidth")
    assert wide == 390 and said == []
    opened.close()
