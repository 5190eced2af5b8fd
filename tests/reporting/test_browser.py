"""The page in a real browser: light, dark, on a phone and printed. Skipped where there is no Chromium."""

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

from case_lightning.reporting import write_report
from tests.reporting.fake_run import write_run

# How an element's colours are found: its own, over the first ground beneath it that is not transparent.
_CONTRASTS = """
const parse = text => text.match(/[\\d.]+/g).map(Number);
const luminance = rgb => rgb.slice(0, 3).map(part => part / 255)
    .map(part => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4)
    .reduce((sum, part, index) => sum + part * [.2126, .7152, .0722][index], 0);
const ground = element => {
    for (let one = element; one; one = one.parentElement) {
        const colour = parse(getComputedStyle(one).backgroundColor);
        if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
};
const names = 'h1, h2, h3, h4, p, td, th, dt, dd, figcaption, caption, summary, svg text';
const texts = [...document.querySelectorAll(names)];
return texts.filter(one => one.textContent.trim()).map(one => {
    const style = getComputedStyle(one);
    const ink = luminance(parse(one.tagName === 'text' ? style.fill : style.color)), paper = luminance(ground(one));
    return [one.textContent.trim(), (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05)];
});
"""
_OVERLAPS = """
const found = [];
for (const drawing of document.querySelectorAll('svg[role=img]')) {
    const boxes = [...drawing.querySelectorAll('text')].map(one => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([name, one], index) => boxes.slice(index + 1).forEach(([other, two]) => {
        const across = Math.min(one.right, two.right) - Math.max(one.left, two.left);
        const down = Math.min(one.bottom, two.bottom) - Math.max(one.top, two.top);
        if (across > 1 && down > 3) found.push([drawing.querySelector('title').textContent, name, other]);
    }));
}
return found;
"""
_CUT_OFF = """
const width = document.documentElement.clientWidth;
return [...document.querySelectorAll('svg text')].filter(one => {
    const box = one.getBoundingClientRect();
    return box.left < -1 || box.right > width + 1;
}).map(one => one.textContent);
"""
_VIEWS = {
    "light": {"width": 1280, "scheme": "light", "media": "screen"},
    "dark": {"width": 1280, "scheme": "dark", "media": "screen"},
    "phone": {"width": 390, "scheme": "light", "media": "screen"},
    "small-phone-dark": {"width": 320, "scheme": "dark", "media": "screen"},
    "printed": {"width": 794, "scheme": "dark", "media": "print"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """A headless Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no Chromium; install the packages chromium and chromium-driver")
    options = ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = Chrome(options, Service(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module", params=["one run", "three runs"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    runs = [write_run(folder / "first", 120)]
    if request.param == "three runs":
        runs += [write_run(folder / "second", 60, skill=0.8), write_run(folder / "third", 40, protocol="harness")]
    return write_report(runs, folder / "page.html")


@pytest.fixture(params=_VIEWS)
def view(request: pytest.FixtureRequest, browser: Chrome, page: Path, tmp_path: Path) -> Chrome:
    """The page as it is seen in one way; CASE_LIGHTNING_SCREENSHOTS names a folder for pictures of it."""
    settings: dict[str, Any] = _VIEWS[request.param]
    scheme = [{"name": "prefers-color-scheme", "value": settings["scheme"]}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": settings["media"], "features": scheme})
    is_phone = settings["width"] < 500
    size = {"width": settings["width"], "height": 900, "deviceScaleFactor": 1, "mobile": is_phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    folder = Path(os.environ.get("CASE_LIGHTNING_SCREENSHOTS", tmp_path))
    whole = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    name = f"{len(page.read_text(encoding='utf-8'))}-{request.param}.png"
    (folder / name).write_bytes(base64.b64decode(whole["data"]))
    return browser


def test_page_is_shown_without_errors_and_without_the_network(view: Chrome) -> None:
    assert view.get_log("browser") == []
    assert view.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_nothing_is_wider_than_the_screen(view: Chrome) -> None:
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert view.execute_script(wide) <= 0
    assert view.execute_script(_CUT_OFF) == []


def test_every_text_stands_out_from_its_ground(view: Chrome) -> None:
    contrasts = view.execute_script(_CONTRASTS)
    assert len(contrasts) > 100
    assert [(text, contrast) for text, contrast in contrasts if contrast < 4.5] == []


def test_names_in_drawings_do_not_overlap(view: Chrome) -> None:
    assert view.execute_script(_OVERLAPS) == []


def test_dark_is_dark_and_print_is_light(browser: Chrome, page: Path) -> None:
    grounds = {}
    for media, scheme in (("screen", "light"), ("screen", "dark"), ("print", "dark")):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        browser.get(page.as_uri())
        grounds[media, scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert grounds["screen", "light"] == "rgb(252, 251, 249)"
    assert grounds["screen", "dark"] == "rgb(21, 24, 28)"
    assert grounds["print", "dark"] == "rgb(255, 255, 255)"


def test_page_prints(browser: Chrome, page: Path) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": []})
    browser.get(page.as_uri())
    printed = base64.b64decode(browser.print_page())
    assert printed.startswith(b"%PDF")
    assert 2 <= printed.count(b"/Type /Page\n") + printed.count(b"/Type /Page ") <= 30
