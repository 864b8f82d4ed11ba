"""What every command shares: one line per user error, exit codes, switches, JSON summaries on stdout."""

import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import click

from fsar.allocator import keep_big_buffers
from fsar.cli.signals import EXIT_INTERRUPTED, EXIT_TERMINATED, heed_termination
from fsar.errors import InputError, Terminated, UsageError, printable

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
STDERR = 2
"""The last of the numbers that every program is started with."""
SWITCHES = ("--debug", "--allow-http")
"""Options of every command."""
MANY_FILES = 65_536
MAX_FRAMES = 4096
"""More frames of one video than this are a slip of the keyboard, not a wish."""
MAX_ERROR = 1000
"""Characters of an error; `--debug` shows all of it."""
USER_ERRORS = (
    InputError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
    PermissionError,
    OSError,
)


class FiniteRange(click.FloatRange):
    """A range of numbers without `nan`, which no comparison keeps out, and `inf`."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


SECONDS = FiniteRange(0, 1e6, min_open=True)
"""Time that one video may take; the clocks of processes bear no more than some weeks."""


def run_command(command: click.Command, prog_name: str) -> None:
    """Run a click command as a program: 0 done, 1 failed or some items failed, 2 usage, 130 or 143 interrupted.

    A user error prints its message alone; `--debug` anywhere on the line shows the traceback. Anything else is a bug of
    ours and always shows it. `--allow-http` anywhere on the line lets addresses of other machines be unencrypted.
    """
    _speak_utf8()
    _open_closed_streams()
    arguments = [argument for argument in sys.argv[1:] if argument not in SWITCHES]
    debug = "--debug" in sys.argv[1:]
    if "--allow-http" in sys.argv[1:]:
        os.environ["FSAR_ALLOW_HTTP"] = "1"  # worker processes inherit it
    heed_termination()
    _allow_many_files()
    keep_big_buffers()  # before torch is imported: its threads' own heaps, once made, stay
    try:
        code = command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt) as error:
        code = _interrupted(error)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        echo(f"error: {_one_line_of_usage(error)}", err=True)
        code = error.exit_code
    except USER_ERRORS as error:
        if debug:
            echo(traceback.format_exc(), err=True)
        echo(f"error: {_one_line(error)}", err=True)
        code = EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except Exception:
        echo(traceback.format_exc(), err=True)
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else EXIT_DONE)


def _allow_many_files() -> None:
    """Take as many open files as the system grants: each chunk of a store that is read stays open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(MANY_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def echo(text: str, *, err: bool = False) -> None:
    """Print lines of text, on stderr or stdout, with what could steer a terminal escaped.

    Lines that hold names out of somebody's files are put together by `page`: a name must not begin a line of its own.
    """
    click.echo(printable(text, keep="\n\t"), err=err)


def clear_screen() -> None:
    """Have a terminal begin again at its top."""
    click.echo("\x1b[H\x1b[J", nl=False)


def page(lines: Iterable[str]) -> str:
    """Return lines as one text, with line ends inside of them escaped."""
    return "\n".join(map(printable, lines))


def _interrupted(error: BaseException) -> int:
    """Say what an interruption leaves, and return the exit code; `error` may say how much is kept."""
    cause = error.__cause__ or error  # click wraps what interrupted it
    kept = " ".join(str(cause).split()) or "what was finished is kept"
    echo(f"interrupted: {kept}; run the same command again to go on", err=True)
    return EXIT_TERMINATED if isinstance(cause, Terminated) else EXIT_INTERRUPTED


def _speak_utf8() -> None:
    """Start again in UTF-8 mode where the locale has another encoding: names on disk and in catalogs are UTF-8."""
    if sys.getfilesystemencoding() != "utf-8" and "PYTHONUTF8" not in os.environ:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _open_closed_streams() -> None:
    """Lead what the caller closed (`>&-`) nowhere; else writers fail, or write to the next file that is opened."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(number, True)
    os.close(number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  # for as long as we run


def _bounded(line: str) -> str:
    """Return a line that names what a file holds, such as a cell of megabytes, at a length that can be read."""
    return line if len(line) <= MAX_ERROR else f"{line[: MAX_ERROR - 200]} ... {line[-200:]}"


def _one_line_of_usage(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f" (see `{context.command_path} --help`)" if context is not None else ""
    return f"{_bounded(' '.join(error.format_message().split()).rstrip('.'))}{hint}"


def _one_line(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    return _bounded(" ".join(text.split())) or type(error).__name__


def summary(data: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print the result of a command on stdout: JSON for machines (null for NaN and infinity) or text for people."""
    echo(json.dumps(_finite(data), indent=2, sort_keys=True, allow_nan=False) if as_json else text)


def _finite(value: Any) -> Any:
    """Return JSON data with None for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--json`: the summary as one JSON document on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON on stdout.")(function)


def quiet_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--quiet`."""
    return click.option("--quiet", is_flag=True, help="No progress on stderr.")(function)


def jobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--jobs N`: number of worker processes."""
    return click.option("--jobs", default=1, show_default=True, type=click.IntRange(min=1), help="Worker processes.")(
        function
    )


def video_jobs_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--jobs N` for work on videos that may crash or hang a process: not this one, unless asked for."""
    return click.option(
        "--jobs",
        default=2,
        show_default=True,
        type=click.IntRange(min=1),
        help="Worker processes. 1 works in this process, which a video that crashes or hangs it would end.",
    )(function)


def timeout_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--timeout-seconds S`: what a video may take in a worker process."""
    return click.option(
        "--timeout-seconds",
        default=600.0,
        show_default=True,
        type=SECONDS,
        help="Longest time for one video, with --jobs 2 or more.",
    )(function)
