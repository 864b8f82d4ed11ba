"""Importing published weights: names, wrappers, and what is refused."""

import pytest
import torch

from fsar.errors import InputError
from fsar.heads import create_head, list_heads, seeded
from fsar.heads.checkpoints.official import import_official, list_official, official_format
from fsar.heads.checkpoints.official.formats import head_state, our_name
from fsar.heads.checkpoints.official.settings import flag, present_pair


def trx_state(dim=8, out_dim=6):
    """The tensors of an official TRX with pairs and triples, as its checkpoint names them."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for index, size in enumerate((2, 3)):
        shapes = {"k_linear": (out_dim, size * dim), "v_linear": (out_dim, size * dim)}
        for name, shape in shapes.items():
            state[f"transformers.{index}.{name}.weight"] = torch.randn(shape, generator=generator)
            state[f"transformers.{index}.{name}.bias"] = torch.randn(out_dim, generator=generator)
        for norm in ("norm_k", "norm_v"):
            state[f"transformers.{index}.{norm}.weight"] = torch.ones(out_dim)
            state[f"transformers.{index}.{norm}.bias"] = torch.zeros(out_dim)
        state[f"transformers.{index}.pe.pe"] = torch.zeros(1, 12, dim)
    return state


def test_widths_and_tuple_sizes_are_read_off_the_tensors():
    head = import_official("trx", trx_state(), {})
    assert dict(head.options) == {"dim": 8, "temp_set": [2, 3], "out_dim": 6, "reduction": "sum"}
    assert not head.training


def test_wrapped_names_and_the_backbone_are_seen_through():
    state = {f"head.module.{name}": tensor for name, tensor in trx_state().items()}
    state["head.backbone.conv1.weight"] = torch.zeros(1)
    state["resnet.module.0.weight"] = torch.zeros(1)
    plain, wrapped = (import_official("trx", s, {}).state_dict() for s in (trx_state(), state))
    assert plain.keys() == wrapped.keys()
    assert all(torch.equal(plain[name], wrapped[name]) for name in plain)
    assert set(head_state(state)) == set(trx_state())


def test_a_missing_tensor_is_named():
    state = trx_state()
    del state["transformers.1.norm_k.bias"]
    with pytest.raises(InputError, match=r"not in the weights: \['transformers.1.norm_k.bias'\]"):
        import_official("trx", state, {})


def test_a_tensor_that_no_rule_knows_is_named():
    with pytest.raises(InputError, match=r"not in the head: \['extra.weight'\]"):
        import_official("trx", {**trx_state(), "extra.weight": torch.zeros(1)}, {})


def test_a_tensor_of_another_shape_is_named():
    state = trx_state() | {"transformers.0.norm_k.bias": torch.zeros(7)}
    with pytest.raises(InputError, match=r"transformers.0.norm_k.bias must be \(6,\), the weights hold \(7,\)"):
        import_official("trx", state, {})


def test_an_unknown_method_suggests_the_nearest():
    with pytest.raises(InputError, match="unknown official method 'trxx': did you mean trx"):
        import_official("trxx", {}, {})


def test_every_method_makes_a_registered_head():
    assert {official_format(method).head for method in list_official()} <= set(list_heads())


def test_transformer_names_are_translated():
    official = official_format("molo")
    assert our_name(official, "temporal_atte_before.layers.0.0.fn.to_out.0.bias") == (
        "temporal_atte_before.0.attention.to_out.bias"
    )
    assert our_name(official, "up2.conv.double_conv.1.running_mean") == "decoder.up2.norm.running_mean"
    assert our_name(official, "pe.pe") is None


def test_a_published_config_and_a_recorded_one_read_alike():
    for metadata in ({"TRAIN": {"HEAD": 4, "USE_LOCAL": False}}, {"train_flags": {"HEAD": 4, "USE_LOCAL": False}}):
        assert flag(metadata, "HEAD", 8) == 4
        assert flag(metadata, "USE_LOCAL", 7) == 7  # false counts as absent
        assert flag(metadata, "DEPTH", 1) == 1


def test_position_flags_count_only_together():
    assert present_pair({"TRAIN": {"A": 0}}, "A", "B") is None
    assert present_pair({"TRAIN": {"A": 0, "B": 2}}, "A", "B") == (0, 2)


def test_an_imported_head_gives_the_numbers_of_its_weights():
    """The bias of the values and the second norm are dropped without changing anything but rounding."""
    with seeded(0):
        head = create_head("trx", dim=8, out_dim=6)
    assert not any("norm_v" in name or name.endswith("v_linear.bias") for name in head.state_dict())


def test_every_method_says_how_its_frames_are_prepared():
    from fsar.cli.prep_encode import command
    from fsar.pipeline.pixels.published import pixel_pipeline

    pipelines = {}
    for method in list_official():
        arguments = ["catalog.csv", "--out", "s.zarr", "--backbone", "b", *official_format(method).encode.split()]
        parsed = command.make_context("encode", arguments).params
        if official_format(method).encode:
            pipelines[method] = pixel_pipeline(parsed["pixels"])
    perrett = {"trx", "strm", "clip_mei", "otam_perrett", "tsn_perrett", "pal_perrett"}
    for method, pipeline in pipelines.items():
        if method in perrett:
            assert (pipeline.test.mode, pipeline.test.resize, pipeline.test.mean[0]) == ("short-side", 256, 0)
        elif method != "hcl":
            assert (pipeline.test.mode, pipeline.test.resize, pipeline.test.antialias) == ("squash", 256, False)
    assert pipelines["molo"].test.mean[0] == pipelines["hyrsm_pp"].test.mean[0] == 0.45
    assert pipelines["clip_fsar"].test.mean[0] == pytest.approx(0.4815, abs=1e-4)
    assert pipelines["hcl"].test.resize == 224
