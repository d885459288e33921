"""Sentences whose valence human raters judged, fetched once from the source archive of the package vaderSentiment."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import Path

from emolens.errors import did_you_mean
from emolens.fetch import Package, download, ensure, say
from emolens.files import cache_dir

RECIPE = 1  # raise it when what is kept of the archive changes
PACKAGE = Package(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
KINDS = {
    "films": "movieReviewSnippets_GroundTruth.txt",
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "editorials": "nytEditorialSnippets_GroundTruth.txt",
}


@dataclass(frozen=True)
class RatedDocument:
    """A sentence or a few, and the mean of what 20 people said of its valence, from -4 to 4.

    >>> RatedDocument("Bright, quick and kind.", 2.5).valence
    2.5
    """

    text: str
    valence: float


def rated_documents(kind: str, n: int | None = None, seed: int = 0) -> tuple[RatedDocument, ...]:
    """Sentences that 20 people rated from -4 (most negative) to 4 (Hutto and Gilbert 2014; MIT licence).

    "films" are 10,605 snippets of film reviews, "products" 3,708 of product reviews, "editorials" 5,190 of
    newspaper editorials. The first call fetches 2.5 MB with pip, later calls read the user's cache folder.
    Nothing of the archive is run.

    >>> rated_documents("filmz")
    Traceback (most recent call last):
    ValueError: no rated documents 'filmz' (did you mean films?); there are films, products, editorials

    Args:
        n: how many, drawn without replacement, in the order drawn (so that those of a smaller n come first);
            default all, in the order of the file.

    Raises:
        ValueError: another kind, or more than there are.
        RuntimeError: not cached, and not to be had from here.

    >>> rated_documents("film")
    Traceback (most recent call last):
    ValueError: no rated documents 'film' (did you mean films?); there are films, products, editorials
    """
    if kind not in KINDS:
        raise ValueError(f"no rated documents {kind!r}{did_you_mean(kind, KINDS)}; there are {', '.join(KINDS)}")
    folder = cache_dir() / "texts" / "hutto-icwsm-2014"

    def make(downloads: Path, partial: Path) -> None:
        say(f"fetching rated documents (MIT licence, 2.5 MB: {PACKAGE.project} {PACKAGE.version}) to {folder} (once)")
        download("the set of rated documents", [PACKAGE], folder, downloads, source=True)
        (archive,) = downloads.glob("*.tar.gz")
        _extract(archive, partial)

    ensure(folder, {"recipe": RECIPE, "archive": PACKAGE.sha256}, make, disk=100_000_000)
    lines = (folder / f"{kind}.txt").read_bytes().decode().rstrip("\r\n").split("\r\n")
    rows = [line.split("\t", 2) for line in lines]
    documents = [RatedDocument(text, float(valence)) for _, valence, text in rows]
    if n is None:
        return tuple(documents)
    if not 0 <= n <= len(documents):
        raise ValueError(f"n={n}, but there are {len(documents):,} rated documents of the kind {kind!r}")

    from numpy.random import default_rng  # not at the top: reading a corpus needs no numpy

    return tuple(documents[row] for row in default_rng(seed).permutation(len(documents))[:n])


def _extract(archive: Path, folder: Path) -> None:
    """Write the three lists, which are in an archive inside `archive`, to `folder`."""
    with tarfile.open(archive) as outer, tarfile.open(fileobj=outer.extractfile(PACKAGE.member)) as inner:
        for kind, name in KINDS.items():
            member = inner.extractfile(f"hutto_ICWSM_2014/{name}")
            assert member is not None
            (folder / f"{kind}.txt").write_bytes(member.read())
