"""From video files to few-shot results through the commands alone, as a newcomer runs them."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from fsar.cli import prep_run
from fsar.cli.run_file import read_config

SAMPLE_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "ssv2-sample.toml"
ENCODER = ["--size", 64, "--frames", 8, "--batch-size", 32, "--jobs", 0]


def cosine(first, second):
    first, second = (features.astype(np.float64) for features in (first, second))
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return (first * second).sum(-1) / norms


@pytest.mark.shared
def test_real_videos_to_a_result_on_unseen_classes(run, shared, tmp_path):
    import h5py
    import zarr

    data = shared / "data" / "ssv2-mini"
    run("fsar-prep", "index", "--dataset", "ssv2", "--videos", data / "videos", "--annotations", data / "annotations",
        "--out", "all.csv")  # fmt: skip
    few_of_each_class(tmp_path / "all.csv", tmp_path / "catalog.csv", n=3)
    run("fsar-prep", "convert", "catalog.csv", "--out", "mp4", "--quiet")
    run("fsar-prep", "extract", "catalog.csv", "--out", "jpg", "--quiet")
    backbone = ["--backbone", "random:timm/test_resnet", *ENCODER]
    run("fsar-prep", "encode", "catalog.csv", *backbone, "--out", "webm.zarr")
    run("fsar-prep", "encode", "catalog.csv", *backbone, "--out", "webm.h5")
    run("fsar-prep", "encode", "mp4/catalog.csv", *backbone, "--out", "mp4.zarr")
    run("fsar-prep", "encode", "jpg/catalog.csv", *backbone, "--out", "jpg.zarr")

    pooled = {name: zarr.open_group(f"{name}.zarr", mode="r")["features/pooled"][:] for name in ("webm", "mp4", "jpg")}
    with h5py.File("webm.h5") as store:
        np.testing.assert_array_equal(store["features/pooled"][:], pooled["webm"])
    for recoded in ("mp4", "jpg"):
        assert cosine(pooled["webm"], pooled[recoded]).min() > 0.99
    assert cosine(pooled["webm"][:-1], pooled["webm"][1:]).min() < 0.98  # videos differ more than their recodings

    run("fsar-train-head", "otam", "--store", "webm.zarr", "-o", "adapter=linear", "--query", 2, "--steps", 4,
        "--val-episodes", 0, "--test-episodes", 50, "--out", "otam", "--quiet")  # fmt: skip
    table = run("fsar-eval-head", "otam", "tsn", "--store", "webm.h5", "--episodes", 50, "--quiet").out
    assert [line.split()[0] for line in table.splitlines()[:3]] == ["head", "otam", "tsn"]
    result = json.loads(Path("otam/result.json").read_text())
    assert (result["part"], result["n_way"], result["n_shot"]) == ("test", 5, 1)


@pytest.mark.shared
def test_heads_that_read_text_on_real_videos(run, shared, tmp_path):
    """The shipped configuration of a small sample: index, encode, text, three trainings and their table."""
    data = shared / "data" / "ssv2-mini"
    paths = [f"index.videos={data / 'videos'}", f"index.annotations={data / 'annotations'}"]
    stages = read_config(SAMPLE_CONFIG, prep_run.stage_keys, paths)
    # In this process: starting one for each stage takes longer than all the work.
    outputs = [run(*shlex.split(prep_run.command_line(stage))).out for stage in stages]
    heading, *rows = [re.split(r"\s{2,}", line.strip()) for line in outputs[-1].splitlines()]
    for head in ("clip-fsar", "clip-mei", "emp-net"):
        for shot in ("1", "5"):
            (row,) = [row for row in rows if row[:3] == [head, "5", shot]]
            cells = dict(zip(heading, row, strict=False))
            assert 15 < float(cells["accuracy %"]) < 60
            assert 0 < float(cells["± 95 %"]) < 10
            assert cells["episodes"] == "200"
        assert json.loads((tmp_path / "runs" / head / "config.json").read_text())["text"]


def few_of_each_class(source, target, *, n):
    header, *lines = source.read_text().splitlines()
    seen: dict[str, int] = {}
    kept = []
    for line in lines:
        class_name = line.split(",", 2)[2]
        name = class_name.rsplit(",", 2)[0]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] <= n:
            kept.append(line)
    target.write_text("\n".join([header, *kept]) + "\n")


@pytest.mark.parametrize(
    ("n_classes", "n_clips", "size", "n_epochs", "n_frames", "margin"),
    [(12, 10, "96x72", 14, 4, 0.06), pytest.param(16, 12, "80x64", 24, 8, 0.3, marks=pytest.mark.slow)],
)
def test_order_beats_the_average_of_the_frames_on_motions(run, n_classes, n_clips, size, n_epochs, n_frames, margin):
    """Each class has its reverse among the others. Three standard errors of the difference are about 0.03."""
    run("fsar-prep", "synth", "set", "--train-classes", n_classes, "--val-classes", 2, "--test-classes", 8, "--clips",
        n_clips, "--size", size, "--quiet")  # fmt: skip
    run("fsar-prep", "index", "--dataset", "ssv2", "--videos", "set/videos", "--annotations", "set/annotations",
        "--split", "set/split.csv", "--out", "catalog.csv")  # fmt: skip
    run("fsar-prep", "tune", "catalog.csv", "--backbone", "random:timm/test_resnet", "--epochs", n_epochs,
        "--frames", n_frames, "--out", "tuned.safetensors")  # fmt: skip
    run("fsar-prep", "encode", "catalog.csv", "--backbone", "timm:test_resnet/tuned.safetensors", *ENCODER, "--out",
        "set.zarr")  # fmt: skip
    accuracy = {}
    for head, adapter in (("otam", "temporal"), ("tsn", "linear")):
        run("fsar-train-head", head, "--store", "set.zarr", "-o", f"adapter={adapter}", "--steps", 60, "--query", 3,
            "--val-episodes", 0, "--test-episodes", 1000, "--out", head, "--quiet")  # fmt: skip
        accuracy[head] = json.loads(Path(head, "result.json").read_text())["accuracy"]
    assert accuracy["tsn"] > 0.22
    assert accuracy["otam"] > accuracy["tsn"] + margin, accuracy


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("fsar-prep index --dataset folder --videos none --out c.csv", 1, "--videos: no folder"),
        ("fsar-prep index --dataset ssv2 --videos . --out c.csv", 2, "--dataset ssv2 needs --annotations"),
        ("fsar-prep index --dataset ssv3 --out c.csv", 2, "'ssv3' is not one of"),
        ("fsar-prep convert none.csv --out mp4", 1, "no catalog none.csv"),
        ("fsar-prep extract bad.csv --out jpg", 1, "bad.csv, line 1: no column 'video_id'"),
        ("fsar-prep extract bad.csv --out jpg --frames -4", 2, "-4 is not in the range"),
        ("fsar-prep synth out --size 99999x99999", 1, "size must be 32x32 to 2048x2048"),
        ("fsar-prep encode good.csv --backbone random:timm/test_resnet --out bad.csv/x.zarr", 1, "Not a directory"),
        ("fsar-prep encode good.csv --backbone random:timm/test_resne --out x.zarr", 1, "did you mean test_resnet"),
        ("fsar-prep encode good.csv --backbone random:timm/test_resnet --split ssv2-otm --out x.zarr", 1, "ssv2-otam"),
        ("fsar-prep run empty.toml", 2, "empty.toml names no stage"),
        ("fsar-prep run bad.csv", 2, "bad.csv is not TOML"),
        ("fsar-train-head otam --store none.zarr --out r", 1, "no store at none.zarr"),
        ("fsar-eval-head otam --store bad.csv", 1, "must end in .h5 or .zarr"),
    ],
)
def test_bad_input_gives_one_line_and_leaves_nothing(run, tmp_path, line, code, message):
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "good.csv").write_text("video_id,path,class\n1,1.webm,walk\n")
    (tmp_path / "empty.toml").write_text("")
    before = sorted(tmp_path.rglob("*"))
    output = run(*line.split(), code=code)
    said = [text for text in output.err.splitlines() if not text.startswith("warning: ")]
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert message in said[0]
    assert output.out == ""
    assert sorted(tmp_path.rglob("*")) == before
