"""The pages in docs/ say what the code does, every command explains itself, and the README's snippets are real."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest

import fsar
from fsar.pipeline.store import VideoRow
from tests.heads.stores import make_store, ordered_features

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["commands.md", "heads.md", "benchmarks.md"])
def test_generated_pages_are_up_to_date(page):
    script = str(ROOT / "docs" / "generate.py")
    code = f"import runpy, sys; sys.stdout.write(runpy.run_path({script!r})['PAGES'][{page!r}]())"
    # A process of its own: click keeps the help option of a command as its first caller made it.
    made = subprocess.run([sys.executable, "-X", "utf8", "-c", code], capture_output=True, check=True).stdout.decode()
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == made, "run `python docs/generate.py`"


def test_every_command_and_option_has_help(generate):
    for name in generate.PROGRAMS:
        for title, command in walk(generate.program(name), name):
            assert command.help, f"{title} has no help"
            options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
            missing = [option.name for option in options if not option.help]
            unexplained = [name for name in missing if name not in SELF_EXPLANATORY]
            assert not unexplained, f"{title}: options without help: {unexplained}"


SELF_EXPLANATORY = {"seed", "epochs", "weight_decay", "device", "precision"}


def walk(command, name):
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for sub_name in command.list_commands(context):
            yield from walk(command.get_command(context, sub_name), f"{name} {sub_name}")


def readme_blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)


def test_readme_commands_parse(generate):
    lines = [line for block in readme_blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    calls = [line.split("#")[0].split() for line in lines if line.startswith("fsar-")]
    assert len(calls) >= 8
    for program, *arguments in calls:
        check_call(generate.program(program), program, arguments)


def check_call(command, name, arguments):
    if isinstance(command, click.Group):
        sub = command.get_command(click.Context(command, info_name=name), arguments[0])
        assert sub is not None, f"{name} has no command {arguments[0]}"
        return check_call(sub, f"{name} {arguments[0]}", arguments[1:])
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    unknown = [word for word in arguments if word.startswith("--") and word not in known]
    assert not unknown, f"{name}: {unknown} in the README do not exist"
    return None


def test_readme_python_runs(tmp_path, monkeypatch):
    videos = [VideoRow(name, "Pouring something", "test", f"{name}.webm") for name in ("78687", "42326")]
    make_store(tmp_path / "ssv2.zarr", {"pooled": ordered_features(videos)}, videos)
    monkeypatch.chdir(tmp_path)
    blocks = readme_blocks("python")
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)
    assert names["features"].shape == (2, 8, 16)


def test_one_version_has_one_date():
    released = re.search(r"^date-released: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)[1]
    version = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), flags=re.M)[1]
    assert f"## {version} ({released})" in (ROOT / "CHANGELOG.md").read_text()
    assert version == fsar.__version__


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target
