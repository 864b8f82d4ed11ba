"""Checkpoints in the forms that the official codes write, made here from the parity vectors' weights."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fsar.errors import InputError
from fsar.heads import EpisodeBatch
from fsar.heads.checkpoints.backbone import recognise_backbone
from fsar.heads.checkpoints.importer import import_checkpoint, write_import
from fsar.heads.checkpoints.reader import read_checkpoint, read_settings
from fsar.heads.run_folder import load_head
from tests.conftest import GOLDENS
from tests.heads.goldens import METHODS, assert_close, read_golden, without_dropout
from tests.heads.test_official import trx_state

CLIP_TOWER = {
    "class_embedding": (768,),
    "positional_embedding": (197, 768),
    "proj": (768, 512),
    "conv1.weight": (768, 3, 16, 16),
    "ln_pre.weight": (768,),
    "transformer.resblocks.0.ln_1.weight": (768,),
}


def resnet_names(depths=(3, 4, 6, 3), bottleneck=True):
    """Names in a Sequential of a torchvision ResNet's children, one tensor per block."""
    names = ["0.weight", "1.weight", "1.running_mean"]
    last = "conv3" if bottleneck else "conv2"
    return names + [f"{4 + s}.{b}.{last}.weight" for s, n in enumerate(depths) for b in range(n)]


def backbone_state(kind, prefix):
    if kind == "clip":
        tower = {name: torch.zeros(1).expand(*shape).contiguous() for name, shape in CLIP_TOWER.items()}
        return {f"{prefix}{name}": tensor for name, tensor in tower.items()}
    return {f"{prefix}{name}": torch.ones(2) for name in resnet_names()}


def pyth(golden, path, kind):
    """The form of CLIP-FSAR, MoLo, HyRSM(++) and EMP-Net."""
    config = {
        "TRAIN": golden.metadata.get("train_flags", {}),
        "VIDEO": {"HEAD": {"NAME": golden.metadata.get("head", "")}},
    }
    if golden.metadata.get("merge_before"):
        config["TRAIN"] = {"MERGE_BEFORE": True}
    state = {f"head.{name}": tensor for name, tensor in golden.state.items()}
    state |= backbone_state(kind, "head.backbone.")
    torch.save({"epoch": 7, "model_state": state, "optimizer_state": {"lr": 1.0}, "cfg": json.dumps(config)}, path)


def trx_dict(golden, path, prefix="resnet.module."):
    state = {**golden.state, **backbone_state("resnet", prefix)}
    torch.save({"iteration": 9, "model_state_dict": state, "optimizer_state_dict": {}, "scheduler": {}}, path)


def bare(golden, path, prefix="resnet."):
    torch.save({**golden.state, **backbone_state("resnet", prefix)}, path)


def mei(golden, path):
    state = {
        f"module.{name}": tensor for name, tensor in {**golden.state, **backbone_state("clip", "backbone.")}.items()
    }
    torch.save({"iteration": 9, "model_state_dict": state, "acc": np.float64(76.4), "scheduler": {}}, path)


FORMS = {
    "otam/w5s5q1_T8_shuffled": lambda g, p: pyth(g, p, "resnet"),
    "clip_fsar/eval_depth2_mergebefore_w5s5_T4": lambda g, p: pyth(g, p, "clip"),
    "clip_fsar/eval_singledirect_w3s2_T4": lambda g, p: pyth(g, p, "clip"),
    "emp_net/p2_5w5s_T4_eval_merge": lambda g, p: pyth(g, p, "clip"),
    "molo/eval_w5s5q1_T4": lambda g, p: pyth(g, p, "resnet"),
    "hyrsm/1shot_w5s1q1_T8": lambda g, p: pyth(g, p, "resnet"),
    "hyrsm_pp/1shot_w5s1q1_T8": lambda g, p: pyth(g, p, "resnet"),
    "trx_clipfsar/w5s5q1_T8_set23": lambda g, p: pyth(g, p, "resnet"),
    "trx/p1_5w1s_T8_ts23": trx_dict,
    "trx/p2_5w5s_T8_ts2": bare,
    "strm/p2_5w5s_T4_ts23_4x4": trx_dict,
    "clip_mei/p2_5w5s_T8_eval_unequal": mei,
    "hcl/w5s1_t8_base": lambda g, p: bare(g, p, "encoder.module."),
}


@pytest.mark.shared
@pytest.mark.parametrize("case", sorted(FORMS))
def test_an_official_checkpoint_comes_back_with_the_official_logits(case, tmp_path):
    method = case.partition("/")[0]
    golden = read_golden(GOLDENS / f"{case}.safetensors")
    FORMS[case](golden, tmp_path / "official.pyth")
    settings = None
    if method == "hcl":  # keeps its settings in a file beside the checkpoint
        settings = tmp_path / "configs.txt"
        settings.write_text(f"nheads: {golden.metadata['nheads']}\nuse_spa_mscale: False\n")
    report = import_checkpoint(tmp_path / "official.pyth", settings=settings)
    assert report.method == method
    assert report.missing == ()
    write_import(report, tmp_path / "official.pyth", tmp_path / "run")
    head = without_dropout(load_head(tmp_path / "run"))
    comparison = METHODS[method].run(golden, head)
    assert_close("logits", comparison.values["logits"], golden.outputs["logits"])


@pytest.mark.shared
def test_a_matching_head_is_told_by_its_file_name_and_its_tensors(tmp_path):
    golden = read_golden(GOLDENS / "chamfer/p1_5w1s_T8_chamferpp.safetensors")
    path = tmp_path / "ssv2_chamfer++_5way_1shots_seed1.pt"
    torch.save({"iteration": 1, "model_state_dict": golden.state, "optimizer_state_dict": {}, "scheduler": {}}, path)
    report = import_checkpoint(path)
    assert (report.method, report.missing, report.assumed) == ("chamfer", (), ())
    comparison = METHODS["chamfer"].run(golden, without_dropout(report.head))
    assert_close("logits", comparison.values["logits"], golden.outputs["logits"])
    torch.save({"model_state_dict": read_golden(GOLDENS / "chamfer/p5_5w1s_T8_linear.safetensors").state}, path)
    linear = path.rename(tmp_path / "ucf101_linear_5way_1shots_seed10.pt")
    assert import_checkpoint(linear).head.options["matching"] == "linear"
    assert import_checkpoint(linear).assumed == ("video_to_class_matching", "clip_tuple_length")


@pytest.mark.shared
@pytest.mark.parametrize("case", ["p1_5w1s_T4_4x4_eval", "p3_5w5s_T4_3x3_noattention_eval"])
def test_arn_keeps_a_state_dict_for_each_network(case, tmp_path):
    golden = read_golden(GOLDENS / f"arn/{case}.safetensors")
    content = {"feature_encoder": {"module.layer1.0.weight": torch.ones(2)}, "episode": 3}
    for name, tensor in golden.state.items():
        network, _, rest = name.partition(".")
        content.setdefault(network, {})[f"module.{rest}"] = tensor
    torch.save(content, tmp_path / "official.pkl")
    report = import_checkpoint(tmp_path / "official.pkl")
    assert (report.method, report.missing, report.assumed) == ("arn", (), ("sigma",))
    assert report.ignored == ("feature_encoder.layer1.0.weight", "episode")
    assert report.head.options["attention"] == golden.metadata["options"]["attention"]
    write_import(report, tmp_path / "official.pkl", tmp_path / "run")
    comparison = METHODS["arn"].run(golden, load_head(tmp_path / "run"))
    assert_close("logits", comparison.values["logits"], golden.outputs["logits"])


@pytest.mark.shared
@pytest.mark.parametrize("method", ["team", "cmn", "tarn"])
def test_the_other_matching_heads_come_from_the_form_of_trx(method, tmp_path):
    golden = read_golden(sorted(GOLDENS.glob(f"{method}/*.safetensors"))[0])
    trx_dict(golden, tmp_path / "official.pt")
    told = None if method == "team" else method  # the others' parameters have names that anything might have
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"variant": "TEAM", **golden.metadata.get("options", {})}))
    report = import_checkpoint(tmp_path / "official.pt", method=told, settings=settings)
    assert (report.method, report.missing) == (method, ())
    write_import(report, tmp_path / "official.pt", tmp_path / "run")
    head = without_dropout(load_head(tmp_path / "run")).train(golden.metadata["mode"] == "train")
    comparison = METHODS[method].run(golden, head)
    assert_close("logits", comparison.values["logits"], golden.outputs["logits"])


def side_config(options):
    """The settings of TS-FSAR in sections, as its config files have them."""
    names = ("RES_ALPHA", "TEMP_CLIP", "TEMP_SIDE", "FUSE_VISION", "FUSE_CLIP", "FUSE_SIDE", "KD_T")
    model = {name: options[name.lower()] for name in names}
    return {"MODEL": {**model, "LSN": {"DROPOUT": 0.7, "TEMP_LAYERS": options["temporal_layers"]}}}


@pytest.mark.shared
def test_ts_fsar_comes_without_its_trunk_and_with_the_settings_of_any_section(tmp_path):
    golden = read_golden(GOLDENS / "ts_fsar/p2_5w5s_T4_eval.safetensors")
    trunk = {f"model.{name}": torch.zeros(2) for name in ("embeddings.class_embedding", "layers.0.mlp.fc1.bias")}
    trunk["model.projection.weight"] = torch.zeros(2, 2)
    torch.save({**golden.state, **trunk}, tmp_path / "official.pth")
    (tmp_path / "config.json").write_text(json.dumps(side_config(golden.metadata["options"])))
    report = import_checkpoint(tmp_path / "official.pth", settings=tmp_path / "config.json")
    assert report.method == "ts_fsar"
    assert report.missing == ()
    assert set(report.ignored) == set(trunk)
    assert {"VIS_ALPHA", "KD_ALPHA"} <= set(report.assumed)
    assert not {"RES_ALPHA", "TEMP_LAYERS", "DROPOUT"} & set(report.assumed)
    write_import(report, tmp_path / "official.pth", tmp_path / "run")
    head = load_head(tmp_path / "run")
    assert head.dropout.p == 0.7
    comparison = METHODS["ts_fsar"].run(golden, head)
    assert_close("logits", comparison.values["logits"], golden.outputs["logits"])


@pytest.mark.shared
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"A": {"RES_ALPHA": 1.6}, "B": {"RES_ALPHA": 0.4}}, "give RES_ALPHA twice, as 1.6 and as 0.4"),
        ({"RES_ALPHA": "high"}, "RES_ALPHA in the settings must be a number"),
    ],
)
def test_settings_of_ts_fsar_that_mean_nothing_are_refused(settings, message, tmp_path):
    golden = read_golden(GOLDENS / "ts_fsar/p2_5w5s_T4_eval.safetensors")
    torch.save(golden.state, tmp_path / "official.pth")
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=message):
        import_checkpoint(tmp_path / "official.pth", settings=tmp_path / "config.json")


@pytest.mark.shared
def test_the_backbone_gets_the_names_of_its_library(tmp_path):
    golden = read_golden(GOLDENS / "trx/p2_5w5s_T8_ts2.safetensors")
    trx_dict(golden, tmp_path / "official.pt")
    written = write_import(import_checkpoint(tmp_path / "official.pt"), tmp_path / "official.pt", tmp_path / "run")
    assert written["backbone"] == f"torchvision:resnet50/{tmp_path / 'run' / 'backbone.safetensors'}"
    names = set(load_file(tmp_path / "run" / "backbone.safetensors"))
    assert {"conv1.weight", "bn1.weight", "bn1.running_mean", "layer1.0.conv3.weight", "layer4.2.conv3.weight"} <= names


@pytest.mark.shared
def test_what_went_nowhere_is_listed(tmp_path):
    golden = read_golden(GOLDENS / "clip_mei/p1_5w1s_T8_eval.safetensors")
    mei(golden, tmp_path / "official.pt")
    report = import_checkpoint(tmp_path / "official.pt")
    assert set(report.ignored) == {"scale", "acc", "iteration", "scheduler"}
    assert report.backbone is not None
    assert report.backbone.spec == "open_clip:ViT-B-16"


@pytest.mark.shared
def test_parameters_that_no_checkpoint_holds_are_named_and_the_same_every_time(tmp_path):
    golden = read_golden(GOLDENS / "strm/p2_5w5s_T4_ts23_4x4.safetensors")
    golden.state = {name: t for name, t in golden.state.items() if not name.startswith("new_dist_loss")}
    trx_dict(golden, tmp_path / "official.pt")
    first, second = (import_checkpoint(tmp_path / "official.pt") for _ in range(2))
    assert first.missing
    assert all("similarit" in name for name in first.missing)
    for name in first.missing:
        assert torch.equal(first.head.state_dict()[name], second.head.state_dict()[name])


@pytest.mark.shared
def test_a_tensor_of_another_size_is_not_tiled(tmp_path):
    golden = read_golden(GOLDENS / "clip_fsar/eval_w5s1q1_T8.safetensors")
    name = "context2.layers.0.1.net.3.bias"
    golden.state[name] = golden.state[name][:32]
    pyth(golden, tmp_path / "official.pyth", "clip")
    with pytest.raises(InputError, match=r"feed_forward.net.3.bias must be \(64,\), the weights hold \(32,\)"):
        import_checkpoint(tmp_path / "official.pyth")


@pytest.mark.shared
def test_a_missing_or_unknown_tensor_is_an_error(tmp_path):
    golden = read_golden(GOLDENS / "clip_fsar/eval_w5s1q1_T8.safetensors")
    del golden.state["context2.layers.0.1.net.3.bias"]
    golden.state["surprise"] = torch.zeros(1)
    pyth(golden, tmp_path / "official.pyth", "clip")
    with pytest.raises(InputError, match=r"not in the head: \['surprise'\]; not in the weights: \['context.0"):
        import_checkpoint(tmp_path / "official.pyth")


@pytest.mark.shared
def test_hyrsm_without_its_config_asks_which_one_it_is(tmp_path):
    golden = read_golden(GOLDENS / "hyrsm_pp/1shot_w5s1q1_T8.safetensors")
    torch.save(dict(golden.state), tmp_path / "bare.pt")
    with pytest.raises(InputError, match=r"say --method hyrsm or hyrsm_pp"):
        import_checkpoint(tmp_path / "bare.pt")
    config = {"TRAIN": golden.metadata["train_flags"], "VIDEO": {"HEAD": {"NAME": golden.metadata["head"]}}}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    assert import_checkpoint(tmp_path / "bare.pt", settings=tmp_path / "cfg.json").method == "hyrsm_pp"


@pytest.mark.shared
@pytest.mark.parametrize(("method", "setting"), [("hyrsm", "VIDEO.HEAD.NAME"), ("molo", "LOGIT_BALANCE_COFF")])
def test_what_a_bare_file_does_not_tell_is_listed_as_assumed(method, setting, tmp_path):
    paths = sorted(GOLDENS.glob(f"{method}/*.safetensors"))
    golden = read_golden(next(path for path in paths if "train" not in path.stem))
    state = {name: tensor for name, tensor in golden.state.items() if not name.startswith("scale")}
    torch.save(state, tmp_path / "bare.pt")
    assert setting in import_checkpoint(tmp_path / "bare.pt", method=method).assumed
    (tmp_path / "cfg.json").write_text(json.dumps({"TRAIN": {"WAY": 5}}))
    assert import_checkpoint(tmp_path / "bare.pt", method=method, settings=tmp_path / "cfg.json").assumed == ()


def test_the_loss_of_a_trx_is_that_of_its_code_base(tmp_path):
    state = trx_state()
    torch.save(state, tmp_path / "first.pt")
    torch.save({**state, "transformers.0.tuples.0": torch.tensor([0, 1])}, tmp_path / "later.pt")
    assert import_checkpoint(tmp_path / "first.pt").head.options["reduction"] == "sum"
    assert import_checkpoint(tmp_path / "later.pt").head.options["reduction"] == "mean"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"module.transformers.0.norm_k.bias": torch.ones(6)}, "transformers.0.norm_k.bias twice"),
        ({"transformers.0.norm_k.bias": torch.full((6,), torch.nan)}, "norm_k.bias holds numbers that are not finite"),
    ],
)
def test_weights_that_contradict_or_diverged_are_refused(changes, message, tmp_path):
    torch.save(trx_state() | changes, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=message):
        import_checkpoint(tmp_path / "odd.pt")


@pytest.mark.parametrize("settings", [{"TRAIN": [1]}, {"VIDEO": 3}])
def test_settings_of_another_shape_are_one_line(settings, tmp_path):
    torch.save({"model_state": trx_state(), "cfg": json.dumps(settings)}, tmp_path / "odd.pyth")
    with pytest.raises(InputError, match="must hold named values"):
        import_checkpoint(tmp_path / "odd.pyth", method="hyrsm" if "TRAIN" in settings else None)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    torch.save({"model_state": {}, "cfg": Payload(tmp_path / "pwned")}, tmp_path / "evil.pyth")
    with pytest.raises(InputError, match=r"refused.*would run code"):
        read_checkpoint(tmp_path / "evil.pyth")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Payload(tmp_path / "pwned"), protocol=2))
    with pytest.raises(InputError):
        read_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "pwned").exists()


def test_allowing_numpy_numbers_here_allows_them_nowhere_else(tmp_path):
    torch.save({"model_state_dict": {"scale": torch.ones(1)}, "acc": np.float64(0.5)}, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt").unused == ("acc",)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "file.pt", weights_only=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a PyTorch checkpoint"),
        (b"not a checkpoint at all", "not a PyTorch checkpoint"),
        ([1, 2], "holds a list"),
        ({"weights": 3}, "unknown form .top-level keys: weights"),
        ({"model_state": {"a": "text"}}, "unknown form"),
        ({}, "unknown form"),
        ({"somebody.elses.weight": torch.ones(2)}, "of no method known here .somebody.elses.weight"),
    ],
)
def test_other_files_fail_with_one_clear_line(content, message, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(InputError, match=message):
        import_checkpoint(path)


def test_a_truncated_file_is_called_damaged(tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"model_state": {"a": torch.ones(5000)}}, path)
    path.write_bytes(path.read_bytes()[:9000])
    with pytest.raises(InputError, match="damaged"):
        import_checkpoint(path)


def test_settings_are_read_as_json_yaml_or_lines(tmp_path):
    path = tmp_path / "configs.txt"
    for text in ('{"MODEL": {"A": 1}}', "MODEL:\n  A: 1\n"):
        path.write_text(text)
        assert read_settings(path) == {"MODEL": {"A": 1}}
    path.write_text("nheads: 8\nuse_spa_mscale: True\n")
    assert read_settings(path) == {"nheads": 8, "use_spa_mscale": True}
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="named settings"):
        read_settings(path)


@pytest.mark.parametrize(
    ("depths", "bottleneck", "name"),
    [((2, 2, 2, 2), False, "resnet18"), ((3, 4, 6, 3), False, "resnet34"), ((3, 4, 23, 3), True, "resnet101")],
)
def test_resnets_are_told_by_their_blocks(depths, bottleneck, name):
    state = {key: torch.ones(1) for key in resnet_names(depths, bottleneck)}
    backbone = recognise_backbone(state)
    assert backbone is not None
    assert backbone.spec == f"torchvision:{name}"


def test_a_backbone_of_unknown_kind_is_listed_as_ignored(tmp_path):
    assert recognise_backbone({"stem.weight": torch.ones(1)}) is None
    assert recognise_backbone({}) is None


@pytest.mark.shared
def test_an_imported_resnet_is_the_network_that_was_saved(tmp_path):
    torchvision = pytest.importorskip("torchvision")
    from fsar.heads import seeded
    from fsar.pipeline.backbones import load_backbone

    with seeded(0):
        resnet = torchvision.models.resnet18(weights=None).eval()
    trunk = torch.nn.Sequential(*list(resnet.children())[:-1])
    golden = read_golden(GOLDENS / "trx/p2_5w5s_T8_ts2.safetensors")
    state = {**golden.state, **{f"resnet.module.{name}": tensor for name, tensor in trunk.state_dict().items()}}
    torch.save(state, tmp_path / "official.pt")
    written = write_import(import_checkpoint(tmp_path / "official.pt"), tmp_path / "official.pt", tmp_path / "run")
    assert written["backbone"].startswith("torchvision:resnet18/")
    backbone = load_backbone(written["backbone"], size=64)
    frames = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(backbone.module(frames), trunk(frames).flatten(1))


@pytest.mark.shared
def test_a_merged_emp_net_is_imported_without_its_oversight(tmp_path):
    """The released lookup falls back on the text of class 0, which no episode holds."""
    golden = read_golden(GOLDENS / "emp_net/p2_5w5s_T4_eval_merge.safetensors")
    pyth(golden, tmp_path / "official.pyth", "clip")
    head = import_checkpoint(tmp_path / "official.pyth").head
    assert head.options["compat"] == "fixed"
    batch = EpisodeBatch(
        support={role.role: torch.rand(1, 4, 4, 5, head.dim) for role in head.inputs},
        support_labels=torch.tensor([[0, 0, 1, 1]]),
        query={role.role: torch.rand(1, 2, 4, 5, head.dim) for role in head.inputs},
        n_way=2,
        class_text=torch.rand(1, 2, 1, head.dim),
    )
    official = import_checkpoint(tmp_path / "official.pyth", compat="official").head
    with torch.no_grad():
        assert head(batch).isfinite().all()
        with pytest.raises(InputError, match="text of class 0"):
            official(batch)


@pytest.mark.shared
def test_an_import_can_leave_the_released_faults_behind(tmp_path):
    golden = read_golden(GOLDENS / "hcl/w5s1_t8_base.safetensors")
    bare(golden, tmp_path / "official.pth", "encoder.module.")
    report = import_checkpoint(tmp_path / "official.pth", compat="fixed")
    assert report.head.options["compat"] == "fixed"
    assert {name for name in report.ignored if "linear" in name} == {"tri_linear.weight", "tri_linear.bias"}
    assert {"nheads", "temp_set", "use_spa_mscale"} <= set(report.assumed)
    write_import(report, tmp_path / "official.pth", tmp_path / "run")
    assert load_head(tmp_path / "run").options["compat"] == "fixed"
