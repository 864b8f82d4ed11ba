import json

import pytest

from fsar.errors import InputError
from fsar.pipeline.text.templates import TEMPLATES, cleaned_name, load_templates, published_name
from fsar.splits import load_split
from tests.conftest import GOLDENS


def test_published_sets_are_what_the_papers_code_says():
    assert load_templates("clip-fsar").prompts("draw_sword") == ["a photo of draw_sword"]
    sixteen = load_templates("emp-net").prompts("Pouring [something]")
    assert len(sixteen) == 16
    assert sixteen[0] == "a photo of action Pouring [something]"
    assert sixteen[3] == "Pouring [something], an action"
    assert sixteen[11] == "Can you recognize the action of Pouring [something]?"
    assert sixteen[15] == "The woman is Pouring [something]"
    assert all(template.count("{}") == 1 for templates in TEMPLATES.values() for template in templates)


def test_braces_in_a_class_name_are_left_alone():
    assert load_templates("plain").prompts("a {} b {0}") == ["a {} b {0}"]


def test_templates_from_a_file(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("a clip of {}\n\n{} happens\n")
    assert load_templates(str(path)).templates == ("a clip of {}", "{} happens")
    assert load_templates(str(path)).name == "mine"
    path.write_text("no place\n")
    with pytest.raises(InputError, match=r"exactly one \{\}"):
        load_templates(str(path))
    path.write_text("\n")
    with pytest.raises(InputError, match="has no templates"):
        load_templates(str(path))
    with pytest.raises(InputError, match="did you mean emp-net"):
        load_templates("empnet")


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("Pouring [something] into [something]", "Pouring something into something"),
        ("shake_hands", "shake hands"),
        ("ApplyEyeMakeup", "Apply Eye Makeup"),
        ("Blow DryHair", "Blow DryHair"),
        ("hurling (sport)", "hurling (sport)"),
    ],
)
def test_cleaned_names_are_words(name, cleaned):
    assert cleaned_name(name) == cleaned


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("Pouring something into something", "Pouring [something] into [something]"),
        ("Moving part of something", "Moving [part] of [something]"),
        ("Poking a hole into some substance", "Poking a hole into [some substance]"),
        (
            "Tipping something with something in it over, so something in it falls out",
            "Tipping [something] with [something in it] over, so [something in it] falls out",
        ),
        ("Pouring [something] into [something]", "Pouring [something] into [something]"),
        ("part of a number of dances", "part of a number of dances"),
        ("brush_hair", "brush hair"),
        ("draw_sword", "draw_sword"),
        ("BlowDryHair", "Blow DryHair"),
        ("hurling (sport)", "hurling (sport)"),
    ],
)
def test_published_names_are_those_of_the_papers_prompts(name, published):
    assert published_name(name) == published


@pytest.mark.shared
@pytest.mark.parametrize(
    ("split", "listed"),
    [
        ("ssv2-otam", "ssv2_full"),
        ("ssv2-cmn", "ssv2_small"),
        ("kinetics100-clipfsar", "kinetics100"),
        ("hmdb51-arn", "hmdb51"),
        ("ucf101-arn", "ucf101"),
    ],
)
def test_every_class_of_a_split_has_its_published_prompt(split, listed):
    prompts = json.loads((GOLDENS / "schedule" / "prompts.json").read_text())
    template = load_templates("clip-fsar")
    for part in ("train", "test"):
        made = [template.prompts(published_name(name))[0] for name in load_split(split).parts[part]]
        assert sorted(made) == sorted(row["prompt"] for row in prompts[f"{listed}/{part}"])
