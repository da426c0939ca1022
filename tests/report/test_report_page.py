"""The report in a real browser: at a desk and on a phone, light and dark, with and without JavaScript."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from skygraft.campaign import Campaign


@pytest.fixture(scope="module")
def address(reported: Campaign) -> str:
    """A report with everything in it."""
    return (reported.layout.root / "report/report.html").as_uri()


@pytest.fixture
def visit(browser: Any, address: str) -> Callable[..., Any]:
    """Open the page, with what it asked for and complained of."""

    def opened(**options: Any) -> Any:
        page = browser.new_page(**options)
        page.asked, page.said = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("console", lambda message: page.said.append(message.text))
        page.goto(address)
        return page

    return opened


SIZES = {"desk": {"viewport": {"width": 1280, "height": 900}},
         "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True}}  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_is_quiet_and_complete(visit: Callable[..., Any], address: str, size: str, scheme: str) -> None:
    page = visit(color_scheme=scheme, **SIZES[size])
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [address]
    width = SIZES[size]["viewport"]["width"]  # type: ignore[index]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("Array.from(document.images).every((i) => i.complete && i.naturalWidth > 20)")
    assert page.locator("img").count() >= 6
    assert page.locator("svg").count() >= 8
    # Nothing reaches over the edge, except what scrolls by itself.
    beyond = page.evaluate(
        """() => Array.from(document.querySelectorAll('main *:not(svg *)'))
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.table'))
        .map((e) => e.tagName + '.' + e.className)"""
    )
    assert beyond == []
    page.close()


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2)."""
    values = [float(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, two: str) -> float:
    a, b = sorted((_luminance(one), _luminance(two)), reverse=True)
    return (a + 0.05) / (b + 0.05)


COLOURS = """(selector) => {
    const element = document.querySelector(selector);
    const paper = getComputedStyle(document.body).backgroundColor;
    return [getComputedStyle(element).color, paper];
}"""
NAMED = """(name) => {
    const probe = document.createElement('i');
    probe.style.color = `var(--${name})`;
    document.body.append(probe);
    return getComputedStyle(probe).color;
}"""


def test_dark_and_light_differ_and_can_be_read(visit: Callable[..., Any]) -> None:
    papers, mean = {}, {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme, **SIZES["desk"])
        for selector in ("p", "figcaption", "a", "h1", "th", "td", ".tile span", ".note", ".kind"):
            text, papers[scheme] = page.evaluate(COLOURS, selector)
            assert _contrast(text, papers[scheme]) >= 4.5, (scheme, selector)
        for name in ("ink", "muted", *(f"series-{i}" for i in range(1, 8)), "bad", "good", "warn"):
            assert _contrast(page.evaluate(NAMED, name), papers[scheme]) >= 4.5, (scheme, name)
        from PIL import Image

        picture = Image.open(io.BytesIO(page.locator("#figure-completeness-mag-r svg").screenshot())).convert("L")
        values = list(picture.tobytes())
        mean[scheme] = sum(values) / len(values)
        # Something is drawn on it.
        assert max(values) - min(values) > 100
        page.close()
    assert papers["light"] != papers["dark"]
    assert mean["light"] > 200 and mean["dark"] < 80


def test_tables_are_sorted_by_a_click_and_by_the_keyboard(visit: Callable[..., Any]) -> None:
    page = visit(**SIZES["desk"])
    table = page.locator("#missed table").first
    heads = table.locator("th").all_text_contents()
    column = next(i for i, text in enumerate(heads) if text.strip() == "fakes")
    cells = table.locator(f"tbody tr td:nth-child({column + 1})")

    def values() -> list[int]:
        return [int(text.replace(",", "")) for text in cells.all_text_contents()]

    before = values()
    assert len(before) >= 3
    button = table.locator("th button").nth(column)
    button.click()
    assert values() == sorted(before)
    assert table.locator("th").nth(column).get_attribute("aria-sort") == "ascending"
    button.focus()
    page.keyboard.press("Enter")
    assert values() == sorted(before, reverse=True)
    table.locator("th button").nth(0).click()
    names = table.locator("tbody tr td:nth-child(1)").all_text_contents()
    assert names == sorted(names)
    page.close()


def test_it_is_whole_without_javascript(browser: Any, address: str) -> None:
    context = browser.new_context(java_script_enabled=False, **SIZES["desk"])
    page = context.new_page()
    page.goto(address)
    assert page.locator("th button").count() == 0
    assert page.locator("table tbody tr").count() > 8
    assert page.locator("#completeness h2").is_visible()
    assert page.get_by_role("img").count() >= 8
    # A table that is folded is opened by the browser itself.
    page.locator("details summary").first.click()
    assert page.locator("details table").first.is_visible()
    context.close()
