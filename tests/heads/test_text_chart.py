"""Learning curves as text."""

import json

import pytest

from fsar.api import train_head
from fsar.heads.training.text_chart import HEIGHT, VAL, WIDTH, accuracy_chart, chart
from tests.heads.stores import ordered_store


def test_points_stand_where_they_belong():
    lines = chart({VAL: [(10, 0.2), (20, 0.8)]})
    field = [line.partition("|")[2] for line in lines[1 : HEIGHT + 1]]
    assert lines[0] == "accuracy by step (o val)"
    assert lines[1].startswith("   80 % |")
    assert lines[HEIGHT].startswith("   20 % |")
    assert field[0] == " " * (WIDTH - 1) + "o"
    assert field[-1] == "o"
    assert lines[-1].split() == ["10", "20"]


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_flat_curve_is_a_line(share):
    lines = chart({VAL: [(0, share), (5, share)]})
    assert sum(line.count("o") for line in lines[1 : HEIGHT + 1]) == 2
    assert all(len(line) <= WIDTH + 9 for line in lines)


def test_too_little_to_draw_is_not_drawn(tmp_path):
    assert accuracy_chart(tmp_path) == ""
    rows = [{"step": 1, "train/accuracy": 0.5}, {"step": 2, "val/accuracy": float("nan")}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 3, "tr')
    assert accuracy_chart(tmp_path) == ""


def test_the_summary_of_a_training_shows_it_and_json_does_not(tmp_path):
    store = ordered_store(tmp_path / "s.zarr")
    trained = train_head("otam", store, options={"adapter": "linear"}, steps=20, validate_every=5, test=False,
                         out=tmp_path / "run", quiet=True, device="cpu")  # fmt: skip
    assert "accuracy by step" in trained.to_text()
    assert "accuracy by step" not in json.dumps(trained.to_dict(), default=str)
