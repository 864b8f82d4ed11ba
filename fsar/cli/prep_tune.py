"""`fsar-prep tune`: train a backbone on the base classes."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import (
    EXIT_FAILED,
    MAX_FRAMES,
    FiniteRange,
    echo,
    jobs_option,
    json_option,
    page,
    quiet_option,
    summary,
)
from fsar.errors import count_of


def _retired(context: click.Context, parameter: click.Parameter, value: bool | None) -> None:
    if value is not None:
        raise click.UsageError("--antialias is gone: `--resize short-side` always is antialiased, `squash` never")


@click.command("tune")
@click.argument("catalog", type=click.Path(path_type=Path))
@click.option("--backbone", required=True, help="Where to start: random:timm/test_resnet, torchvision:resnet18/FILE, …")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights to start from instead of the backbone's own.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Weights file to write (.safetensors).")
@click.option("--split", help="Split (name or CSV) that says which classes are base classes.")
@click.option("--part", default="train", show_default=True, help="Part of the split to train on.")
@click.option(
    "--frames", "n_frames", default=8, show_default=True, type=click.IntRange(2, MAX_FRAMES), help="Frames a video."
)
@click.option("--size", default=64, show_default=True, type=click.IntRange(min=16), help="Pixels of the network input.")
@click.option(
    "--resize",
    default="short-side",
    show_default=True,
    type=click.Choice(["short-side", "squash"]),
    help="Keep the shape of things and lose the margins, or squash all into the square.",
)
@click.option("--antialias/--no-antialias", default=None, hidden=True, expose_value=False, callback=_retired)
@click.option("--text", metavar="TEMPLATES", help="Train the text tower of a CLIP model along: clip-fsar, plain, ...")
@click.option("--epochs", default=8, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--batch-size", default=16, show_default=True, type=click.IntRange(min=2), help="Videos a step, two of each class."
)
@click.option(
    "--lr",
    "learning_rate",
    default=3e-3,
    show_default=True,
    type=FiniteRange(min=0, min_open=True),
    help="Peak learning rate.",
)
@click.option("--weight-decay", default=0.05, show_default=True, type=FiniteRange(min=0))
@click.option("--held-out", default=0.1, show_default=True, type=FiniteRange(0, 0.5), help="Share to test on.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="auto, cpu, cuda, cuda:N.")
@click.option("--precision", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16"]))
@click.option("--decoder", default="pyav", show_default=True, help="pyav, torchcodec or decord.")
@jobs_option
@json_option
@quiet_option
def command(
    catalog: Path, split: str | None, part: str, out: Path, jobs: int, as_json: bool, quiet: bool, **options: Any
) -> int:
    """Train a backbone to tell the base classes' motions apart and save its weights.

    CATALOG is a list of videos, or packed frames (NAME.frames). Only videos of one part are used (the base classes);
    the others stay unseen. The weights file is what `fsar-prep encode --backbone LIB:NAME/FILE` takes. An interrupted
    run goes on where it was.
    """
    from fsar.errors import InputError
    from fsar.heads.finetune.base_classes import BaseOptions, tune
    from fsar.heads.finetune.videos import VideoSet
    from fsar.splits import load_split

    videos = VideoSet.open(catalog, load_split(split) if split else None).of_part(part)
    if not videos.videos:
        raise InputError(f"{catalog} has no videos of part {part!r}: give --split, or index with one")
    report = tune(videos, out, BaseOptions(**options), jobs=jobs, quiet=quiet)
    data = {
        "weights": str(report.path),
        "sha256": report.weights_sha256,
        "classes": report.n_classes,
        "videos": report.n_videos,
        "held_out": report.n_held_out,
        "held_out_accuracy": report.held_out_accuracy if report.n_held_out else None,
        "failures": report.failures,
    }
    text = f"{report.path}: tuned on {count_of(report.n_videos, 'video')} of {count_of(report.n_classes, 'class')}"
    if report.n_held_out:
        share, chance = report.held_out_accuracy, 1 / report.n_classes
        text += f"; {share:.1%} of {report.n_held_out} held-out videos right (chance {chance:.1%})"
    for failure in report.failures:
        echo(page([f"failed: {failure['video_id']}: {failure['message']}"]), err=True)
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if report.failures else 0
