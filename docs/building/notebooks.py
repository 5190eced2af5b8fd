"""A hook of mkdocs: each notebook of `notebooks/` becomes a page, with the outputs that are stored in it."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

_NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add a page and its pictures for each notebook."""
    exporter = MarkdownExporter()
    for path in sorted(_NOTEBOOKS.glob("*.ipynb")):
        body, resources = exporter.from_filename(str(path), {"unique_key": path.stem})
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=body))
        for name, picture in resources["outputs"].items():
            files.append(File.generated(config, f"notebooks/{name}", content=picture))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Links to notebooks lead to their files in the repository, and to their pages here."""
    return re.sub(r"\(\.\./notebooks/(\w+)\.ipynb\)", r"(notebooks/\1.md)", markdown)
