"""`fsar-prep backbones`: which networks can be named, and what they cost."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import EXIT_DONE, json_option, quiet_option, summary
from fsar.errors import InputError, count_of, one_line, printable
from fsar.pipeline.backbones.spec import LIBRARIES


@click.command("backbones")
@click.argument("pattern", default="")
@click.option("--library", type=click.Choice(list(LIBRARIES)), help="Only the networks of this library.")
@click.option("--details", is_flag=True, help="Also make each network that fits, and count: below a second for most.")
@json_option
@quiet_option
def command(pattern: str, library: str | None, details: bool, as_json: bool, quiet: bool) -> int:
    """List the networks that can be named, or say all about one.

    PATTERN is a name, a part of one or a pattern like 'vit_*dinov3*', with LIBRARY: before it if you like; for a model
    of transformers also hf:FOLDER. A list has what libraries know by name: frames or clips, pixels, tags of published
    weights, which follow a name: LIBRARY:NAME/TAG.

    Of one network, and with --details of each, parameters, taps, bytes of a video (8 frames, or one clip, of the usual
    tap in float16) and operations of a frame or clip are counted on the network itself, without its weights. A
    multiplication and the addition after it count as two operations.

    \b
    Examples:
      fsar-prep backbones siglip2 --library open_clip
      fsar-prep backbones 'timm:vit_*dinov3*' --details
      fsar-prep backbones torchvision:mvit_v2_s
    """  # noqa: D301 - click wants the backspace itself
    from fsar.pipeline.backbones.names import find_backbones, is_exact

    folder = _folder(pattern)
    found = [] if folder is not None else find_backbones(pattern, library)
    if folder is not None or details or is_exact(pattern, found):
        counted = _of_folder(folder) if folder is not None else _counted(found, quiet=quiet)
        one = len(counted) == 1
        text = _page(*counted[0]) if one else _table(counted)
        summary({"backbones": [_data(*each) for each in counted]}, text, as_json=as_json)
    else:
        summary({"backbones": [_facts(each) for each in found]}, _list(found), as_json=as_json)
    return EXIT_DONE


def _folder(pattern: str) -> Path | None:
    """Return the folder of a model of transformers that a pattern names; None for any other pattern."""
    library, _, rest = pattern.partition(":")
    if library != "hf" or not rest:
        return None
    if Path(rest).is_dir():
        return Path(rest)
    if "/" in rest:
        raise InputError(
            f"{pattern}: there is no folder {rest}; of transformers, kinds of models (hf:videomae) and "
            "folders are listed; repositories are not asked for"
        )
    return None


def _of_folder(folder: Path) -> list[tuple[Any, Any]]:
    from fsar.pipeline.backbones.measures import measure
    from fsar.pipeline.backbones.names import NamedBackbone
    from fsar.pipeline.backbones.spec import BackboneSpec

    measures = measure(BackboneSpec("hf", str(folder), seed=0))
    return [(NamedBackbone("hf", str(folder), measures.size, measures.clip_length), measures)]


def _counted(found: list[Any], *, quiet: bool) -> list[tuple[Any, Any]]:
    """Return each network with its measures, or with why it cannot be made."""
    from fsar.pipeline.backbones.measures import measure
    from fsar.pipeline.backbones.spec import BackboneSpec
    from fsar.progress import progress

    counted: list[tuple[Any, Any]] = []
    with progress("count", len(found), unit="networks", quiet=quiet or len(found) < 2) as advance:
        for each in found:
            try:
                counted.append((each, measure(BackboneSpec(each.library, each.name, seed=0))))
            except InputError as error:
                if len(found) == 1:
                    raise
                counted.append((each, str(error)))
            advance()
    return counted


def _facts(each: Any) -> dict[str, Any]:
    sees = {"size": each.size, "clip_length": each.clip_length}
    return {"backbone": each.spec, "library": each.library, "name": each.name, **sees, "weights": list(each.weights)}


def _data(each: Any, measures: Any) -> dict[str, Any]:
    if isinstance(measures, str):
        return {**_facts(each), "error": measures}
    return {
        **_facts(each),
        "size": measures.size,
        "clip_length": measures.clip_length,
        "n_parameters": measures.n_parameters,
        "n_text_parameters": measures.n_text_parameters,
        "taps": {tap: list(shape) for tap, shape in measures.taps.items()},
        "n_blocks": measures.n_blocks,
        "n_steps": measures.n_steps,
        "usual_tap": measures.usual_tap,
        "video_bytes": measures.video_bytes,
        "n_operations": measures.n_operations,
    }


def _list(found: list[Any]) -> str:
    width = max(len(printable(each.spec)) for each in found)
    lines = [f"{'backbone':{width}}  {'sees':>13}  {'pixels':>6}  weights"]
    for each in found:
        tags = ", ".join(each.weights[:3]) + (f", ... ({len(each.weights)})" if len(each.weights) > 3 else "")
        sees = f"{_sees(each.clip_length):>13}  {each.size or '?':>6}"
        lines.append(f"{printable(each.spec):{width}}  {sees}  {tags or _elsewhere(each)}")
    return "\n".join([*lines, f"{count_of(len(found), 'network')}; name one, or say --details, for what it costs"])


def _elsewhere(each: Any) -> str:
    if each.library == "hf":
        return f"hf:REPOSITORY, hf:FOLDER, random:hf/{each.name}"
    return f"random:{each.library}/{each.name}"


def _sees(clip_length: int | None) -> str:
    return "frames" if clip_length is None else f"clips of {clip_length}"


def _table(counted: list[tuple[Any, Any]]) -> str:
    width = max(len(each.spec) for each, _ in counted)
    lines = [
        f"{'backbone':{width}}  {'sees':>13}  {'pixels':>6}  {'params':>8}  {'features':>8}  {'video':>8}  {'GFLOP':>8}"
    ]
    for each, measures in counted:
        if isinstance(measures, str):
            lines.append(f"{each.spec:{width}}  {one_line(measures, width=80)}")
            continue
        size = f"{_sees(measures.clip_length):>13}  {measures.size:>6}  {_count(measures.n_parameters):>8}"
        cost = f"{measures.video_bytes / 1e3:>5.1f} kB  {measures.n_operations / 1e9:>8.2f}"
        lines.append(f"{each.spec:{width}}  {size}  {measures.taps['pooled'][-1]:>8}  {cost}")
    return "\n".join(lines)


def _page(each: Any, measures: Any) -> str:
    """Return all about one network."""
    frames = f"clips of {measures.clip_length} frames" if measures.clip_length else "frames"
    text = f", {_count(measures.n_text_parameters)} more in its text tower" if measures.n_text_parameters else ""
    slots = f"{count_of(measures.n_steps, 'time step')} of a clip" if measures.clip_length else "8 frames"
    shape = " x ".join(map(str, measures.taps[measures.usual_tap]))
    unit = "clip" if measures.clip_length else "frame"
    return "\n".join(
        [
            printable(each.spec),
            f"  weights     {', '.join(each.weights) or _elsewhere(each)}",
            f"  sees        {frames}, {measures.size} x {measures.size} pixels",
            f"  parameters  {_count(measures.n_parameters)}{text}",
            f"  taps        {_taps(measures)}",
            f"  a video     {measures.video_bytes / 1e3:.1f} kB: {slots} of {measures.usual_tap} ({shape}) in float16",
            f"  operations  {measures.n_operations / 1e9:.2f} GFLOP a {unit}",
        ]
    )


def _taps(measures: Any) -> str:
    shown = {tap.replace("tokens.0", "tokens.K"): shape for tap, shape in measures.taps.items()}
    listed = ", ".join(f"{name} ({' x '.join(map(str, shape))})" for name, shape in shown.items())
    return listed + (f"; K = 0..{measures.n_blocks - 1}" if measures.n_blocks else "")


def _count(number: int) -> str:
    """Return a number of parameters in millions, or thousands of a small one."""
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number / 1e3:.1f} k"
