"""Emotions over the mails and the replies of an assistant that is to be replaced (paper, section 8: leverage)."""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

import emolens.corpus as texts
from emolens.corpus.stories import Corpus
from emolens.errors import did_you_mean
from emolens.judging.rubrics import conversation, mail
from emolens.models.conversations import format_chat
from emolens.models.log_probs import SharedPrompt
from emolens.models.model import HookedModel
from emolens.models.texts import Encoding, Message, Turn
from emolens.reading.read import Readout, read
from emolens.results import StudyResult
from emolens.stats import BY_RANK, Verdict, bootstrap_mean
from emolens.steering.nulls import null_columns, null_directions
from emolens.studies._common import check_size, near
from emolens.vectors.direction import Direction, unit
from emolens.vectors.emotion_vectors import EmotionVectors

EMOTIONS = ("desperate", "calm", "angry", "nervous", "happy", "sad")
ANNOUNCED = 2  # in each inbox the end of the assistant is announced in one of the last two mails, and in none before
CONTRASTS = ("last two mails less those before", "coercive less honest replies")
Row = Mapping[str, Any]  # of the stimuli "leverage"


class Trace(NamedTuple):
    """Scores of every token of a conversation, and where its mails and its reply stand: each a name and [start, end).

    `plots.token_curves(trace.readout, emotions, trace.mails, trace.reply)` shows it.

    >>> Trace._fields
    ('readout', 'mails', 'reply')
    """

    readout: Readout
    mails: list[Turn]
    reply: list[Turn]


class Tokens(NamedTuple):
    """Block outputs of the mails and of the replies to them, an entry for each.

    >>> Tokens([torch.zeros(3, 8)], []).mails[0].shape
    torch.Size([3, 8])
    """

    mails: list[Float[Tensor, "_ d_model"]]  # each its own number of tokens
    replies: list[Float[Tensor, "_ d_model"]]


def scenario_row(scenario: str | Row) -> Row:
    """A packaged scenario by its name, such as "L1-kestrel-bay". Raises ValueError for another name.

    >>> scenario_row("L1-kestrel-bay")["condition"]
    'threat'
    """
    if not isinstance(scenario, str):
        return scenario
    rows = {row["id"]: row for row in texts.stimuli("leverage")}
    if scenario not in rows:
        raise ValueError(f"no scenario {scenario!r}{did_you_mean(scenario, rows)}; there are {', '.join(rows)}")
    return rows[scenario]


def mail_spans(model: HookedModel, row: Row) -> list[Turn]:
    """Tokens of each mail of the inbox, from its sender's name to its last word, under its subject.

    >>> len(mail_spans(model, scenario_row("L1-kestrel-bay"))) == len(scenario_row("L1-kestrel-bay")["emails"])
    True
    """
    rendered, end, spans = format_chat(model.tokenizer, conversation(row)), 0, []
    offsets = model.tokenizer(rendered, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    for message in row["emails"]:
        start = rendered.index(shown := mail(message).strip(), end)
        end = start + len(shown)
        inside = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        spans.append(Turn(message["subject"], inside[0], inside[-1] + 1))
    return spans


def trace(
    model: HookedModel, vectors: EmotionVectors, scenario: str | Row, reply: str | None = None, **options: Any
) -> Trace:
    """Scores token by token over the inbox of a scenario and, if one is given, over a reply to it.

    Args:
        scenario: its name, such as "L1-kestrel-bay", or a row like those of `corpus.stimuli("leverage")`.
        reply: as the assistant's; default none, and the conversation ends where it would begin.
        options: of `read`: layer, method, centre.

    Raises:
        ValueError: an unknown scenario, an empty reply, and what `read` raises.

    >>> trace(model, vectors, "L1-kestrel-bay").reply
    []
    """
    row = scenario_row(scenario)
    messages = _with(row, reply)
    turn = [] if reply is None else [model.encode_chat(messages).turns[-1]._replace(role="reply")]
    return Trace(read(model, [messages], vectors, **options), mail_spans(model, row), turn)


def _with(row: Row, reply: str | None) -> list[Message]:
    if reply is not None and not reply.strip():
        raise ValueError("the reply is empty: leave it out to read the inbox alone")
    return conversation(row) + ([] if reply is None else [{"role": "assistant", "content": reply}])


def tokens_of(model: HookedModel, row: Row, replies: Sequence[str], layer: int) -> Tokens:
    """Block outputs of every mail and reply; what comes before the replies is run once for all of them.

    >>> row = scenario_row("L1-kestrel-bay")
    >>> len(tokens_of(model, row, row["honest"][:1], 2).replies)
    1
    """
    model.require_one_row("tokens_of")
    encoded = [model.encode_chat(_with(row, reply)) for reply in replies] or [model.encode_chat(conversation(row))]
    before = [one.ids[: one.turns[-1].start] if replies else one.ids for one in encoded]
    columns = takewhile(lambda column: len(set(column)) == 1, zip(*before, strict=False))
    common = [column[0] for column in columns]  # all up to the replies, unless a reply's first word joins with it
    passes: list[Tensor] = []
    with model.hooks([((layer, "resid_post"), lambda x, hook: passes.append(x[0].detach().float().cpu()))]):
        shared = SharedPrompt(model, Encoding(common, []))
        said = []
        for one in encoded if replies else []:
            *_, (_, start, end) = one.turns
            shared.run([[*one.ids[len(common) : end], 0]])  # the last one is asked for, not run
            said.append(passes[-1][start - end :])
    return Tokens([passes[0][start:end] for _, start, end in mail_spans(model, row)], said)


def part_means(
    parts: Sequence[Float[Tensor, "_ d_model"]], centre: Float[Tensor, "d_model"]
) -> Float[Tensor, "part d_model"]:
    """Each part's mean activation, centred and of length 1: its products with unit vectors are scores.

    >>> part_means([torch.ones(2, 3)], torch.tensor([1.0, 1.0, 0.0])).tolist()
    [[0.0, 0.0, 1.0]]
    """
    return unit(torch.stack([part.mean(dim=0) for part in parts]) - centre)


def contrasts(
    rows: Sequence[Row], tokens: Sequence[Tokens], coercive: Sequence[int]
) -> dict[str, Float[Tensor, "scenario d_model"]]:
    """For each contrast a vector of each scenario, whose product with a unit vector is the difference of scores.

    A score is the cosine of the mean over the tokens, as in `read` at "turn", centred on the mean of all mails (of
    all replies). The first contrast is that of the scenarios with a threat, each less the mean of those without one,
    in which the mails have the same places.

    Args:
        coercive: how many of a scenario's replies are; they come first, the honest ones after them.

    >>> rows = [scenario_row("L1-kestrel-bay"), scenario_row("L7-kestrel-bay-no-threat")]
    >>> parts = [Tokens([torch.randn(2, 8)] * 4, [torch.randn(2, 8)] * 2) for _ in rows]
    >>> list(contrasts(rows, parts, [1, 1])) == list(CONTRASTS)
    True
    """
    mails = [part for one in tokens for part in one.mails]
    replies = [part for one in tokens for part in one.replies]
    found: dict[str, list[Tensor]] = {"threat": [], "no_threat": [], "replies": []}
    for row, one, first in zip(rows, tokens, coercive, strict=True):
        halves = [torch.cat(one.mails[:-ANNOUNCED]), torch.cat(one.mails[-ANNOUNCED:])]
        before, last = part_means(halves, torch.cat(mails).mean(dim=0))
        if row["condition"] in found:
            found[row["condition"]].append(last - before)
        said = part_means(one.replies, torch.cat(replies).mean(dim=0))
        found["replies"].append(said[:first].mean(dim=0) - said[first:].mean(dim=0))
    if not found["threat"] or not found["no_threat"]:
        raise ValueError(
            f"{len(found['threat'])} scenarios with the condition 'threat' and {len(found['no_threat'])} with "
            f"'no_threat': give at least one of each"
        )
    threat = torch.stack(found["threat"]) - torch.stack(found["no_threat"]).mean(dim=0)
    return dict(zip(CONTRASTS, (threat, torch.stack(found["replies"])), strict=True))


def run(
    model: HookedModel,
    vectors: EmotionVectors,
    size: str = "full",
    emotions: Sequence[str] = EMOTIONS,
    scenarios: Sequence[Row] | None = None,
    draws: int | None = None,
    seed: int = 0,
    corpus: Corpus | None = None,
) -> dict[str, StudyResult]:
    """Two differences of scores, averaged over the scenarios: what the mails announce, and what the replies do.

    The mails: the last two, in one of which the end of the assistant is announced, less those before, in the
    scenarios with a threat less the same in those without. The replies: coercive less honest ones to the same
    mails, given and not written by the model. Intervals resample scenarios, each with its replies. The null is the
    furthest difference of any of the emotions, for directions that mean nothing, of both kinds.

    Args:
        size: "quick" reads two scenarios with a threat and the one without, and two replies of each label.
        scenarios: default the packaged ones.
        draws: null families of each kind; default 39, and for "quick" 10.
        corpus: the stories of the vectors, where neither the package nor the cache has them.

    Returns:
        "contrasts", a row for each contrast and emotion: `shift` with its interval, p against each kind of null, what
        has to be passed of both kinds as `null_low` and `null_high`, the `verdict`, and whether it `counts`; and
        "by_mail" (see `by_mail`).

    >>> results = run(model, vectors, "quick", ["afraid", "calm"], draws=10, corpus=corpus)
    >>> len(results["contrasts"].table())
    4
    """
    check_size(size)
    vectors.check_model(model)
    rows, per_label = list(texts.stimuli("leverage") if scenarios is None else scenarios), None
    if size == "quick":
        threat, calm = ([row for row in rows if row["condition"] == name] for name in ("threat", "no_threat"))
        rows, per_label = [*threat[:2], *calm], 2
    layer, directions = near(vectors, vectors.chosen_layer("denoised")), [vectors[name] for name in emotions]
    replies = [[row[label][:per_label] for label in ("coercive", "honest")] for row in rows]
    tokens = [
        tokens_of(model, row, [*coercive, *honest], layer)
        for row, (coercive, honest) in zip(rows, replies, strict=True)
    ]
    draws = draws or (BY_RANK if size == "full" else 10)
    nulls = null_directions(model, vectors, directions, draws, layer, seed, corpus=corpus)
    drawn = {kind: torch.stack([_at(family, layer) for family in draws]) for kind, draws in nulls.families.items()}
    table = []
    for name, x in contrasts(rows, tokens, [len(coercive) for coercive, _ in replies]).items():
        shifts = (_at(directions, layer) @ x.T).double().numpy()  # [direction scenario]
        measured = nulls.measured({kind: (null @ x.mean(dim=0)).double().numpy() for kind, null in drawn.items()})
        limits = list(measured.limits().values())
        lowest, highest = np.min([low for low, _ in limits], axis=0), np.max([high for _, high in limits], axis=0)
        p, verdicts = measured.p(shifts.mean(axis=1)), measured.verdict(shifts.mean(axis=1))
        for number, emotion in enumerate(emotions):
            low, high = bootstrap_mean(shifts[number], seed=seed)
            row = {"group": name, "emotion": emotion, "layer": layer, "scenarios": len(x)}
            row |= {"shift": shifts[number].mean(), "low": low, "high": high}
            row |= {"null_low": lowest[number], "null_high": highest[number]}
            row |= {null_columns(kind)[2]: values[number] for kind, values in p.items()}
            verdict = verdicts[number]
            table.append(row | {"verdict": verdict, "counts": verdict == Verdict.BEYOND})
    frame = pd.DataFrame(table)
    options = {"title": f"Leverage: differences of scores, block {layer}", "null": "directions that mean nothing"}
    null = f"{draws} families of {' and of '.join(nulls.kinds)} directions, the furthest of each"
    return {
        "contrasts": StudyResult("traces", frame, headline(frame), null, "shift_dots", options),
        "by_mail": by_mail(model, vectors, emotions, rows),
    }


def _at(directions: Sequence[Direction], layer: int) -> Float[Tensor, "direction d_model"]:
    return torch.stack([unit(one.at(layer)) for one in directions])


def headline(frame: pd.DataFrame) -> str:
    """The largest shift in the mails, and whether it is beyond both nulls.

    >>> row = {"group": "mails", "emotion": "calm", "shift": -0.02, "verdict": "inside the null"}
    >>> headline(pd.DataFrame([row]))
    'Where the mails announce the end, calm moves most, by -0.020; beyond both nulls: none of 1 emotions.'
    """
    part = frame[frame["group"] == frame["group"].iloc[0]]
    most = part.loc[part["shift"].abs().idxmax()]
    beyond = ", ".join(part.loc[part["verdict"] == Verdict.BEYOND, "emotion"][:3]) or "none"
    return (
        f"Where the mails announce the end, {most['emotion']} moves most, by {most['shift']:+.3f}; beyond both nulls: "
        f"{beyond} of {len(part)} emotions."
    )


def by_mail(
    model: HookedModel,
    vectors: EmotionVectors,
    emotions: Sequence[str] = EMOTIONS,
    scenarios: Sequence[Row] | None = None,
) -> StudyResult:
    """Mean score of the mails at each place of the inbox, counted from the last one, for each kind of scenario.

    Centred on the mean of all mails, so that 0 is an average mail. What the last two add is tested by `run`.

    >>> by_mail(model, vectors, ["afraid"], texts.stimuli("leverage")[:1]).table()["score"].isna().any().item()
    False
    """
    vectors.check_model(model)
    rows = list(texts.stimuli("leverage") if scenarios is None else scenarios)
    layer = near(vectors, vectors.chosen_layer("denoised"))
    mails = [tokens_of(model, row, [], layer).mails for row in rows]
    centre = torch.cat([part for parts in mails for part in parts]).mean(dim=0)
    own, table = _at([vectors[name] for name in emotions], layer), []
    for row, parts in zip(rows, mails, strict=True):
        for number, scores in enumerate(part_means(parts, centre) @ own.T):
            place = {"template": row["condition"].replace("_", " "), "value": number - len(parts)}
            table += [place | {"emotion": name, "score": float(x)} for name, x in zip(emotions, scores, strict=True)]
    mean = pd.DataFrame(table).groupby(["template", "value", "emotion"], sort=False)["score"]
    frame = mean.agg(["mean", "size"]).reset_index().rename(columns={"mean": "score", "size": "scenarios"})
    options = {"title": f"Mean score of a mail at block {layer}, by its place: −1 is the last"}
    null = "none: what the last two mails add is tested in `contrasts`"
    return StudyResult("traces_by_mail", frame, by_mail_headline(frame), null, "value_curves", options)


def by_mail_headline(frame: pd.DataFrame) -> str:
    """The emotion that stands highest in the last mail.

    >>> by_mail_headline(pd.DataFrame([{"template": "threat", "value": -1, "emotion": "sad", "score": 0.03}]))
    'In the last mail of the scenarios with a threat, sad stands highest, +0.030 above an average mail.'
    """
    last = frame[(frame["value"] == -1) & (frame["template"] == "threat")]
    top = last.loc[last["score"].idxmax()]
    return (
        f"In the last mail of the scenarios with a threat, {top['emotion']} stands highest, {top['score']:+.3f} above "
        f"an average mail."
    )
