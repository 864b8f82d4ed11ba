import json
import pickle

import numpy as np
import pytest
from click.testing import CliRunner

from fsar.cli.prep_text import command
from fsar.errors import InputError
from fsar.pipeline.encode.encode import EncodeOptions, encode
from fsar.pipeline.store import open_store
from fsar.pipeline.text.tables import load_text_encoder
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


def descriptions(tmp_path, content):
    (tmp_path / "d.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path / "d.json"


SENTENCES = {"Class_A": ["a hand moves", "something is moved", "it moves"], "class b": ["it stays"], "other": ["no"]}


def test_descriptions_become_one_vector_of_their_mean_direction(store, tmp_path):
    file = descriptions(tmp_path, SENTENCES)
    result = run(store, "--encoder", ENCODER, "--descriptions", file)
    assert result.exception is None, result.exception
    assert "4 sentences (0 of them cut), 2 classes x 24" in result.stdout
    table = open_store(store).text("descriptions")
    raw = load_text_encoder(ENCODER, image_size=32).encode(SENTENCES["Class_A"])
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    mean = (raw / lengths).mean(0)
    first = table.vectors[0, table.class_names.index("class a")]
    np.testing.assert_allclose(first / np.linalg.norm(first), mean / np.linalg.norm(mean), atol=1e-6)
    assert np.linalg.norm(first) == pytest.approx(lengths.mean(), rel=1e-5)
    assert table.encoder["n_descriptions"] == [3, 1]
    assert table.templates == ("{}",)  # a class that it lacks is described by its name


def test_a_sentence_that_is_too_long_is_refused_or_cut_where_the_model_stops(store, tmp_path):
    long = "a hand moves a thing " * 40
    file = descriptions(tmp_path, {"class a": [long], "class b": ["it stays"]})
    assert "longer than" in str(run(store, "--encoder", ENCODER, "--descriptions", file).exception)
    result = run(store, "--encoder", ENCODER, "--descriptions", file, "--cut")
    assert "(1 of them cut)" in result.stdout
    cut, longer = load_text_encoder(ENCODER, image_size=32).encode([long, long + "and more"], cut=True)
    np.testing.assert_array_equal(cut, longer)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ({"class a": []}, "class 'class a' must have a list of sentences"),
        ({"class a": ["x", 3]}, "class 'class a' must have a list of sentences"),
        ({"class a": "x"}, "class 'class a' must have a list of sentences"),
        ({"class a": ["x"], "Class_A": ["y"]}, "describes one class twice, as 'class a' and as 'Class_A'"),
        ({"class a": ["x"]}, "describes 1 class of the store or split not: 'class b'"),
    ],
)
def test_descriptions_of_another_form_are_refused(content, message, store, tmp_path):
    result = run(store, "--encoder", ENCODER, "--descriptions", descriptions(tmp_path, content))
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert open_store(store).text_tables() == []


def test_descriptions_stand_in_place_of_prompts(store, tmp_path):
    both = run(store, "--encoder", ENCODER, "--descriptions", tmp_path / "d.json", "--templates", "plain")
    assert "leave those out" in str(both.exception)
    hcl = run(store, "--import-hcl", "a", "b", "--descriptions", tmp_path / "d.json")
    assert "needs an --encoder" in str(hcl.exception)
    assert "--cut is for" in str(run(store, "--encoder", ENCODER, "--cut").exception)
