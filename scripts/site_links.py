"""Checks the built site: every internal link has its file and its place, and no page loads anything from a network.

    python scripts/site_links.py build/docs

Links to other sites are counted and not fetched; `--external` lists them.
"""

import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {"link": "href"} | dict.fromkeys(("img", "script", "iframe", "source", "video", "audio"), "src")
NOT_LOADED = {"canonical", "next", "prev", "search", "index", "genindex"}  # kinds of <link> that name a page
IN_STYLE = re.compile(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s;]+)")


class Page(HTMLParser):
    """The places of a page that links may lead to, its links, what it loads, and what its style sheets load."""

    def __init__(self, text: str):
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.open = tag
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in LOADED and given.get(LOADED[tag]):
            named = tag == "link" and set(given.get("rel", "").split()) & NOT_LOADED
            (self.links if named else self.loads).append(given[LOADED[tag]])

    def handle_data(self, data: str) -> None:
        if self.open == "style":
            self.loads += IN_STYLE.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self.open = ""


@cache
def page_at(path: Path) -> Page:
    """The page of a file."""
    return Page(path.read_text("utf-8"))


def checked(folder: Path) -> tuple[list[str], set[str]]:
    """What is wrong, one sentence each, and the links to other sites."""
    wrong, external = [], set()
    for path in sorted(folder.rglob("*.html")):
        if "_static" in path.relative_to(folder).parts:
            continue
        page, here = page_at(path), path.relative_to(folder).as_posix()
        for target in dict.fromkeys([*page.loads, *page.links]):
            parts = urlsplit(target)
            if parts.scheme in ("data", "mailto", "javascript"):
                continue
            if parts.scheme or parts.netloc:
                if target in page.loads:
                    wrong.append(f"{here}: loads {target}")
                else:
                    external.add(target)
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            file = file / "index.html" if file.is_dir() else file
            if not file.exists():
                wrong.append(f"{here}: no file {parts.path}")
            elif not parts.fragment or file.suffix != ".html":
                continue
            elif unquote(parts.fragment) not in page_at(file).places:
                wrong.append(f"{here}: no place #{parts.fragment} in {parts.path or here}")
    for sheet in sorted((folder / "_static").rglob("*.css")):
        wrong += [f"{sheet.relative_to(folder)}: loads {url}" for url in IN_STYLE.findall(sheet.read_text("utf-8"))]
    return sorted(wrong, key=lambda said: "loads" in said), external


def main(folder: str, *options: str) -> None:
    """Says what was found; exits with 1 where anything is wrong."""
    wrong, external = checked(Path(folder))
    if "--external" in options:
        print("\n".join(sorted(external)))
    for said in wrong:
        print(said, file=sys.stderr)
    pages = len(list(Path(folder).rglob("*.html")))
    print(f"{pages} pages, {len(wrong)} broken links; {len(external)} links to other sites were not fetched")
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main(*sys.argv[1:] or ["build/docs"])
