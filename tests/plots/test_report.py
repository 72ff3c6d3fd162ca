"""The report of a plan: it holds all it needs, says what it should, and can be read on a phone."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from plots import report
from sim import Plan, plan

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed")


@pytest.fixture(scope="module")
def page(planned: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.write(planned, path)
    return path


class Texts(HTMLParser):
    """The texts of a page in order, pictures aside, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.hidden: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("style", "svg", "title"):
            self.hidden.append(tag)
        self.fetched += [
            f"{tag} {name}={value}" for name, value in attrs if name in ("src", "href") and value
        ]
        assert tag not in ("script", "link", "iframe")

    def handle_endtag(self, tag: str) -> None:
        if self.hidden and self.hidden[-1] == tag:
            self.hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self.hidden and data.strip():
            self.texts.append(" ".join(data.split()))


def read(path: Path) -> Texts:
    texts = Texts()
    texts.feed(path.read_text(encoding="utf-8"))
    return texts


def test_the_answer_stands_first_and_the_command_last(planned: Plan, page: Path) -> None:
    texts = read(page).texts
    assert texts[0] == planned.headline
    assert texts[-1] == f"{planned.question.command} --report report.html"


def test_everything_is_in_the_one_file(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert all(reference.split("=")[1].startswith("#") for reference in read(page).fetched)
    assert not re.search(r"url\((?!#)|@import", text)
    assert text.count("<svg") == 3 and 'name="viewport"' in text and "@media print" in text


def test_where_numbers_come_from_is_said_in_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for kind in ("composed", "given", "drawn"):
        assert f'<span class="kind {kind}">{kind}</span></td>' in text


def test_the_latencies_that_are_bounded_are_explained(planned: Plan) -> None:
    odd = replace(planned.question, slo=("wait_p99 ≤ 5 ms", "attainment ≥ 0.9"), goodput=("tpot ≤ 1 ms",))
    text = report.render(replace(planned, question=odd))
    assert (
        "<dt>wait</dt><dd>Queueing wait (wait). From a request&#39;s arrival until it first ran.</dd>" in text
    )
    assert "<dt>tpot</dt>" in text and "<dt>ttft</dt>" not in text and "<dt>attainment</dt>" not in text


def test_the_same_plan_is_the_same_file(planned: Plan, page: Path) -> None:
    assert report.render(planned) == page.read_text(encoding="utf-8")


def test_texts_of_the_user_are_no_markup(planned: Plan) -> None:
    odd = replace(planned, question=replace(planned.question, trace="<b>&trace"))
    text = report.render(odd)
    assert "<b>" not in text and "&lt;b&gt;&amp;trace" in text


def test_an_unreachable_plan_has_a_report_too(tmp_path: Path) -> None:
    made = plan(
        "fixed:output_tokens=20",
        slo="tpot_median:0.01",
        request_rate=2.0,
        profiles="h200-vicuna-7b",
        num_requests=50,
        max_requests=100,
        max_seeds=3,
        jobs=1,
        curves=True,
        sensitivity=True,
    )
    report.write(made, tmp_path / "no.html")
    texts = read(tmp_path / "no.html").texts
    assert texts[0].startswith("Unreachable") and "Unreachable." in texts


def test_the_highest_rate_has_a_report_too(tmp_path: Path) -> None:
    made = plan(
        "fixed:output_tokens=20",
        slo="e2el_p90:400",
        max_rate=True,
        profiles="h200-vicuna-7b",
        num_requests=100,
        max_requests=100,
        max_seeds=3,
        tolerance=0.2,
        jobs=1,
        curves=True,
        sensitivity=True,
    )
    report.write(made, tmp_path / "rate.html")
    assert (tmp_path / "rate.html").read_text(encoding="utf-8").count("<svg") == 2


def browse(*options: str) -> str:
    assert BROWSER is not None
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout


@needs_browser
def test_a_browser_draws_it(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse("--window-size=390,3000", f"--screenshot={picture}", page.as_uri())
    pixels = imread(picture)[:, :, :3]
    assert pixels.shape[:2] == (3000, 390)
    inked = (pixels < 0.5).any(axis=2).any(axis=1)
    assert inked.mean() > 0.2  # there is something on many of its lines
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50


PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement
  const wide = [...document.querySelectorAll("body *")].filter(
    (e) => e.getBoundingClientRect().right > root.clientWidth + 1)
  parent.postMessage(`${root.scrollWidth} ${root.clientWidth} ${wide.map((e) => e.tagName).join(" ")}`, "*")
})</script></body>"""

FRAME = """<title>nothing heard</title>
<script>addEventListener("message", (heard) => (document.title = "widths " + heard.data))</script>
<iframe src="probe.html" width="{width}" height="900" frameborder="0"></iframe>"""


@needs_browser
@pytest.mark.parametrize("width", [390, 1000])
def test_nothing_is_wider_than_the_screen(width: int, page: Path, tmp_path: Path) -> None:
    """In a frame as wide as a phone: a browser's own window refuses to be so narrow."""
    text = page.read_text(encoding="utf-8")
    (tmp_path / "probe.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width), encoding="utf-8")
    shown = browse("--window-size=1100,1000", "--virtual-time-budget=4000", "--dump-dom", frame.as_uri())
    ((scrolled, visible, wider),) = re.findall(r"<title>widths (\d+) (\d+) (.*?)</title>", shown)
    assert int(visible) == width
    assert int(scrolled) <= width, f"wider than the screen: {wider}"


@needs_browser
def test_it_can_be_printed(page: Path, tmp_path: Path) -> None:
    paper = tmp_path / "page.pdf"
    browse(f"--print-to-pdf={paper}", page.as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF") and len(content) > 20_000
