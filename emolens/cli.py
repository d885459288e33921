"""The command line: `emolens derive | read | nearest | lens | models | check | studies | run | demo`.

Only the standard library is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emolens.models.model import HookedModel
    from emolens.vectors.emotion_vectors import EmotionVectors

MODEL = "smollm2-135m-instruct"
MEASURED = "the studies that were finished are written; the same command goes on from there"
RESUMES = "what was finished is kept in the cache; the same command goes on from there"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, 2 after an error, 130 after Ctrl-C.

    >>> main(["nearest", "calm", "--top", "1"])
    peaceful  +0.6467
    0
    """
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print(f"\nemolens: interrupted; {args.kept}", file=sys.stderr)
        return 130
    except (ValueError, KeyError, OSError, RuntimeError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"emolens: error: {_one_line(error)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    of_model = argparse.ArgumentParser(add_help=False)
    of_model.add_argument(
        "--model", default=MODEL, help=f"one of `emolens models`, a Hugging Face name, a folder, a .gguf ({MODEL})"
    )
    of_vectors = argparse.ArgumentParser(add_help=False)
    of_vectors.add_argument("--vectors", type=Path, metavar="PATH", help="made by `derive` (those of the package)")
    of_vectors.add_argument("--layer", type=int, help="index of the block (two thirds of the depth)")
    of_vectors.add_argument("--top", type=int, default=5, metavar="K", help="how many to show (5)")
    of_vectors.add_argument("--json", action="store_true", help="print JSON")

    parser = argparse.ArgumentParser("emolens", description="Emotion vectors of open-weight language models.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str, *parents: Any, kept: str = "nothing was written") -> Any:
        sub = commands.add_parser(name, help=text, description=text, parents=[*parents, common])
        sub.set_defaults(run=run, kept=kept)
        return sub

    derive = command("derive", _derive, "Derive the emotion vectors of a model.", of_model, kept=RESUMES)
    derive.add_argument("--corpus", type=Path, metavar="PATH", help="stories as JSON Lines (those of the package)")
    derive.add_argument("--out", type=Path, metavar="PATH", help="file to write (MODEL.safetensors, here)")
    derive.add_argument("--layers", type=int, nargs="+", metavar="N", help="indices of blocks (all)")
    derive.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="(bfloat16 where it is native)")
    derive.add_argument("--device", help="cpu, cuda, mps (the best there is)")

    read = command("read", _read, "Score a text on every emotion.", of_model, of_vectors)
    source = read.add_mutually_exclusive_group(required=True)
    source.add_argument("text", nargs="?", metavar="TEXT", help="the text, or - for standard input")
    source.add_argument("--file", type=Path, metavar="PATH", help="read the text from a file")
    read.add_argument("--at", default="document", help="tokens, last or document (document)")
    read.add_argument("--method", default="cosine", help="cosine, raw or whitened (cosine)")
    read.add_argument("--html", type=Path, metavar="OUT", help="also write a token heat map")

    nearest = command("nearest", _nearest, "The emotions nearest to an emotion.", of_model, of_vectors)
    nearest.add_argument("emotion", metavar="EMOTION")
    lens = command("lens", _lens, "The tokens that an emotion's vector pushes up and down.", of_model, of_vectors)
    lens.add_argument("emotions", nargs="*", metavar="EMOTION", help="(all)")
    command("models", _models, "The models that install from the package index.")
    check = command("check", _check, "What works on a model, checked on the model itself (about a minute).")
    check.add_argument("model", nargs="?", default=MODEL, metavar="MODEL", help=f"as for --model ({MODEL})")
    check.add_argument("--out", type=Path, metavar="FILE", help="also write the table as JSON")
    command("studies", _studies, "The studies that there are, with a line each.")
    run = command("run", _run, "Run studies on a model; write their numbers and figures.", of_model, kept=MEASURED)
    run.add_argument("names", nargs="*", metavar="NAME", help="as `emolens studies` prints them (with --all: all)")
    run.add_argument("--all", action="store_true", help="every study, each unless its numbers are there already")
    run.add_argument("--size", choices=("full", "quick"), default="full", help="(full)")
    run.add_argument("--vectors", type=Path, metavar="PATH", help="made by `derive` (derived, or from the cache)")
    run.add_argument(
        "--out", type=Path, default=Path("results"), metavar="FOLDER", help="OUT/MODEL/STUDY.json (results)"
    )
    command("demo", _demo, "Derive, test and draw the vectors of a small model.", kept=RESUMES)
    return parser


def _derive(args: argparse.Namespace) -> None:
    import emolens as el

    corpus = el.Corpus.from_jsonl(args.corpus) if args.corpus else None  # a bad file is found before a long load
    model = el.load(args.model, device=args.device, dtype=args.dtype)
    vectors = el.derive(model, corpus, args.layers)
    out = vectors.save(args.out or f"{Path(args.model).resolve().name}.safetensors")
    print(f"{len(vectors.emotions)} emotions at {len(vectors.layers)} layers of {args.model}: {out}")


def _read(args: argparse.Namespace) -> None:
    import emolens as el

    text = _text(args)
    model, vectors = _load(args)
    readout = el.read(model, text, vectors, layer=args.layer, at=args.at, method=args.method)
    best = readout.scores.topk(min(args.top, len(readout.emotions)))
    items: list[dict[str, Any]] = [
        {"text": label, "scores": {readout.emotions[i]: score for i, score in zip(row, values, strict=True)}}
        for label, row, values in zip(readout.labels, best.indices.tolist(), best.values.tolist(), strict=True)
    ]
    if args.html:
        tokens = readout if args.at == "tokens" else el.read(model, text, vectors, args.layer, method=args.method)
        el.plots.heatmap(tokens, title=f"{args.model}, block {tokens.layer}").save(args.html)
        print(f"heat map: {args.html}", file=sys.stderr)
    if args.json:
        settings = {"model": args.model, "layer": readout.layer, "method": readout.method, "at": readout.at}
        _print_json(settings | {"items": items})
    elif len(items) == 1:
        _print_table((emotion, f"{score:+.4f}") for emotion, score in items[0]["scores"].items())
    else:
        _print_table((repr(item["text"]), *(f"{e} {s:+.3f}" for e, s in item["scores"].items())) for item in items)


def _nearest(args: argparse.Namespace) -> None:
    vectors = _vectors(args)
    found = vectors.nearest(args.emotion, args.top, layer=args.layer)
    if args.json:
        layer = vectors.default_layer if args.layer is None else args.layer
        _print_json({"emotion": args.emotion, "layer": layer, "nearest": dict(found)})
    else:
        _print_table((name, f"{cosine:+.4f}") for name, cosine in found)


def _lens(args: argparse.Namespace) -> None:
    from emolens.vectors.logit_lens import logit_lens

    model, vectors = _load(args)
    rows = logit_lens(model, vectors, args.layer, args.emotions or None, args.top).to_dict("records")
    if args.json:
        _print_json(rows)
    else:
        _print_table([("emotion", "up", "down"), *((r["emotion"], _words(r["up"]), _words(r["down"])) for r in rows)])


def _models(args: argparse.Namespace) -> None:
    from emolens.files import cache_dir
    from emolens.models.embedded import MODELS, RECORD

    rows = [("model", "licence", "weights", "download", "cached", "folder")]
    for model in MODELS.values():
        folder = cache_dir() / "models" / model.name
        cached = "yes" if (folder / RECORD).exists() else "no"
        weights, size = f"{model.quantised}, dequantised", f"{model.megabytes} MB"
        rows.append((model.name, model.licence, weights, size, cached, str(folder)))
    _print_table(rows)


def _check(args: argparse.Namespace) -> None:
    import emolens as el
    from emolens.models import support

    model = el.load(args.model)
    rows = support.described(model)
    _print_table(rows.items())
    if args.out:
        from emolens.files import write_atomic

        about: dict[str, Any] = {"model": model.name, "class": support.architecture(model), "dtype": str(model.dtype)}
        about |= {"versions": support.versions(), "capabilities": rows}
        write_atomic(args.out, (json.dumps(about, indent=1) + "\n").encode())


def _studies(args: argparse.Namespace) -> None:
    from emolens import studies

    _print_table(studies.describe().items())


def _run(args: argparse.Namespace) -> None:
    from emolens import studies

    if args.all == bool(args.names):
        raise ValueError("name at least one study (`emolens studies` prints them), or give --all")
    for name in args.names:
        studies.find(name)  # a wrong name is found before a long load
    import emolens as el
    from emolens.studies._measure import draw, is_measured, measure

    model = el.load(args.model)
    vectors = el.EmotionVectors.load(args.vectors, model) if args.vectors else el.derive(model)
    failed = []
    for name in args.names or studies.names():
        if args.all and is_measured(name, model, vectors, args.out):
            continue
        try:
            path = measure(name, model, vectors, args.out, args.size)
        except (ValueError, KeyError, RuntimeError, ImportError) as error:  # the next one runs all the same
            if args.debug or not args.all:
                raise
            failed.append(name)
            print(f"{name}: failed. {_one_line(error)}", file=sys.stderr)
            continue
        if path is not None:
            print(*([path] if args.all else [path, *draw(path)]), sep="\n")
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed, as said above; what the other studies measured is written")


def _demo(args: argparse.Namespace) -> int | None:
    from emolens.demo import main

    main()
    return 0


def _text(args: argparse.Namespace) -> str:
    if args.file:
        try:
            return args.file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{args.file} is no UTF-8 text ({error})") from error
    return sys.stdin.read() if args.text == "-" else args.text


def _vectors(args: argparse.Namespace, model: HookedModel | None = None) -> EmotionVectors:
    import emolens as el

    if args.top < 1:
        raise ValueError(f"--top {args.top}: at least 1")
    return el.EmotionVectors.load(args.vectors, model) if args.vectors else el.packaged_vectors(model or args.model)


def _load(args: argparse.Namespace) -> tuple[HookedModel, EmotionVectors]:
    import emolens as el

    model = el.load(args.model)
    return model, _vectors(args, model)


def _words(tokens: Iterable[str]) -> str:
    return " ".join(repr(token.strip() or token)[1:-1] for token in tokens)


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2))


def _print_table(rows: Iterable[Sequence[str]]) -> None:
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _one_line(error: Exception) -> str:
    """What went wrong, in one line: a KeyError quotes its message, an OSError hides it behind a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    message = error.args[0] if isinstance(error, KeyError) and error.args else error
    return " ".join(str(message).split()) or type(error).__name__


if __name__ == "__main__":
    sys.exit(main())
