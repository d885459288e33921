"""`rated.py` on a source archive made here; the real one in the test marked `model`."""

from __future__ import annotations

import dataclasses
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import emolens as el
from emolens.corpus import rated
from emolens.corpus.rated import RatedDocument, rated_documents
from emolens.files import sha256

ROWS = {
    "films": [(2.5, "Bright, quick and kind."), (-0.6, "Effective but too “tepid”."), (-3.0, "Dreadful.")],
    "products": [(0.0, "It arrived."), (-1.25, "It broke twice.")],
    "editorials": [(0.4, "The park opens on Monday.")],
}


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def write_sdist(folder: Path) -> str:
    """A source archive as the real one is, in small; returns its SHA-256."""
    lists = {
        f"hutto_ICWSM_2014/{rated.KINDS[kind]}": "\r\n".join(
            f"{i}\t{valence}\t{text}" for i, (valence, text) in enumerate(rows)
        ).encode()
        for kind, rows in ROWS.items()
    }
    stem = f"{rated.PACKAGE.project}-{rated.PACKAGE.version}"
    setup = "raise SystemExit('setup.py of the archive was run')\n"
    info = f"Metadata-Version: 2.1\nName: {rated.PACKAGE.project}\nVersion: {rated.PACKAGE.version}\n"
    path = folder / f"{stem}.tar.gz"
    path.write_bytes(
        archive(
            {
                f"{stem}/setup.py": setup.encode(),
                f"{stem}/PKG-INFO": info.encode(),
                rated.PACKAGE.member: archive(lists),
            }
        )
    )
    return sha256(path)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("sdist")
    return write_sdist(folder), folder


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sdist: tuple[str, Path]) -> Iterator[Path]:
    """An empty cache, an index that has the small archive alone, and the check that no leftovers stay."""
    digest, folder = sdist
    monkeypatch.setattr(rated, "PACKAGE", dataclasses.replace(rated.PACKAGE, sha256=digest))
    monkeypatch.setenv("EMOLENS_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    home = tmp_path / "texts" / "hutto-icwsm-2014"
    yield home
    assert not [p for p in home.parent.glob("*") if p.name not in {home.name, f".{home.name}.lock"}]


def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (empty := tmp_path / "no-archives").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(empty))


def test_all_kinds_come_from_one_fetch(
    texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rated_documents("films")
    no_index(monkeypatch, tmp_path)
    for kind, rows in ROWS.items():
        assert el.corpus.rated_documents(kind) == tuple(RatedDocument(text, valence) for valence, text in rows)
    assert capsys.readouterr().err.count("fetching") == 1
    assert {path.name for path in texts.iterdir()} == {"films.txt", "products.txt", "editorials.txt", "emolens.json"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        rated_documents("films")[0].valence = 1.0  # type: ignore[misc]


def test_n_are_drawn_with_the_seed(texts: Path) -> None:
    everything = rated_documents("films")
    draws = {rated_documents("films", 3, seed) for seed in range(20)}
    assert len(draws) > 1 and all(set(draw) == set(everything) for draw in draws)
    assert rated_documents("films", 2, 5) == rated_documents("films", 3, 5)[:2] == rated_documents("films", 2, 5)
    assert rated_documents("films", 0) == ()


def test_bad_arguments(texts: Path) -> None:
    with pytest.raises(ValueError, match=r"no rated documents 'film' \(did you mean films\?\); there are films, prod"):
        rated_documents("film")
    assert not texts.exists()
    for n in (4, -1):
        with pytest.raises(ValueError, match=f"n={n}, but there are 3 rated documents of the kind 'films'"):
            rated_documents("films", n)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: os.truncate(path, 9), lambda path: path.write_text("x")])
def test_a_damaged_cache_is_redone(texts: Path, damage) -> None:
    whole = rated_documents("films")
    damage(texts / "films.txt")
    assert rated_documents("films") == whole


def test_ctrl_c_leaves_nothing(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(archive: Path, folder: Path) -> None:
        (folder / "films.txt").write_bytes(b"1\t0.5\thalf")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rated, "_extract", interrupt)
        rated_documents("films")
    assert not texts.exists()
    assert len(rated_documents("films")) == 3


KILLED = """
import dataclasses, os, signal, sys
from emolens.corpus import rated
rated.PACKAGE = dataclasses.replace(rated.PACKAGE, sha256=sys.argv[1])
def extract(archive, folder):
    (folder / "films.txt").write_bytes(b"1\\t0.5\\thalf")
    os.kill(os.getpid(), signal.SIGKILL)
rated._extract = extract
rated.rated_documents("films")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_fetch_is_not_taken_for_whole(texts: Path, sdist: tuple[str, Path]) -> None:
    process = subprocess.run([sys.executable, "-c", KILLED, sdist[0]])
    assert process.returncode == -signal.SIGKILL
    assert (texts.parent / f".{texts.name}.partial" / "films.txt").exists() and not texts.exists()
    assert len(rated_documents("films")) == 3


def test_offline_names_package_and_folder(texts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    no_index(monkeypatch, tmp_path)
    with pytest.raises(RuntimeError) as caught:
        rated_documents("products")
    assert "vaderSentiment==3.3.2" in str(caught.value) and str(texts) in str(caught.value)


def test_another_archive_is_refused(texts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rated, "PACKAGE", dataclasses.replace(rated.PACKAGE, sha256="0" * 64))
    with pytest.raises(RuntimeError, match=f"Expected sha256 {'0' * 64}"):
        rated_documents("films")


@pytest.mark.model
def test_the_real_documents() -> None:
    found = {kind: rated_documents(kind) for kind in rated.KINDS}
    assert {kind: len(documents) for kind, documents in found.items()} == {
        "films": 10_605,
        "products": 3_708,
        "editorials": 5_190,
    }
    assert found["films"][2] == RatedDocument("Effective but too tepid biopic", -0.6)
    assert found["products"][-1].valence == -2.75
    assert found["products"][-1].text.startswith("it did lock up on me a couple of times, and then it just froze")
    for documents in found.values():
        assert all(-4 <= document.valence <= 4 and document.text.strip() for document in documents)
