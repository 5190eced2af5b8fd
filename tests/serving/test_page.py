"""The page, used in a real browser."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.editing.tiny_run import make_edits
from tests.serving.client import EDITED, connect
from tests.serving.conftest import RunningServer

Browser = webdriver.Chrome
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
EDIT = make_edits(9)[8]
WAIT = 120


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no Chromium here; install chromium and chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, "--window-size=900,1200"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def read(browser: Browser, name: str) -> str:
    return browser.find_element(By.ID, name).text


def write(browser: Browser, **texts: str) -> None:
    for name, text in texts.items():
        field = browser.find_element(By.ID, name)
        field.clear()
        field.send_keys(text)


def wait_for(browser: Browser, name: str, accept: Callable[[str], bool]) -> str:
    WebDriverWait(browser, WAIT).until(lambda _: accept(read(browser, name)), read(browser, "said"))
    return read(browser, name)


def ask(browser: Browser, question: str) -> tuple[str, str]:
    """The edited and the unedited answer as they are shown in the end."""
    button = browser.find_element(By.CSS_SELECTOR, "#ask button")
    write(browser, question=question)
    button.click()
    WebDriverWait(browser, WAIT).until(lambda _: button.is_enabled())
    return read(browser, "edited"), read(browser, "unedited")


def test_a_fact_is_asked_assessed_added_and_undone(
    browser: Browser, starter: Callable[..., AbstractContextManager[RunningServer]], tmp_path: Path
) -> None:
    with starter() as running:
        browser.get(running.address)
        before = wait_for(browser, "state", lambda text: text.startswith("case-"))
        assert len(browser.find_elements(By.CSS_SELECTOR, "#edits li")) == 8
        edited, unedited = ask(browser, make_edits()[0].prompt)
        turns = [{"role": "user", "content": make_edits()[0].prompt}]
        served = connect(running.address).chat.completions.create(model=EDITED, messages=turns, max_tokens=32)  # type: ignore[arg-type]
        assert edited == (served.choices[0].message.content or "").strip() != unedited

        write(browser, prompt=EDIT.prompt, target=EDIT.target, subject=str(EDIT.subject))
        browser.find_element(By.ID, "assess").click()
        verdict = wait_for(browser, "said", lambda text: text.startswith("Verdict"))
        assert "Conflict scores: subspace 0:" in verdict
        browser.find_element(By.ID, "write").click()
        wait_for(browser, "said", lambda text: text == "Added.")
        assert read(browser, "state") != before
        items = browser.find_elements(By.CSS_SELECTOR, "#edits li")
        assert (len(items), items[0].find_element(By.TAG_NAME, "span").text) == (9, f"{EDIT.prompt} {EDIT.target}")

        items[0].find_element(By.TAG_NAME, "button").click()
        wait_for(browser, "said", lambda text: text == "Undone.")
        assert read(browser, "state") == before
        assert browser.find_element(By.CSS_SELECTOR, "#edits li").get_attribute("class") == "gone"
        browser.save_screenshot(str(tmp_path / "page.png"))
        assert [one for one in browser.get_log("browser") if one["level"] == "SEVERE"] == []


def test_a_mistake_is_shown_and_the_page_fits_a_phone(browser: Browser, server: RunningServer) -> None:
    browser.set_window_size(500, 900)
    browser.get(server.address)
    wait_for(browser, "state", lambda text: text.startswith("case-"))
    width = "return [document.documentElement.scrollWidth, window.innerWidth]"
    needed, there = browser.execute_script(width)
    assert needed <= there
    write(browser, prompt="The game is", target="old " * 80)
    browser.find_element(By.ID, "assess").click()
    said = wait_for(browser, "said", lambda text: "expected" in text)
    assert "fit the context of 64 tokens" in said
    assert browser.find_element(By.ID, "said").get_attribute("class") == "bad"
