"""Tables, legends and lists of facts as HTML."""

from collections.abc import Sequence

from case_lightning.reporting.markup import Markup, element


def data_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Write a table whose first column names the rows; it scrolls by itself where it is too wide for the page.

    Args:
        caption: What the table holds.
        heads: The name of each column.
        rows: The cells, row by row, as many in each as there are columns.
    """
    head = element("tr", *(element("th", text, scope="col") for text in heads))
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", cell) for cell in rest))
        for first, *rest in rows
    ]
    table = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def legend(entries: Sequence[tuple[Markup, str]]) -> Markup:
    """Write a legend: swatches, each with what it stands for."""
    return element("ul", *(element("li", swatch, text) for swatch, text in entries), class_="legend")


def area_swatch(style: str) -> Markup:
    """Draw the swatch of an area, given its class in the style sheet."""
    return element("span", class_=f"swatch {style}", aria_hidden="true")


def line_swatch(style: str) -> Markup:
    """Draw the swatch of a line, given its class in the style sheet."""
    path = element("path", d="M0 4H32")
    return element("svg", path, viewBox="0 0 32 8", class_=f"line {style}", aria_hidden="true")


def fact_list(facts: Sequence[tuple[str, str | None]], style: str = "facts") -> Markup:
    """Write a list of named facts; those without a value are left out."""
    pairs = [
        element("div", element("dt", name), element("dd", value, dir="auto"))
        for name, value in facts
        if value is not None
    ]
    return element("dl", *pairs, class_=style)
