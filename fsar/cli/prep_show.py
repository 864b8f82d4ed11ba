"""`fsar-prep show`: what the network sees of a video."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, MAX_FRAMES, json_option, page, summary
from fsar.errors import InputError

if TYPE_CHECKING:
    from fsar.pipeline.encode.clip_task import ClipTask
    from fsar.pipeline.packs.layout import PackSettings
    from fsar.pipeline.pixels.spec import ImageSpec


@click.command("show")
@click.argument("clip", type=click.Path(path_type=Path))
@click.option("--store", help="Take frames and pixels as this feature store did.")
@click.option("--frames", type=click.IntRange(1, MAX_FRAMES), help="Frames of the video. [default: 8]")
@click.option("--sampler", help="Which frames. [default: uniform-center]")
@click.option("--size", type=click.IntRange(1), help="Pixels after the crop. [default: 224]")
@click.option("--resize-to", type=click.IntRange(1), help="Pixels before the crop. [default: size * 256 / 224]")
@click.option("--resize", type=click.Choice(["squash", "short-side"]), help="[default: squash]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="strip.png",
    show_default=True,
    help="Picture to write: .png or .jpg.",
)
@json_option
def command(clip: Path, store: str | None, out: Path, as_json: bool, **given: Any) -> int:
    """Write what the network sees of CLIP as a strip: its frames sampled, resized, cropped, and normalised back.

    \b
    Examples:
      fsar-prep show clip.mp4 --store ssv2.zarr --out strip.png
      fsar-prep show clip.mp4 --frames 16 --sampler dense --size 112
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.encode.show import seen_frames, write_strip
    from fsar.pipeline.video.clip import VideoError

    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise InputError(f"--out must end in .png or .jpg, got {out}")
    task, spec, packed = _settings(clip, store, given)
    try:
        frames, seconds = seen_frames(task, spec, packed)
    except VideoError as error:
        raise InputError(str(error)) from error
    write_strip(frames, out)
    data = {"clip": str(clip), "out": str(out), "frame_times_seconds": seconds, "size": spec.size}
    times = ", ".join(f"{t:.2f}" for t in seconds)
    where = (
        f"frames at {times} s" if len(frames) == len(seconds) else f"frames of clips; their slots begin at {times} s"
    )
    summary(data, page([f"wrote {out}: {len(frames)} {where}"]), as_json=as_json)
    return EXIT_DONE


def _settings(
    clip: Path, store: str | None, given: dict[str, Any]
) -> "tuple[ClipTask, ImageSpec, PackSettings | None]":
    from fsar.pipeline.encode.clip_task import ClipTask
    from fsar.pipeline.encode.packed_frames import one_clip, pack_settings_of
    from fsar.pipeline.encode.recipe import Recipe
    from fsar.pipeline.pixels.spec import ImageSpec
    from fsar.pipeline.share import open_store

    named = [name for name, value in given.items() if value is not None]
    if store is not None:
        if named:
            raise InputError(f"--{named[0].replace('_', '-')} is the store's to say: leave it out")
        recipe = Recipe.from_dict(open_store(store).recipe)
        return one_clip(clip, recipe), recipe.image, pack_settings_of(recipe)
    size = given["size"] or 224
    spec = ImageSpec(given["resize"] or "squash", given["resize_to"] or round(size * 256 / 224), size)
    return ClipTask(clip.stem, str(clip), given["sampler"] or "uniform-center", given["frames"] or 8, 1, 0), spec, None
