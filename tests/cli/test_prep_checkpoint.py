"""`fsar-prep import-checkpoint`, from an official-form file to an evaluated head."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fsar.cli.common import EXIT_DONE
from fsar.cli.prep_checkpoint import command
from fsar.pipeline.store import TextTable, VideoRow
from tests.heads.stores import make_store

DIM = 16


def official_clip_fsar(path):
    """A checkpoint of the official CLIP-FSAR code with small widths and a CLIP tower's names."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(*shape, generator=generator) / 4

    layer = "head.context2.layers.0."
    state = {
        "head.scale": torch.ones(1),
        f"{layer}0.norm.weight": torch.ones(DIM),
        f"{layer}0.norm.bias": torch.zeros(DIM),
        **{f"{layer}0.fn.to_{name}.weight": random(DIM, DIM) for name in "qkv"},
        f"{layer}0.fn.to_out.0.weight": random(DIM, DIM),
        f"{layer}0.fn.to_out.0.bias": random(DIM),
        f"{layer}1.net.0.weight": random(32, DIM),
        f"{layer}1.net.0.bias": random(32),
        f"{layer}1.net.3.weight": random(DIM, 32),
        f"{layer}1.net.3.bias": random(DIM),
        "head.backbone.class_embedding": torch.zeros(768),
        "head.backbone.conv1.weight": torch.zeros(768, 3, 16, 16),
    }
    config = {"TRAIN": {"USE_CLASSIFICATION": True, "USE_CLASSIFICATION_VALUE": 1.5}}
    torch.save({"epoch": 3, "model_state": state, "optimizer_state": {}, "cfg": json.dumps(config)}, path)


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_summary_says_where_everything_went(tmp_path):
    official_clip_fsar(tmp_path / "official.pyth")
    result = run(tmp_path / "official.pyth", "--out", tmp_path / "run", "--json")
    assert result.exit_code == EXIT_DONE
    written = json.loads(result.stdout)
    assert written["head"] == "clip-fsar"
    assert written["options"]["text_loss_weight"] == 1.5
    assert written["options"]["compat"] == "official"
    assert written["backbone"] == f"open_clip:ViT-B-16/{tmp_path / 'run' / 'backbone.safetensors'}"
    assert written["ignored"] == ["epoch", "optimizer_state"]
    assert written["missing"] == []
    assert json.loads((tmp_path / "run" / "import.json").read_text()) == written


def test_the_text_form_gives_the_next_command(tmp_path):
    official_clip_fsar(tmp_path / "official.pyth")
    result = run(tmp_path / "official.pyth", "--out", tmp_path / "run")
    assert "--backbone open_clip:ViT-B-16/" in result.stdout
    assert "backbone.safetensors --sampler clipfsar-segment --pixels clip-fsar ..." in result.stdout
    assert "ignored: epoch, optimizer_state" in result.stdout
    assert "left at a fixed random value: nothing" in result.stdout


def test_the_backbone_file_says_that_it_needs_quick_gelu(tmp_path):
    from safetensors import safe_open

    official_clip_fsar(tmp_path / "official.pyth")
    run(tmp_path / "official.pyth", "--out", tmp_path / "run")
    with safe_open(tmp_path / "run" / "backbone.safetensors", "pt") as file:
        assert file.metadata() == {"quick_gelu": "true"}
        assert set(file.keys()) == {"class_embedding", "conv1.weight"}


def test_an_imported_head_is_evaluated_on_a_store(tmp_path):
    from fsar.cli.eval_head import command as eval_head

    official_clip_fsar(tmp_path / "official.pyth")
    run(tmp_path / "official.pyth", "--out", tmp_path / "run")
    rng = np.random.default_rng(0)
    names = [f"class {c}" for c in range(5)]
    centres = rng.standard_normal((5, DIM)).astype(np.float32)
    noise = rng.standard_normal((30, 1, 4, DIM)).astype(np.float32)
    features = 3 * centres.repeat(6, 0)[:, None, None] + 0.3 * noise
    videos = [VideoRow(f"v{i}", names[i // 6], "test", f"v{i}.mp4") for i in range(30)]
    text = TextTable("clip", centres[None], tuple(names), ("a photo of {}",), {"backbone": "test"})
    make_store(tmp_path / "store.zarr", {"pooled": features}, videos, text=text)
    arguments = [tmp_path / "run", "--store", tmp_path / "store.zarr", "--episodes", 20, "--json"]
    result = CliRunner().invoke(eval_head, [str(argument) for argument in arguments])
    assert result.exit_code == EXIT_DONE, result.output
    assert "official" in result.stdout
    assert "clip-fsar" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["--method", "clip_fsa"]])
def test_user_errors_are_one_line(arguments, tmp_path):
    path = tmp_path / "official.pyth"
    if arguments:
        official_clip_fsar(path)
    result = run(path, "--out", tmp_path / "run", *arguments)
    assert result.exit_code != EXIT_DONE
    assert "\n" not in str(result.exception)
    assert str(path) in str(result.exception) or "clip_fsar" in str(result.exception)


def test_another_folder_is_not_written_into(tmp_path):
    official_clip_fsar(tmp_path / "official.pyth")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("keep me")
    result = run(tmp_path / "official.pyth", "--out", tmp_path / "run")
    assert "exists and is not empty" in str(result.exception)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]
