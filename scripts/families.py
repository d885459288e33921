"""What works on which family of decoders: checks tiny random models of all of them, writes docs/models.json.

`make families` runs it (a few minutes on one core). Each cell is "works", "slower" (a slower right way is taken) or the
reason for which it is refused.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def main() -> None:
    """Check the families that are named, or all, in every variant."""
    import torch
    from audit import judged
    from families import FAMILIES, variants
    from tiny import tiny_tokenizer

    from emolens.models import support

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="(all)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "models.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    found: dict[str, Any] = {}
    for name in args.names or FAMILIES:
        for family in variants(name):
            rows = found.setdefault(name, {"class": family.model, "variants": {}})["variants"]
            rows[family.variant] = judged(family, tiny_tokenizer())
            print(name, family.variant, json.dumps(rows[family.variant]), flush=True)
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps({"versions": support.versions(), "families": found}, indent=1) + "\n")
    wrong = [(name, v) for name, rows in found.items() for v, row in rows["variants"].items() if row["wrong"]]
    print(f"{len(found)} families, {sum(len(rows['variants']) for rows in found.values())} variants; wrong: {wrong}")


if __name__ == "__main__":
    main()
