"""The report of runs: its numbers are those of the run folders, whatever is gone is said, and a browser can read it."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.report import svg
from fsar.report.measures import equal_frames, principal_axes, reversed_frames, shuffled_frames
from fsar.report.page import Page, percent
from fsar.report.published import beside, tuning
from fsar.report.report import ReportOptions, make_report
from fsar.report.runs import paired_differences, read_runs, seed_spreads, spreads_over_folds
from tests.report.browser import browser, open_page, requests_of

QUICK = ReportOptions(measure=False)


@pytest.fixture(scope="session")
def page(runs) -> Page:
    return make_report(runs, ReportOptions(n_episodes=20), quiet=True)


@pytest.fixture(scope="session")
def written(page, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    page.write(folder / "report.html", folder / "assets")
    return folder


class Tables(HTMLParser):
    """Tables of a page: id -> rows of (shown, data-value)."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, list[list[tuple[str, str | None]]]] = {}
        self._rows: list | None = None
        self._cell: list | None = None

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag == "table":
            self._rows = self.found.setdefault(values["id"], [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows is not None:
            self._cell = ["", values.get("data-value")]

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[0] += data

    def handle_endtag(self, tag):
        if tag in ("td", "th") and self._cell is not None:
            self._rows[-1].append(tuple(self._cell))
            self._cell = None


def test_the_accuracy_table_equals_the_results(written, runs):
    parser = Tables()
    parser.feed((written / "report.html").read_text())
    head, *rows = parser.found["table-accuracy"]
    assert [cell[0] for cell in head][:4] == ["run", "head", "test", "accuracy %"]
    assert len(rows) == len(runs)
    for row, run in zip(rows, runs, strict=True):
        result = json.loads((run / "result.json").read_text())
        assert row[0][0] == run.name
        assert float(row[3][1]) == result["accuracy"]
        assert row[3][0] == f"{100 * result['accuracy']:.2f} ± {100 * result['ci95']:.2f}"
        assert int(row[4][1]) == result["n_episodes"]


def test_differences_are_paired(runs):
    found = paired_differences(read_runs(runs))
    assert len(found) == 3
    first, second = (np.load(run / "accuracies.npy") for run in runs[1:])
    last = found[-1]
    assert (last.first, last.second) == (runs[1].name, runs[2].name)
    assert last.mean == pytest.approx((first - second).mean())
    assert last.half == pytest.approx(1.96 * (first - second).std(ddof=1) / np.sqrt(len(first)), abs=1e-12)


def fake(run, **config):
    """Return the run with other settings, and an accuracy."""
    accuracy = config.pop("accuracy")
    data = {**run.results[0].data, "accuracy": accuracy}
    data["split"] = config.get("split", data["split"])
    return replace(run, config={**run.config, **config}, results=(replace(run.results[0], data=data),))


def test_seeds_and_folds_are_spread(runs):
    (run,) = read_runs(runs[:1])
    (spread,) = seed_spreads([fake(run, seed=0, accuracy=0.4), fake(run, seed=1, accuracy=0.6)])
    assert (spread.mean, spread.n_runs) == (pytest.approx(0.5), 2)
    assert spread.std == pytest.approx(np.std([0.4, 0.6], ddof=1))
    folds = [fake(run, split=f"splits/ssv2-cmn-fold{k}of5.csv", accuracy=0.1 * k) for k in range(3)]
    (spread,) = spreads_over_folds(folds)
    assert spread.label == "otam on 3 folds of ssv2-cmn"
    assert spread.std == pytest.approx(0.1)
    assert not seed_spreads(folds)
    assert not spreads_over_folds([run])


def test_reports_of_folds_and_seeds_show_them(runs, tmp_path):
    copies = []
    for k in range(2):
        copy = shutil.copytree(runs[0], tmp_path / f"fold{k}")
        config = json.loads((copy / "config.json").read_text())
        config |= {"split": f"mine-fold{k}of2", "seed": k}
        (copy / "config.json").write_text(json.dumps(config))
        result = json.loads((copy / "result.json").read_text())
        (copy / "result.json").write_text(json.dumps({**result, "split": config["split"]}))
        copies.append(copy)
    html = make_report(copies, QUICK, quiet=True).to_html()
    assert "Spread over folds of the classes" in html


def test_every_section_is_there(page):
    html = page.to_html()
    for title in ("Accuracy", "Paired differences", "Published numbers", "Learning curves", "Per class", "Confusions",
                  "Hardest and easiest episodes", "Where the test videos lie", "How much the order of frames matters",
                  "Cost of the heads", "Recipes, splits and episode lists"):  # fmt: skip
        assert f">{title}</h2>" in html, title
    assert html.count("data:image/jpeg;base64,") >= 3 * 2 * 8  # a query and a support of each run, 8 frames each


def test_a_head_that_cannot_see_order_keeps_its_accuracy(page):
    rows = [row for row in page.tables["order"][1:] if row[0] == "tsn"]
    assert [row[1] for row in rows] == ["as filmed", "shuffled", "reversed", "all frames equal"]
    assert rows[1][3] == rows[2][3] == 0


def test_frames_are_rearranged_as_said():
    x = torch.arange(2 * 3 * 5.0).view(1, 6, 5, 1)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(reversed_frames(x, generator), x.flip(2))
    assert torch.equal(equal_frames(x, generator)[..., 0], x[:, :, 2].expand(1, 6, 5))
    shuffled = shuffled_frames(x, generator)
    assert not torch.equal(shuffled, x)
    assert torch.equal(shuffled.sort(2).values, x)
    assert len({tuple((row - row.min()).flatten().tolist()) for row in shuffled[0]}) > 1  # each video its own order


def test_the_map_is_that_of_scikit_learn():
    decomposition = pytest.importorskip("sklearn.decomposition", reason="scikit-learn (extra plots) is not installed")
    x = np.random.default_rng(0).normal(size=(40, 6)) * np.arange(1, 7)
    ours, theirs = principal_axes(x), decomposition.PCA(2).fit_transform(x)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_costs_are_counted(page):
    columns, *rows = page.tables["cost"]
    by_run = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
    assert by_run["tsn"]["parameters"] == 0
    assert by_run["trx"]["parameters"] > 0
    assert by_run["trx"]["MFLOP an episode"] > by_run["tsn"]["MFLOP an episode"]
    assert by_run["run"]["bytes a video"] == 8 * 512 * 2 or by_run["run"]["bytes a video"] > 0


def test_published_numbers_say_whether_the_backbone_moved():
    found = beside("trx", "ssv2-otam", 5, 5)
    assert found
    assert all(item.entry.head == "trx" for item in found)
    assert "tuned" in tuning(found[0].entry)
    frozen = replace(found[0].entry, backbone="DINOv2 ViT-B/14 frozen + points")
    assert tuning(frozen) == "frozen, says the source"
    assert not beside("trx", "no-such-split", 5, 5)


def test_figures_and_tables_are_files_too(written, page):
    assert {f.suffix for f in (written / "assets").iterdir()} == {".svg", ".csv"}
    with open(written / "assets" / "accuracy.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == page.tables["accuracy"][0]
    from xml.etree import ElementTree

    for figure in (written / "assets").glob("*.svg"):
        ElementTree.parse(figure)


def test_what_is_gone_is_said(runs, world, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(world.folder / "videos", moved)
    video = world.folder / "videos" / "blue"
    video.rename(tmp_path / "blue")
    try:
        html = make_report(runs[:1], ReportOptions(n_episodes=4, n_hard=60), quiet=True).to_html()
    finally:
        (tmp_path / "blue").rename(video)
    assert "frames left out" in html
    assert "does not exist" in html
    other = shutil.copytree(runs[0], tmp_path / "run")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "store": "gone.zarr"}))
    html = make_report([other], ReportOptions(), quiet=True).to_html()
    assert "left out" in html
    assert "gone.zarr" in html


def test_names_cannot_break_the_page(tmp_path, runs):
    copy = shutil.copytree(runs[0], tmp_path / "<script>alert(1)<")
    result = json.loads((copy / "result.json").read_text())
    result["per_class_accuracy"] = {"<img src=x onerror=alert(2)>": 0.5, '"quoted" & co': 0.1}
    (copy / "result.json").write_text(json.dumps(result))
    html = make_report([copy], QUICK, quiet=True).to_html()
    assert "<script" not in html
    assert "<img src=x" not in html


def test_figures_bear_odd_numbers():
    assert "<svg" in svg.bars([("all wrong", 0.0, None), ("all right", 1.0, 0.0)], "bars", chance=0.2)
    assert svg.curves({"never": []}, "empty") == ""
    assert "<polyline" in svg.curves({"one point": [(5.0, 0.5)], "flat": [(0.0, 1.0), (9.0, 1.0)]}, "curves")
    assert "<circle" in svg.scatter([(0.0, 0.0)], [0], ["alone"], "map")
    assert svg.matrix(["a", "b"], [[1.0, 0.0], [0.5, 0.5]], "matrix").count("<rect") == 5
    assert percent(None).shown == "-"


@pytest.mark.parametrize("missing", ["head.json", "result.json"])
def test_unfinished_runs_are_an_error(runs, tmp_path, missing):
    copy = shutil.copytree(runs[0], tmp_path / "run")
    (copy / missing).unlink()
    with pytest.raises(InputError, match="not finished" if missing == "head.json" else "no test result yet"):
        make_report([copy], QUICK, quiet=True)
    with pytest.raises(InputError, match="no run folder"):
        make_report([tmp_path], QUICK, quiet=True)
    with pytest.raises(InputError, match="named twice"):
        make_report([runs[0], runs[0]], QUICK, quiet=True)


def test_a_browser_reads_the_page(written, runs):
    """No console messages, no network, the numbers of result.json, a phone's width, dark colours, the keyboard."""
    with browser() as driver:
        open_page(driver, written / "report.html")
        assert driver.get_log("browser") == []
        assert requests_of(driver) == []
        shown = driver.execute_script(
            "return [...document.querySelectorAll('#table-accuracy tbody tr')].map(r => +r.cells[3].dataset.value)"
        )
        assert shown == [json.loads((run / "result.json").read_text())["accuracy"] for run in runs]
        broken = "return [...document.querySelectorAll('image, img')].length"
        assert driver.execute_script(broken) > 0
        light = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        assert driver.execute_script("return getComputedStyle(document.body).backgroundColor") != light
        phone = {"width": 360, "height": 800, "deviceScaleFactor": 1, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 360
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        driver.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
        assert driver.execute_script("return document.activeElement.className") == "skip"
        printed = driver.execute_cdp_cmd("Page.printToPDF", {})["data"]
        assert len(printed) > 10_000


def test_the_page_is_small_and_whole(written):
    html = (written / "report.html").read_text()
    assert len(html) < 3_000_000
    assert not re.search(r"(?:src|href)=\"https?:", html)
