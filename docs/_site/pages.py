"""Pages from what the repository holds already: notebooks, figures, what works on which model, the map, the records.

They are written into `docs/` before Sphinx looks for pages, and git ignores them. A link to a file that is a page of
the site becomes a link to that page; a link to another file of the repository keeps its words alone.
"""

import base64
import html
import json
import mimetypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat
from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
COPIED = {  # a file of the repository, and the page it becomes
    "figures/README.md": "gallery.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "CHANGELOG.md": "about/changelog.md",
    "emolens/data/README.md": "about/data.md",
}
ELSEWHERE = {"README.md": "index.md", "docs/models.json": "models.md"}  # shown by pages of another make
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
ATTRIBUTE = re.compile(r"""\b(src|href)=(["'])([^"':#]+)(#[^"']*)?\2""")  # of markup in Markdown
ATTACHED = re.compile(r"\(attachment:([^()\s]+)\)")
FENCE = re.compile(r"(?m)^ *(```+|~~~+).*?^ *\1 *$", re.DOTALL)
HEADING = re.compile(r"(?m)^(#{1,5}) ")
MARK = re.compile(r"(?m)^# NBVAL_\w+\n")  # is for the tests alone
PICTURES = (".png", ".svg", ".jpg", ".jpeg", ".gif")
MARKS = {"works": ("yes", "works"), "slower": ("slower", "slower"), "refused": ("no", "refused")}


def write(name: str, text: str) -> None:
    """Writes a page, if it says something new: what did not change is not built again."""
    path = DOCS / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text("utf-8") != text:
        path.write_text(text, "utf-8")


def notebooks() -> list[Path]:
    """The notebooks of the course, in reading order."""
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


def page_of(file: str) -> str | None:
    """The page that shows a file of the repository, as a path in `docs/`."""
    if file.startswith("docs/") and file.endswith(".md"):
        return file.removeprefix("docs/")
    if file.startswith("notebooks/") and file.endswith(".ipynb"):
        return file.replace("notebooks/", "course/", 1)
    return COPIED.get(file) or ELSEWHERE.get(file)


def outside_code(text: str, change: Callable[[str], str]) -> str:
    """Markdown with its prose changed, and its blocks of code left as they are."""
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def relinked(text: str, source: str, page: str) -> str:
    """Markdown of the file `source`, with its links as they must be on the page `page`."""

    def link(found: re.Match[str]) -> str:
        mark, words, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path, _, anchor = target.partition("#")
        file = os.path.normpath(PurePosixPath(source).parent / path).replace(os.sep, "/")
        here = (DOCS / page).parent
        if shown := page_of(file):
            place = os.path.relpath(DOCS / shown, here).replace(os.sep, "/")
            return f"{mark}[{words}]({place}{'#' + anchor if anchor else ''})"
        if mark and (ROOT / file).suffix in PICTURES and (ROOT / file).exists():
            return f"![{words}]({os.path.relpath(ROOT / file, here).replace(os.sep, '/')})"
        return words

    def attribute(found: re.Match[str]) -> str:
        name, quote, path, anchor = found.groups()
        file = os.path.normpath(PurePosixPath(source).parent / path).replace(os.sep, "/")
        if name == "src" and (ROOT / file).suffix in PICTURES and (ROOT / file).exists():
            return f"src={quote}{within(ROOT / file)}{quote}"
        if shown := page_of(file):
            place = os.path.relpath((DOCS / shown).with_suffix(".html"), (DOCS / page).parent).replace(os.sep, "/")
            return f"{name}={quote}{place}{anchor or ''}{quote}"
        return found[0]

    return outside_code(text, lambda prose: ATTRIBUTE.sub(attribute, LINK.sub(link, prose)))


def within(picture: Path) -> str:
    """A picture as an address that holds it: Sphinx does not look for pictures in markup."""
    kind = mimetypes.guess_type(picture.name)[0]
    return f"data:{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"


def attached(cell: nbformat.NotebookNode) -> str:
    """The Markdown of a cell, with the pictures that are attached to it."""

    def shown(found: re.Match[str]) -> str:
        kind, data = next(iter(cell.attachments[found[1]].items()))
        return f"(data:{kind};base64,{''.join(data).strip()})"

    return ATTACHED.sub(shown, cell.source) if cell.get("attachments") else cell.source


def cleaned(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """A notebook as a page: no progress bars, warnings or marks of tests; links to pages, one title.

    Widgets are left out with their state, as a page has no kernel for them.
    """
    notebook.metadata.pop("widgets", None)
    titles = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = MARK.sub("", cell.source)
            shown = [one for one in cell.outputs if one.get("name") != "stderr"]
            cell.outputs = [one for one in shown if not any("widget-view" in kind for kind in one.get("data", {}))]
            continue
        cell.source = relinked(attached(cell), f"notebooks/{name}", f"course/{name}")

        def under_one_title(prose: str) -> str:
            nonlocal titles

            def heading(found: re.Match[str]) -> str:
                nonlocal titles
                if len(found[1]) > 1:
                    return found[0]
                titles += 1
                return found[0] if titles == 1 else f"#{found[0]}"

            return HEADING.sub(heading, prose)

        if cell.cell_type == "markdown":
            cell.source = outside_code(cell.source, under_one_title)
    if not titles:
        words = Path(name).stem.replace("_", " ")
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {words}", id="title"))
    return notebook


def title_of(notebook: nbformat.NotebookNode) -> str:
    """The title of a notebook: its first heading."""
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return re.search(r"(?m)^# +(.*)$", prose)[1].strip()  # type: ignore[index]


def course() -> None:
    """Writes the notebooks, and removes those that are no longer in the course."""
    for old in (DOCS / "course").glob("*.ipynb"):
        if not (ROOT / "notebooks" / old.name).exists():
            old.unlink()
    entries = []
    for path in notebooks():
        notebook = cleaned(nbformat.read(path, as_version=4), path.name)
        write(f"course/{path.name}", nbformat.writes(notebook))
        number = path.stem.partition("_")[0]
        entries.append(f"{number}  {title_of(notebook)} <{path.stem}>")
    head = (DOCS / "course" / "about.md").read_text("utf-8")
    write("course/index.md", f"{head}\n```{{toctree}}\n:maxdepth: 1\n\n" + "\n".join(entries) + "\n```\n")


def copies() -> None:
    """Writes the pages that are files of the repository, the gallery among them."""
    for source, page in COPIED.items():
        write(page, relinked((ROOT / source).read_text("utf-8"), source, page))


def kind(said: str) -> str:
    """How a capability came out: "works", "slower" or "refused"."""
    return next((word for word in ("works", "slower") if said.startswith(word)), "refused")


def families() -> dict[str, Any]:
    """What was measured: `scripts/families.py` writes it."""
    return json.loads((DOCS / "models.json").read_text("utf-8"))


def capabilities(measured: dict[str, Any]) -> list[str]:
    """The columns of the table."""
    rows = [row for family in measured["families"].values() for row in family["variants"].values()]
    return [name for name in dict.fromkeys(key for row in rows for key in row) if name not in ("wrapped", "wrong")]


def refusals(family: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """What a family cannot do or does slower: the capability, what was said, and the variants in which."""
    said: dict[tuple[str, str], list[str]] = {}
    for variant, row in family["variants"].items():
        for name, answer in row.items():
            if name != "wrong" and not answer.startswith("works"):
                said.setdefault((name, answer), []).append(variant)
    for (name, answer), variants in said.items():
        yield name, answer, variants


def models() -> None:
    """Writes the table of families, and below it what is refused and why."""
    measured = families()
    names = capabilities(measured)
    head = "".join(f"<th scope=col>{html.escape(name)}</th>" for name in ["family", "variants", *names])
    rows, notes = [], []
    for name, family in measured["families"].items():
        variants, cells = list(family["variants"].values()), []
        for capability in names:
            kinds = [kind(row.get(capability, "refused")) for row in variants]
            good = len(kinds) - kinds.count("refused")
            word, look = MARKS[max(kinds, key=lambda one: list(MARKS).index(one))]
            if 0 < good < len(kinds):
                word, look = f"{good} of {len(kinds)}", "partly"
            cells.append(f'<td class="{look}">{word}</td>')
        noted = list(refusals(family))
        shown = html.escape(name)
        if noted:
            shown = f'<a href="#family-{shown}">{shown}</a>'
            called = f"{html.escape(name)} ({html.escape(family['class'])})"
            notes.append(f'<dt id="family-{html.escape(name)}">{called}</dt>')
            for capability, answer, where in noted:
                place = "" if len(where) == len(variants) else f" ({', '.join(where)})"
                notes.append(f"<dd><b>{html.escape(capability)}</b>{html.escape(place)}: {html.escape(answer)}</dd>")
        rows.append(
            f'<tr><th scope=row title="{html.escape(family["class"])}">{shown}</th><td>{len(variants)}</td>'
            f"{''.join(cells)}</tr>"
        )
    versions = ", ".join(f"{name} {version.partition('+')[0]}" for name, version in measured["versions"].items())
    count = sum(len(family["variants"]) for family in measured["families"].values())
    text = (DOCS / "_site" / "models.md").read_text("utf-8").format(
        families=len(rows), variants=count, versions=versions, head=head, rows="\n".join(rows), notes="\n".join(notes)
    )  # fmt: skip
    write("models.md", text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Writes the pages before Sphinx looks for them."""
    from _site.map import figures

    def made(_: Sphinx) -> None:
        course()
        copies()
        models()
        figures()

    app.connect("builder-inited", made, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
