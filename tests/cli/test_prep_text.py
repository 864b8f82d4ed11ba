import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

from fsar.cli.prep_text import command
from fsar.errors import InputError
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.store import open_store
from tests.pipeline.backbone_helpers import add_tiny_clips
from tests.pipeline.encode_helpers import made_up_rows
from tests.pipeline.test_encode import INLINE

ENCODER = "random:open_clip/tiny-vit"


@pytest.fixture(scope="module", autouse=True)
def tiny_clips(tmp_path_factory):
    add_tiny_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(params=["zarr", "h5"])
def store(request, tmp_path):
    options = EncodeOptions(ENCODER, n_slots=2, engine=INLINE)
    return encode(made_up_rows(tmp_path, ["a", "b"]), tmp_path / f"s.{request.param}", options, quiet=True).path


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)


def test_a_table_is_added_and_the_store_stays_sealed(store):
    result = run(store, "--encoder", ENCODER, "--templates", "emp-net", "--json")
    assert result.exception is None
    assert json.loads(result.stdout)["shape"] == [16, 2, 24]
    opened = open_store(store)
    assert opened.sealed
    assert opened.text_tables() == ["emp-net"]
    table = opened.text("emp-net")
    assert table.class_names == ("class a", "class b")
    assert table.encoder["text_sha256"] == opened.recipe["text_sha256"]


def test_the_same_again_is_fine_and_another_needs_a_name_or_overwrite(store):
    assert run(store, "--encoder", ENCODER).exception is None
    assert run(store, "--encoder", ENCODER).exception is None
    changed = run(store, "--encoder", ENCODER, "--names", "cleaned", "--table", "clip-fsar", "--templates", "plain")
    assert "another text table" in str(changed.exception)
    words = ["--encoder", ENCODER, "--templates", "plain", "--table", "clip-fsar", "--overwrite"]
    assert "1 template x 2 classes x 24" in run(store, *words).stdout


def test_a_tower_of_another_model_is_refused_unless_meant(store):
    other = run(store, "--encoder", f"{ENCODER}@7")
    assert isinstance(other.exception, InputError)
    assert "--allow-mismatch" in str(other.exception)
    assert open_store(store).text_tables() == []
    assert run(store, "--encoder", f"{ENCODER}@7", "--allow-mismatch").exception is None


def test_hcls_published_vectors_become_a_table(store, tmp_path):
    vectors = np.arange(10, dtype=np.float32).reshape(2, 5)
    (tmp_path / "x_embs.pkl").write_bytes(pickle.dumps(vectors, protocol=3))
    (tmp_path / "x_vid2embid.json").write_text(json.dumps({"a": 1, "b": 0}))
    files = [tmp_path / "x_embs.pkl", tmp_path / "x_vid2embid.json"]
    assert run(store, "--import-hcl", *files).exception is None
    table = open_store(store).text("hcl")
    assert table.vectors[0].tolist() == vectors[[1, 0]].tolist()
    both = run(store, "--import-hcl", *files, "--encoder", ENCODER)
    assert "either --encoder or --import-hcl" in str(both.exception)
    assert "either --encoder or --import-hcl" in str(run(store).exception)
