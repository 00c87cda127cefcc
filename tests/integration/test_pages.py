"""Pages in a real browser: what is clicked is heard, what is sought found, nothing hostile runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile
from playwright.sync_api import expect, sync_playwright

from producer.export.html_pages import PageAudio, to_entry, to_index, to_page
from schema.words import Word
from tests.unit.producer.export.test_html_pages import HOSTILE, said, transcript

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RATE_HZ = 8_000
WORDS = [Word(f"word{i}", 500 * i, 500 * i + 400, 0.9) for i in range(30)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on PATH: install the package chromium")
    flags = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that fails the test where anything goes wrong in it, or is alerted."""
    page = browser.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    yield page
    page.close()
    assert wrong == []


@pytest.fixture
def call(tmp_path: Path) -> str:
    """A page of fifteen seconds of a tone, and thirty words of two speakers."""
    tone = 0.3 * np.sin(np.arange(15 * RATE_HZ) * 0.3)
    soundfile.write(tmp_path / "call.page.flac", tone, RATE_HZ)
    heard = PageAudio("call.page.flac", np.full((1, 100), 0.3, np.float32))
    own = transcript(said(0, "agent", *WORDS[:12]), said(1, "customer", *WORDS[12:]))
    path = tmp_path / "call.html"
    path.write_text(to_page(own, heard))
    return path.as_uri()


def be_ready(page: Page) -> None:
    """Wait until the audio can be played."""
    expect(page.locator("#audio")).to_have_js_property("readyState", 4)


def position_s(page: Page) -> float:
    return float(page.evaluate("document.getElementById('audio').currentTime"))


def test_a_clicked_word_is_heard_and_marked(page: Page, call: str):
    page.goto(call)
    be_ready(page)
    page.get_by_text("word20", exact=True).click()
    expect(page.locator(".w.now")).to_have_text("word20")
    assert 10.0 <= position_s(page) < 11.5
    expect(page.locator(".w.now")).to_have_text("word21")
    assert not page.evaluate("document.getElementById('audio').paused")


def test_the_waveform_and_the_keys_move_the_player(page: Page, call: str):
    page.goto(call)
    be_ready(page)
    page.keyboard.press("ArrowRight")
    expect(page.locator("#audio")).to_have_js_property("currentTime", 5)
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#audio")).to_have_js_property("currentTime", 0)
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.dataset.s") == "6000"
    box = page.locator("#wave").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    # The call is said to last 20 s; the middle of its picture is at 10, where word20 begins.
    expect(page.locator(".w.now")).to_have_text("word20")


def test_what_is_sought_is_marked(page: Page, call: str):
    page.goto(call)
    page.keyboard.press("/")
    page.keyboard.type("WORD17")
    assert page.locator(".w.hit").all_text_contents() == ["word17"]
    assert page.locator("#found").text_content() == "1 found"
    page.locator("#find").fill("word12 word13")
    assert page.locator(".w.hit").count() == 18, "the utterance that holds both"


def test_an_index_of_five_thousand_calls_is_searched_and_sorted(page: Page, tmp_path: Path):
    entries = [
        to_entry(
            transcript(
                said(0, "agent", *WORDS[: 1 + number % 7]),
                call_id=f"ACD-{number:04}",
                flags=("low-coverage",) if number % 100 == 0 else (),
            ),
            f"{number}.html",
        )
        for number in range(5_000)
    ]
    path = tmp_path / "index.html"
    path.write_text(to_index("calls", entries, []))
    page.goto(path.as_uri())
    page.locator("#find").fill("acd-123")
    assert page.locator("#found").text_content() == "10 of 5000 calls"
    assert page.locator("#calls tbody tr:visible").count() == 10
    page.locator("#find").fill("")
    page.locator("#flag").select_option("low-coverage")
    assert page.locator("#found").text_content() == "50 of 5000 calls"
    page.locator("#flag").select_option("")
    words = page.get_by_role("button", name="words")
    words.click()
    words.click()
    assert page.locator("#calls tbody tr td:nth-child(6)").first.text_content() == "7"
    assert page.locator("th[aria-sort=descending]").count() == 1


def test_an_index_fits_a_laptop_and_breaks_no_date_or_finding(page: Page, tmp_path: Path):
    long = [Word("considerable", 400 * i, 400 * i + 300, 0.9) for i in range(40)]
    own = transcript(said(0, "agent", *long), flags=("low-coverage", "doubtful-words:3"))
    path = tmp_path / "index.html"
    path.write_text(to_index("calls", [to_entry(own, "1.html")], []))
    page.set_viewport_size({"width": 1100, "height": 700})
    page.goto(path.as_uri())

    assert page.evaluate("document.documentElement.scrollWidth") <= 1100
    for whole in page.locator("#calls tbody .d, #calls tbody .f span").all():
        lines = whole.evaluate(
            "e => new Set([...(() => { const r = document.createRange(); r.selectNodeContents(e);"
            " return r.getClientRects(); })()].map(box => Math.round(box.top))).size"
        )
        assert lines <= 1


def test_hostile_names_and_words_do_nothing(page: Page, tmp_path: Path):
    own = transcript(
        said(0, HOSTILE, Word(HOSTILE, 0, 500, 0.9)),
        name=HOSTILE,
        call_id=HOSTILE,
        attributes={HOSTILE: HOSTILE},
        flags=(HOSTILE,),
    )
    (tmp_path / "call.html").write_text(to_page(own, None, HOSTILE))
    (tmp_path / "index.html").write_text(to_index(HOSTILE, [to_entry(own, "call.html")], []))
    for name in ("call.html", "index.html"):
        page.goto((tmp_path / name).as_uri())
        assert page.locator("img").count() == 0
        assert "alert(1)" in (page.locator("h1").text_content() or "")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_by_day_and_by_night(page: Page, call: str, scheme):
    page.emulate_media(color_scheme=scheme)
    page.goto(call)
    ratio = page.evaluate(
        """() => {
          const light = (color) => {
            const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map((part) => {
              const own = part / 255;
              return own <= 0.03928 ? own / 12.92 : ((own + 0.055) / 1.055) ** 2.4;
            });
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const paper = light(getComputedStyle(document.body).backgroundColor);
          const texts = [...document.querySelectorAll(".who, .w, dt, .keys")];
          return Math.min(...texts.map((element) => {
            const ink = light(getComputedStyle(element).color);
            return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
          }));
        }"""
    )
    assert ratio >= 4.5, "WCAG's contrast for text"
