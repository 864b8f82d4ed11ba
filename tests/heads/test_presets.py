"""The released recipes, those of the CLIP-FSAR code base against learning rates that the official code computed."""

import inspect
import json

import pytest

from fsar.heads import list_heads
from fsar.heads.head import head_type
from fsar.heads.recipes.presets import CACHED, get_preset, list_presets
from tests.conftest import GOLDENS

CONFIGS = {
    "CLIPFSAR_HMDB51_1shot_v1": "hmdb51-arn",
    "CLIPFSAR_K100_1shot_v1": "kinetics100-clipfsar",
    "CLIPFSAR_SSv2_Full_1shot_v1": "ssv2-otam",
    "CLIPFSAR_SSv2_Small_1shot_v1": "ssv2-cmn",
    "CLIPFSAR_UCF101_1shot_v1": "ucf101-arn",
}


@pytest.mark.shared
@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize("config", sorted(CONFIGS))
def test_clip_fsar_follows_the_released_rates(config, shot):
    rates = json.loads((GOLDENS / "schedule" / "lr_schedule.json").read_text())
    official = rates[config.replace("1shot", f"{shot}shot")]
    preset = get_preset(
        f"clip-fsar-{CONFIGS[config]}" if shot == 1 else f"clip-fsar-{CONFIGS[config]}-5shot", "clip-fsar"
    )
    assert preset.options.get("merge_before", False) == (shot == 5)
    assert preset.n_episodes == official["NUM_TRAIN_TASKS"]
    for iteration, rate in zip(official["iteration"], official["lr"], strict=True):
        factor = preset.schedule.factor(iteration, preset.n_episodes)
        assert preset.lr * factor == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(("episode", "factor"), [(0, 0.01), (2_000, 1.0), (3_999, 1.0), (4_000, 0.1), (6_000, 0.01)])
def test_emp_net_falls_at_two_and_three_fifths(episode, factor):
    preset = get_preset("published", "emp-net", "ssv2-cmn")
    assert preset.schedule.factor(episode, preset.n_episodes) == pytest.approx(factor)
    assert preset.reduction == "sum"


@pytest.mark.parametrize("head", ["clip-fsar", "clip-mei", "emp-net", "hyrsm", "hyrsm++", "molo"])
def test_every_benchmark_has_a_recipe(head):
    names = [name for name in list_presets(head) if name.startswith(head)]
    assert len([name for name in names if not name.endswith("-5shot")]) == 5
    assert get_preset("published", head, "ssv2-cmn").name == f"{head}-ssv2-cmn"


FAMILIES = {"HyRSMplusplus": "hyrsm++", "MoLo": "molo"}


@pytest.mark.shared
@pytest.mark.parametrize("config", sorted(CONFIGS))
@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_hyrsm_pp_and_molo_follow_the_released_rates(family, config):
    rates = json.loads((GOLDENS / "schedule" / "lr_schedule.json").read_text())
    official = rates[config.replace("CLIPFSAR", family)]
    preset = get_preset("published", FAMILIES[family], CONFIGS[config])
    assert preset.n_episodes == official["NUM_TRAIN_TASKS"]
    for iteration, rate in zip(official["iteration"], official["lr"], strict=True):
        assert preset.lr * preset.schedule.factor(iteration, preset.n_episodes) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize("head", ["clip-fsar", "emp-net", "hyrsm", "hyrsm++"])
def test_more_shots_take_the_form_published_for_them(head):
    one, five = (get_preset("published", head, "ssv2-otam", n_shot=n_shot) for n_shot in (1, 5))
    assert (one.name, five.name) == (f"{head}-ssv2-otam", f"{head}-ssv2-otam-5shot")
    assert get_preset("published", "trx", "ssv2-otam", n_shot=5).name == "trx-ssv2-otam"


def test_every_head_that_trains_has_a_published_recipe_where_one_was_released():
    untold = {"proto", "crosstransformer", "clip-zero-shot", "clip-proto-text"}
    untold |= {"baseline", "baseline-plus", "tsl", "bd-cspn"}  # nothing is trained between episodes
    untold |= {"team"}  # never released for this split
    for head in set(list_heads()) - untold:
        preset = get_preset("published", head, "ssv2-otam")
        taken = inspect.signature(head_type(head)).parameters
        assert set(preset.options) <= set(taken), head
        assert preset.source


def test_a_recipe_for_pairs_takes_as_many_steps():
    assert CACHED.of_pairs().n_episodes == CACHED.n_episodes // CACHED.episodes_per_step == 400
    assert CACHED.of_pairs().of_pairs() == CACHED.of_pairs()
