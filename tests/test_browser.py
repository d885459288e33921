"""What a browser makes of the pages: hostile text stays text, and no script of it runs."""

from __future__ import annotations

import html
import re
import subprocess

import pytest
import torch
from looking import BROWSER, Page, readout

from emolens import plots

HOSTILE = [
    "<script>document.title='ran'</script>",
    '"><img src=x onerror="document.title=\'ran\'">',
    "</style></title></section><svg onload=document.title='ran'>",
    "' onmouseover=document.title='ran' x='",
    "<!-- <b>",
]


@pytest.fixture
def dump(tmp_path):
    """Write a page, open it, and return its document after scripts had their time, as the browser has it."""
    if BROWSER is None:
        pytest.skip("no browser: neither chromium, chromium-browser nor google-chrome is installed")

    def opened(source: str) -> str:
        (tmp_path / "page.html").write_text(source, encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command = [BROWSER, *options, "--virtual-time-budget=2000", "--dump-dom", (tmp_path / "page.html").as_uri()]
        return subprocess.run(command, capture_output=True, check=True, timeout=120).stdout.decode()

    return opened


def title(source: str) -> str:
    return html.unescape(re.search("<title>(.*?)</title>", source, re.DOTALL)[1])


def test_the_browser_does_run_what_is_not_escaped(dump):
    for markup in HOSTILE[:2]:
        assert title(dump(f'<!doctype html><title>still</title><p title="{markup}">{markup}</p>')) == "ran"


@pytest.mark.parametrize("kind", ["heatmap", "conversation"])
@pytest.mark.parametrize("saved", [True, False], ids=["page", "notebook"])
def test_hostile_text_makes_no_element_and_runs_nothing(dump, tmp_path, kind, saved):
    read = readout(torch.randn(5, 5), HOSTILE, tuple(HOSTILE))
    turns = [(HOSTILE[0], 0, 2), (HOSTILE[2], 3, 5)]
    if kind == "heatmap":
        shown = plots.heatmap(read, title=HOSTILE[2])
    else:
        shown = plots.conversation(read, None, turns, HOSTILE[2])
    if saved:
        source, expected = shown.save(tmp_path / "saved.html").read_text(encoding="utf-8"), HOSTILE[2]
    else:  # a notebook's page has no policy that forbids script: escaping alone must do
        source, expected = f"<!doctype html><title>still</title><body>{shown.markup}</body>", "still"
    found = dump(source)
    assert title(found) == expected
    page, before = Page(found), Page(source)
    optional = ("html", "head", "body")
    kinds = [[tag for tag, _ in one.elements if tag not in optional] for one in (page, before)]
    assert kinds[0] == kinds[1] and not {"script", "img", "svg"} & set(kinds[0])
    assert not [name for _, given in page.elements for name in given if name.startswith("on") or name == "src"]
    texts = [text for text, _ in page.tokens]
    assert all(texts.count(name) == (5 if kind == "heatmap" else 1) for name in HOSTILE)
    assert any(given.get("title", "").startswith(HOSTILE[1]) for _, given in page.tokens)
