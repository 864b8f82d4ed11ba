"""The leaderboard: heads in the order of their accuracy, seeds together, on one list of episodes."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fsar.api import train_head
from fsar.cli.prep_run import command as run_command
from fsar.report.leaderboard import COLUMNS
from fsar.report.report import ReportOptions, make_report

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "leaderboard.toml"
QUICK = ReportOptions(measure=False)


@pytest.fixture(scope="module")
def board(world, tmp_path_factory):
    """Two heads, one of them with two seeds and once chosen by the test classes."""
    folder = tmp_path_factory.mktemp("board")
    short = {"way": 2, "steps": 6, "episodes_per_step": 2, "query": 1, "val_episodes": 10, "test_episodes": 60,
             "validate_every": 2, "device": "cpu", "quiet": True}  # fmt: skip
    adapter = {"options": {"adapter": "linear"}}
    train_head("otam", world.store, seeds=(0, 1), out=folder / "deep" / "otam", **adapter, **short)
    train_head("otam", world.store, select_on="test", out=folder / "chosen", **adapter, **short)
    train_head("tsn", world.store, out=folder / "tsn", **adapter, **short)
    return folder


def rows_of(page):
    head, *rows = page.tables["leaderboard"]
    assert tuple(head) == COLUMNS
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_heads_stand_in_order_with_their_seeds_together(board):
    rows = rows_of(make_report([board], QUICK, quiet=True))
    assert sorted((row["head"], row["seeds"]) for row in rows) == [("otam", 1), ("otam", 2), ("tsn", 1)]
    assert [row["place"] for row in rows] == [1, 2, 3]
    assert [row["accuracy %"] for row in rows] == sorted((row["accuracy %"] for row in rows), reverse=True)
    (two,) = [row for row in rows if row["seeds"] == 2]
    results = [json.loads((board / "deep" / "otam" / f"seed-{n}" / "result.json").read_text()) for n in (0, 1)]
    accuracies = [result["accuracy"] for result in results]
    assert two["accuracy %"] == pytest.approx(np.mean(accuracies))
    assert two["standard deviation, points"] == pytest.approx(np.std(accuracies, ddof=1))
    assert two["order matters, points"] == pytest.approx(np.mean([result["order"]["difference"] for result in results]))
    best = max(row["accuracy %"] for row in rows)
    for row in rows[1:]:
        assert row["less than the first, points"] == pytest.approx(best - row["accuracy %"])


def test_weights_chosen_by_the_test_classes_are_another_entry(board):
    rows = rows_of(make_report([board], QUICK, quiet=True))
    marked = [row for row in rows if "of these chose the weights" in row["notes"]]
    assert [(row["head"], row["seeds"]) for row in marked] == [("otam", 1)]


def test_one_head_alone_makes_no_leaderboard(board):
    assert "leaderboard" not in make_report([board / "deep"], QUICK, quiet=True).tables


@pytest.mark.slow
def test_the_config_makes_one_and_goes_on_where_it_was(world, tmp_path):
    few = ["train.steps=4", "train.val_episodes=10", "train.test_episodes=50", "train.way=2", "train.query=1",
           "report.episodes=10", f'train.each.store=["{world.store}"]', "train.each.shot=[1, 2]",
           "train.device=cpu"]  # fmt: skip
    text = CONFIG.read_text().replace('split = ["ssv2-cmn"]\n', "").replace("{split}/", "")
    config = tmp_path / "leaderboard.toml"
    config.write_text(text)
    line = [str(config), "--out", str(tmp_path / "board"), *(piece for one in few for piece in ("--set", one))]
    assert CliRunner().invoke(run_command, line).exit_code == 0
    with (tmp_path / "board" / "tables" / "leaderboard.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 10
    assert {row["seeds"] for row in rows} == {"3"}
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "board").rglob("head.safetensors")}
    assert CliRunner().invoke(run_command, [*line, "--set", "train.seeds=0,1,2,3"]).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    with (tmp_path / "board" / "tables" / "leaderboard.csv").open() as file:
        assert {row["seeds"] for row in csv.DictReader(file)} == {"4"}
