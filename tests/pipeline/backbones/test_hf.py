"""Models of transformers: pictures and text as the library makes them, and folders that are refused."""

import json
import shutil
import socket

import numpy as np
import pytest
import torch
import transformers

from fsar.errors import InputError
from fsar.pipeline.backbones import load_backbone
from fsar.pipeline.backbones.hf.build import FAMILIES, list_names
from fsar.pipeline.backbones.hf.pictures import image_of
from fsar.pipeline.backbones.taps import TapExtractor
from fsar.pipeline.pixels.prepare import prepare
from fsar.pipeline.text.hf import HfTextEncoder
from fsar.pipeline.text.tables import check_same_model, load_text_encoder
from tests.pipeline.backbones.hf_models import PROCESSORS, library_features, library_model, make_model

close = torch.testing.assert_close
TEXT_KINDS = [kind for kind, family in FAMILIES.items() if family.text]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Kind -> folder with a small model of it, made when it is first asked for."""
    made = {}

    def model(kind):
        if kind not in made:
            made[kind] = make_model(tmp_path_factory.mktemp(kind), kind)
        return made[kind]

    return model


def frames(n, height, width):
    coarse = np.random.default_rng(height).integers(0, 256, (n, height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return coarse.repeat(4, 1).repeat(4, 2)[:, :height, :width]


def processed(folder, kind, video):
    """Return what the library's own processor makes of frames (T, H, W, 3)."""
    pictures = [torch.from_numpy(frame).permute(2, 0, 1) for frame in video]
    if kind == "vjepa2":
        processor = transformers.AutoVideoProcessor.from_pretrained(folder)
        return processor(torch.stack(pictures), return_tensors="pt").pixel_values_videos[0]
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    if "VideoMAE" in type(processor).__name__ or kind == "vivit":
        return processor([list(video)], return_tensors="pt").pixel_values[0]
    return processor(pictures, return_tensors="pt").pixel_values


@pytest.mark.parametrize("kind", sorted(set(FAMILIES) - {"siglip2"}))
@pytest.mark.parametrize("shape", [(45, 64), (64, 41), (121, 33)])  # odd sizes, and an odd number of pixels to crop
def test_pictures_are_those_of_the_librarys_processor(models, kind, shape):
    video = frames(8, *shape)
    backbone = load_backbone(f"hf:{models(kind)}")
    own, ours = processed(models(kind), kind, video), prepare(video, backbone.image)
    assert own.shape == ours.shape
    one_level = 1 / 255 / min(backbone.std)  # Pillow and torch differ by a level in few pixels
    assert (own - ours).abs().max() <= 2.01 * one_level
    assert (own - ours).abs().mean() < 0.02 * one_level


def test_from_frames_to_features_as_the_library_alone_does_it(models):
    video = frames(8, 50, 70)
    backbone = load_backbone(f"hf:{models('videomae')}")
    own = library_features(models("videomae"), processed(models("videomae"), "videomae", video)[None])["pooled"]
    with torch.inference_mode():
        close(backbone.module(prepare(video, backbone.image)[None]), own, rtol=1e-3, atol=1e-4)


def test_vivit_maps_levels_to_both_signs_before_it_normalises(models):
    image = load_backbone(f"hf:{models('vivit')}").image
    assert image.mean == pytest.approx((0.75,) * 3)
    assert image.std == pytest.approx((0.25,) * 3)
    assert image_of(transformers.VivitImageProcessor(offset=False, rescale_factor=1 / 255), None).mean[0] == 0.5


def test_pictures_that_are_padded_are_left_to_the_user(models):
    backbone = load_backbone(f"hf:{models('siglip2')}")
    assert (backbone.image, backbone.size) == (None, 128)


def test_the_last_block_finished_is_the_last_hidden_state(models):
    for kind in ("siglip", "dinov2", "vivit", "timesformer", "vjepa2", "dinov3_vit"):
        backbone = load_backbone(f"hf:{models(kind)}")
        taps = TapExtractor(backbone, ["tokens.1", "map"])
        features = taps(torch.rand(backbone.example().shape, generator=torch.Generator().manual_seed(0)))
        close(backbone.points.grid(features["tokens.1"]), features["map"], msg=kind)
        taps.close()


def test_clips_tokens_are_in_the_joint_space_as_the_class_token(models):
    backbone = load_backbone(f"hf:{models('clip')}")
    taps = TapExtractor(backbone, ["tokens.1", "pooled"])
    features = taps(torch.rand(2, 3, 32, 32))
    close(features["tokens.1"][:, 0], features["pooled"])


def test_x_clips_time_steps_are_frames_whose_mean_is_the_video(models):
    backbone = load_backbone(f"hf:{models('xclip')}")
    clips = torch.rand(2, 8, 3, 32, 32)
    taps = TapExtractor(backbone, ["steps.pooled"])
    with torch.no_grad():
        steps = taps(clips)["steps.pooled"]
        over = library_model(models("xclip"))
        frames_seen = over.visual_projection(over.vision_model(clips.flatten(0, 1)).pooler_output)
        close(steps, over.mit(frames_seen.view(2, 8, -1)).last_hidden_state.flatten(0, 1))
        close(steps.view(2, 8, -1).mean(1), backbone.module(clips))


@pytest.mark.parametrize("kind", TEXT_KINDS)
def test_text_is_what_the_library_gives_for_its_own_tokens(models, kind):
    sentences = ["a photo of archery", "a photo of push right", "running"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(models(kind))
    padding = {"padding": "max_length", "max_length": 64} if kind.startswith("siglip") else {"padding": True}
    with torch.no_grad():
        inputs = tokenizer(sentences, return_tensors="pt", **padding)
        own = library_model(models(kind)).get_text_features(**inputs).pooler_output
    encoder = load_text_encoder(f"hf:{models(kind)}")
    found = torch.from_numpy(encoder.encode(sentences))
    close(found, own)
    assert found.std(0).min() > 1e-4  # they are not all one
    long = ["photo a " * 40, "push"]
    with pytest.raises(InputError, match=r"prompt is longer than the \d+ tokens"):
        encoder.encode(long)
    context = encoder._context
    assert (encoder.n_too_long(long), encoder.tokens(long, cut=True)["input_ids"].shape[1]) == (1, context)
    kept = " ".join(long[0].split()[: context - 1])  # the last token is the end's
    np.testing.assert_allclose(encoder.encode(long, cut=True)[0], encoder.encode([kept])[0], rtol=1e-4, atol=1e-5)


def test_gemmas_tokenizer_is_given_lower_case(models, tmp_path):
    from fsar.pipeline.text import hf

    class GemmaTokenizer:
        pad = None

        def __call__(self, sentences):
            return sentences

    encoder = HfTextEncoder(f"hf:{models('siglip')}")
    assert encoder.encode(["archery"]).shape == (1, 32)
    assert hf._LowerCase(GemmaTokenizer())(["Apply Eye Makeup"]) == ["apply eye makeup"]


def test_a_text_tower_of_another_model_is_refused(models):
    from fsar.pipeline.encode.recipe import describe_backbone

    recipe = describe_backbone(load_backbone(f"hf:{models('clip')}"))
    check_same_model(recipe, load_text_encoder(f"hf:{models('clip')}").describe())
    for other in (f"hf:{models('xclip')}", "random:hf/clip-tiny"):
        with pytest.raises(InputError, match="this text tower is not of the model that made the store"):
            check_same_model(recipe, load_text_encoder(other).describe())
    with pytest.raises(InputError, match="has no text tower"):
        load_text_encoder(f"hf:{models('dinov2')}")
    with pytest.raises(InputError, match="--pooling is for BERT models"):
        load_text_encoder(f"hf:{models('clip')}", pooling="cls")


@pytest.mark.parametrize("name", [name for name in list_names() if name.endswith("-tiny")])
def test_random_weights_are_those_of_their_seed(name):
    first, again, other = (load_backbone(f"random:hf/{name}@{seed}") for seed in (1, 1, 2))
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.pretrained == "random@1"
    assert load_backbone(f"random:hf/{name}", size=64).size == 64


def test_random_weights_of_a_configuration_in_a_folder(models, tmp_path):
    shutil.copy(models("videomae") / "config.json", tmp_path)
    backbone = load_backbone(f"random:hf/{tmp_path}@4")
    assert (backbone.name, backbone.pretrained, backbone.video.length) == (str(tmp_path), "random@4", 8)


def test_weights_in_several_files_are_the_same_model(models, tmp_path):
    whole, parts = load_backbone(f"hf:{models('dinov2')}"), make_model(tmp_path / "m", "dinov2", shards=3)
    assert len(list(parts.glob("*.safetensors"))) > 1
    assert load_backbone(f"hf:{parts}").weights_sha256 == whole.weights_sha256
    index = parts / "model.safetensors.index.json"
    stolen = json.loads(index.read_text())
    stolen["weight_map"] = dict.fromkeys(stolen["weight_map"], "../elsewhere.safetensors")
    index.write_text(json.dumps(stolen))
    with pytest.raises(InputError, match=r"must map parameters to \.safetensors files of its folder"):
        load_backbone(f"hf:{parts}")


def test_a_store_records_the_folders_name_and_no_path(models):
    backbone = load_backbone(f"hf:{models('clip')}/model.safetensors")
    assert (backbone.name, backbone.pretrained) == (models("clip").name, "file")
    named = load_backbone("hf:OWNER/clip", weights=models("clip"))
    assert (named.name, named.pretrained, named.weights_sha256) == ("OWNER/clip", "file", backbone.weights_sha256)


def change_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


BROKEN = {
    "only a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
                      r"has pytorch_model\.bin and no model\.safetensors: only safetensors are read"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), r"has no weights and no model\.safetensors"),
    "code": (lambda f: change_json(f / "config.json", auto_map={"AutoModel": "modeling.Mine"}),
             r"wants Python code of its repository to be run \(auto_map\)"),
    "code for pictures": (lambda f: change_json(f / "preprocessor_config.json", auto_map={}), r"\(auto_map\)"),
    "kind": (lambda f: change_json(f / "config.json", model_type="videomea"),
             r"unknown model_type of hf:m: 'videomea': did you mean videomae"),
    "no kind": (lambda f: (f / "config.json").write_text("{}"), r"unknown model_type of hf:m: ''"),
    "quantised": (lambda f: change_json(f / "config.json", quantization_config={}), r"is of quantised weights"),
    "no configuration": (lambda f: (f / "config.json").unlink(), r"is no folder of a transformers model"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), r"config\.json is not JSON"),
    "a list": (lambda f: (f / "config.json").write_text("[]"), r"config\.json must hold an object"),
    "no pictures": (lambda f: (f / "preprocessor_config.json").unlink(), r"has no preprocessor_config\.json"),
    "cut": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:900]),
            r"is not a whole safetensors file"),
    "another width": (lambda f: change_json(f / "config.json", hidden_size=48), r"do not fit|cannot make"),
    "more layers": (lambda f: change_json(f / "config.json", num_hidden_layers=3), r"do not fit VideoMAEModel: 15 "),
    "heads": (lambda f: change_json(f / "config.json", num_attention_heads=5), r"cannot make hf:m of its config\.json"),
    "types": (lambda f: change_json(f / "config.json", hidden_size="wide"), r"cannot make hf:m of its config\.json"),
    "odd pictures": (lambda f: change_json(f / "preprocessor_config.json", crop_size={"height": 32, "width": 24}),
                     r"makes frames of 32 x 24 pixels"),
    "other pictures": (lambda f: change_json(f / "preprocessor_config.json", crop_size={"height": 36, "width": 36}),
                       r"takes frames of 32 pixels, got 36"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_folder_must_not_be_is_said_in_one_line(models, tmp_path, name):
    shutil.copytree(models("videomae"), tmp_path / "m")
    spoil, message = BROKEN[name]
    spoil(tmp_path / "m")
    with pytest.raises(InputError, match=message) as caught:
        load_backbone(f"hf:{tmp_path / 'm'}")
    assert "\n" not in str(caught.value)


def test_sizes_and_lengths_that_do_not_fit_are_refused(models):
    for spec, size, message in (
        (f"hf:{models('videomae')}", 64, "takes frames of 32 pixels, got 64"),
        (f"hf:{models('dinov2')}", 44, "patches of 8 pixels: 44 is no multiple"),
        ("random:hf/timesformer-tiny", 60, "patches of 8 pixels: 60 is no multiple"),
    ):
        with pytest.raises(InputError, match=message):
            load_backbone(spec, size=size)
    with pytest.raises(InputError, match="takes clips of 8 frames, got --clip-length 16"):
        load_backbone("random:hf/videomae-tiny").with_clips_of(16)
    with pytest.raises(InputError, match="sees 2 frames as one: --clip-length must be a multiple of that, got 7"):
        load_backbone("random:hf/vjepa2-tiny").with_clips_of(7)
    assert load_backbone("random:hf/vjepa2-tiny").with_clips_of(32).video.length == 32


def test_weights_take_other_sizes_where_the_library_has_a_way(models):
    for kind in ("clip", "siglip", "dinov2"):
        backbone = load_backbone(f"hf:{models(kind)}", size=48)
        pixels = torch.rand(1, 3, 48, 48)
        model = library_model(models(kind))
        options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        with torch.no_grad():
            own = model(pixels) if kind == "dinov2" else model.get_image_features(pixels, **options)
            close(backbone.module(pixels), own.pooler_output)
        assert backbone.image.size == 48


def test_a_path_that_is_not_there_is_no_repository():
    for spec in ("hf:/no/such/folder", "hf:./none", "hf:a/b/c", "hf:none.safetensors"):
        with pytest.raises(FileNotFoundError, match="there is no folder"):
            load_backbone(spec)
    with pytest.raises(InputError, match="has no model name"):
        load_backbone("hf:")
    with pytest.raises(InputError, match="unknown hf backbone"):
        load_backbone("random:hf/nothing")


def test_no_connection_is_said_at_once_with_every_way_on(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def away(*arguments, **options):
        raise OSError(113, "No route to host")

    monkeypatch.setattr(socket, "create_connection", away)
    with pytest.raises(InputError, match="No route to host") as caught:
        load_backbone("hf:MCG-NJU/videomae-base")
    message = str(caught.value)
    for way in ("--weights FOLDER", "hf:FOLDER", "random:hf/", "fsar-prep weights hf:MCG-NJU/videomae-base"):
        assert way in message
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set|No route to host"):
        load_backbone("hf:OWNER/NAME@v2")


def test_what_is_in_the_cache_needs_no_connection(models, monkeypatch, tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--OWNER--clip"
    shutil.copytree(models("clip"), place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    backbone = load_backbone("hf:OWNER/clip")
    assert (backbone.name, backbone.pretrained) == ("OWNER/clip", commit)  # main moves: the commit stays
    assert load_backbone(f"hf:OWNER/clip@{commit}").weights_sha256 == backbone.weights_sha256


def test_a_kind_that_this_transformers_lacks_is_named(models, monkeypatch, tmp_path):
    monkeypatch.setitem(FAMILIES, "videomae3", FAMILIES["videomae"])
    shutil.copytree(models("videomae"), tmp_path / "m")
    change_json(tmp_path / "m" / "config.json", model_type="videomae3")
    with pytest.raises(InputError, match=r"transformers \S+ has no videomae3 models: a newer one has"):
        load_backbone(f"hf:{tmp_path / 'm'}")


def test_processors_here_are_of_every_kind():
    assert set(PROCESSORS) == set(FAMILIES)
