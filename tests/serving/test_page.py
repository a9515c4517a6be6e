"""The page at ``/``: its files, and what it does in a real browser."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from edgeseq.serving.page import FILES
from tests.serving.conftest import NewClient, running_server
from tests.support.processes import poll

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "serving" / "page"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SVG = "http://www.w3.org/2000/svg"  # the name of a format, which nobody fetches

# Files


@pytest.mark.parametrize("path", FILES)
def test_files_have_strict_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'self';")
    assert answer.headers["x-content-type-options"] == "nosniff"
    name, media_type = FILES[path]
    assert answer.headers["content-type"].partition(";")[0] == media_type
    assert answer.content == (FOLDER / name).read_bytes()


@pytest.mark.parametrize("path", FILES)
def test_files_need_no_key_but_a_known_host(new_client: NewClient, path: str) -> None:
    client = new_client(api_key="secret")
    assert client.get(path).status_code == 200
    assert client.get(path, headers={"Host": "evil.example"}).status_code == 403


def test_the_page_reflects_nothing(client: TestClient) -> None:
    plain = client.get("/").text
    assert client.get("/?prompt=<script>alert(1)</script>").text == plain
    assert client.post("/", json={}).status_code == 405


@pytest.mark.parametrize("name", [name for name, _ in FILES.values()])
def test_files_name_no_other_host(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8").replace(SVG, "")
    assert re.findall(r"\w+://|[\"'(]//|@import|url\(", text) == []


def test_the_page_has_no_inline_code() -> None:
    """The Content-Security-Policy would stop it."""
    text = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"\son\w+=|\sstyle=|<style|<script(?! src)|javascript:", text) == []


def test_the_files_are_in_the_wheel() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["edgeseq.serving.page"]
    names = {path.name for path in FOLDER.iterdir() if path.suffix not in (".py", "")}
    assert names == {name for name, _ in FILES.values()}
    assert all(any(fnmatch.fnmatch(name, pattern) for pattern in patterns) for name in names)


# In a browser

CONTRASTS = """() => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const luminance = (color) => {
    const linear = parts(color).slice(0, 3).map((value) => {
      const part = value / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const background = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const color = getComputedStyle(each).backgroundColor;
      if (parts(color)[3] !== 0) return color;
    }
    throw new Error("no background");
  };
  const hasText = (element) =>
    element.checkVisibility() &&
    (["INPUT", "SELECT", "TEXTAREA"].includes(element.tagName) ||
      [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()));
  return [...document.body.querySelectorAll("*")].filter(hasText).map((element) => {
    const pair = [getComputedStyle(element).color, background(element)].map(luminance);
    const ratio = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    return [ratio, `${element.tagName} ${element.id} ${element.className} ${element.textContent}`];
  });
}"""
NAMELESS = """() => [...document.querySelectorAll("input, select, textarea, button")]
  .filter((field) => !field.labels?.length && !field.textContent.trim())
  .map((field) => field.outerHTML)"""
# The demo model may be done before a test could act.
STOP_AT_FIRST_TOKEN = """(by) => new MutationObserver((_, observer) => {
  if (!document.querySelector(".token")) return;
  observer.disconnect();
  if (by === "button") document.getElementById("stop").click();
  else document.activeElement.dispatchEvent(
    new KeyboardEvent("keydown", { key: by, bubbles: true })
  );
}).observe(document.body, { childList: true, subtree: true })"""
COUNT_ANIMATIONS = """() => {
  window.animations = [];
  new MutationObserver(() => {
    if (document.querySelector(".busy")) window.animations.push(document.getAnimations().length);
  }).observe(document.body, { attributes: true, childList: true, subtree: true });
}"""
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"there is no browser: none of {', '.join(BROWSERS)} is on the path")
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if is_root else []  # the sandbox refuses root
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def window(browser: Any) -> Any:
    """A window, which takes a while to open."""
    return browser.new_page()


@pytest.fixture
def open_page(window: Any, server_url: str) -> Iterator[Open]:
    """``open_page(url, width=1280, **media)``: the page once it knows its models.

    At the end, no script must have failed, and nothing must have come from elsewhere.
    """
    poll(lambda: httpx.get(f"{server_url}/health").status_code == 200)
    problems: list[str] = []
    urls: list[tuple[str, str]] = []
    base = server_url

    def open_it(
        url: str = server_url, *, is_locked: bool = False, width: int = 1280, **media: str
    ) -> Any:
        nonlocal base
        base = url
        default = {"color_scheme": "light", "reduced_motion": "no-preference"}
        window.emulate_media(**{**default, **media})
        window.set_viewport_size({"width": width, "height": 800})
        window.goto(url)
        if not is_locked:
            window.locator("#model option").first.wait_for(state="attached")
        return window

    listeners = {
        "pageerror": lambda error: problems.append(str(error)),
        "console": lambda message: problems.append(message.text),
        "request": lambda request: urls.append((request.url, base)),
    }
    for name, listener in listeners.items():
        window.on(name, listener)
    yield open_it
    for name, listener in listeners.items():
        window.remove_listener(name, listener)
    failed = "Failed to load resource"  # of answers that are errors, which tests provoke
    assert [text for text in problems if not text.startswith(failed)] == []
    assert [url for url, base in urls if not url.startswith(f"{base}/")] == []


def wait_for_answer(page: Any) -> None:
    page.locator("#status", has_text="The answer is complete").wait_for()


def texts(page: Any) -> list[str]:
    return page.locator(".card .text").all_inner_texts()


def test_a_text_streams_in(open_page: Open) -> None:
    page = open_page()
    page.fill("#prompt", "The king")
    page.select_option("#search", "greedy")
    page.fill("#max_tokens", "12")
    page.click("#generate")
    wait_for_answer(page)
    assert texts(page) == ["'s son was a great king's son, and he was"]
    assert page.locator("#count").inner_text() == "12"
    assert page.locator("#prompt-count").inner_text() == "2"
    assert float(page.locator("#speed").inner_text()) > 0
    assert re.fullmatch(r"\d+ ms", page.locator("#first").inner_text())
    assert page.locator("#stop").is_disabled()


def test_text_beyond_ascii_is_cut_into_its_tokens(open_page: Open) -> None:
    page = open_page()
    page.fill("#prompt", "\U0001f98a said: é")
    page.select_option("#search", "greedy")
    page.fill("#max_tokens", "8")
    page.click("#generate")
    wait_for_answer(page)
    tokens = page.locator(".token").all_inner_texts()
    assert len(tokens) == 8
    assert "".join(page.locator(".token").all_text_contents()) == (
        page.locator(".text").text_content()
    )


@pytest.mark.parametrize("by", ["button", "Escape"])
def test_a_stream_can_be_stopped(open_page: Open, server_url: str, by: str) -> None:
    def cancelled() -> int:
        figures = httpx.get(f"{server_url}/metrics").text
        found = re.search(r'^edgeseq_cancelled_total\{model="demo-gpt2"\} (\d+)', figures, re.M)
        assert found is not None
        return int(found[1])

    before = cancelled()
    page = open_page()
    page.fill("#max_tokens", "480")
    page.fill("#n", "32")
    page.evaluate(STOP_AT_FIRST_TOKEN, by)
    page.click("#generate")
    page.locator("#status", has_text="Stopped").wait_for()
    if by == "button":
        assert page.evaluate("document.activeElement.id") == "generate"
    assert texts(page)[0] != ""
    assert page.locator("#error").inner_text() == ""
    poll(lambda: cancelled() == before + 1)


def test_alternatives_of_a_token_on_hover(open_page: Open) -> None:
    page = open_page()
    page.select_option("#search", "greedy")
    page.click("#generate")
    wait_for_answer(page)
    table = page.locator("#alternatives")
    assert table.is_hidden()
    page.locator(".token").nth(2).hover()
    assert table.is_visible()
    rows = table.locator("tbody tr")
    assert rows.count() == 5
    chosen = page.locator(".token").nth(2).text_content().replace(" ", "␣")
    assert table.locator("tr.chosen td").first.inner_text() == chosen
    values = [float(row.split()[-2]) for row in rows.all_inner_texts()]
    assert values == sorted(values, reverse=True)
    table.hover()
    assert table.is_visible()  # the pointer can reach it
    page.keyboard.press("Escape")
    assert table.is_hidden()


def test_everything_works_with_the_keyboard(open_page: Open) -> None:
    page = open_page()
    focused = "document.activeElement.id"
    for name in ("model", "task", "prompt"):
        page.keyboard.press("Tab")
        assert page.evaluate(focused) == name
    page.keyboard.press("Control+A")
    page.keyboard.type("The old woman")
    page.keyboard.press("Control+Enter")
    wait_for_answer(page)
    page.locator("#logprobs").focus()
    page.keyboard.press("Tab")
    table = page.locator("#alternatives")
    assert table.is_visible()
    first = page.locator("#alternatives-title").inner_text()
    assert first.partition(" has ")[0] in page.locator("#spoken").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement === document.querySelectorAll('.token')[1]")
    page.keyboard.press("End")
    page.keyboard.press("Home")
    assert page.locator("#alternatives-title").inner_text() == first
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Escape")
    assert table.is_hidden()


def test_only_the_end_is_announced(open_page: Open) -> None:
    page = open_page()
    page.evaluate(
        """() => {
          window.said = [];
          const live = "[role=status], [role=alert], [aria-live]";
          for (const element of document.querySelectorAll(live)) {
            new MutationObserver(() => element.textContent && said.push(element.textContent))
              .observe(element, { childList: true, characterData: true, subtree: true });
          }
        }"""
    )
    page.click("#generate")
    wait_for_answer(page)
    said = page.evaluate("said")
    assert said[0] == "Generating."
    assert len(said) == 2
    assert said[1].startswith("The answer is complete: 64 tokens in ")


def test_several_texts_stand_side_by_side(open_page: Open) -> None:
    page = open_page()
    page.fill("#n", "3")
    page.fill("#seed", "5")
    page.fill("#max_tokens", "16")
    page.click("#generate")
    wait_for_answer(page)
    assert len(set(texts(page))) == 3
    assert page.locator(".card h3").all_inner_texts() == ["Text 1", "Text 2", "Text 3"]


def test_beams_stand_side_by_side(open_page: Open) -> None:
    page = open_page()
    page.select_option("#search", "beams")
    page.fill("#max_tokens", "8")
    found = []
    for with_probabilities in (True, False):
        page.set_checked("#logprobs", with_probabilities)
        page.click("#generate")
        wait_for_answer(page)
        found.append(texts(page))
        assert (page.locator(".token").count() > 0) == with_probabilities
    assert len(set(found[0])) == 4
    assert found[0] == found[1]


def test_choices_have_probabilities(open_page: Open) -> None:
    page = open_page()
    page.fill("#prompt", "The wolf was")
    page.select_option("#output", "choices")
    page.fill("#choices", " kind\n hungry\n")
    page.click("#generate")
    wait_for_answer(page)
    assert page.locator(".card h3").all_inner_texts() == ["␣hungry", "␣kind"]
    values = [float(text.split()[0]) for text in page.locator(".end").all_inner_texts()]
    assert sum(values) == pytest.approx(100, abs=0.2)
    assert page.locator("#max_tokens").is_hidden()  # it would have no effect


def test_json_by_a_schema(open_page: Open) -> None:
    pytest.importorskip("llguidance")
    page = open_page()
    page.select_option("#output", "json_schema")
    page.fill("#schema", '{"enum": ["a", "b"]}')
    page.click("#generate")
    wait_for_answer(page)
    assert texts(page)[0].partition("<")[0].strip() in ('"a"', '"b"')


def test_tasks(open_page: Open) -> None:
    page = open_page()
    page.select_option("#task", "classification")
    page.fill("#text", "What a happy day!")
    page.click("#generate")
    wait_for_answer(page)
    assert page.locator(".card h3").all_inner_texts() == ["positive", "negative"]
    page.select_option("#task", "open-book-question-answering")
    assert page.locator("#question").input_value() == "What a happy day!"
    page.fill("#context", "The day is happy.")
    page.fill("#max_tokens", "3")
    page.click("#generate")
    wait_for_answer(page)
    assert len(texts(page)) == 1


def test_an_encoder_decoder_model(open_page: Open) -> None:
    page = open_page()
    page.select_option("#model", "demo-t5")
    assert page.locator("#prompt").input_value() == "pronounce: winter"
    page.click("#generate")
    wait_for_answer(page)
    assert texts(page) == ["W IH1 N T ER0 </s>"]
    assert "special" in page.locator(".token").last.get_attribute("class")


def test_an_error_is_one_sentence(open_page: Open) -> None:
    page = open_page()
    assert page.locator("#error").get_attribute("role") == "alert"
    for field, value, message in (
        ("#max_tokens", "5000", "max_tokens is 5000; it must be an integer from 0 to 2048."),
        ("#n", "1.5", "Texts is 1.5; it must be an integer of at least 1."),
        ("#temperature", "3", "Temperature is 3; it must be a number from 0 to 2."),
        ("#stops", "1\n2\n3\n4\n5", "it must be a string or a list of up to 4 strings"),
        ("#prompt", "a " * 5000, "the limit is 4096: shorten it."),
    ):
        before = page.locator(field).input_value()
        page.fill(field, value)
        page.click("#generate")
        page.locator("#error", has_text=message).wait_for()
        assert texts(page) == []
        assert page.locator("#status").inner_text() == ""
        page.fill(field, before)
    page.select_option("#output", "json_schema")
    page.fill("#schema", "{")
    page.click("#generate")
    page.locator("#error", has_text="The JSON Schema is not valid JSON").wait_for()
    assert page.locator("#stop").is_disabled()


def test_texts_are_no_html(open_page: Open) -> None:
    page = open_page()
    page.select_option("#output", "choices")
    page.fill("#choices", "<b>a</b>\n<img src=x>")
    page.click("#generate")
    wait_for_answer(page)
    assert sorted(page.locator(".card h3").all_inner_texts()) == ["<b>a</b>", "<img src=x>"]


def test_the_page_waits_for_models(open_page: Open) -> None:
    page = open_page()
    no_models = '{"object": "list", "data": []}'
    page.route("**/v1/models", lambda route: route.fulfill(body=no_models), times=1)
    page.route("**/health", lambda route: route.fulfill(body='{"status": "loading"}'), times=1)
    page.reload()
    page.locator("#status", has_text="The models are being loaded.").wait_for()
    page.locator("#model option").first.wait_for(state="attached")


def test_a_server_that_is_gone(open_page: Open) -> None:
    page = open_page()
    page.route("**/v1/completions", lambda route: route.abort(), times=1)
    page.click("#generate")
    page.locator("#error", has_text="The server does not answer").wait_for()


def test_a_stream_that_breaks_off(open_page: Open) -> None:
    page = open_page()
    page.route("**/v1/completions", lambda route: route.fulfill(body=": hello\n\n"), times=1)
    page.click("#generate")
    page.locator("#error", has_text="The server has ended the connection").wait_for()


def test_a_key_is_asked_for(open_page: Open) -> None:
    with running_server("--demo", "--threads", "1", EDGESEQ_API_KEY="secret") as (_, url):
        poll(lambda: httpx.get(f"{url}/health").status_code == 200)
        page = open_page(url, is_locked=True)
        page.locator("#error", has_text="Enter the API key.").wait_for()
        assert page.evaluate("document.activeElement.id") == "key"
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        page.locator("#error", has_text="The API key is wrong").wait_for()
        page.fill("#key", "secret")
        page.click("#use-key")
        page.locator("#model option").first.wait_for(state="attached")
        page.locator("#access").wait_for(state="hidden")
        page.click("#generate")
        wait_for_answer(page)
        assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
        page.reload()  # the tab knows the key
        page.locator("#model option").first.wait_for(state="attached")


def test_contrast_and_labels(open_page: Open) -> None:
    page = open_page()
    page.click("#generate")
    wait_for_answer(page)
    page.locator("summary", has_text="The server's API").click()
    page.locator(".token").nth(1).hover()
    backgrounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert [found for found in page.evaluate(CONTRASTS) if found[0] < 4.5] == []
        backgrounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds == ["rgb(255, 255, 255)", "rgb(20, 23, 26)"]
    assert page.evaluate(NAMELESS) == []


def test_a_narrow_window(open_page: Open) -> None:
    """A window of 1280 pixels at 400 % zoom has 320."""
    page = open_page(width=320)
    page.locator("#options summary").click()
    page.fill("#n", "0")
    page.locator("#options summary").click()
    page.click("#generate")
    page.locator("#error", has_text="Texts is 0").wait_for()
    assert page.evaluate("document.activeElement.id") == "n"
    page.fill("#n", "2")
    page.fill("#max_tokens", "20")
    page.click("#generate")
    wait_for_answer(page)
    for width in (320, 360):
        page.set_viewport_size({"width": width, "height": 640})
        for index in (5, 9):
            page.keyboard.press("Escape")  # the table may cover the next token
            page.locator(".token").nth(index).hover()
            box = page.locator("#alternatives").bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_reduced_motion(open_page: Open) -> None:
    page = open_page(reduced_motion="reduce")
    page.fill("#max_tokens", "400")  # enough to be seen at work
    assert page.evaluate("document.getAnimations().length") == 0
    page.evaluate(COUNT_ANIMATIONS)
    page.click("#generate")
    wait_for_answer(page)
    assert set(page.evaluate("window.animations")) == {0}
