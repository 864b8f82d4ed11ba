"""Who may import whom. Arrows run one way: cli -> heads -> pipeline.store -> splits, and cli -> pipeline."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "fsar"
MODULES = sorted(PACKAGE.rglob("*.py"))
LEAVES = ("fsar.errors", "fsar.files", "fsar.progress")
MAY_IMPORT = {
    "splits": ("fsar.splits", "fsar.errors"),
    "pipeline": ("fsar.pipeline", "fsar.splits", *LEAVES),
    "heads": ("fsar.heads", "fsar.pipeline.store", "fsar.splits", *LEAVES),
    "cli": ("fsar", "click"),
}
HEAVY = {"torch", "torchvision", "open_clip", "timm", "transformers", "decord", "av", "torchcodec", "zarr", "h5py"}


def imported_names(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_rooms_import_only_what_they_may(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    ours = {name for name in imported_names(path) if within(name, ("fsar",))}
    if room in MAY_IMPORT:
        assert not [name for name in ours if not within(name, MAY_IMPORT[room])]
    if room != "cli":
        assert not {name for name in imported_names(path) if within(name, ("click",))}


@pytest.mark.parametrize(
    "path", [p for p in MODULES if p.relative_to(PACKAGE).parts[0] != "heads"], ids=lambda p: p.name
)
def test_heavy_packages_are_imported_where_they_are_used(path):
    top_level = {name.split(".")[0] for name in imported_names(path, top_level_only=True)}
    assert not top_level & HEAVY


ASK_EVERY_COMMAND = """
import importlib, sys, click
main = importlib.import_module("fsar.cli.{module}")

def ask(command, name):
    result = command.main(["--help"], name, standalone_mode=False)
    assert not result, (name, result)
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        subs = command.list_commands(context)
        return 1 + sum(ask(command.get_command(context, sub), name + " " + sub) for sub in subs)
    return 1

n_commands = ask(main.{command}, "{module}")
heavy = {heavy} & set(sys.modules)
assert not heavy, heavy
assert n_commands >= {at_least}, n_commands
"""


@pytest.mark.parametrize(
    ("module", "command", "at_least"),
    [("prep", "prep", 11), ("store", "store", 5), ("train_head", "command", 1), ("eval_head", "command", 1)],
)
def test_help_imports_nothing_heavy(module, command, at_least):
    code = ASK_EVERY_COMMAND.format(module=module, command=command, at_least=at_least, heavy=repr(HEAVY))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
