"""How the tests look at pages and figures."""

from __future__ import annotations

import shutil
import socket
from html.parser import HTMLParser
from types import SimpleNamespace

import torch

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img onerror=alert(1) src=http://x.test>',
    "' onclick='x",
    "&lt;b&gt;",
    "\ud800",
]


class Page(HTMLParser):
    """The elements of a page with their attributes, its text without the style sheet, and the text of each span."""

    def __init__(self, markup: str):
        super().__init__()
        self.elements, self.texts, self.tokens, self.open = [], [], [], []
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "br"):  # they have no end
            self.open.append(tag)
        if tag == "span":
            self.tokens.append(["", dict(attrs)])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span":
            self.tokens[-1][0] += data
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    def classes(self):
        return [attributes["class"] for _, attributes in self.tokens]


class Scores(SimpleNamespace):
    """Enough of a `Readout`."""

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, emotion):
        return self.scores[:, self.emotions.index(emotion)]


def readout(scores, emotions, labels=None, **more):
    labels = labels or tuple(f" w{row}" for row in range(len(scores)))
    return Scores(scores=torch.as_tensor(scores), emotions=tuple(emotions), labels=labels, **more)


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    return next(one for one in ax.lines if one.get_label() == label)


def overlapping(texts, renderer):
    boxes = [text.get_window_extent(renderer) for text in texts if text.get_text()]
    return [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def answers(port: int) -> bool:
    with socket.socket() as one:
        one.settimeout(1)
        return one.connect_ex(("127.0.0.1", port)) == 0
