"""HTML and SVG as nested calls; a text becomes markup only by being escaped, so nothing of a run can break the page."""

import html
import re

_VOID = frozenset({"meta"})
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Markup(str):
    """A text that is HTML already."""

    __slots__ = ()


def element(name: str, /, *children: str | None, **attributes: str | float | None) -> Markup:
    """Write one element.

    Args:
        name: The element's name.
        children: What it holds, in order: markup as it is, any other text escaped, `None` left out.
        attributes: Its attributes, `None` left out. `class_` is written `class`, `aria_label` is written `aria-label`.

    Returns:
        The element with everything in it.
    """
    written = "".join(f' {_name(key)}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*parts: str | None) -> Markup:
    """Put parts one after another: markup as it is, any other text escaped, `None` left out."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts if part is not None))


def escape(text: str) -> Markup:
    """Escape a text for use between tags or in an attribute; what no HTML file can hold becomes U+FFFD."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", text)))


def _name(keyword: str) -> str:
    return keyword.removesuffix("_").replace("_", "-")
