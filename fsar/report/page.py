"""One HTML page without scripts and without a network: sections, tables, figures; and the same as SVG and CSV files."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from fsar.files import write_atomic

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class Cell:
    """A number in a table: what is shown, and the number itself for whoever reads the page by program."""

    shown: str
    value: float | int | None = None


@dataclass
class Page:
    """A page in the making."""

    title: str
    lead: str
    _parts: list[str] = field(default_factory=list)
    _sections: list[tuple[str, str]] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    """Name -> SVG."""
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    """Name -> rows, the first with the names of the columns."""

    def section(self, key: str, title: str, lead: str = "") -> None:
        """Begin a section; `key` is its anchor."""
        self._sections.append((key, title))
        words = f'<p class="lead">{escape(lead)}</p>' if lead else ""
        self._parts.append(f'<h2 id="{key}">{escape(title)}</h2>{words}')

    def heading(self, words: str) -> None:
        """Add a heading inside a section."""
        self._parts.append(f"<h3>{escape(words)}</h3>")

    def note(self, words: str) -> None:
        """Add a sentence in small letters."""
        self._parts.append(f'<p class="note">{escape(words)}</p>')

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table; cells are text or `Cell`."""
        head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
        body = "".join(f"<tr>{''.join(_cell(cell) for cell in row)}</tr>" for row in rows)
        self._parts.append(
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
            f'<table id="table-{escape(name)}">'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )
        plain = [[_plain(cell) for cell in row] for row in rows]
        self.tables[name] = [list(columns), *plain]

    def figure(self, name: str, svg: str, caption: str = "") -> None:
        """Add a figure of its own."""
        self._parts.append(self.figure_html(name, svg, caption))

    def figure_html(self, name: str, svg: str, caption: str = "") -> str:
        """Return a figure to be put into `html`, and keep it for the files."""
        if not svg:
            return ""
        self.figures[name] = svg
        words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        return f'<figure><div class="scroll">{svg}</div>{words}</figure>'

    def html(self, text: str) -> None:
        """Add HTML that is escaped already."""
        self._parts.append(text)

    def to_html(self) -> str:
        """Return the whole page."""
        css = style("colours", "figures", "page")
        links = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in self._sections)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{css}</style></head><body>"
            f'<a class="skip" href="#main">Skip to the content</a><header><h1>{escape(self.title)}</h1>'
            f'<p class="lead">{escape(self.lead)}</p><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
            f'<main id="main">{"".join(self._parts)}</main><footer><p class="note">Made by fsar.</p></footer>'
            "</body></html>\n"
        )

    def write(self, out: Path, assets: Path | None = None) -> None:
        """Write the page, and figures and tables as files of their own into `assets`."""
        write_atomic(out, self.to_html().encode(errors="replace"))  # names in runs of others may hold what is no text
        if assets is not None:
            self.write_assets(assets)

    def write_assets(self, assets: Path) -> None:
        """Write figures as SVG and tables as CSV into a folder."""
        for name, svg in self.figures.items():
            css = style("colours", "figures") + "svg{color:var(--ink)}"
            write_atomic(assets / f"{_file_name(name)}.svg", svg.replace(">", f"><style>{css}</style>", 1))
        for name, rows in self.tables.items():
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(rows)
            write_atomic(assets / f"{_file_name(name)}.csv", text.getvalue())


def style(*names: str) -> str:
    """Return style sheets of this folder, one after the other."""
    return "".join((resources.files("fsar.report") / f"{name}.css").read_text("utf-8") for name in names)


def percent(share: float | None, half: float | None = None) -> Cell:
    """Return a share as per cent with two digits, and the half-width of its interval."""
    if share is None:
        return Cell("-")
    return Cell(f"{100 * share:.2f}" + (f" ± {100 * half:.2f}" if half is not None else ""), share)


def points(difference: float, half: float | None) -> Cell:
    """Return a difference in points with its sign."""
    return Cell(f"{100 * difference:+.2f}" + (f" ± {100 * half:.2f}" if half is not None else ""), difference)


def number(value: float | int | None, shown: str | None = None) -> Cell:
    """Return a number; large ones with separators."""
    return Cell("-") if value is None else Cell(shown if shown is not None else f"{value:,}", value)


def _cell(cell: Any) -> str:
    if isinstance(cell, Cell):
        value = "" if cell.value is None else f' data-value="{cell.value!r}"'
        return f'<td class="number"{value}>{escape(cell.shown)}</td>'
    words = str(cell)
    return f"<td{' class=wrap' if len(words) > 60 else ''}>{escape(words)}</td>"


def _plain(cell: Any) -> Any:
    if isinstance(cell, Cell):
        return cell.shown if cell.value is None else cell.value
    return cell


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
