"""The pages: they need nothing else, stay small, show what the document has, and read well in a browser.

What a browser says is asked of Chromium, where it is installed.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_nets
from hypothesis import example, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mcuprune.cli import main
from mcuprune.report import charts, page, prune_page
from mcuprune.report.charts import Curve
from mcuprune.report.width import told_apart

STORED = Path(__file__).parent / "golden" / "demo.json"
CHROMIUM = next((found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None)


def long_chain(nodes: int) -> bytes:
    """A network of so many convolutions, with names as exporters make them."""
    made, weights, tensor = [], [], "x"
    for index in range(nodes):
        name = f"/backbone/features/features.{index}/conv/conv.{index % 3}/Conv_with_a_name_that_exporters_make"
        weights.append(numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), f"{name}.weight"))
        made.append(helper.make_node("Conv", [tensor, f"{name}.weight"], [f"{name}_output_0"], name=name))
        tensor = f"{name}_output_0"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 8, 8]) for name in ("x", tensor)]
    graph = helper.make_graph(made, "net", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found_of(model: bytes, *words: str) -> dict[str, Any]:
    """The document of a prune without training."""
    Path("net.onnx").write_bytes(model)
    fast = ["--no-train", "--float", "-o", "out.onnx", "--report", "r", "-q"]
    assert main(["prune", "net.onnx", *words, *fast]) == 0
    found: dict[str, Any] = json.loads(Path("r/report.json").read_text())
    return found


def trained() -> dict[str, Any]:
    """A stored document of a run that trained, with what later ones have."""
    found: dict[str, Any] = json.loads(STORED.read_text())
    counts = [[40 if row == column else int(column == (row + 1) % 10) for column in range(10)] for row in range(10)]
    counted = {"targets": [41] * 10, "named": [41] * 10, "right": [40] * 10, "counts": counts}
    found["confusion"] = {"classes": 10, "before": counted, "after": counted}
    found["classes"] = [f"a class with a long name, number {number}" for number in range(10)]
    examples = [{"index": index, "target": 1, "before": 1, "after": 2} for index in range(30)]
    found["changed"] = {"of": 410, "count": 30, "became_wrong": 30, "became_right": 0, "examples": examples}
    names = [f"/backbone/features/features.{index}/conv/Conv_with_a_name_that_exporters_make" for index in range(30)]
    layers: list[dict[str, Any]] = [{"node": name, "tensor": name, "snr_db": 31.25, "own_snr_db": 40.5} for name in names]
    layers[7]["own_snr_db"] = None
    found["int8_layers"] = {"examples": 128, "layers": layers}
    for step in found["history"]:
        step["training_macs"] = 1_000_000 * step["step"]
        step["widths"] = [group["after"] for group in found["groups"]]
    return found


def test_the_page_of_a_network_of_200_nodes_is_small(here):
    found_of(long_chain(200), "--macs", "60%")
    written = Path("r/report.html").read_text()
    assert len(written.encode()) < 1_000_000
    assert written.count("<rect") > 400


def test_nothing_is_fetched_and_nothing_runs(here):
    for drawn in (
        prune_page.html(found_of(small_nets.residual(8).SerializeToString(), "--macs", "60%")),
        prune_page.html(trained()),
    ):
        assert not re.search(r"<script|<link|<img|@import|url\(|\bsrc=|\bhref=", drawn)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", drawn)


def test_the_verdict_comes_first_and_says_which_limit_is_exceeded():
    found = trained()
    assert prune_page.html(found).index("✓ Fits") < prune_page.html(found).index("<h2>")
    found["ok"] = False
    found["limits"]["sram"] |= {"ok": False, "used": found["limits"]["sram"]["limit"] + 1024}
    assert "✗ Does not fit: SRAM is over by 1.0 KiB" in prune_page.html(found)


def test_the_peak_is_named_and_marked_once_in_each_picture(here):
    found = found_of(small_nets.residual(8).SerializeToString(), "--macs", "60%")
    for when in ("before", "after"):
        memory = found[when]["memory"]
        drawn = charts.memory(memory, memory["peak"], memory["peak"], "label")
        assert drawn.count("peak at ") == 1
        assert drawn.count('class="limit"') == 1
        assert f"peak at {memory['peak_node']}: " in drawn


def test_the_graph_has_a_box_a_layer_and_a_line_for_each_that_is_read(here):
    """A residual network: the branch around is a curve; counted by hand from the nodes that cost something."""
    found = found_of(small_nets.residual(8).SerializeToString(), "--macs", "90%")["before"]
    paid = {layer["node"] for layer in found["layers"] if layer["live"] or layer["macs"] or layer["flash"]}
    direct = [(source, layer["node"]) for layer in found["layers"] for source in layer["reads"]]
    drawn = charts.graph(found, {"live": 1, "macs": 1}, "label")
    assert drawn.count("<rect") == len(paid)
    assert drawn.count('class="edge"') >= sum(source in paid and node in paid for source, node in direct)
    assert "C" in re.sub(r"[^C]", "", "".join(re.findall(r'class="edge" d="([^"]*)"', drawn)))


def test_confusion_and_changed_examples_are_counted_on_the_test_set(here):
    """Held against the files in onnxruntime, example by example."""
    onnxruntime = pytest.importorskip("onnxruntime")
    random = np.random.default_rng(0)
    x = random.uniform(0, 16, (40, 1, 16, 16)).astype(np.float32)
    model = (STORED.parents[2] / "models" / "dscnn_digits.onnx").read_bytes()
    whole = onnxruntime.InferenceSession(model)
    y = np.array([whole.run(None, {whole.get_inputs()[0].name: one[None]})[0].argmax() for one in x])
    np.savez("d.npz", x_train=x, y_train=y, x_val=x, y_val=y, x_test=x, y_test=y)
    found = found_of(model, "--macs", "25%", "--data", "d.npz", "--scale", "1")
    answers = {}
    for when, path in (("before", "net.onnx"), ("after", "out.onnx")):
        session = onnxruntime.InferenceSession(path)
        name = session.get_inputs()[0].name
        answers[when] = np.array([session.run(None, {name: one[None]})[0].argmax() for one in x])
        counts = np.zeros((10, 10), int)
        np.add.at(counts, (y, answers[when]), 1)
        assert found["confusion"][when]["counts"] == counts.tolist()
    differing = np.flatnonzero(answers["before"] != answers["after"])
    assert sorted(one["index"] for one in found["changed"]["examples"]) == differing.tolist()
    assert found["changed"]["count"] == len(differing) > 0
    for one in found["changed"]["examples"]:
        index = one["index"]
        assert (one["target"], one["before"], one["after"]) == (y[index], answers["before"][index], answers["after"][index])


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(-1e9, 1e9)), min_size=1, max_size=400), st.none() | st.floats(0, 1e9))
@example([(0.0, 0.0), (5e-324, 0.0)], None)
def test_curves_stay_within_their_drawing(points, limit):
    drawn = charts.curves([Curve("c", sorted(points))], str, str, limit=limit, label="l")
    numbers = re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", drawn)
    assert numbers
    assert all(-1 <= float(x) <= 361 and -1 <= float(y) <= 191 for x, y in numbers)
    assert len(numbers) < 200


def test_long_names_lose_their_middle_and_stay_whole_where_one_hovers():
    name = "/a<b>" + "x" * 300 + "end"
    shown = page.named(name)
    assert f'title="{escape(name)}"' in shown
    assert len(re.sub(r"<[^>]*>", "", shown)) < 60


def test_a_class_with_a_long_name_makes_no_table_wide():
    found = trained()
    found["classes"] = [f"{number}{'x' * 2000}" for number in range(10)]
    drawn = re.sub(r"<[^>]*>", " ", prune_page.html(found))
    assert "xxx" in drawn
    assert max(len(word) for word in drawn.split() if "xxx" in word) < 50


@given(st.lists(st.text("ab/", max_size=120), min_size=1, max_size=6), st.integers(10, 40))
def test_names_that_are_shortened_stay_apart(names, most):
    short = told_apart(names, most)
    assert max(map(len, short)) <= 2 * most + 3
    pairs = list(zip(names, short, strict=True))
    assert all((one[0] == other[0]) == (one[1] == other[1]) for one in pairs for other in pairs)


# ------------------------------------------------------------------------------------------------------------- in Chromium

_PROBE = """
<body><iframe id="f" style="width:360px;height:800px;border:0"></iframe><pre id="found"></pre><script>
const frame = document.getElementById("f");
frame.onload = () => {
 const inner = frame.contentDocument, seen = [];
 for (const fold of inner.querySelectorAll("details")) fold.open = true;
 const numbers = text => (text.match(/[\\d.]+/g) || []).map(Number);
 const light = ([r, g, b]) => { const f = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
 const paper = element => { const layers = [];
  for (let at = element; at; at = at.parentElement) {
   const c = numbers(frame.contentWindow.getComputedStyle(at).backgroundColor);
   if (c.length === 3) { layers.push([...c, 1]); break; } if (c[3] > 0) { layers.push(c); if (c[3] === 1) break; } }
  const over = (under, [r, g, b, a]) => [r, g, b].map((c, i) => c * a + under[i] * (1 - a));
  return layers.reverse().reduce(over, [255, 255, 255]); };
 for (const element of inner.body.querySelectorAll("*")) {
  const own = [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim());
  if (!own || element.closest("title,style")) continue;
  const style = frame.contentWindow.getComputedStyle(element), svg = element.namespaceURI.endsWith("svg");
  const a = light(numbers(svg ? style.fill : style.color)), b = light(paper(element));
  seen.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), element.tagName, element.textContent.slice(0, 40)]);
 }
 seen.sort((one, other) => one[0] - other[0]);
 document.getElementById("found").textContent = "PROBE" + JSON.stringify({
  wide: inner.documentElement.scrollWidth, worst: seen.slice(0, 3), texts: seen.length,
  dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches }) + "PROBE";
};
frame.srcdoc = PAGE;
</script></body>
"""


def probed(drawn: str, folder: Path, *, dark: bool) -> tuple[dict[str, Any], str]:
    """What Chromium says of a page 360 pixels wide, and what it logs."""
    assert CHROMIUM is not None
    file = folder / "probe.html"
    file.write_text("<!doctype html>" + _PROBE.replace("PAGE", json.dumps(drawn).replace("</", "<\\/")))
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    words += ["--enable-logging=stderr", "--virtual-time-budget=5000", "--window-size=1000,900"]
    words += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run([*words, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=180, check=False)
    written = re.search(r"PROBE(\{.*?\})PROBE</pre>", done.stdout, re.DOTALL)
    assert written, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(written[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    return found, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_probe_sees_what_is_wrong(here):
    wrong = '<div style="width:500px;color:#999;background:#fff">pale and wide</div><script>console.error("x")</script>'
    found, logged = probed(f"<!doctype html><body>{wrong}</body>", here, dark=False)
    assert found["wide"] >= 500
    assert found["worst"][0][0] < 3
    assert logged


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("which", ["trained", "long", "profile", "compared", "swept"])
def test_a_page_reads_well_on_a_phone(here, which, dark):
    """No part sticks out at 360 pixels, nothing is logged, and every text has the contrast that WCAG AA asks for (4.5)."""
    if which == "trained":
        drawn = prune_page.html(trained())
    else:
        found = found_of(long_chain(40), "--macs", "60%")
        drawn = prune_page.html(found)
        if which == "profile":
            assert main(["profile", "net.onnx", "--format", "html=page.html"]) == 0
            drawn = Path("page.html").read_text()
        if which == "compared":
            assert main(["report", *["r"] * 6, "--format", "html", "-o", "page.html"]) == 0
            drawn = Path("page.html").read_text()
        if which == "swept":
            words = ["--no-train", "--float", "--sram", "60%,90%", "--macs", "1,50%", "-o", "out", "-q"]
            assert main(["sweep", "net.onnx", *words]) == 2, "one MAC is too few"
            drawn = Path("out/sweep.html").read_text()
    found, logged = probed(drawn, here, dark=dark)
    assert found["dark"] == dark
    assert found["texts"] > 20
    assert found["wide"] <= 360, found
    assert not logged
    assert found["worst"][0][0] >= 4.5, found["worst"]
