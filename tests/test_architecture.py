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


@pytest.mark.parametrize("program", ["prep", "store", "train_head", "eval_head"])
def test_help_imports_nothing_heavy(program):
    code = (
        f"import sys; sys.argv = ['x', '--help']\n"
        f"from fsar.cli.{program} import main\n"
        f"try: main()\nexcept SystemExit as e: assert not e.code\n"
        f"heavy = {HEAVY!r} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
