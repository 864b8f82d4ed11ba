"""Results as tables, and the card that a trained head carries."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from fsar.errors import count_of

Format = Literal["text", "markdown", "csv", "json"]
COLUMNS = (
    *("head", "way", "shot", "accuracy %", "± 95 %", "published %", "order", "ms/episode", "parameters"),
    *("MFLOP an episode", "ms an episode alone", "ms a query", "bytes a video"),
    *("episodes", "part", "split", "notes"),
)
"""docs/protocol.md explains "order", "ms/episode", "published" and the costs."""


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
        _published(result.get("published")),
        _points(result.get("order")),
        _milliseconds(result.get("seconds_per_episode")),
        f"{result['n_parameters']:,}" if "n_parameters" in result else "",
        *_costs(result.get("complexity")),
        str(result.get("n_episodes", "")),
        str(result.get("part", "")),
        _split(result),
        "; ".join(marks(result)),
    )


def _published(entry: Mapping[str, Any] | None) -> str:
    """Return the published accuracy; with the name of its backbone where the features are those of another."""
    if not entry:
        return ""
    return f"{100 * entry['accuracy']:.1f}" + ("" if entry["same_backbone"] else f" ({entry['backbone']})")


def _points(order: Mapping[str, Any] | None) -> str:
    return f"{100 * order['difference']:+.1f}" if order else ""


def _milliseconds(seconds: float | None) -> str:
    return f"{1000 * seconds:.2g}" if seconds is not None else ""


def _costs(complexity: Mapping[str, Any] | None) -> tuple[str, str, str, str]:
    """Return operations, milliseconds of an episode and of a query, and bytes of a video, where they were measured."""
    if not complexity:
        return "", "", "", ""
    flops = complexity["flops_per_episode"]
    return (
        "-" if flops is None else f"{flops / 1e6:,.1f}",
        f"{complexity['ms_per_episode']:.2f}",
        f"{complexity['ms_per_query']:.2f}",
        f"{complexity['bytes_per_video']:,}",
    )


def _split(result: Mapping[str, Any]) -> str:
    """Return the name of the split; the store's own parts have no table of their own."""
    return str(result.get("split", "")) if result.get("split_sha256") else "(of the store)" if "split" in result else ""


def _number(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def percent(share: float | None) -> str:
    """Return a share as per cent with two digits, "-" for None."""
    return "-" if share is None else f"{100 * share:.2f}"


def marks(result: Mapping[str, Any]) -> list[str]:
    """Return what a reader must know to compare a result: quirks, transduction, classes seen before, other terms."""
    found = []
    if result.get("compat") == "official":
        found.append("compat=official")
    if not result.get("inductive", True):
        found.append(_transductive(result))
    if result.get("seen_classes"):
        found.append(f"trained on {count_of(len(result['seen_classes']), 'class')} of these")
    if result.get("selection_classes"):
        found.append(f"{count_of(len(result['selection_classes']), 'class')} of these chose the weights")
    return [*found, *result.get("departures", ())]


def _transductive(result: Mapping[str, Any]) -> str:
    """Return the mark of a head whose queries see each other, with the number of them that do."""
    n_query = result.get("n_query")
    if n_query is None:
        return "transductive"
    total = n_query * result["n_way"] if isinstance(n_query, int) else sum(n_query)
    return f"transductive over {count_of(total, 'query', 'queries')}"


def explanations(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each published number in a table: whose it is, on which features, and where it stands."""
    lines = []
    for result in results:
        entry = result.get("published")
        if entry:
            other = "" if entry["same_backbone"] else "; these features are of another backbone"
            lines.append(
                f"published: {entry['method']} on {entry['backbone']}, {entry['split']}, {entry['n_way']}-way "
                f"{entry['n_shot']}-shot: {100 * entry['accuracy']:.1f} ({entry['source']}{other})"
            )
    return list(dict.fromkeys(lines))


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
    recipe = config.get("recipe") or config["start"]  # of the features, or of a backbone that was trained on frames
    backbone = " ".join(str(recipe[key]) for key in ("library", "backbone", "pretrained") if key in recipe)
    shape = config["episodes"]
    notes = "".join(f"- {note}\n" for note in result.get("notes", []))
    score = table([result], "markdown") if result.get("accuracy") is not None else "not tested"
    options = ", ".join(f"{key}={value!r}" for key, value in config["options"].items()) or "defaults"
    return f"""# {config["head"]} on {config["split"]}

{score}

- head: `{config["head"]}` ({options})
- features: {backbone or "unknown backbone"}, taps {", ".join(f"{r} = {t}" for r, t in config["taps"].items())}, \
{config["n_frames"]} frames; recipe `{config.get("recipe_id") or config["start_id"]}`
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
