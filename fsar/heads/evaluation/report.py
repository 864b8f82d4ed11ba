"""Results as tables, and the card that a trained head carries."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Format = Literal["text", "markdown", "csv", "json"]
COLUMNS = ("head", "way", "shot", "accuracy %", "± 95 %", "episodes", "part", "notes")


def table(results: Sequence[Mapping[str, Any]], style: Format = "text") -> str:
    """Return results, one row each, as a table for people (text, markdown) or programs (csv, json)."""
    if style == "json":
        return json.dumps(list(results), indent=2, sort_keys=True)
    rows = [_row(result) for result in results]
    if style == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([COLUMNS, *rows])
        return text.getvalue().rstrip("\n")
    return _aligned([COLUMNS, *rows], markdown=style == "markdown")


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        str(result.get("label") or result["head"]),
        str(result.get("n_way", "")),
        _number(result.get("n_shot", "")),
        percent(result.get("accuracy")),
        percent(result.get("ci95")),
        str(result.get("n_episodes", "")),
        str(result.get("part", "")),
        "; ".join(marks(result)),
    )


def _number(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def percent(share: float | None) -> str:
    """Return a share as per cent with two digits, "-" for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def marks(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know to compare a result: official quirks, transduction, classes seen before."""
    found = []
    if result.get("compat") == "official":
        found.append("compat=official")
    if not result.get("inductive", True):
        found.append("transductive")
    if result.get("seen_classes"):
        found.append(f"{len(result['seen_classes'])} classes were trained on")
    return found


def _aligned(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    used = [i for i in range(len(rows[0])) if any(row[i] for row in rows[1:])]
    widths = {i: max(len(row[i]) for row in rows) for i in used}
    lines = [[row[i].ljust(widths[i]) for i in used] for row in rows]
    if not markdown:
        return "\n".join("  ".join(line).rstrip() for line in lines)
    ruler = ["-" * widths[i] for i in used]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ruler, *lines[1:]])


def model_card(config: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """Return the README of a run folder: what the head is, what it was trained on, how it did, how to use it."""
    recipe = config["recipe"]
    backbone = " ".join(str(recipe[key]) for key in ("library", "backbone", "pretrained") if key in recipe)
    shape = config["episodes"]
    notes = "".join(f"- {note}\n" for note in result.get("notes", []))
    score = table([result], "markdown") if result.get("accuracy") is not None else "not tested"
    options = ", ".join(f"{key}={value!r}" for key, value in config["options"].items()) or "defaults"
    return f"""# {config["head"]} on {config["split"]}

{score}

- head: `{config["head"]}` ({options})
- features: {backbone or "unknown backbone"}, taps {", ".join(f"{r} = {t}" for r, t in config["taps"].items())}, \
{config["n_frames"]} frames; recipe `{config["recipe_id"]}`
- trained on {len(config["train_classes"])} classes, {shape["n_way"]}-way {shape["n_shot"]}-shot, preset \
`{config["preset"]["name"]}`, seed {config["seed"]}
- test episodes: sha256 `{result.get("episodes_sha256", "-")}`
{notes}
The weights are in `head.safetensors`, name and options in `head.json`:

```python
from pathlib import Path
from fsar.heads.run_folder import load_head

head = load_head(Path("."))
```

The interval is over episodes of these test videos; it says nothing about other videos or other splits.
"""
