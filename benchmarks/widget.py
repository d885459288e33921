"""How far the widget's page falls behind what it is sent: steps through the page in Chromium, without a kernel.

    python benchmarks/widget.py [--steps 400] [--rates 20 100 400] [--out FILE]

A page with `widget.js` is sent two rows of synthetic steps of six emotions, in messages of the steps that are due, as
the kernel sends them. *Lag* is the time from a step's message to the end of the first frame that shows it, as the page
itself measures it; *behind* is how many steps the page had yet to draw at most.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

import side_by_side
from playwright.sync_api import sync_playwright

import emolens
from emolens.plots.heatmap import BLUE, RED, STRONGEST
from emolens.plots.watching import strokes

HERE = Path(emolens.__file__).parent / "watching"
NAMES = ["desperate", "calm", "hopeful", "afraid", "angry", "proud"]
ABOUT = {
    "model": "synthetic", "how": "", "names": NAMES, "centres": [0.0] * 6, "choices": NAMES, "threshold": None,
    "turns": [], "strokes": strokes(), "red": RED, "blue": BLUE, "strongest": STRONGEST, "largest": 0.2,
}  # fmt: skip
CONTROLS = {
    "prompt": "", "steer": "calm", "strength": 0.1, "side_by_side": True, "chat": True, "colour": "calm",
    "max_new_tokens": 200, "temperature": 0.8, "seed": 0,
}  # fmt: skip
SEND = """async ([about, controls, steps, rate]) => {
  const widget = await import("/widget.js");
  const heard = {};
  const model = {
    get: (name) => ({ about, controls })[name], set() {}, save_changes() {}, send() {}, off() {},
    on: (name, hear) => { heard[name] = hear; },
  };
  const place = document.querySelector("main");
  place.replaceChildren();
  widget.default.render({ model, el: place });
  const hear = heard["msg:custom"];
  hear({ kind: "begin", rows: ["steered", "unsteered"], limit: steps / 2, running: true, said: "", error: "" });
  const root = place.firstChild;
  const sent = [], lags = [];
  let behind = 0;
  const begun = performance.now();
  const due = () => Math.min(steps, Math.floor(((performance.now() - begun) / 1000) * rate));
  const step = (number) => ({
    row: number % 2, rank: 10 + Math.floor(number / 2), piece: " word", log_prob: -1, heights: null, alarms: [],
    scores: about.names.map((_, column) => Math.sin(number / 7 + column) / 5),
  });
  const timer = setInterval(() => {
    const from = sent.length;
    const now = Array.from({ length: due() - from }, (_, number) => step(from + number));
    for (const _ of now) sent.push(performance.now());
    if (now.length) hear({ kind: "steps", from, steps: now });
    behind = Math.max(behind, sent.length - lags.length);
  }, 20);
  await new Promise((done) => {
    const look = () => {
      const shown = Number(root.dataset.drawn || 0);
      const painted = new MessageChannel();  // its message comes when the frame is painted
      painted.port1.onmessage = () => {
        while (lags.length < shown) lags.push(performance.now() - sent[lags.length]);
        if (lags.length >= steps) { clearInterval(timer); done(); } else requestAnimationFrame(look);
      };
      painted.port2.postMessage(0);
    };
    requestAnimationFrame(look);
  });
  lags.sort((a, b) => a - b);
  return { largest: lags.at(-1), median: lags[lags.length >> 1], behind, seconds: (performance.now() - begun) / 1000 };
}"""


def measured(steps: int, rates: list[int]) -> list[dict[str, Any]]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    page_text = f"<!doctype html><style>{(HERE / 'widget.css').read_text()}</style><main></main>"
    out = []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1000, "height": 1200})
        script = {"body": (HERE / "widget.js").read_text(), "content_type": "text/javascript"}
        page.route("http://widget.test/", lambda route: route.fulfill(body=page_text, content_type="text/html"))
        page.route("http://widget.test/widget.js", lambda route: route.fulfill(**script))
        page.goto("http://widget.test/")
        for rate in rates:
            lag = page.evaluate(SEND, [ABOUT, CONTROLS, steps, rate])
            out.append(
                {
                    "steps": steps,
                    "steps_per_second": rate,
                    "largest_lag_ms": round(lag["largest"], 1),
                    "median_lag_ms": round(lag["median"], 1),
                    "most_behind": lag["behind"],
                    "seconds": round(lag["seconds"], 2),
                }
            )
        browser.close()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rates", type=int, nargs="+", default=[20, 100, 400])
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = measured(given.steps, given.rates)
    side_by_side.report({"rows": rows}, given.out)


if __name__ == "__main__":
    main()
