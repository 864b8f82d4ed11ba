import pytest

from fsar.errors import InputError
from fsar.pipeline.templates import TEMPLATES, cleaned_name, load_templates


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
