"""`fsar-prep run`: the stages of one TOML file, one after the other."""

import importlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli import signals
from fsar.cli.common import EXIT_DONE, EXIT_FAILED, echo, json_option, summary
from fsar.cli.stage_process import StageProcesses
from fsar.documents import read_json
from fsar.errors import InputError, UsageError

if TYPE_CHECKING:
    from fsar.cli.run_file import Key, Stage

PROGRAMS = {
    "train": ("fsar-train-head", "fsar.cli.train_head"),
    "eval": ("fsar-eval-head", "fsar.cli.eval_head"),
    "report": ("fsar-report", "fsar.cli.report"),
    "predict": ("fsar-predict", "fsar.cli.predict"),
}
"""Stages that are programs of their own; the others are sub-commands of fsar-prep."""
EXIT_KILLED = 128 + 9


@click.command("run")
@click.argument("config", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the run [default: CONFIG's name]."
)
@click.option("--set", "overrides", multiple=True, metavar="STAGE.KEY=VALUE", help="Replace a value; may be repeated.")
@click.option("--dry-run", is_flag=True, help="Check the file and print the commands, run nothing.")
@click.option("--keep-going", is_flag=True, help="Go on after a stage in which some videos failed (exit code 1).")
@json_option
def command(
    config: Path, out: Path | None, overrides: tuple[str, ...], dry_run: bool, keep_going: bool, as_json: bool
) -> int:
    """Run the stages that CONFIG names: synth, index, convert, extract, tune, encode, text, train, eval,
    report, predict.

    Each table is a stage and its keys are the long options (and arguments) of the stage's command; [[train]] with
    double brackets may be repeated. The whole file is checked before the first stage starts. Stages run in the
    folder --out, so relative paths are inside it; paths given with --set are relative to where you stand. Every
    stage resumes: after an interruption or an error, run the same line again.

    \b
    Example:
        fsar-prep run configs/hmdb51.toml --out hmdb51 --set index.videos=/data/hmdb51
    """  # noqa: D301 - click wants the backspace itself
    from fsar.cli.run_file import read_config
    from fsar.cli.run_names import check_names

    processes, folder = StageProcesses(), out or Path(config.stem)
    try:
        stages = read_config(config, stage_keys, overrides)
        if not dry_run:
            check_names(stages, folder, where=str(config))
    except InputError as error:
        raise UsageError(str(error)) from None
    _say(f"+ cd {shlex.quote(str(folder))}")
    if not dry_run:
        folder.mkdir(parents=True, exist_ok=True)
        if len(stages) > 1:
            processes.prepare()
    worst = EXIT_DONE
    for stage in stages:
        _say(f"+ {command_line(stage)}")
        code = EXIT_DONE if dry_run else run_stage(stage, folder, processes, stdout_is_data=as_json)
        worst = max(worst, code)
        if code and not (keep_going and code == EXIT_FAILED):
            _say_end(stage, code)
            return code
    if not dry_run:
        _print_results(folder, as_json=as_json)
    elif as_json:
        summary({"dry_run": True, "commands": [command_line(stage) for stage in stages]}, "", as_json=True)
    return worst


def stage_command(stage: str) -> click.Command:
    """Return the click command of a stage."""
    module = PROGRAMS[stage][1] if stage in PROGRAMS else f"fsar.cli.prep_{stage}"
    return importlib.import_module(module).command


def stage_keys(stage: str) -> "dict[str, Key]":
    """Return the keys that a stage's table may have: the parameters of its command, arguments first."""
    parameters = stage_command(stage).params
    ordered = sorted(parameters, key=lambda parameter: not isinstance(parameter, click.Argument))
    return {key.name: key for parameter in ordered for key in [_key(parameter)]}


def command_line(stage: "Stage") -> str:
    """Return the line a user would type for a stage."""
    program = PROGRAMS[stage.name][0] if stage.name in PROGRAMS else f"fsar-prep {stage.name}"
    return f"{program} {shlex.join(stage.arguments)}"


def run_stage(stage: "Stage", folder: Path, processes: StageProcesses, *, stdout_is_data: bool = False) -> int:
    """Run one stage in `folder` and return its exit code, 128 + n for signal n."""
    program, module = PROGRAMS.get(stage.name, ("fsar-prep", "fsar.cli.prep"))
    arguments = stage.arguments if stage.name in PROGRAMS else (stage.name, *stage.arguments)
    return processes.run(program, module, arguments, folder, stdout_is_data=stdout_is_data)


def _key(parameter: click.Parameter) -> "Key":
    from fsar.cli.run_file import Key

    is_argument = isinstance(parameter, click.Argument)
    longs = [name[2:] for name in parameter.opts if name.startswith("--")]
    return Key(
        name=longs[0] if longs else str(parameter.name),
        is_argument=is_argument,
        is_flag=isinstance(parameter, click.Option) and parameter.is_flag,
        is_path=isinstance(parameter.type, click.Path),
        required=parameter.required,
        takes_many=parameter.multiple or parameter.nargs == -1,
        n_values=max(parameter.nargs, 1),
        off=parameter.secondary_opts[0] if parameter.secondary_opts else None,
        check=lambda text: _check(parameter, text),
    )


def _check(parameter: click.Parameter, text: str) -> None:
    """Refuse a value that the parameter's type refuses.

    Whether a path exists is seen when its stage starts: an earlier one may make it.
    """
    if isinstance(parameter.type, click.Path):
        return
    try:
        parameter.type.convert(text, parameter, None)
    except click.BadParameter as error:
        raise InputError(error.message) from None


def _say_end(stage: "Stage", code: int) -> None:
    if code in signals.INTERRUPTED:
        echo(f"interrupted in stage {stage.name}: run the same line again to go on", err=True)
    elif code == EXIT_KILLED:
        echo(f"error: stage {stage.name} was killed, often for want of memory: run the same line again", err=True)
    else:
        hint = ", or add --keep-going if failed videos may be left out" if code == EXIT_FAILED else ""
        echo(f"error: stage {stage.name} ended with exit code {code}: mend it and run again{hint}", err=True)


def _say(line: str) -> None:
    """Print progress of the chain before the stage's own output, on stderr: stdout is for results."""
    echo(line, err=True)
    sys.stderr.flush()


def _print_results(folder: Path, *, as_json: bool) -> None:
    results = read_results(folder)
    files = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir() if path.name[0] != ".")
    lines = [*results_table(results), f"files in {folder.absolute()}: {', '.join(files)}"]
    summary({"out": str(folder.absolute()), "results": results, "files": files}, "\n".join(lines), as_json=as_json)


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Return every result.json below `folder` that holds an accuracy, with its place there as `path`."""
    results = []
    for path in sorted(folder.rglob("result.json")):
        content = read_json(path)
        if isinstance(content, dict) and "head" in content and content.get("accuracy") is not None:
            results.append({**content, "path": path.relative_to(folder).as_posix()})
    return results


def results_table(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of a table of results, each with the folder that it is in."""
    from fsar.heads.evaluation.report import table

    labelled = [{**result, "label": f"{result['head']} in {Path(result['path']).parent}"} for result in results]
    return table(labelled).splitlines() if labelled else []
