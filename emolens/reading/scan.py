"""Scan a stream of documents, of any length, for the passages in which each emotion is strongest."""

import hashlib
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from emolens.engines.engine import Engine, Step, each
from emolens.errors import did_you_mean
from emolens.files import check_place
from emolens.models.batching import pad, plan, ranks, whole
from emolens.models.encoding import Tokens, tokens_of
from emolens.models.model import HookedModel
from emolens.reading.document_stream import Piece, Source, Window, split
from emolens.reading.document_stream import documents as documents
from emolens.reading.scan_result import Hit as Hit
from emolens.reading.scan_result import Scan, join, merge
from emolens.vectors.emotion_vectors import EmotionVectors, check_method, unit
from emolens.vectors.story_means import READ_FROM_RANK

log = logging.getLogger(__name__)

SAVE_SECONDS = 30
AHEAD = 256  # windows that are read and given to an engine at a time
PLACES = ("tokens", "document")
CENTRES = ("stories", "neutral")


class _Projector:
    """Scores activations as `read.score` does, on their device."""

    def __init__(self, vectors: EmotionVectors, layer: int, method: str, centre: str, device: torch.device) -> None:
        self.layer, self.method, self.named, self.whitened = layer, method, centre, method == "whitened"
        at = vectors.at(layer)  # what goes to an actor carries no stories along
        self.given = at.with_noise() if self.whitened else replace(at, noise_source=None)
        self._move(self.given, device)

    def _move(self, vectors: EmotionVectors, device: torch.device) -> None:
        tensors = {f.name: getattr(vectors, f.name) for f in fields(vectors)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items() if isinstance(value, Tensor)}
        self.vectors = replace(vectors, **moved)
        self.centre = (self.vectors.centre_stories if self.named == "stories" else self.vectors.centre_neutral)[0]
        directions = self.vectors.vectors(self.layer, self.method)
        self.matrix = (directions if self.whitened else unit(directions)).T.contiguous()

    def __call__(self, x: Float[Tensor, "item d_model"]) -> Float[Tensor, "item emotion"]:
        if x.device != self.matrix.device:  # the block that is read may be on another device than the tokens
            self._move(self.vectors, x.device)
        y = x.float() - self.centre
        if self.whitened:
            return y @ self.matrix / self.vectors.whitened_norm(y, self.layer).clamp(min=1e-12)[:, None]
        return unit(y) @ self.matrix


def _run(
    model: HookedModel,
    pieces: list[Piece],
    layer: int,
    token_budget: int,
    reduce: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    advance: Callable[[int], Any],
) -> tuple[Tensor, Tensor]:
    """`reduce(block outputs, which tokens are scored)` of all pieces, in their order, computed inside the hook."""
    model.require_one_row("scan")
    parts: list[tuple[Tensor, Tensor]] = []
    order: list[int] = []
    scored = torch.empty(0)

    def hook(resid: Tensor, hook: Any) -> None:
        first, second = reduce(resid.detach(), scored.to(resid.device))
        parts.append((first.cpu(), second.cpu()))

    # The hooks are installed anew for each window, so that a generator of documents may use the model as well.
    with model.stopping(layer, [((layer, "resid_post"), hook)]) as run:
        for rows in plan([len(piece.ids) for piece in pieces], token_budget):
            batch = pad([pieces[row].ids for row in rows], "right", model.pad_token_id).to(model.device)
            first = torch.tensor([pieces[row].first for row in rows], device=model.device)
            scored = ranks(batch.mask) >= first[:, None]
            run(batch)
            order += rows
            # A later piece begins with tokens that an earlier one had too.
            advance(sum(len(pieces[row].ids) - (pieces[row].first if pieces[row].shift else 0) for row in rows))
    back = torch.tensor(order).argsort()
    return torch.cat([part[0] for part in parts])[back], torch.cat([part[1] for part in parts])[back]


def _best_tokens(
    resid: Float[Tensor, "batch pos d_model"], scored: Tensor, project: _Projector
) -> tuple[Float[Tensor, "batch emotion"], Int[Tensor, "batch emotion"]]:
    """The highest score among the tokens that are scored, and the first token that has it."""
    scores = torch.full((*scored.shape, project.matrix.shape[1]), -torch.inf, device=resid.device)
    scores[scored] = project(resid[scored])
    best = scores.max(dim=1)
    return best.values, best.indices


def _sums(
    resid: Float[Tensor, "batch pos d_model"], scored: Tensor
) -> tuple[Float[Tensor, "batch d_model"], Int[Tensor, "batch"]]:
    return resid.float().masked_fill(~scored[..., None], 0).sum(dim=1), scored.sum(dim=1)


def _score(
    model: HookedModel, pieces: list[Piece], n: int, project: _Projector, at: str, token_budget: int, advance: Any
) -> tuple[Float[Tensor, "document emotion"], Int[Tensor, "document emotion"]]:
    """Scores of the n documents of a window and the ranks of their best tokens (-1 where all tokens count)."""
    row = torch.tensor([piece.row for piece in pieces])
    if at == "document":
        sums, counts = _run(model, pieces, project.layer, token_budget, _sums, advance)
        total = torch.zeros(n, model.d_model).index_add_(0, row, sums)
        count = torch.zeros(n).index_add_(0, row, counts.float())
        scores = project((total / count[:, None]).to(model.device)).cpu()
        return scores, torch.full(scores.shape, -1)
    best = lambda resid, scored: _best_tokens(resid, scored, project)  # noqa: E731
    values, places = _run(model, pieces, project.layer, token_budget, best, advance)
    scores = torch.full((n, values.shape[1]), -torch.inf)
    where = torch.full(scores.shape, -1)
    for number, piece in enumerate(pieces):
        better = values[number] > scores[piece.row]
        scores[piece.row] = torch.where(better, values[number], scores[piece.row])
        where[piece.row] = torch.where(better, places[number] + piece.shift, where[piece.row])
    return scores, where


def _tokens(model: HookedModel, window: Window) -> list[Tokens]:
    """The tokens of each document of a window; an error says which document it was."""
    try:
        tokens = tokens_of(model.tokenizer, window.texts)
    except ValueError as error:
        row, _, why = str(error).removeprefix("text ").partition(": ")
        raise ValueError(f"document {window.numbers[int(row)]}: {why}" if row.isdigit() else str(error)) from error
    for number, part in zip(window.numbers, tokens, strict=True):
        try:
            model.check_ids(part.ids)
        except ValueError as error:
            raise ValueError(f"document {number}: {error}") from error
    return tokens


def _add(done: Scan, window: Window, model: HookedModel, project: _Projector, advance: Any) -> Scan:
    """`done` with the documents of one more window; it stays as it is, should this be interrupted."""
    options, bos = done.settings, model.tokenizer.bos_token_id
    pieces: list[Piece] = []
    skipped, hits, lengths = window.skipped, done.hits, []
    if window.texts:
        tokens = _tokens(model, window)
        lengths = [len(part.ids) for part in tokens]
        for row, part in enumerate(tokens):
            if len(part.ids) > 1:
                pieces += split(row, part.ids, options["context"], options["overlap"], bos)
            else:
                skipped += 1
    if pieces:
        scores, where = _score(model, pieces, len(lengths), project, options["at"], options["token_budget"], advance)
        whole = scores.isfinite().all(dim=1)
        for row in sorted({piece.row for piece in pieces}):
            if not whole[row]:
                log.warning(
                    "document %d is skipped: its activations are no finite numbers (block %d)",
                    window.numbers[row],
                    project.layer,
                )
                skipped += 1
        scores[~whole] = -torch.inf
        hits = merge(hits, scores, where, window, tokens, options["k"])
    return replace(
        done,
        hits=hits,
        documents=done.documents + window.taken,
        tokens=done.tokens + sum(lengths),
        split=done.split + len({piece.row for piece in pieces if piece.shift}),
        skipped=done.skipped + skipped,
    )


@dataclass(frozen=True)
class Scanning:
    """How documents are scored and cut.

    Attributes:
        layer, method, centre: as in `read`; the centre "set" would need all documents at once.
        at: "tokens", or "document" for the mean over a document from rank 10 (or 1) on.
        overlap: tokens that the pieces of a document longer than the context share, for context only.
        context: longest piece in tokens, default the model's context; a smaller one needs less memory.
        token_budget: tokens of a batch, padding counted.

    >>> Scanning(at="document").method
    'cosine'
    """

    layer: int | None = None
    method: str = "cosine"
    centre: str = "stories"
    at: str = "tokens"
    overlap: int = 64
    context: int | None = None
    token_budget: int = 2048


def scan(
    model: HookedModel,
    vectors: EmotionVectors,
    documents: Any,
    *,
    k: int = 20,
    path: str | Path | None = None,
    engine: Engine | None = None,
    progress: bool = True,
    **scanning: Any,
) -> Scan:
    """The k passages of a stream of documents in which each emotion is strongest (paper, section 3).

    Scores are those of `read`. A document counts once for an emotion, with its best token from rank 10 on
    (rank 1 when it has fewer than 20: the first tokens are an attention sink). At most 256 documents are
    held at a time, so that memory does not grow with their number.

    Args:
        documents: any iterable, or a Path (see `emolens.reading.document_stream.documents`). An item is a string, UTF-8
            bytes, a conversation, token ids, a mapping with "text" and perhaps "name" (a row of a streamed data set),
            or a Path.
        path: file that keeps what is done, written every half minute and when the scan ends or is
            interrupted. The same call with the same documents goes on from there; with further ones behind
            them it scans those. Under steering or hooks of your own it is neither read nor written, with a warning.
        engine: who scores them: this process, or `el.engines.Ray(...)`, to which 256 times as many documents are given
            at a time. The result is the same, and so is the state in `path`: either goes on with it.
        scanning: of `Scanning`: layer, method, centre, at, overlap, context, token_budget.

    Raises:
        ValueError: vectors of another model; an unknown place, method, centre or layer; an item that is no
            text, by its number; a state of another model, of other settings or of other documents, or a damaged one,
            named.
        OSError: `path` can't be written, which is tried first; when the disk is full later on, the error's `scan`
            is the result so far.

    Example:
        >>> found = el.scan(model, vectors, ["she ran !", "he was very calm ."], k=1, progress=False)
        >>> found
        Scan(2 documents, 0 of them split and 0 skipped; 8 tokens in 0 s; 6 emotions)
    """
    vectors.check_model(model)
    how = Scanning(**scanning)
    layer = vectors.default_layer if how.layer is None else model.check_layer(how.layer)
    context = min(model.n_ctx, model.n_ctx if how.context is None else how.context)
    options: dict[str, Any] = {"layer": layer, "method": check_method(how.method), "centre": how.centre, "at": how.at}
    options |= {"k": k, "context": context, "overlap": how.overlap, "token_budget": how.token_budget}
    _check(options)
    project = _Projector(vectors, layer, options["method"], how.centre, model.device)
    if path is not None and not model.is_plain:
        path = None
        warnings.warn("hooks or a steering are in force: what is scanned under them is kept in no file", stacklevel=2)
    fingerprint = model.take_fingerprint()
    about = {"model": model.name, "fingerprint": fingerprint, "dtype": str(model.dtype).removeprefix("torch.")}
    done = Scan(about | {"vectors": _digest(project.vectors)} | options, {name: () for name in vectors.emotions})
    source, empty = Source(documents), done
    if path is not None and check_place(path).exists():
        done = _go_on(path, done)
        source.skip(done.documents, done.digest, path)
    saved = time.monotonic()
    with tqdm(unit="token", unit_scale=True, desc="scanning", initial=done.tokens, disable=not progress) as bar:
        try:
            started = time.perf_counter()
            for add in _additions(model, project, empty, source, engine, bar.update):
                more = add(done)
                now = time.perf_counter()
                done, started = replace(more, seconds=done.seconds + now - started), now
                bar.set_postfix(documents=f"{done.documents:,}", refresh=False)
                if path is not None and time.monotonic() - saved > SAVE_SECONDS:
                    _save(done, path)
                    saved = time.monotonic()
            return done
        finally:
            if path is not None:
                _save(done, path)


def _additions(
    model: HookedModel, project: _Projector, empty: Scan, source: Source, engine: Engine | None, advance: Any
) -> Iterator[Callable[[Scan], Scan]]:
    """What adds each window to a scan, in the order of the windows."""
    if engine is None:
        while (window := source.window()) is not None:
            digest = source.digest.hexdigest()
            yield partial(_added, window=window, digest=digest, model=model, project=project, advance=advance)
        return
    error: Exception | None = None
    while error is None:
        windows: dict[str, tuple[Window, str]] = {}
        try:
            while len(windows) < AHEAD and (window := source.window()) is not None:
                name = f"documents {source.taken - window.taken} to {source.taken - 1}"
                windows[name] = window, source.digest.hexdigest()
        except Exception as found:  # in a document: those before it are scanned first
            error = found
        if not windows:
            break
        waiting, ready = list(windows), {}
        start = partial(_scanner, vectors=project.given, empty=empty)
        for name, part in each(engine, model, start, {name: window for name, (window, _) in windows.items()}):
            ready[name] = part
            advance(part.tokens)
            while waiting and waiting[0] in ready:
                name = waiting.pop(0)
                part, digest = ready.pop(name), windows[name][1]
                yield partial(join, part=part, digest=digest)
    if error is not None:
        raise error


def _added(done: Scan, window: Window, digest: str, model: HookedModel, project: _Projector, advance: Any) -> Scan:
    """`done` and one more window, `digest` being that of all documents up to its end."""
    return replace(_add(done, window, model, project, advance), digest=digest)


def _scanner(model: HookedModel, vectors: EmotionVectors, empty: Scan) -> Step:
    """Scans one window by itself."""
    options = empty.settings
    project = _Projector(vectors, options["layer"], options["method"], options["centre"], model.device)
    return lambda window: _add(empty, window, model, project, lambda tokens: None)


def _save(done: Scan, path: str | Path) -> None:
    """Write the state. Raises OSError, with the result so far as its `scan`."""
    try:
        done.save(path)
    except OSError as error:
        error.scan = done  # type: ignore[attr-defined]
        error.add_note("The result so far is in this error's attribute `scan`: error.scan.save(another_path) keeps it.")
        raise


def _check(options: dict[str, Any]) -> None:
    for name, known in (("at", PLACES), ("centre", CENTRES)):
        if (value := options[name]) not in known:
            raise ValueError(f"{name}={value!r} is none of {', '.join(known)}{did_you_mean(str(value), known)}")
    if isinstance(options["k"], bool) or options["k"] < 1:
        raise ValueError(f"k={options['k']}: at least one passage for each emotion")
    for name in ("token_budget", "context", "overlap"):
        whole(name, options[name])
    if not READ_FROM_RANK <= options["overlap"] <= options["context"] - 2:
        raise ValueError(
            f"overlap={options['overlap']} does not go with a context of {options['context']} tokens: at least "
            f"{READ_FROM_RANK}, as the first ones of a piece are not scored, and at most {options['context'] - 2}"
        )


def _digest(vectors: EmotionVectors) -> str:
    """16 hex digits over vectors of one layer and their stamp."""
    digest = hashlib.sha256(json.dumps([vectors.emotions, vectors.layers, vectors.stamp], default=str).encode())
    for f in fields(vectors):
        if isinstance(value := getattr(vectors, f.name), Tensor):
            digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _go_on(path: str | Path, new: Scan) -> Scan:
    """The scan in `path`, if it is of the same model and settings."""
    old = Scan.load(path)
    differing = [key for key, value in new.settings.items() if old.settings.get(key) != value]
    if "layer" in differing:
        differing.remove("vectors")  # they are compared at one layer
    if differing:
        said = "; ".join(f"{key} {old.settings.get(key)!r} there, {new.settings[key]!r} here" for key in differing)
        raise ValueError(f"{path} is the state of another scan ({said}): give another path or the same settings")
    return old
