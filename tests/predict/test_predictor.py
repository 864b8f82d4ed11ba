"""Answers of the predictor in a world whose classes are colours."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fsar.errors import InputError
from fsar.pipeline.store import open_store
from fsar.pipeline.video.clip import VideoError
from fsar.predict import encoder as encoder_module
from fsar.predict.answer import decisive_frames
from fsar.predict.encoder import ClipEncoder
from fsar.predict.predictor import Predictor
from fsar.predict.source import CALIBRATIONS
from tests.predict.clips import COLOURS, GREY, write_class, write_colours
from tests.predict.conftest import BACKBONE


@pytest.fixture
def predictor(world, tmp_path):
    found = Predictor.from_run(world.run, world.support, cache=tmp_path / "cache")
    yield found
    found.close()


def test_features_are_those_of_the_store(world):
    """The same frames, pixels and weights: what training read is what a prediction computes."""
    store = open_store(world.store)
    row = int(store.row_of("blue-0"))
    features, times = ClipEncoder(store.recipe).clip(store.video_path(row))
    np.testing.assert_array_equal(features["pooled"].numpy(), store.read("pooled", [row])[0])
    assert times == pytest.approx(list(store.frame_time([row])[0, 0]))


def test_every_query_gets_its_class(world, predictor):
    for name in predictor.class_names:
        answer = predictor.predict(world.query / name / f"{name}-200.mp4")
        assert answer.decision == name
        assert sum(item.probability for item in answer.ranking) == pytest.approx(1)
        assert answer.ranking[0].class_name == name
        assert len(answer.ranking) == 3


def test_a_class_that_is_not_among_the_supports_is_none_of_these(predictor, tmp_path):
    (clip,) = write_class(tmp_path / "absent", "green", 1, first_seed=300)
    answer = predictor.predict(clip)
    assert answer.none_of_these
    assert answer.decision == "none of these"
    assert answer.known_probability < predictor.calibration.threshold


def test_the_calibration_is_kept_in_the_run_folder(world, predictor):
    kept = json.loads((world.run / CALIBRATIONS).read_text())
    assert predictor.calibration.to_dict() in kept.values()
    assert predictor.calibration.auroc > 0.9


def test_a_second_call_computes_no_clip_twice(world, predictor, tmp_path, monkeypatch):
    clip = world.query / "blue" / "blue-200.mp4"
    first = predictor.predict(clip)

    def refuse(task):
        raise AssertionError(f"{task.path} is decoded again")

    monkeypatch.setattr(encoder_module, "decode_task", refuse)
    monkeypatch.setattr(encoder_module, "backbone_of", refuse)
    again = Predictor.from_run(world.run, world.support, cache=tmp_path / "cache").predict(clip)
    assert again.ranking == first.ranking
    assert again.evidence == first.evidence


def test_a_clip_that_changed_is_computed_anew(world, predictor, tmp_path):
    clip = tmp_path / "clip.mp4"
    shutil.copy(world.query / "blue" / "blue-200.mp4", clip)
    assert predictor.predict(clip).decision == "blue"
    shutil.copy(world.query / "yellow" / "yellow-200.mp4", clip)
    assert predictor.predict(clip).decision == "yellow"


def test_a_damaged_cache_is_made_again(world, predictor, tmp_path):
    for file in (tmp_path / "cache").rglob("*.safetensors"):
        file.write_bytes(b"rubbish")
    again = Predictor.from_run(world.run, world.support, cache=tmp_path / "cache")
    assert again.predict(world.query / "blue" / "blue-200.mp4").decision == "blue"


def test_evidence_points_to_the_seconds_in_which_the_class_is_seen(world, tmp_path):
    """Half of every clip is grey; the class shows in the other half alone."""
    for name in ("blue", "yellow"):
        write_colours(tmp_path / "support" / name / "1.mp4", [GREY] * 8 + [COLOURS[name]] * 8, 1)
    clip = write_colours(tmp_path / "query.mp4", [GREY] * 8 + [COLOURS["blue"]] * 8, 2)
    aligned, answer = (
        Predictor.from_backbone(head, BACKBONE, tmp_path / "support", size=64).predict(clip) for head in ("otam", "trx")
    )
    start, end = aligned.decisive_seconds
    assert 0.9 <= start < end <= 2.0, aligned.frame_parts
    assert min(answer.frame_parts[4:]) > max(answer.frame_parts[:3])
    assert answer.evidence[0]["tuples"][0]["support_clip"] == "1.mp4"


def test_heads_without_training_take_unequal_shots(world, tmp_path):
    write_class(tmp_path / "support", "blue", 3)
    write_class(tmp_path / "support", "yellow", 1)
    found = Predictor.from_backbone("otam", BACKBONE, tmp_path / "support", size=64)
    assert found.shots == [3, 1]
    assert found.predict(world.query / "yellow" / "yellow-200.mp4").ranking[0].class_name == "yellow"
    assert found.calibration is None
    assert any("not calibrated" in note for note in found.notes)


def test_without_a_store_supports_calibrate(world, tmp_path):
    for name in ("blue", "yellow", "magenta"):
        write_class(tmp_path / "support", name, 3)
    found = Predictor.from_backbone("tsn", BACKBONE, tmp_path / "support", size=64)
    assert found.calibration.n_known == found.calibration.n_unknown == 9
    (clip,) = write_class(tmp_path / "absent", "black", 1)
    assert found.predict(clip).none_of_these


def test_heads_that_read_text_get_class_names_as_text(world, tmp_path):
    clip = world.query / "blue" / "blue-200.mp4"
    backbone = "random:open_clip/ViT-S-32-alt"
    found = Predictor.from_backbone(
        "clip-zero-shot", backbone, world.support, size=64, n_frames=2, cache=tmp_path / "cache"
    )
    answer = found.predict(clip)
    assert answer.evidence[0]["method"] == "text"
    renamed = {f"a {name} thing": list((world.support / name).iterdir()) for name in ("blue", "yellow", "magenta")}
    other = Predictor.from_backbone("clip-zero-shot", backbone, renamed, size=64, n_frames=2, calibrate=False)
    assert {a.logit for a in other.predict(clip).ranking} != {a.logit for a in answer.ranking}


def test_a_store_can_lend_its_recipe_to_a_head_without_training(world, tmp_path):
    found = Predictor.from_store("tsn", world.store, world.support, cache=tmp_path)
    assert found.encoder.recipe.recipe_id == open_store(world.store).recipe_id
    assert found.calibration.source.startswith("3-way validation episodes")
    assert found.predict(world.query / "magenta" / "magenta-200.mp4").decision == "magenta"


def test_one_bad_query_does_not_stop_the_others(world, predictor, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    good = world.query / "blue" / "blue-200.mp4"
    answers = dict(predictor.predict_all([broken, good]))
    assert isinstance(answers[broken], VideoError)
    assert answers[good].decision == "blue"


def test_a_bad_support_is_left_out_and_said_so(world, tmp_path):
    shutil.copytree(world.support, tmp_path / "support")
    (tmp_path / "support" / "blue" / "zz.mp4").write_bytes(b"no video")
    found = Predictor.from_run(world.run, tmp_path / "support")
    assert found.shots == [2, 2, 2]
    assert any("zz.mp4" in note for note in found.notes)


def test_a_class_without_a_readable_clip_is_an_error(world, tmp_path):
    shutil.copytree(world.support, tmp_path / "support")
    for clip in (tmp_path / "support" / "yellow").iterdir():
        clip.write_bytes(b"no video")
    with pytest.raises(InputError, match="class 'yellow' has no readable clip"):
        Predictor.from_run(world.run, tmp_path / "support")


def test_one_class_is_an_error(world, tmp_path):
    write_class(tmp_path / "support", "blue", 1)
    with pytest.raises(InputError, match=r"two classes or more .* only 'blue'"):
        Predictor.from_run(world.run, tmp_path / "support")
    (tmp_path / "support" / "empty").mkdir()
    with pytest.raises(InputError, match=r"class 'empty' .* has no clip"):
        Predictor.from_run(world.run, tmp_path / "support")


def test_a_run_of_another_backbone_is_an_error(world):
    with pytest.raises(InputError, match=r"was made with random:timm/test_resnet, not with random:torchvision"):
        Predictor.from_run(world.run, world.support, backbone="random:torchvision/resnet18")
    with pytest.raises(InputError, match=r"was made with random:timm/test_resnet, not with .*@7"):
        Predictor.from_run(world.run, world.support, backbone="random:timm/test_resnet@7")
    assert Predictor.from_run(world.run, world.support, backbone="random:timm/test_resnet@0").class_names


def test_other_weights_than_the_runs_are_an_error(world, tmp_path):
    run = shutil.copytree(world.run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["weights_sha256"] = "0" * 64
    config["store"] = "gone.zarr"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="are not the store's"):
        Predictor.from_run(run, world.support)


def test_a_store_of_another_recipe_than_the_runs_is_an_error(world, tmp_path):
    run = shutil.copytree(world.run, tmp_path / "run")
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["size"] = 96
    config["recipe_id"] = "another"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="another recipe"):
        Predictor.from_run(run, world.support, store=world.store)


def test_queries_are_answered_one_by_one_also_by_a_head_that_would_mix_them(world, predictor):
    clips = [world.query / name / f"{name}-200.mp4" for name in ("blue", "yellow")]
    alone = predictor.predict(clips[1]).ranking
    together = dict(predictor.predict_all(clips))[clips[1]].ranking
    assert alone == together


def test_chosen_frames_are_answered_like_their_clip(world, predictor):
    from fsar.pipeline.video.decode import decode_clip

    clip = world.query / "blue" / "blue-200.mp4"
    decoded = decode_clip(clip, lambda n: np.array(predictor.encoder.indices(n)))
    answer = predictor.predict_frames(decoded.frames, decoded.times_seconds.tolist())
    assert answer.ranking == predictor.predict(clip).ranking
    with pytest.raises(InputError, match="takes 8 frames"):
        predictor.predict_frames(decoded.frames[:3], [0.0, 1.0, 2.0])


@pytest.mark.parametrize(
    ("parts", "expected"),
    [((1, -1, 2, 3, -1), (2, 3)), ((-1, -2), None), ((), None), ((5, -1, 2, 2), (0, 0)), ((0, 1, 0), (1, 1))],
)
def test_decisive_frames_are_the_best_run_of_positive_parts(parts, expected):
    assert decisive_frames(parts) == expected


def test_nan_logits_are_an_error(world, predictor):
    predictor.source.head.adapter.forward = lambda x: x * float("nan")
    with torch.no_grad(), pytest.raises(InputError, match="answers NaN"):
        predictor.predict(world.query / "blue" / "blue-200.mp4")


def test_no_evidence_when_not_asked_for(world):
    source = Predictor.from_run(world.run, world.support, evidence=False)
    answer = source.predict(world.query / "blue" / "blue-200.mp4")
    assert answer.evidence == []
    assert answer.decisive_seconds is None
    assert replace(answer, seconds=0.0).decision == "blue"
