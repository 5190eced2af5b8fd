"""A hook of mkdocs: equations become MathML, which browsers draw by themselves, without a script or a font to fetch."""

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(page_html: str, **_: object) -> str:
    """Replace what `pymdownx.arithmatex` has marked as TeX."""
    page_html = _BLOCK.sub(lambda found: convert(html.unescape(found[1]).strip(), display="block"), page_html)
    return _INLINE.sub(lambda found: convert(html.unescape(found[1]).strip()), page_html)
