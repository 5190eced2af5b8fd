"""That nothing is missing from the documentation, and what its hooks make of a page. Links are checked by its build."""

import importlib.util
from pathlib import Path

import pytest

from case_lightning.baselines import METHODS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(path.parent.name for path in (ROOT / "case_lightning").glob("*/__init__.py"))
VERBS = sorted(
    path.stem for path in (ROOT / "case_lightning").glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)


def load_hook(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "building" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_has_a_reference_page(package):
    page = (ROOT / "docs" / "reference" / f"{package}.md").read_text(encoding="utf-8")
    assert f"::: case_lightning.{package}\n" in page


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_is_on_its_page(verb):
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    assert f"## {verb}\n\n::: case_lightning.{verb}\n" in page


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_a_comparison_is_listed(method):
    assert f"\n| `{method}` | " in (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")


def test_equations_become_mathml_of_what_was_escaped():
    page = r'<p>if <span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[ \sum_n x_n \]</div>'
    made = load_hook("equations").on_page_content(page)
    assert made.count("<math") == 2
    assert made.count('display="block"') == 1
    assert "<mo>&#x0003C;</mo>" in made
    assert "arithmatex" not in made
    assert made.startswith("<p>if <math")


def test_text_without_equations_stays():
    page = "<p>costs $5 and <code>$x$</code></p>"
    assert load_hook("equations").on_page_content(page) == page
