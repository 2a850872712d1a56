"""Every weighting has a page: mathematics, curves, reference, BibTeX; and the site names it."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import pytest

from crossbatch.studies import synthetic_samples
from crossbatch.training import known_weightings

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.synthetic_samples = lambda batches: synthetic_samples(batches=1, memory=64)
    return module


@pytest.mark.parametrize("name", known_weightings())
def test_a_page_is_whole(hooks, name):
    kind = known_weightings()[name]
    page = hooks._page(name, kind)
    assert page.startswith(f"# {name}\n")
    assert page.count("<svg") == 1, "give it defaults, or an example in docs/hooks.py"
    assert f"::: {kind.__module__}.{name}\n" in page
    assert all(f"{{{key}," in page for key in kind.cites)
    assert ":class:" not in page


def test_the_overview_and_the_navigation_name_every_weighting(hooks):
    config = SimpleNamespace(nav=[{"Guide": []}, {hooks.SECTION: ["methods/index.md"]}])
    pages = hooks.on_config(config).nav[1][hooks.SECTION][1:]
    assert [name for page in pages for name in page] == list(known_weightings())
    page = SimpleNamespace(file=SimpleNamespace(src_uri="methods/index.md"))
    text = hooks.on_page_markdown((DOCS / "methods" / "index.md").read_text(), page=page)
    assert text.count("<svg") == 1
    assert "<!--" not in text
    for entry in pages:
        for name, path in entry.items():
            assert f"[{name}]({Path(path).name})" in text


def test_mkdocs_reads_the_section(hooks):
    assert f"  - {hooks.SECTION}:" in (DOCS.parent / "mkdocs.yml").read_text()
