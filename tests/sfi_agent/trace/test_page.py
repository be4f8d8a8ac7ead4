"""The page of a trace in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys

from sfi_agent.trace import Trace, write
from tests.browsing import Browser
from tests.sfi_agent.trace.examples import NASTY, long, trace

MARKS = ("prompt", "fast", "slow", "accepted", "corrected")
CHOSEN = "Number(document.querySelector('#answer .at').dataset.index)"
TEXTS = "[...document.querySelectorAll('#answer .t')].map((token) => token.textContent)"
IMAGE = "Bokeh.documents.map((page) => page.get_model_by_name('{}-data')).find(Boolean).data"


@pytest.fixture
def page(browser: Browser) -> Iterator[Callable[..., Browser]]:
    """Opens a page; at the end nothing went wrong there, and nothing but the file was asked for."""

    def open_page(file: Path, **how: object) -> Browser:
        browser.open(file.as_uri(), **how)
        return browser

    yield open_page
    assert browser.problems() == []
    asked = browser.requested()
    assert {url.partition(":")[0] for url in asked} <= {"file", "data", "blob"}
    assert len({url for url in asked if url.startswith("file")}) <= 1


def choose(browser: Browser, turn: int) -> None:
    browser.ask(
        "(() => { const select = document.querySelector('#turns select'); select.value = arguments[0]; "
        "select.dispatchEvent(new Event('change', { bubbles: true })); })()",
        str(turn),
    )


@pytest.mark.parametrize("turn", [0, 1])
def test_the_tokens_are_the_answer_and_their_marks_are_counted(page, recorded_page, recorded, turn) -> None:
    shown: Browser = page(recorded_page)
    choose(shown, turn)
    tokens = recorded.turns[turn].tokens
    assert shown.until(f"{TEXTS}.length === {len(tokens)}")
    assert shown.ask("document.querySelector('#figures dd').textContent").startswith(str(len(tokens)))
    for mark in MARKS:
        count = sum(token.mark == mark for token in tokens)
        assert shown.ask(f"document.querySelectorAll('#answer .{mark}').length") == count
        told = shown.ask(f"document.querySelector('#legend [data-mark={mark}] b')?.textContent ?? '0'")
        assert int(told) == count
    bound = sum(bool(token.boundary) for token in tokens)
    assert shown.ask("document.querySelectorAll('#answer .bound').length") == bound


def test_the_text_is_the_answer(page, pages, recorded) -> None:
    plain = long(600, 40)
    write(plain, pages / "short.html")
    shown = page(pages / "short.html")
    assert shown.ask(TEXTS) == [token.text for token in plain.turns[0].tokens]


def test_arrow_keys_go_from_token_to_token_and_the_strip_follows(page, long_page) -> None:
    shown: Browser = page(long_page)
    assert shown.ask(CHOSEN) == 0
    before = shown.ask(f"[...{IMAGE.format('strip')}.image[0]]")
    shown.press(*[Keys.ARROW_RIGHT] * 3)
    assert shown.ask(CHOSEN) == 3
    assert "Token 4" in shown.ask("document.querySelector('#detail').textContent")
    assert shown.ask(f"[...{IMAGE.format('strip')}.image[0]]") != before
    shown.press(Keys.ARROW_LEFT)
    assert shown.ask(CHOSEN) == 2
    shown.press(Keys.END)
    assert shown.ask(CHOSEN) == 1000
    shown.press(Keys.HOME, "s")
    assert shown.ask(CHOSEN) == 25, "the first token of a slow step"
    assert "slow step" in shown.ask("document.querySelector('#detail').textContent")
    assert "read everything" in shown.ask("document.querySelector('#memory-note').textContent")


def test_an_address_may_name_a_token(page, recorded_page, browser) -> None:
    page(recorded_page)
    browser.driver.get("about:blank")
    browser.open(f"{recorded_page.as_uri()}#12")
    assert browser.ask(CHOSEN) == 11


def test_space_plays_and_stops(page, long_page) -> None:
    shown: Browser = page(long_page)
    shown.press(" ")
    shown.until(f"{CHOSEN} > 1")
    shown.press(" ")
    stopped = shown.ask(CHOSEN)
    shown.driver.execute_async_script("setTimeout(arguments[0], 300)")
    assert shown.ask(CHOSEN) == stopped


def test_a_token_under_the_pointer_is_told_and_then_the_chosen_one_again(page, long_page) -> None:
    shown: Browser = page(long_page)
    shown.point("#answer .t[data-index='6']")
    shown.until("document.querySelector('#detail').textContent.startsWith('Token 7 ')")
    assert shown.ask(CHOSEN) == 0
    shown.point("h1")
    shown.until("document.querySelector('#detail').textContent.startsWith('Token 1 ')")
    shown.point("#answer .t[data-index='9']", click=True)
    assert shown.ask(CHOSEN) == 9


def test_the_strip_says_what_lies_under_the_pointer(page, long_page) -> None:
    shown: Browser = page(long_page)
    shown.point("#strip", 0.5, 0.4)
    told = shown.until("(document.querySelector('#under').textContent.match(/^Positions .*/s) ?? [''])[0]")
    first = int(told.split()[1].partition("–")[0])
    assert 3000 < first < 6000
    assert "KV head" in told
    assert f" word{first} word{first + 1}" in told


def test_a_click_on_a_chart_chooses_the_step(page, long_page) -> None:
    shown: Browser = page(long_page)
    shown.point("#seconds", 0.5, 0.4, click=True)
    shown.until(f"{CHOSEN} > 300")
    assert shown.ask(CHOSEN) < 700
    shown.point("#history", 0.5, 0.2, click=True)
    shown.until(f"{CHOSEN} < 300")


def test_every_chart_holds_every_step(page, long_page) -> None:
    shown: Browser = page(long_page)
    (turn,) = long().turns
    assert shown.ask(f"{IMAGE.format('seconds')}.y") == pytest.approx([1000 * s.seconds for s in turn.steps])
    assert shown.ask(f"{IMAGE.format('bytes')}.y")[0] == pytest.approx(15)
    rows = shown.ask(f"{IMAGE.format('history')}.image[0].shape[0]")
    assert rows == len(turn.steps)


@pytest.mark.parametrize("dark", [False, True])
def test_light_and_dark_as_the_system_says_and_by_button(page, recorded_page, dark) -> None:
    shown: Browser = page(recorded_page, dark=dark)
    ground = "getComputedStyle(document.body).backgroundColor"
    brightness = "Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])"
    assert (shown.ask(brightness) < 128) is dark
    before = shown.ask(ground)
    shown.point("#theme", click=True)
    assert shown.ask(ground) != before
    assert (shown.ask(brightness) < 128) is not dark
    shown.press("t")
    assert shown.ask(ground) == before


@pytest.mark.parametrize("name", ["long_page", "recorded_page", "nasty_page"])
def test_nothing_is_wider_than_a_phone(page, name, request) -> None:
    shown: Browser = page(request.getfixturevalue(name), width=390, height=844)
    shown.until("document.querySelector('#strip').firstElementChild?.getBoundingClientRect().width > 200")
    assert shown.ask("innerWidth") == 390
    wide = "[...document.querySelectorAll('body *')].filter((each) => each.getBoundingClientRect().right > "
    wide += "document.documentElement.clientWidth + 0.5)"
    assert shown.ask(f"{wide}.map((each) => each.outerHTML.slice(0, 200))") == []
    assert shown.ask("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_text_of_others_is_text(page, nasty_page) -> None:
    shown: Browser = page(nasty_page)
    assert shown.ask("document.title") == f"The memory at work: {NASTY[0]}"
    assert shown.ask("document.querySelectorAll('img').length") == 0
    texts = shown.ask(TEXTS)
    assert len(texts) == len(NASTY)
    assert texts[:4] == list(NASTY[:4])
    assert texts[5:6] + texts[7:] == [NASTY[5], *NASTY[7:]]
    assert texts[6] == "[0000][001B][31m[202E]", "what cannot be seen, or turns the line around, is named"
    for place in ("#detail", "#about", "#turns"):
        assert (
            NASTY[1][:20] in shown.ask(f"document.querySelector('{place}').textContent") or place == "#detail"
        )
    shown.press(Keys.END, "s")
    assert shown.ask("document.title").startswith("The memory at work")


def test_a_long_trace_stays_below_five_megabytes(long_page: Path) -> None:
    assert 1_000_000 < long_page.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("kept", "told", "hidden"),
    [
        (0, "No positions were chosen: every step reads all of the context.", True),
        (1, "No positions have been chosen yet: this step reads all of the context.", False),
    ],
)
def test_a_step_without_a_memory_is_told_as_such(page, pages, kept, told, hidden) -> None:
    (turn,) = long(600, 40).turns
    late = [memory for memory in turn.memories if memory.step > 30][:kept]
    write(trace(turn.model_copy(update={"memories": late})), pages / "late.html")
    shown = page(pages / "late.html")
    assert shown.ask("document.querySelector('#memory-note').textContent") == told
    assert shown.ask("document.querySelector('#strip').hidden") is hidden


def test_a_trace_without_turns_is_a_page_as_well(page, pages) -> None:
    write(trace(), pages / "empty.html")
    shown: Browser = page(pages / "empty.html")
    assert shown.ask("document.querySelectorAll('#answer .t').length") == 0


def test_a_trace_can_be_read_back_from_its_page(recorded_page: Path, recorded: Trace) -> None:
    page = recorded_page.read_text(encoding="utf-8")
    written = page.partition('id="trace">')[2].partition("</script>")[0]
    assert Trace.model_validate_json(written) == recorded
