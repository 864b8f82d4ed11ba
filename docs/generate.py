"""Write the pages that are made from the code and from benchmarks/README.md: `python docs/generate.py`.

A test runs `--check`'s comparison, so the pages cannot drift from the code.
"""

import argparse
import importlib
import inspect
import sys
from pathlib import Path

import click

DOCS = Path(__file__).resolve().parent
INTRODUCTION = """What `--help` prints. Anywhere on a line, `--debug` shows the traceback of an error, and
`--allow-http` lets addresses on other machines be plain http, which all who can listen may read and change."""
PROGRAMS = {
    "fsar-prep": ("fsar.cli.prep", "prep"),
    "fsar-store": ("fsar.cli.store", "store"),
    "fsar-train-head": ("fsar.cli.train_head", "command"),
    "fsar-eval-head": ("fsar.cli.eval_head", "command"),
    "fsar-predict": ("fsar.cli.predict", "command"),
    "fsar-report": ("fsar.cli.report", "command"),
}


def program(name: str) -> click.Command:
    """Return the click command behind a program."""
    module, attribute = PROGRAMS[name]
    return getattr(importlib.import_module(module), attribute)


def help_pages(command: click.Command, name: str) -> list[tuple[str, str]]:
    """Return (full name, help text) of a command and of all its sub-commands."""
    context = click.Context(command, info_name=name, max_content_width=100, terminal_width=100)
    pages = [(name, command.get_help(context))]
    if isinstance(command, click.Group):
        for sub_name in command.list_commands(context):
            pages += help_pages(command.get_command(context, sub_name), f"{name} {sub_name}")
    return pages


def commands_page() -> str:
    """Return the reference of every command, as printed by `--help`."""
    lines = ["# Commands", "", INTRODUCTION]
    for name in PROGRAMS:
        for title, text in help_pages(program(name), name):
            lines += ["", f"## {title}", "", "```text", text.rstrip(), "```"]
    return "\n".join(lines) + "\n"


def heads_page() -> str:
    """Return a table of the heads and what each one needs, and its options with their defaults."""
    from fsar.heads import list_heads
    from fsar.heads.head import head_type
    from fsar.heads.recipes.presets import get_preset, list_presets

    lines = ["# Heads", "", "| head | features of a frame | text | trains on | paper |", "|---|---|---|---|---|"]
    for name in list_heads():
        kind = head_type(name)
        needs = "; ".join(dict.fromkeys(f"{'/'.join(item.taps)} {item.shape}" for item in kind.inputs))
        lines.append(
            f"| `{name}` | {needs} | {kind.text} | {kind.training_unit} | {' '.join(kind.paper.split()) or '-'} |"
        )
    for name in list_heads():
        kind = head_type(name)
        lines += [
            "",
            f"## {name}",
            "",
            inspect.cleandoc(kind.__doc__ or ""),
            "",
            "Options (`--option name=value`):",
            "",
        ]
        parameters = [p for p in inspect.signature(kind).parameters.values() if p.kind is p.KEYWORD_ONLY]
        lines += [f"- `{p.name}`{'' if p.default is p.empty else f' = `{p.default!r}`'}" for p in parameters] or [
            "none"
        ]
        presets = [get_preset(own, name) for own in list_presets(name)]
        lines += ["", "Published recipes (`--preset name`; `--preset published` picks the one of the split):", ""]
        lines += [
            f"- `{preset.name}`: {preset.source}. Note: {preset.note}." for preset in presets if preset.heads
        ] or ["none"]
    return "\n".join(lines) + "\n"


def benchmarks_page() -> str:
    """Return the page that stands beside the benchmark scripts."""
    return (DOCS.parent / "benchmarks" / "README.md").read_text(encoding="utf-8")


PAGES = {"commands.md": commands_page, "heads.md": heads_page, "benchmarks.md": benchmarks_page}


def main() -> None:
    """Write the pages, or with --check say which of them are out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [name for name, page in PAGES.items() if not check or (DOCS / name).read_text() != page()]
    for name in stale if not check else []:
        (DOCS / name).write_text(PAGES[name]())
    sys.exit(f"out of date: {', '.join(stale)}; run python docs/generate.py" if check and stale else 0)


if __name__ == "__main__":
    main()
