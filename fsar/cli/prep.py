"""`fsar-prep`: videos to features. Each stage is a module of its own, imported only when it is called."""

import importlib

import click

from fsar.cli.common import run_command
from fsar.cli.lean_imports import leave_out_compiler

COMMANDS = {
    "splits": ("fsar.cli.prep_splits", "List, show, compare and import few-shot splits."),
    "index": ("fsar.cli.prep_index", "Write catalog.csv from a dataset on disk."),
    "check": ("fsar.cli.prep_check", "Read every video quickly and print what is odd."),
    "show": ("fsar.cli.prep_show", "Write what the network sees of a video as a strip of pictures."),
    "synth": ("fsar.cli.prep_synth", "Write a learnable set of short synthetic videos."),
    "convert": ("fsar.cli.prep_convert", "Convert videos to H.264 mp4, frame for frame."),
    "extract": ("fsar.cli.prep_extract", "Extract frames as JPEG."),
    "backbones": ("fsar.cli.prep_backbones", "List the networks that can be named, and what they cost."),
    "weights": ("fsar.cli.prep_weights", "Say which file holds published weights, for machines without a connection."),
    "tune": ("fsar.cli.prep_tune", "Train a backbone on the base classes and save its weights."),
    "encode": ("fsar.cli.prep_encode", "Encode videos into a feature store."),
    "text": ("fsar.cli.prep_text", "Add class-text embeddings to a store."),
    "import-checkpoint": ("fsar.cli.prep_checkpoint", "Import a published checkpoint: head and backbone."),
    "import-features": ("fsar.cli.prep_import:features_command", "Write published features of clips as a store."),
    "import-episodes": (
        "fsar.cli.prep_import:episodes_command",
        "Write published test episodes as a store and a list.",
    ),
    "run": ("fsar.cli.prep_run", "Run the stages named in a TOML file."),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in pipeline order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command `cmd_name`: what its entry names as MODULE:ATTRIBUTE, or `command` of the module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute or "command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fsar")
def prep() -> None:
    """Turn videos into shared features, one resumable stage after the other."""


def main() -> None:
    """Entry point of `fsar-prep`."""
    leave_out_compiler(keep_shapes=True)
    run_command(prep, "fsar-prep")


if __name__ == "__main__":
    main()
