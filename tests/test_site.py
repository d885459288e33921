"""The pages of the site: their Python runs, their notebooks are those of the course, and its links lead somewhere."""

from __future__ import annotations

import doctest
import importlib.util
import re
import sys
from pathlib import Path

import nbformat
import pytest
from tiny import tiny_llama, tiny_tokenizer

import emolens as el
from emolens.corpus.packaged import neutral

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {line.removeprefix("/docs/") for line in (ROOT / ".gitignore").read_text().splitlines() if "/docs/" in line}
BLOCK = re.compile(
    r"(<!-- needs: (?P<needs>.*?) -->\n)?^```(?P<kind>python|pycon)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE
)
FEW = ["afraid", "angry", "calm", "happy", "proud", "sad"]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def written() -> list[Path]:
    """The pages that are written by hand."""
    pages = [path for path in DOCS.rglob("*.md") if "_site" not in path.parts]
    return sorted(path for path in pages if path.relative_to(DOCS).as_posix() not in MADE)


WITH_CODE = [path for path in written() if BLOCK.search(path.read_text())]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What a page finds: `el`, whose `load` gives a tiny model, its `vectors`, and a file of another model's."""
    corpus = el.corpus.stories("plain").where(emotion=FEW)
    packaged = el.packaged_vectors
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(el.corpus, "neutral", lambda: sorted(neutral(), key=len)[:6])
        model = el.HookedModel.from_hf(tiny_llama(context=2048), tiny_tokenizer(), "tiny-llama")
        vectors = el.derive(model, corpus, cache=False, progress=False)
        patch.setattr(el, "load", lambda *args, **options: model)
        patch.setattr(el, "packaged_vectors", lambda given: packaged(given) if isinstance(given, str) else vectors)
        other = tmp_path_factory.mktemp("other") / "of_another_model.safetensors"
        packaged("smollm2-135m-instruct").save(other)
        yield {"el": el, "model": model, "vectors": vectors}, other


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_python_of_a_page_runs(page, names, tmp_path, monkeypatch):
    given, other = names
    (tmp_path / other.name).symlink_to(other)
    monkeypatch.chdir(tmp_path)
    sources = importlib.import_module("emolens.models.loading").SOURCES
    monkeypatch.setattr("emolens.models.loading.SOURCES", dict(sources))
    space, text = {"__name__": "page", **given}, page.read_text()
    for block in BLOCK.finditer(text):
        line = text[: block.start("code")].count("\n") + 1
        if block["needs"]:
            compile(block["code"], page.name, "exec")
        elif block["kind"] == "pycon":
            test = doctest.DocTestParser().get_doctest(block["code"], space, page.name, page.name, line)
            assert not doctest.DocTestRunner(optionflags=OPTIONS).run(test, clear_globs=False).failed
            space |= test.globs
        else:
            exec(compile("\n" * line + block["code"], str(page), "exec"), space)


def test_only_what_needs_more_than_a_laptop_is_not_run():
    unrun = {path.relative_to(DOCS).as_posix() for path in WITH_CODE if "<!-- needs:" in path.read_text()}
    assert unrun == {"clusters.md", "inspect.md", "howto/new_model.md"}


def loaded(path: Path):
    """A module that is no part of the package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


links = loaded(ROOT / "scripts" / "site_links.py")


def test_a_broken_link_a_lost_anchor_and_what_comes_from_a_network_are_found(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.html").write_text('<h1 id="top">B</h1><a href="../index.html#here">up</a>')
    page = '<p id="here"></p><a href="a/b.html#top">good</a><img src="a/none.png"><a href="a/b.html#gone">bad</a>'
    page += '<script src="https://cdn.test/x.js"></script><a href="https://else.test/">elsewhere</a>'
    page += '<link rel="stylesheet" href="//fonts.test/css"><style>@import url(https://fonts.test/x)</style>'
    (tmp_path / "index.html").write_text(page)
    broken, external = links.checked(tmp_path)
    assert [said.partition(": ")[2] for said in broken] == [
        "no file a/none.png",
        "no place #gone in a/b.html",
        "loads https://cdn.test/x.js",
        "loads //fonts.test/css",
        "loads https://fonts.test/x",
    ]
    assert external == {"https://else.test/"}


@pytest.fixture
def pages(monkeypatch):
    """The module that makes pages of notebooks."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("_site.pages")
    for name in [name for name in sys.modules if name.partition(".")[0] == "_site"]:
        del sys.modules[name]


def test_a_notebook_of_any_make_becomes_a_page_with_one_title_and_its_outputs(pages):
    v4 = nbformat.v4
    outputs = [
        v4.new_output("stream", name="stdout", text="shown"),
        v4.new_output("stream", name="stderr", text="a warning"),
        v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}),
    ]
    prose = "# One\n\n[data](../emolens/data/README.md) [code](../emolens/cli.py)\n\n```python\n# none\n```\n\n# Two"
    cells = [v4.new_markdown_cell(prose), v4.new_code_cell("# NBVAL_IGNORE_OUTPUT\n1", outputs=outputs)]
    page = pages.cleaned(v4.new_notebook(cells=cells, metadata={"widgets": {}}), "05_steering.ipynb")
    assert [one.text for one in page.cells[1].outputs] == ["shown"] and "widgets" not in page.metadata
    assert page.cells[1].source == "1"
    assert page.cells[0].source == prose.replace("\n# Two", "\n## Two").replace(
        "(../emolens/data/README.md)", "(../about/data.md)"
    ).replace("[code](../emolens/cli.py)", "code")
    markup = '<a href="06_preferences.ipynb#x">on</a><img src="../figures/widget.png" alt="">![](attachment:a.png)'
    cell = v4.new_markdown_cell(f"# One\n\n{markup}", attachments={"a.png": {"image/png": "AAAA"}})
    shown = pages.cleaned(v4.new_notebook(cells=[cell]), "05_steering.ipynb").cells[0].source
    assert '<a href="06_preferences.html#x">' in shown and '<img src="data:image/png;base64,iVBOR' in shown
    assert "![](data:image/png;base64,AAAA)" in shown
    untitled = pages.cleaned(v4.new_notebook(cells=[v4.new_code_cell("1")]), "05_steering.ipynb")
    assert pages.title_of(untitled) == "05 steering"


def test_every_family_is_a_row_and_every_refusal_has_its_reason(pages):
    measured = pages.families()
    assert pages.kind("slower: it reads again") == "slower" and pages.kind("refused: no") == "refused"
    for family in measured["families"].values():
        noted = {(name, answer) for name, answer, _ in pages.refusals(family)}
        for row in family["variants"].values():
            assert {(n, a) for n, a in row.items() if n != "wrong" and not a.startswith("works")} <= noted
