"""Errors that a user can mend, and interruptions. Every room may raise them; a command prints them and exits."""

import difflib
import textwrap
import traceback
import unicodedata
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Something the user gave is wrong: the message says what, where (file, row, id) and what to do about it."""


class MissingError(InputError, FileNotFoundError):
    """What the user named is not there; whoever expects a FileNotFoundError of Python's own is served, too."""


class UsageError(InputError):
    """What was asked for cannot be meant, found before anything began; commands end with exit code 2."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: by `kill`, or a scheduler ends the job. Whatever tidies up after Ctrl-C does so after this."""


def unknown_name(kind: str, name: str, choices: Iterable[str], *, n_listed: int = 24) -> InputError:
    """Return an error for a `name` that is none of `choices`, with the nearest ones, or else the first `n_listed`."""
    known = sorted(choices)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:n_listed]) + (f", ... ({len(known)} in all)" if len(known) > n_listed else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose from {listed or '(none)'}"
    return InputError(f"unknown {kind} {name!r}: {hint}")


def count_of(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: "1 video", "2 videos", "1 class", "0 classes"."""
    return f"{number:,} {noun if number == 1 else plural or noun + ('es' if noun.endswith('s') else 's')}"


def one_line(text: object, *, width: int = 200) -> str:
    """Return a text as one line of at most `width` characters, cut between words."""
    return textwrap.shorten(str(text), width, placeholder=" ...")


def unforeseen(error: BaseException) -> str:
    """Return one line on an exception that nobody foresaw: its type, its text and the innermost line it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}{place}"


def printable(text: str, *, keep: str = "") -> str:
    """Return `text` with everything that could steer a terminal escaped: controls, line ends, marks of direction.

    What comes from files of others (ids, class names, recipes, error messages) passes here before it is printed.
    `keep` names characters that stay, such as a newline in a page of our own.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_shown(character) if character not in keep else character for character in text)


def _shown(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":  # the other kinds of space
        return character
    return f"\\u{ord(character):04x}"
