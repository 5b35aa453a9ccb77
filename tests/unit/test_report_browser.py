"""The report's pages in a real browser, at a phone's width and a desk's: nothing overflows, nothing is refused, nothing
that a model wrote runs, every link leads somewhere, and every chart is drawn.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agenttuning.report import report
from helpers.episode_records import HOSTILE
from helpers.finished_run import finished_run
from helpers.paper_run import paper_run

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium and no google-chrome here: make test-packages")
WIDTHS = (360, 1280)
INNER = re.compile("index|tuned-(paper-text-db|paper-vllm-gsm8k|paper-vllm-mt-bench|shop|files)-?1?[.]html")
# Frames of the widths that are tested, so that style rules see them; a browser's own window may be wider than asked.
PROBE = """<!doctype html><title>waits</title><script>
const pages = PAGES, found = [];
async function look(page, width) {
  const frame = document.createElement('iframe');
  frame.style = `width: ${width}px; height: 800px; border: 0`;
  const loaded = new Promise(done => frame.onload = done);
  frame.src = page;
  document.body.append(frame);
  await loaded;
  const inner = frame.contentDocument, root = inner.documentElement;
  const size = chart => chart.getBoundingClientRect();
  const charts = [...inner.querySelectorAll('svg')].filter(chart => !chart.closest('details:not([open])'));
  inner.querySelectorAll('details').forEach(one => one.open = true);
  const wide = [...inner.querySelectorAll('body *')].filter(one => !one.closest('.scroll, svg')
    && size(one).width && size(one).right > width + 1).map(one => one.outerHTML.slice(0, 200));
  found.push({page, width, scroll: root.scrollWidth, title: inner.title, wide: wide.slice(0, 3),
    flat: charts.filter(chart => !(size(chart).width > 1 && size(chart).height > 1)).length, charts: charts.length,
    bars: [...inner.querySelectorAll('svg rect:not(.track)')].filter(bar => size(bar).width > 1).length,
    hollow: inner.querySelectorAll('.hollow').length, links: [...inner.links].map(link => link.href),
    anchors: [...inner.links].filter(link => link.getAttribute('href')[0] === '#'
      && !inner.getElementById(link.getAttribute('href').slice(1))).length});
  frame.remove();
}
onload = async () => {
  for (const page of pages) for (const width of WIDTHS) await look(page, width);
  document.title = 'done';
  document.body.textContent = JSON.stringify(found);
};
</script><body></body>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """What the browser saw of each page and width, and its console."""
    root = tmp_path_factory.mktemp("pages")
    report(finished_run(root / "tiny"))
    report(paper_run(root / "paper", sides=("base", "tuned", "released"), most=7, text=HOSTILE))
    inner = [path for path in sorted(root.glob("*/report/*.html")) if INNER.search(path.name)]
    pages = [path.relative_to(root).as_posix() for path in [*sorted(root.glob("*/report.html")), *inner]]
    probe = PROBE.replace("PAGES", json.dumps(pages)).replace("WIDTHS", json.dumps(WIDTHS))
    (root / "probe.html").write_text(probe, encoding="utf-8")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1300,900"]
    command = [CHROMIUM, *options, "--virtual-time-budget=60000", "--dump-dom", f"{address}/probe.html"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=180, check=True)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    dom = done.stdout.decode()
    assert "<title>done</title>" in dom, dom[:2000]
    told = json.loads(html.unescape(re.search(r"<body>(.*)</body>", dom, re.S)[1]))
    assert len(told) == len(pages) * len(WIDTHS) and len(pages) == 13
    return root, address, told, done.stderr.decode(errors="replace")


def test_nothing_is_wider_than_the_window(seen) -> None:
    for one in seen[2]:
        assert one["scroll"] <= one["width"] and not one["wide"], one


def test_the_browser_refuses_nothing_and_runs_nothing(seen) -> None:
    _, _, told, console = seen
    lines = [line for line in console.splitlines() if "CONSOLE" in line and "favicon" not in line]
    assert lines == []
    assert all("pwned" not in one["title"] and one["title"] for one in told)


def test_every_link_leads_to_a_file_or_a_place_on_the_page(seen) -> None:
    root, address, told, _ = seen
    links = {link.partition("#")[0] for one in told for link in one["links"]}
    assert len(links) > 20
    for link in links:
        assert link.startswith(f"{address}/") and (root / link.removeprefix(f"{address}/")).is_file(), link
    assert sum(one["anchors"] for one in told) == 0


def test_every_chart_is_drawn_and_what_was_not_run_is_hollow(seen) -> None:
    by_page = {(one["page"], one["width"]): one for one in seen[2]}
    for width in WIDTHS:
        tiny, paper = (by_page[f"{name}/report.html", width] for name in ("tiny", "paper"))
        assert tiny["charts"] >= 9 and paper["charts"] >= 80 and tiny["flat"] == paper["flat"] == 0
        assert tiny["bars"] > 9 and paper["bars"] > 40
        assert (tiny["hollow"], paper["hollow"]) == (0, 12)  # six held-out tasks, base and tuned
