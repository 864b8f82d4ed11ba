"""`fsar-predict`: classify clips from a few examples of each class."""

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import EXIT_DONE, EXIT_FAILED, SECONDS, echo, run_command
from fsar.cli.lean_imports import leave_out_compiler
from fsar.cli.options import PairType
from fsar.errors import InputError, printable

if TYPE_CHECKING:
    from fsar.predict.answer import Answer
    from fsar.predict.predictor import Predictor
    from fsar.predict.source import Source

DEFAULT_FRAMES, DEFAULT_SAMPLER = 8, "uniform-center"
STYLES = ("text", "json", "jsonl", "csv")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--support",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder CLASS/CLIP.mp4, any number each; or a CSV with columns path and class, such as a catalog.",
)
@click.option("--class", "classes", multiple=True, help="Only this class of the supports; repeatable.")
@click.option("--shot", type=click.IntRange(min=1), help="Only the first clips of each class. [default: all]")
@click.option("--query", type=click.Path(path_type=Path), help="A clip, a folder of clips, or a list (.txt, .csv).")
@click.option("--watch", "watched", metavar="SOURCE", help="A long video or a camera, in sliding windows.")
@click.option("--run", type=click.Path(path_type=Path), help="Trained run; its own recipe prepares the clips.")
@click.option("--head", help="Head without training, with --backbone or --store.")
@click.option("--backbone", help="Backbone as in `fsar-prep encode`, for --head.")
@click.option("--store", help="Feature store: recipe of --head, and calibration.")
@click.option("--split", help="Split of the store, for its validation part. [default: the run's]")
@click.option(
    "--option",
    "-o",
    "options",
    multiple=True,
    type=PairType(),
    metavar="KEY=VALUE",
    help="Option of an untrained head.",
)
@click.option(
    "--tap", "taps", multiple=True, type=PairType(), metavar="ROLE=TAP", help="Tap for an input of an untrained head."
)
@click.option("--frames", type=click.IntRange(min=1), help="Frames of a clip, with --backbone. [default: 8]")
@click.option("--size", type=click.IntRange(min=1), help="Pixels, with --backbone. [default: the backbone's]")
@click.option("--sampler", help="Which frames, with --backbone. [default: uniform-center]")
@click.option(
    "--weights", type=click.Path(path_type=Path), help="Checkpoint file of the backbone, where it came from one."
)
@click.option("--text-encoder", help="Text encoder for class names. [default: the run's, else the backbone's own]")
@click.option("--templates", default="clip-fsar", show_default=True, help="Prompts where the run has no text table.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(min=1), help="Classes to name.")
@click.option(
    "--format", "style", type=click.Choice(STYLES), help="Of the answers. [default: text; jsonl with --watch]"
)
@click.option("--json", "as_json", is_flag=True, help="Same as --format json.")
@click.option("--no-evidence", is_flag=True, help="Do not say what decided; a little quicker.")
@click.option("--no-calibration", is_flag=True, help="The head's own softmax, and never 'none of these'.")
@click.option("--calibrate", is_flag=True, help="Fit the calibration anew and print how well it does on val and test.")
@click.option(
    "--calibration-episodes", default=200, show_default=True, type=click.IntRange(min=1), help="Episodes for it."
)
@click.option(
    "--false-alarms",
    default=0.05,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Share of present classes that may be called 'none of these'.",
)
@click.option("--window-seconds", default=2.0, show_default=True, type=SECONDS, help="Length of a window of --watch.")
@click.option("--stride-seconds", default=1.0, show_default=True, type=SECONDS, help="Between starts of windows.")
@click.option("--seconds", "limit_seconds", type=SECONDS, help="Stop watching after so much of the stream.")
@click.option("--timeout-seconds", default=10.0, show_default=True, type=SECONDS, help="Longest wait for a frame.")
@click.option("--input-format", help="Of the source as FFmpeg names it, e.g. v4l2 for a camera.")
@click.option(
    "--cache", type=click.Path(path_type=Path), help="Folder for features of clips. [default: ~/.cache/fsar/predict]"
)
@click.option("--no-cache", is_flag=True, help="Keep no features.")
@click.option("--device", help="cpu, cuda, cuda:1. [default: cuda where there is one]")
@click.option("--quiet", is_flag=True, help="No notes on stderr.")
def command(**arguments: Any) -> int:
    """Classify clips from a few examples of each class, and say what decided it.

    \b
    Examples:
      fsar-predict --support examples/ --query clip.mp4 --run runs/trx-ssv2
      fsar-predict --support examples/ --query clips/ --head otam --backbone open_clip:ViT-B-16/openai --json
      fsar-predict --support examples/ --watch /dev/video0 --input-format v4l2 --run runs/trx-ssv2
    """  # noqa: D301 (click reads the backspace)
    _refuse_combinations(arguments)
    supports, queries = _clips(arguments)
    from fsar.predict.predictor import Predictor

    source = _source(arguments)
    source.n_episodes, source.false_alarms = arguments["calibration_episodes"], arguments["false_alarms"]
    source.fit_anew = arguments["calibrate"]
    use_calibration = not arguments["no_calibration"]
    predictor = Predictor(source, supports, evidence=not arguments["no_evidence"], calibrate=use_calibration)
    try:
        _note(predictor, arguments)
        if arguments["calibrate"]:
            _print_calibration(predictor)
        if arguments["watched"]:
            return _watch(predictor, arguments)
        return _predict(predictor, queries, arguments) if queries else EXIT_DONE
    finally:
        predictor.close()


def _clips(arguments: dict[str, Any]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Return supports and queries. Whatever is not there is found before a backbone is loaded, the head first."""
    from fsar.heads.head import head_type
    from fsar.heads.run_folder import DESCRIPTION, is_run
    from fsar.predict.clips import find_queries, find_supports

    if arguments["run"] and not is_run(arguments["run"]):
        raise InputError(f"{arguments['run']} holds no trained head ({DESCRIPTION} is missing)")
    if arguments["head"]:
        head_type(arguments["head"])
    supports = find_supports(arguments["support"], classes=arguments["classes"], n_shot=arguments["shot"])
    return supports, find_queries(arguments["query"]) if arguments["query"] else []


def _refuse_combinations(arguments: dict[str, Any]) -> None:
    """Raise InputError for options that leave open what to do, or of which one would be ignored."""
    if arguments["query"] and arguments["watched"]:
        raise InputError("give --query or --watch, not both")
    if not (arguments["query"] or arguments["watched"] or arguments["calibrate"]):
        raise InputError("say what to classify: --query CLIP|DIR|LIST or --watch SOURCE")
    if bool(arguments["run"]) == bool(arguments["head"]):
        raise InputError("say by what: --run RUN, or --head NAME with --backbone or --store")
    if arguments["head"] and not (arguments["backbone"] or arguments["store"]):
        raise InputError("--head needs --backbone, or --store for its recipe")
    own = [name for name in ("frames", "size", "sampler") if arguments[name] is not None]
    if own and (arguments["run"] or arguments["store"]):
        raise InputError(
            f"--{own[0]} is fixed by the recipe of the {'run' if arguments['run'] else 'store'}: leave it out"
        )
    fixed = [name for name in ("options", "taps") if arguments["run"] and arguments[name]]
    if fixed:
        raise InputError(f"{arguments['run']} is a trained run: its --{fixed[0].rstrip('s')} is fixed; leave it out")
    if arguments["watched"] and (arguments["as_json"] or arguments["style"] == "json"):
        raise InputError("--watch prints a line per window: use --format jsonl, csv or text")


def _source(arguments: dict[str, Any]) -> "Source":
    from fsar.device import resolve_device
    from fsar.predict.encoder import default_cache
    from fsar.predict.sources import from_backbone, from_run, from_store

    cache = None if arguments["no_cache"] else arguments["cache"] or default_cache()
    shared = {
        "weights": arguments["weights"],
        "device": str(resolve_device(arguments["device"] or "auto")),
        "cache": cache,
        "text_encoder": arguments["text_encoder"],
        "templates": arguments["templates"],
    }
    if arguments["run"]:
        own = {key: arguments[key] for key in ("store", "split", "backbone")}
        return from_run(arguments["run"], **own, **shared)
    taps, options = dict(arguments["taps"]), dict(arguments["options"])
    if arguments["store"]:
        own = {key: arguments[key] for key in ("split", "backbone")}
        return from_store(arguments["head"], arguments["store"], options=options, taps=taps, **own, **shared)
    return from_backbone(
        arguments["head"],
        arguments["backbone"],
        options=options,
        taps=taps,
        n_frames=arguments["frames"] or DEFAULT_FRAMES,
        size=arguments["size"],
        sampler=arguments["sampler"] or DEFAULT_SAMPLER,
        **shared,
    )


def _note(predictor: "Predictor", arguments: dict[str, Any]) -> None:
    if not arguments["quiet"]:
        for note in predictor.notes:
            echo(f"note: {note}", err=True)


def _predict(predictor: "Predictor", clips: list[Path], arguments: dict[str, Any]) -> int:
    from fsar.pipeline.video.clip import VideoError

    style = "json" if arguments["as_json"] else arguments["style"] or "text"
    answers, failures = [], []
    write = _writer(style, arguments["top"])
    for clip, found in predictor.predict_all(clips):
        if isinstance(found, VideoError):
            failures.append({"query": str(clip), "reason": found.reason, "error": str(found)})
            echo(f"error: {found}", err=True)
        else:
            answers.append(found)
            write(found)
    if style == "json":
        echo(json.dumps(_document(predictor, answers, failures, arguments["top"]), indent=2))
    if len(clips) > 1 and not arguments["quiet"]:
        echo(f"{len(answers)} of {len(clips)} clips answered, {len(failures)} failed", err=True)
    return EXIT_FAILED if failures else EXIT_DONE


def _document(predictor: "Predictor", answers: list["Answer"], failures: list[Any], top: int) -> dict[str, Any]:
    calibration = predictor.calibration
    return {
        "head": predictor.source.name,
        "recipe_id": predictor.encoder.recipe.recipe_id,
        "classes": dict(zip(predictor.class_names, predictor.shots, strict=True)),
        "calibration": None if calibration is None else calibration.to_dict(),
        "notes": predictor.notes,
        "answers": [answer.to_dict(top) for answer in answers],
        "failures": failures,
    }


def _writer(style: str, top: int) -> Any:
    if style == "jsonl":
        return lambda answer: echo(json.dumps(answer.to_dict(top)))
    if style == "csv":
        rows = csv.writer(sys.stdout, lineterminator="\n")
        rows.writerow(["query", "decision", "rank", "class", "probability", "known_probability"])
        return lambda answer: rows.writerows(_rows(answer, top))
    return (lambda answer: echo(answer_text(answer, top))) if style == "text" else lambda answer: None


def _rows(answer: "Answer", top: int) -> Iterator[list[Any]]:
    known = "" if answer.known_probability is None else f"{answer.known_probability:.4f}"
    for rank, item in enumerate(answer.ranking[:top], 1):
        yield [
            printable(answer.query),
            printable(answer.decision),
            rank,
            printable(item.class_name),
            f"{item.probability:.6f}",
            known,
        ]


def answer_text(answer: "Answer", top: int) -> str:
    """Return an answer for people: the decision, the ranking, and when in the clip it was decided."""
    lines = [f"{answer.query}: {answer.decision}"]
    width = max(len(item.class_name) for item in answer.ranking[:top])
    lines += [f"  {100 * item.probability:5.1f} %  {item.class_name:{width}}" for item in answer.ranking[:top]]
    if answer.known_probability is not None:
        lines.append(f"  one of these classes with probability {answer.known_probability:.2f}")
    span = answer.decisive_seconds
    if span is not None:
        name, kind = answer.ranking[0].class_name, answer.evidence[0]["name"] if answer.evidence else ""
        lines.append(
            f"  decided by {span[0]:.2f} to {span[1]:.2f} s of the clip, for {name!r} against the others ({kind})"
        )
    pairs = [pair for item in answer.evidence for pair in item.get("tuples", [])][:1]
    lines += [
        f"  query frames {_numbers(p['query_tuple'])} looked at frames {_numbers(p['support_tuple'])} of "
        f"{p['support_clip']} (weight {p['attention']:.2f})"
        for p in pairs
    ]
    return "\n".join(lines)


def _numbers(frames: list[int]) -> str:
    return ", ".join(str(frame) for frame in frames)


def _watch(predictor: "Predictor", arguments: dict[str, Any]) -> int:
    from fsar.predict.watch import Stream, watch

    times = {name: arguments[name] for name in ("window_seconds", "stride_seconds", "timeout_seconds", "limit_seconds")}
    stream = Stream(arguments["watched"], input_format=arguments["input_format"], **times)
    style, top = arguments["style"] or "jsonl", arguments["top"]
    rows = csv.writer(sys.stdout, lineterminator="\n")
    if style == "csv":
        rows.writerow(
            ["start_seconds", "end_seconds", "decision", "probability", "known_probability", "latency_seconds"]
        )
    from fsar.pipeline.video.clip import VideoError

    n_windows, latencies = 0, []
    try:
        for window in watch(predictor, stream):
            n_windows += 1
            latencies.append(window.latency_seconds)
            data = window.to_dict(top)
            if style == "jsonl":
                echo(json.dumps(data))
            elif style == "csv":
                first = data["ranking"][0]["probability"]
                rows.writerow([data["start_seconds"], data["end_seconds"], printable(data["decision"]), first,
                               data["known_probability"], data["latency_seconds"]])  # fmt: skip
            else:
                share = 100 * data["ranking"][0]["probability"]
                echo(f"{data['start_seconds']:8.2f} s  {share:5.1f} %  {data['decision']}")
            sys.stdout.flush()
    except VideoError as error:
        raise InputError(f"{error} ({n_windows} windows were answered)") from error
    if not arguments["quiet"] and latencies:
        middle = sorted(latencies)[len(latencies) // 2]
        echo(f"{n_windows} windows, median latency {middle:.3f} s, longest {max(latencies):.3f} s", err=True)
    return EXIT_DONE


def _print_calibration(predictor: "Predictor") -> None:
    """Print AUROC and rates on the queries of the fit and on the test part, on stderr."""
    calibration = predictor.calibration
    if calibration is None:
        raise InputError("there is nothing to calibrate on: name a feature store with a validation part (--store)")
    source = predictor.source
    lines = [f"fitted on {calibration.source}: {_rates(calibration.to_dict())}"]
    if source.task is not None and "test" in source.task.parts.pools:
        n_way, n_shot = len(predictor.class_names), max(1, sorted(predictor.shots)[len(predictor.shots) // 2])
        lines.append(f"on the test part: {_rates(source.check_on('test', calibration, n_way, n_shot))}")
    echo("\n".join(lines), err=True)


def _rates(rates: dict[str, Any]) -> str:
    return (
        f"AUROC {rates['auroc']:.3f}, false alarms {100 * rates['false_alarms']:.1f} %, "
        f"absent classes found {100 * rates['found']:.1f} %"
    )


def main() -> None:
    """Entry point of `fsar-predict`."""
    leave_out_compiler()
    run_command(command, "fsar-predict")


if __name__ == "__main__":
    main()
