"""Models of transformers from videos to predictions, through the commands alone."""

import json

import pytest

from tests.docs.prepare import few_classes
from tests.pipeline.backbones.hf_models import make_model


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A folder with clips of six classes and the catalog.csv of them."""
    folder = tmp_path_factory.mktemp("videos")
    few_classes(folder)
    return folder


CASES = {
    "xclip": ("steps.pooled", ["clip-fsar", "otam"]),
    "siglip": ("pooled", ["clip-fsar", "trx"]),
    "clip": ("pooled", ["clip-fsar"]),
    "videomae": ("steps.pooled", ["otam"]),
    "vjepa2": ("steps.pooled", ["otam"]),
    "timesformer": ("steps.pooled", ["otam"]),
    "vivit": ("pooled", ["proto"]),
    "dinov2": ("map", ["strm"]),
    "dinov3_vit": ("pooled", ["otam"]),
    "siglip2": ("pooled", ["clip-fsar"]),
}
"""Kind -> what is stored of it, and heads that train on that."""
QUICK = ("xclip", "siglip")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow) for kind in CASES]
)
def test_encode_resume_text_train_eval_predict(kind, run, videos, tmp_path):
    tap, heads = CASES[kind]
    model = make_model(tmp_path / "model", kind)
    catalog = videos / "catalog.csv"
    pixels = ["--resize", "squash"] if kind == "siglip2" else []
    encode = ["encode", catalog, "--backbone", f"hf:{model}", "--tap", tap, "--jobs", 0, *pixels]
    whole = json.loads(run("fsar-prep", *encode, "--out", "whole.zarr", "--json").out)
    assert (whole["n_failed"], whole["n_resumed"]) == (0, 0)
    again = json.loads(run("fsar-prep", *encode, "--out", "whole.zarr", "--json").out)
    assert (again["n_resumed"], again["n_encoded"]) == (whole["n_videos"], 0)
    if "clip-fsar" in heads:
        run("fsar-prep", "text", "whole.zarr", "--encoder", f"hf:{model}")
        other = make_model(tmp_path / "other", "clip" if kind != "clip" else "siglip")
        refused = run("fsar-prep", "text", "whole.zarr", "--encoder", f"hf:{other}", "--table", "other", code=1).err
        assert "this text tower is not of the model that made the store" in refused
        assert len(refused.splitlines()) == 1
    for head in heads:
        run("fsar-train-head", head, "--store", "whole.zarr", "--way", 2, "--steps", 2, "--val-episodes", 0,
            "--test-episodes", 4, "--out", head, "--quiet")  # fmt: skip
        table = run("fsar-eval-head", head, "--store", "whole.zarr", "--way", 2, "--episodes", 4, "--quiet").out
        assert table.splitlines()[1].split()[0] == head
    support, query = examples(videos, tmp_path)
    answer = run(
        "fsar-predict", "--run", heads[0], "--support", support, "--query", query, "--weights", model, "--json"
    )
    (clip,) = json.loads(answer.out)["answers"]
    assert {each["class"] for each in clip["ranking"]} == {"class d", "class e"}


def test_what_cannot_be_is_one_line(run, videos):
    encode = ["encode", videos / "catalog.csv", "--out", "none.zarr", "--jobs", 0, "--backbone"]
    for arguments, said in (
        (["random:hf/videomae-tiny", "--frames", 8], "say --clips, --clip-length and --clip-stride, not --frames"),
        (["random:hf/videomae-tiny", "--clip-length", 16], "takes clips of 8 frames"),
        (["random:hf/vjepa2-tiny", "--clip-length", 5], "sees 2 frames as one"),
        (["random:hf/dinov2-tiny", "--size", 50], "patches of 8 pixels: 50 is no multiple"),
        (["random:hf/dinov2-tiny", "--clips", 2], "sees single frames"),
        (["random:hf/siglip2-tiny"], "say --resize squash"),
        (["hf:./nowhere"], "there is no folder nowhere"),
    ):
        errors = run("fsar-prep", *encode, *arguments, code=1).err.splitlines()
        (line,) = [line for line in errors if not line.startswith("warning")]
        assert said in line
    short = run("fsar-prep", *encode, "random:hf/xclip-tiny", "--clip-stride", 5, "--limit", 2, code=1).err
    assert "too-short: the video has 20 frames, a clip of 8 frames 5 apart needs 36" in short.splitlines()[-1]


def test_what_trains_backbones_refuses_them(run, videos):
    for backbone, said in (("dinov2-tiny", "is of transformers"), ("vivit-tiny", "sees clips")):
        for command in (
            [
                "fsar-prep",
                "tune",
                videos / "catalog.csv",
                "--backbone",
                f"random:hf/{backbone}",
                "--out",
                "t.safetensors",
            ],
            ["fsar-train-head", "otam", "--videos", videos / "catalog.csv", "--finetune", f"random:hf/{backbone}"],
        ):
            assert said in run(*command, code=1).err.splitlines()[-1]


def examples(videos, tmp_path):
    """Return a folder of two classes with a clip each, and a query."""
    for name in ("d", "e"):
        (tmp_path / "support" / f"class {name}").mkdir(parents=True)
        (tmp_path / "support" / f"class {name}" / "0.webm").symlink_to(videos / "videos" / f"{name}0.webm")
    return tmp_path / "support", videos / "videos" / "d1.webm"
