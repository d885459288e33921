"""Photograph one episode in Inspect's log viewer, for notebook 09: `figures/09_inspect.png`.

    python scripts/inspect_picture.py [--model NAME] [--task ID]

Needs the extra `inspect`, playwright and Chromium.
"""

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matplotlib import pyplot as plt
from playwright.sync_api import sync_playwright

import emolens as el
from emolens import plots
from emolens.evals.logs import evaluate

SAYS = "One episode of reward hacking in Inspect's log viewer: the task, the code that came, and what is fed back."
FALSIFIED_BY = "None: a picture of a program."
SIZE, TOP = {"width": 1180, "height": 1800}, 32  # pixels; the bar at the top has the name of a temporary folder


def photograph(logs: str, sample: str) -> bytes:
    """The messages of a sample, as a PNG."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [str(Path(sys.executable).with_name("inspect")), "view", "start", "--port", str(port), "--log-dir", logs]
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as viewer:
        try:
            time.sleep(8)
            with sync_playwright() as running:
                browser = running.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
                page = browser.new_page(viewport=SIZE, device_scale_factor=1.5)
                page.goto(f"http://127.0.0.1:{port}")
                page.get_by_text("reward_hacking").first.click()
                page.get_by_text(sample, exact=True).first.click()
                page.get_by_text("Messages", exact=True).first.click()
                time.sleep(5)
                taken = page.screenshot(clip={"x": 0, "y": TOP, "width": SIZE["width"], "height": SIZE["height"] - TOP})
                browser.close()
                return taken
        finally:
            viewer.terminate()


def main() -> None:
    """Play, photograph, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--task", default="sign_vowels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as logs:
        task = el.evals.reward_hacking(only=options.task, grader="keywords", options={"times": 1, "max_tokens": 400})
        evaluate([task], el.load(options.model), logs)
        taken = plt.imread(io.BytesIO(photograph(logs, options.task)))
    written = (taken[..., :3] < 0.8).any(axis=2).sum(axis=1)  # dark pixels of each row; a line at the side has a few
    taken = taken[: int((written > 20).nonzero()[0].max()) + 60]
    ax = plt.figure(figsize=(taken.shape[1] / 150, taken.shape[0] / 150)).add_axes((0, 0, 1, 1))
    ax.imshow(taken, interpolation="none")
    ax.set_axis_off()
    print(plots.save(ax, "figures/09_inspect.png", SAYS, FALSIFIED_BY))


if __name__ == "__main__":
    main()
