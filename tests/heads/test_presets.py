"""The released recipes, those of the CLIP-FSAR code base against learning rates that the official code computed."""

import importlib.resources
import inspect
import json

import pytest

from fsar.errors import InputError
from fsar.heads import list_heads, recipes
from fsar.heads.finetune.setup import published_tuning
from fsar.heads.head import head_type
from fsar.heads.recipes.files import read_recipes
from fsar.heads.recipes.presets import CACHED, get_preset, list_presets
from fsar.heads.setup.options import typed_options
from fsar.splits import load_split
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


@pytest.mark.parametrize("head", ["clip-fsar", "clip-mei", "emp-net", "hyrsm", "hyrsm++", "molo", "ts-fsar"])
def test_every_benchmark_has_a_recipe(head):
    names = [name for name in list_presets(head) if name.startswith(head)]
    assert len([name for name in names if not name.endswith(("-5shot", "-epic"))]) == 5
    assert get_preset("published", head, "ssv2-cmn").name == f"{head}-ssv2-cmn"


@pytest.mark.shared
@pytest.mark.parametrize("head", ["hyrsm", "hyrsm++"])
@pytest.mark.parametrize("n_shot", [1, 5])
def test_a_split_of_epic_kitchens_takes_the_rates_that_hyrsm_pp_was_released_with(head, n_shot):
    rates = json.loads((GOLDENS / "schedule" / "lr_schedule.json").read_text())
    official = rates[f"HyRSMplusplus_Epic_{n_shot}shot_v1"]
    preset = get_preset("published", head, "epic", n_shot=n_shot)
    assert (preset.n_episodes, preset.n_query) == (official["NUM_TRAIN_TASKS"], 7 if n_shot == 1 else 3)
    for iteration, rate in zip(official["iteration"], official["lr"], strict=True):
        assert preset.lr * preset.schedule.factor(iteration, preset.n_episodes) == pytest.approx(rate, rel=1e-6)
    assert published_tuning(head, "epic", n_shot=n_shot).images == f"{head}-epic"


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


@pytest.mark.parametrize("head", ["clip-fsar", "emp-net", "hyrsm", "hyrsm++", "ts-fsar"])
def test_more_shots_take_the_form_published_for_them(head):
    one, five = (get_preset("published", head, "ssv2-otam", n_shot=n_shot) for n_shot in (1, 5))
    assert (one.name, five.name) == (f"{head}-ssv2-otam", f"{head}-ssv2-otam-5shot")
    assert get_preset("published", "trx", "ssv2-otam", n_shot=5).name == "trx-ssv2-otam"


def test_every_head_that_trains_has_a_published_recipe_where_one_was_released():
    untold = {"proto", "crosstransformer", "clip-zero-shot", "clip-proto-text"}
    untold |= {
        "baseline",
        "baseline-plus",
        "tsl",
        "bd-cspn",
        "laplacian-shot",
        "tuned-prototypes",
        "tim",
    }  # nothing is trained between episodes
    untold |= {"team"}  # never released for this split
    for head in set(list_heads()) - untold:
        preset = get_preset("published", head, "ssv2-otam")
        taken = inspect.signature(head_type(head)).parameters
        assert set(preset.options) <= set(taken), head
        assert preset.source


def test_a_recipe_for_pairs_takes_as_many_steps():
    assert CACHED.of_pairs().n_episodes == CACHED.n_episodes // CACHED.episodes_per_step == 400
    assert CACHED.of_pairs().of_pairs() == CACHED.of_pairs()


FILES = sorted(file for file in importlib.resources.files(recipes).iterdir() if file.name.endswith(".toml"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_of_recipes_holds_what_its_head_takes(file):
    found = read_recipes(file.read_text(encoding="utf-8"), file.name)
    assert found
    for preset in found.values():
        assert preset.source
        assert preset.note or preset.name == "cached"
        assert preset.split in ("", "epic") or load_split(preset.split).name == preset.split
        for head in preset.heads:
            assert file.name == f"{head.replace('++', '_pp').replace('-', '_')}.toml"
            assert typed_options(head, {name: str(value) for name, value in preset.options.items()}) == preset.options
        assert 0 < preset.lr * preset.schedule.factor(preset.n_episodes // 2, preset.n_episodes) < 1


def test_every_recipe_is_in_a_file():
    assert sum(len(read_recipes(file.read_text(), file.name)) for file in FILES) == len(list_presets())


GOOD = 'heads = ["otam"]\nsource = "a paper"\n[mine]\nlr = 0.1\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "mine.toml is not TOML"),
        ("lrr = 0.1\n" + GOOD, "unknown key 'lrr': did you mean lr"),
        (GOOD + "n_episode = 3", r"mine.toml, \[mine\]: unknown key 'n_episode': did you mean n_episodes"),
        (GOOD + 'optimizer = "adagrad"', "optimizer must be"),
        (GOOD + "n_query = true", "n_query must be"),
        (GOOD + "n_query = 1.5", "n_query must be"),
        (GOOD + "betas = [0.9]", "betas must be"),
        (GOOD + "undecayed = [1]", "undecayed must be"),
        (GOOD + 'schedule = { kind = "Cosin" }', "did you mean Cosine"),
        (GOOD + 'schedule = { kind = "Cosine", warm = 1 }', "unexpected keyword argument 'warm'"),
        (GOOD + "[5shot]\nn_query = 3", "for which shots"),
    ],
)
def test_what_no_recipe_holds_is_refused_with_its_place(text, message):
    with pytest.raises(InputError, match=message):
        read_recipes(text, "mine.toml")


def test_a_file_gives_recipes_with_what_they_share():
    five = '[5shot]\nnote = "test with --shot 5"\noptions = { scale = 2.0 }\n'
    schedule = 'schedule = { kind = "DoubleClock", period = 10, steps = [0], factors = [1], first_lr = 0.05 }\n'
    found = read_recipes(GOOD + schedule + "options = { smoothing = 0.5 }\n" + five, "mine.toml")
    assert list(found) == ["mine", "mine-5shot"]
    assert found["mine"].schedule.factor(0, 100) == 0.5
    assert found["mine-5shot"].options == {"smoothing": 0.5, "scale": 2.0}
    assert found["mine-5shot"].n_shot == 5
    assert found["mine-5shot"].lr == 0.1
