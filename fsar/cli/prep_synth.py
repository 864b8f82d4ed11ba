"""`fsar-prep synth`: a learnable set of short synthetic videos."""

from pathlib import Path

import click

from fsar.cli.common import EXIT_DONE, EXIT_FAILED, jobs_option, json_option, quiet_option, summary
from fsar.errors import count_of


class VideoSize(click.ParamType):  # type: ignore[type-arg]
    """A size written WIDTHxHEIGHT."""

    name = "WxH"

    def convert(
        self, value: str | tuple[int, int], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """Return (width, height)."""
        if isinstance(value, tuple):
            return value
        width, _, height = value.partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"{value!r} is not WIDTHxHEIGHT, such as 427x240", param, ctx)
        return int(width), int(height)


@click.command("synth")
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--train-classes", default=20, show_default=True, help="Base classes.")
@click.option("--val-classes", default=6, show_default=True, help="Validation classes.")
@click.option("--test-classes", default=10, show_default=True, help="Novel classes.")
@click.option("--clips", default=30, show_default=True, help="Videos per class.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="The same seed, the same bytes.")
@click.option("--size", default="427x240", show_default=True, type=VideoSize(), help="Width and height in pixels.")
@click.option(
    "--container", default="webm", show_default=True, type=click.Choice(["webm", "mp4", "avi"]), help="File format."
)
@quiet_option
@jobs_option
@json_option
def command(
    out: Path,
    train_classes: int,
    val_classes: int,
    test_classes: int,
    clips: int,
    seed: int,
    size: tuple[int, int],
    container: str,
    quiet: bool,
    jobs: int,
    as_json: bool,
) -> int:
    """Write a learnable set of short synthetic videos to OUT.

    The classes are motions, in pairs of which one is the other played backwards; shape, colour, texture, place, speed
    and camera shake say nothing about the class. OUT gets videos/, annotations/ (the three json files of
    Something-Something V2) and split.csv with disjoint base, validation and novel classes. Run again to resume, or
    with more clips or classes to extend.

    \b
    Example:
      fsar-prep synth motions --clips 30 --jobs 4
      fsar-prep index --dataset ssv2 --videos motions/videos --annotations motions/annotations --out catalog.csv
    """  # noqa: D301 - click needs a real backspace
    from fsar.pipeline.synth.synth import SynthSettings, synthesize

    settings = SynthSettings(train_classes, val_classes, test_classes, clips, seed, size, container)
    report = synthesize(out, settings, n_jobs=jobs, quiet=quiet)
    data = {"out": str(out), "written": report.written, "kept": report.kept, "failed": len(report.failures)}
    text = f"{out}: {count_of(report.written, 'video')} written, {report.kept} kept, {len(report.failures)} failed"
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if report.failures else EXIT_DONE
