"""Which arithmetic a forward pass uses, on devices that are not here: decisions are functions of the device's kind."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.catalog.catalog import Catalog, write_catalog
from fsar.pipeline.encode import plan as planning
from fsar.pipeline.encode.encode import EncodeOptions, add_videos, encode, plan
from fsar.pipeline.encode.precision import (
    PRECISIONS,
    computing,
    default_precision,
    describe_default,
    float32_products,
    nearest_precision,
    require_precision,
)
from fsar.pipeline.encode.report import EngineOptions
from fsar.pipeline.store import open_store, open_writer
from fsar.predict.encoder import ClipEncoder
from tests.pipeline.encode_helpers import fake_decode, made_up_rows

CPU, GPU = torch.device("cpu"), torch.device("cuda:1")
TINY = EncodeOptions(
    "random:timm/test_resnet", n_slots=2, size=32, engine=EngineOptions("cpu", jobs=0, decode=fake_decode)
)


@pytest.fixture
def gpus(monkeypatch):
    """A function that makes torch tell of GPUs of a compute capability."""

    def pretend(*capability):
        monkeypatch.setattr(torch.version, "cuda", "13.0")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    return pretend


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp32"), ((8, 0), "tf32"), ((9, 0), "tf32")])
def test_gpus_from_ampere_on_encode_with_tf32_by_default(gpus, capability, expected):
    gpus(*capability)
    assert default_precision(GPU) == expected
    assert default_precision(CPU) == "fp32"
    assert (describe_default(GPU) is None) == (expected == "fp32")


def test_other_makers_gpus_have_no_tf32(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert default_precision(GPU) == "fp32"


def test_a_device_is_only_asked_for_arithmetic_that_it_has(gpus):
    gpus(7, 5)
    for device in (CPU, GPU):
        with pytest.raises(InputError, match=f"which {device} does not have: encode on such a GPU, or encode all"):
            require_precision("tf32", device)
    for precision in PRECISIONS:
        if precision != "tf32":
            require_precision(precision, CPU)
            assert nearest_precision(precision, CPU) == precision
    assert nearest_precision("tf32", CPU) == "fp32"
    gpus(8, 6)
    require_precision("tf32", GPU)
    assert nearest_precision("tf32", GPU) == "tf32"


def flags():
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(("precision", "expected"), [("tf32", (True, True)), ("fp32", (False, False))])
def test_on_a_gpu_products_are_rounded_as_asked_and_the_switches_go_back(precision, expected):
    before = flags()
    with computing(precision, "cuda"):
        assert flags() == expected
    assert flags() == before
    with pytest.raises(ZeroDivisionError), float32_products(tf32=not before[0]):
        raise ZeroDivisionError
    assert flags() == before


def test_on_a_cpu_no_switch_is_touched(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "flags", None)
    with computing("fp32", "cpu"):
        pass


@pytest.fixture
def rows(tmp_path):
    return made_up_rows(tmp_path / "videos", ["a", "b"])


@pytest.fixture
def like_a_gpu(monkeypatch):
    """Plans are made as on a GPU that has TF32."""
    monkeypatch.setattr(planning, "default_precision", lambda device: "tf32")
    monkeypatch.setattr(planning, "describe_default", lambda device: "precision tf32, the default")


def test_a_new_store_has_the_precision_of_the_device_and_says_so(tmp_path, rows, like_a_gpu):
    planned = plan(rows, TINY, tmp_path / "s.zarr")
    assert planned.recipe.precision == planned.recipe.to_dict()["precision"] == "tf32"
    assert planned.notes == ("precision tf32, the default",)
    chosen = plan(rows, dataclasses.replace(TINY, precision="amp-bf16"), tmp_path / "s.zarr")
    assert (chosen.recipe.precision, chosen.notes) == ("amp-bf16", ())


def test_a_store_goes_on_with_its_own_precision_unless_another_is_asked_for(tmp_path, rows, like_a_gpu):
    out = tmp_path / "s.zarr"
    encode(rows, out, dataclasses.replace(TINY, precision="fp32"))
    resumed = plan(rows, TINY, out)
    assert (resumed.recipe.precision, resumed.notes) == ("fp32", ())
    with pytest.raises(InputError, match="precision"):
        encode(rows, out, dataclasses.replace(TINY, precision="bf16"))


def test_tf32_on_a_cpu_is_refused_before_a_store_is_made(tmp_path, rows):
    with pytest.raises(InputError, match=r"precision tf32 is arithmetic of NVIDIA GPUs .* which cpu does not have"):
        encode(rows, tmp_path / "s.zarr", dataclasses.replace(TINY, precision="tf32"))
    assert not (tmp_path / "s.zarr").exists()


def test_a_store_of_tf32_is_neither_resumed_nor_extended_on_a_cpu(tmp_path, rows):
    from fsar.pipeline.encode.encode import open_or_make

    out = tmp_path / "s.zarr"
    options = dataclasses.replace(TINY, precision="tf32")
    open_or_make(out, plan(rows, options, out), options).close()  # as where workers with GPUs shall fill it
    for work in (lambda: encode(rows, out, TINY), lambda: add_videos(out, plan(rows, options).videos)):
        with pytest.raises(InputError, match="which cpu does not have"):
            work()
    with open_writer(out) as writer:
        assert writer.missing_parts().total() == len(rows)


def test_the_command_says_the_default_once_and_in_its_plan(run, tmp_path, rows, like_a_gpu):
    write_catalog(Catalog(tuple(rows), "made-up"), tmp_path / "c.csv")
    line = ("fsar-prep", "encode", "c.csv", "--backbone", TINY.backbone, "--size", 32, "--out", "s.zarr", "--jobs", 0)
    out, err = run(*line, "--dry-run")
    assert err.count("note: precision tf32, the default\n") == 1
    assert "  precision = tf32\n" in out
    out, err = run(*line, "--dry-run", "--json", "--precision", "fp32")
    assert json.loads(out)["recipe"]["precision"] == "fp32"
    assert "precision" not in err
    for workers in ((), ("--cluster", "local", "--workers", 2)):
        err = run(*line, "--device", "cpu", "--precision", "tf32", *workers, code=1)[1]
        assert "error: precision tf32 is arithmetic of NVIDIA GPUs" in err
        assert not (tmp_path / "s.zarr").exists()


@pytest.mark.gpu
def test_a_gpu_encodes_as_its_precision_says(tmp_path, rows):
    """TF32 moves features by its rounding and no more; fp32 is what a CPU computes."""
    on_gpu = dataclasses.replace(TINY, dtype="float32", engine=EngineOptions("cuda", jobs=0, decode=fake_decode))
    stores = {
        name: encode(rows, tmp_path / f"{name}.zarr", dataclasses.replace(options, precision=precision)).path
        for name, options, precision in (
            ("cpu", dataclasses.replace(TINY, dtype="float32"), "fp32"),
            ("fp32", on_gpu, "fp32"),
            ("default", on_gpu, None),
        )
    }
    cpu, fp32, default = (open_store(path).load("pooled") for path in stores.values())
    torch.testing.assert_close(fp32, cpu, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(default, cpu, rtol=2e-2, atol=2e-3)
    assert open_store(stores["default"]).recipe["precision"] == default_precision(torch.device("cuda", 0))


def test_where_workers_are_elsewhere_the_default_of_this_machine_is_said(run, tmp_path, rows):
    write_catalog(Catalog(tuple(rows), "made-up"), tmp_path / "c.csv")
    line = ("fsar-prep", "encode", "c.csv", "--backbone", TINY.backbone, "--size", 32, "--out", "s.zarr", "--dry-run")
    said = "note: precision fp32, the default on this machine; if the workers have GPUs, say --precision tf32\n"
    slurm = ("--cluster", "slurm", "--workers", 2)
    assert said in run(*line, *slurm)[1]
    for options in ((*slurm, "--precision", "fp32"), (*slurm, "--precision", "tf32"), ("--cluster", "local"), ()):
        assert "note: precision" not in run(*line, *options)[1]


def test_a_clip_for_features_of_tf32_is_encoded_without_it_and_that_is_said(tmp_path, rows):
    recipe = dataclasses.replace(plan(rows, TINY).recipe, precision="tf32").to_dict()
    encoder = ClipEncoder(recipe, device="cpu", cache=tmp_path)
    assert encoder.notes == ["clips are encoded with fp32 on cpu, which has no tf32, that of the features"]
    exact = ClipEncoder(recipe | {"precision": "fp32"}, device="cpu", cache=tmp_path)
    frames = np.zeros((2, 40, 40, 3), np.uint8)
    assert torch.equal(encoder.frames(frames)["pooled"], exact.frames(frames)["pooled"])
    assert exact.notes == []
    encoder.close()
    exact.close()
