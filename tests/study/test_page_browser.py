"""The page of `report` in a real Chromium: at two widths, in light and dark, with its script and without.

    python -m pytest tests/study/test_page_browser.py -m slow
    PAGE_SHOTS=shots python -m pytest tests/study/test_page_browser.py -m slow      # keeps the screenshots there

A small server gives the page to a frame of the wanted width, and a script beside the frame looks into it. Skipped where
there is no `chromium` (Debian: apt-get install chromium).
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from html import unescape
from pathlib import Path

import pytest
from planted_comparison import Plan, pair, plant

from src.study.page import write_report

pytestmark = pytest.mark.slow
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
WIDTHS, SCHEMES = (400, 1200), ("light", "dark")
FRAME = """<!DOCTYPE html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" src="report.html" style="border:0;width:WIDTHpx;height:HEIGHTpx"></iframe><pre id="out" hidden></pre>
<script>
const frame = document.getElementById("page");
const light = (c) => {
  const part = c.map((v) => (v /= 255, v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
};
const channels = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
function paper(element, view) {
  for (let e = element; e; e = e.parentElement) {
    const c = channels(view.getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3);
  }
  return [255, 255, 255];
}
function contrasts(doc, view) {
  const worst = {};
  const walk = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || e.closest("script,style,title,desc,[hidden],.skip,.hidden")) continue;
    const style = view.getComputedStyle(e);
    const ink = channels(e instanceof view.SVGElement ? style.fill : style.color).slice(0, 3);
    const key = `${e.tagName} ${e.getAttribute("class") || ""}`;
    worst[key] = Math.min(worst[key] ?? 99, ratio(ink, paper(e, view)));
  }
  return worst;
}
function marks(doc, view) {
  const worst = {};
  for (const e of doc.querySelectorAll("svg .line, svg .pt")) {
    const style = view.getComputedStyle(e);
    const ink = channels(e.classList.contains("pt") ? style.fill : style.stroke).slice(0, 3);
    const key = e.getAttribute("class");
    worst[key] = Math.min(worst[key] ?? 99, ratio(ink, paper(e, view)));
  }
  return worst;
}
frame.addEventListener("load", () => {
  const doc = frame.contentDocument, view = frame.contentWindow, root = doc.documentElement;
  const closed = root.scrollWidth - root.clientWidth;
  for (const part of doc.querySelectorAll("details")) part.open = true;
  const table = doc.querySelector("#terms table"), heads = [...table.tHead.rows[0].cells];
  const n = heads.findIndex((head) => head.textContent.startsWith("decoding state"));
  const states = () => [...table.tBodies[0].rows].map((row) => row.cells[n].textContent);
  const before = states();
  const button = heads[n].querySelector("button");
  if (button) { button.click(); }
  const once = states(), sorted = heads[n].getAttribute("aria-sort");
  if (button) { button.click(); }
  const mark = doc.querySelector("svg .pt[data-tip]");
  if (mark) mark.dispatchEvent(new view.PointerEvent("pointerenter", { clientX: 30, clientY: 30 }));
  const tip = doc.getElementById("tip");
  const out = {
    width: root.clientWidth, overflow: [closed, root.scrollWidth - root.clientWidth],
    wide: [...doc.querySelectorAll("body *")].filter((e) => !e.closest(".scroll,.skip,.hidden,svg") &&
      e.getBoundingClientRect().right > root.clientWidth + 1).map((e) => e.outerHTML.slice(0, 90)).slice(0, 5),
    missing: [...doc.querySelectorAll("a[href]")].map((a) => a.getAttribute("href"))
      .filter((h) => !doc.querySelector(h)),
    requests: view.performance.getEntriesByType("resource").map((e) => e.name),
    paper: view.getComputedStyle(doc.body).backgroundColor,
    contrasts: contrasts(doc, view), marks: marks(doc, view),
    before, once, twice: states(), sorted, tip: tip.hidden ? "" : tip.textContent,
    said: mark ? mark.dataset.tip : "", titles: doc.querySelectorAll("figure path > title").length,
    small: Math.min(...[...doc.querySelectorAll("figure svg text")].map((t) => t.getBoundingClientRect().height)),
  };
  document.getElementById("out").textContent = JSON.stringify(out);
});
</script></body>"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, folder, requests) of a server that has the page of a planted comparison and a frame per width."""
    if not CHROMIUM:
        pytest.skip("no chromium: apt-get install chromium")
    home = tmp_path_factory.mktemp("browser")
    models = {"transformer": (0.99, 0.98, 0.97), "deltanet": (0.5, 0.6, 0.7), "deltanet --neg_eigen": (0.9, 0.95, 0.96)}
    models |= {f"model_{i} --with_a_long_flag {i}": (0.1 * i, 0.11 * i, 0.12 * i) for i in range(6)}
    scores = {(task, m): v for task in ("parity", "word_problem --group S3") for m, v in models.items()}
    pairs = [pair("parity", "transformer", m, -0.2, "worse" if i else "no verdict") for i, m in enumerate(models)]
    hole = {"task": "parity", "model": "deltanet", "setting": "", "seed": 14, "role": "report", "why": "killed " * 20}
    failed = [{"name": "gradients", "status": status, "note": "n " * 60} for status in ("fail", "skipped")]
    checks = {"deltanet": {"verdict": "fail", "results": failed}}
    states = {model: 2 ** (17 - i) for i, model in enumerate(models)}
    plant(home / "S", Plan(scores, (11, 12, 13), pairs, [hole], checks, at_edge="yes", states=states))
    write_report([home / "S"], str(home / "report.html"))
    for width in WIDTHS:
        text = FRAME.replace("WIDTH", str(width)).replace("HEIGHT", "16000" if width == 400 else "9000")
        (home / f"frame-{width}.html").write_text(text, encoding="utf-8")
    asked = []

    class Server(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=home))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", home, asked
    server.shutdown()


def chromium(*words: str, scheme: str = "light"):
    """Run a headless Chromium that can reach nothing but this machine."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=10000"]
    flags += [f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"]
    return subprocess.run([CHROMIUM, *flags, *words], capture_output=True, text=True, timeout=120, check=True)


def look(address: str, scheme: str) -> dict:
    """What the script of a frame found, and what the browser logged."""
    done = chromium("--window-size=1300,1000", "--dump-dom", address, scheme=scheme)
    found = re.search(r'<pre id="out" hidden="">(.*?)</pre>', done.stdout, flags=re.S)
    return {**json.loads(unescape(found[1])), "log": done.stderr}


@pytest.fixture(scope="module", params=[(w, s) for w in WIDTHS for s in SCHEMES], ids=lambda p: f"{p[0]}-{p[1]}")
def seen(request, served):
    """What the script found in the page at a width and in a colour scheme, and what the browser logged."""
    width, scheme = request.param
    return {**look(f"{served[0]}/frame-{width}.html", scheme), "scheme": scheme, "asked": width}


def test_nothing_is_wider_than_the_page(seen):
    assert seen["width"] == seen["asked"]
    assert seen["overflow"] == [0, 0]
    assert seen["wide"] == []


def test_the_console_is_silent_and_nothing_is_requested(seen, served):
    assert "CONSOLE" not in seen["log"]
    assert seen["requests"] == []
    assert set(served[2]) <= {
        "/report.html",
        "/favicon.ico",
        *(f"/frame-{w}.html" for w in WIDTHS),
    }


def test_every_link_leads_to_a_place_in_the_page(seen):
    assert seen["missing"] == []


def test_text_and_drawings_have_enough_contrast(seen):
    """WCAG 2.2 AA: 4.5 for text, 3 for graphics."""
    assert seen["paper"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[seen["scheme"]]
    assert len(seen["contrasts"]) > 15
    assert {k: v for k, v in seen["contrasts"].items() if v < 4.5} == {}
    assert len(seen["marks"]) > 8
    assert {k: v for k, v in seen["marks"].items() if v < 3} == {}


def test_tables_sort_and_points_tell_their_values(seen):
    size = {"KiB": 1024, "B": 1}
    numbers = [
        [float(t.split("\u00a0")[0]) * size[t.split("\u00a0")[1]] for t in seen[k]] for k in ("before", "once", "twice")
    ]
    assert numbers[0] != sorted(numbers[0])
    assert numbers[1] == sorted(numbers[0])
    assert numbers[2] == sorted(numbers[0], reverse=True)
    assert seen["sorted"] == "ascending"
    assert seen["tip"] == seen["said"] != ""
    assert seen["titles"] == 0


def test_letters_of_drawings_are_large_enough(seen):
    """The height of a line of 12 px text is about 14 px; at any width it stays above 11."""
    assert seen["small"] >= 11


def test_a_page_with_faults_would_be_found(served):
    address, home, _ = served
    faults = '<p style="width:3000px;color:#ccc">x</p><img src="x.png"><a href="#nowhere">x</a><script>none()</script>'
    text = (home / "report.html").read_text(encoding="utf-8").replace("</main>", f"{faults}</main>")
    (home / "faults.html").write_text(re.sub(r"<meta http-equiv.*?>", "", text), encoding="utf-8")
    frame = (home / "frame-400.html").read_text(encoding="utf-8").replace("report.html", "faults.html")
    (home / "frame-faults.html").write_text(frame, encoding="utf-8")
    found = look(f"{address}/frame-faults.html", "light")
    assert min(found["overflow"]) > 300
    assert len(found["wide"]) == 1
    assert found["missing"] == ["#nowhere"]
    assert found["requests"] == [f"{address}/x.png"]
    assert "CONSOLE" in found["log"]
    assert found["contrasts"]["P "] < 2


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_screenshot_shows_a_full_page(served, tmp_path, width, scheme):
    address, _, _ = served
    folder = Path(os.environ.get("PAGE_SHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    path = (folder / f"page-{width}-{scheme}.png").resolve()
    chromium(
        f"--window-size={max(width, 500)},4000", f"--screenshot={path}", f"{address}/frame-{width}.html", scheme=scheme
    )
    assert path.stat().st_size > 50_000


def test_the_page_prints(served, tmp_path):
    path = tmp_path / "page.pdf"
    chromium("--no-pdf-header-footer", f"--print-to-pdf={path}", f"{served[0]}/report.html", scheme="dark")
    data = path.read_bytes()
    assert data.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 40
