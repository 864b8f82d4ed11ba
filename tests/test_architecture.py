"""Who may import whom, as CONTRIBUTING.md draws it, and no import cycle anywhere."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fsar"
MODULES = sorted(PACKAGE.rglob("*.py"))
LEAVES = ("allocator", "documents", "errors", "files", "progress", "device", "settings", "torch_files")
ARROWS = re.compile(r"^    ([\w.]+) +->(.*)$", re.MULTILINE)
TENSOR_ROOMS = ("heads", "predict", "report", "pipeline/backbones/adapters")
"""What computes with tensors throughout."""
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


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {module_name(path) for path in MODULES}


def imports_while_running(node: ast.AST) -> Iterator[str]:
    """Yield our modules that a module imports, at its top or inside a function, but not for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name in NAMES)
        elif isinstance(child, ast.ImportFrom) and child.module in NAMES:
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in NAMES else child.module
        yield from imports_while_running(child)


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports."""
    return {module_name(path): set(imports_while_running(ast.parse(path.read_text()))) for path in MODULES}


def drawn_arrows() -> dict[str, list[str]]:
    """Return room -> rooms that it may import, from the map in CONTRIBUTING.md."""
    lines = ARROWS.findall((ROOT / "CONTRIBUTING.md").read_text())
    return {room: [name.strip() for name in targets.split(",") if name.strip()] for room, targets in lines}


def within(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def room_of(module: str, rooms: list[str]) -> str:
    """Return the innermost room of a module."""
    inside = module.removeprefix("fsar.")
    found = [room for room in rooms if within(inside, room)]
    assert found, f"{module} is in no room of CONTRIBUTING.md"
    return max(found, key=len)


def test_rooms_import_only_what_the_map_allows(graph):
    arrows = drawn_arrows()
    rooms = [*arrows, *LEAVES]
    assert len(arrows) > 20
    for targets in arrows.values():
        assert not [name for name in targets if name not in rooms]
    wrong = []
    for module, imported in graph.items():
        here = room_of(module, rooms)
        for other in imported:
            there = room_of(other, rooms)
            allowed = ["errors"] if here in LEAVES else [*arrows[here], *LEAVES]
            if here != there and not any(within(there, room) for room in allowed):
                wrong.append(f"{module} -> {other}")
    assert not wrong


def test_no_module_imports_itself_by_a_detour(graph):
    without_self = {module: imported - {module} for module, imported in graph.items()}
    list(graphlib.TopologicalSorter(without_self).static_order())  # CycleError names the cycle


def test_reading_a_store_needs_nothing_that_writes_one(graph):
    reached, waiting = set(), ["fsar.pipeline.store.reader"]
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    writing = {"journal.claims", "journal.publish", "journal.seal", "create", "writer", "repair", "text_tables"}
    assert not reached & {f"fsar.pipeline.store.{name}" for name in writing}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_commands_know_click(path):
    if path.relative_to(PACKAGE).parts[0] != "cli":
        assert not {name for name in imported_names(path) if within(name, "click")}


def test_commands_print_through_common_alone():
    """`echo` of cli/common.py escapes what could steer a terminal; ids, class names and errors come from anywhere."""
    commands = [path for path in MODULES if path.parent.name == "cli" and path.name != "common.py"]
    assert not [path.name for path in commands if "click.echo" in path.read_text()]


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in MODULES
        if not p.relative_to(PACKAGE).as_posix().startswith(tuple(f"{room}/" for room in TENSOR_ROOMS))
    ],
    ids=lambda p: p.name,
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
    [
        ("prep", "prep", 11),
        ("store", "store", 5),
        ("train_head", "command", 1),
        ("eval_head", "command", 1),
        ("predict", "command", 1),
        ("report", "command", 1),
    ],
)
def test_help_imports_nothing_heavy(module, command, at_least):
    code = ASK_EVERY_COMMAND.format(module=module, command=command, at_least=at_least, heavy=repr(HEAVY))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
