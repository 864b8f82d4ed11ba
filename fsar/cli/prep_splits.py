"""`fsar-prep splits`: look at few-shot splits and import others."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fsar.cli.common import echo, json_option, summary
from fsar.errors import InputError, count_of

if TYPE_CHECKING:
    from fsar.splits import Split

PARTS = ("train", "val", "test")


@click.group("splits")
def command() -> None:
    """List, show, compare and import few-shot splits.

    A split is named (ssv2-otam), aliased (ssv2-full) or the path of a CSV with the columns part, class, video_id.
    """


@command.command("list")
@json_option
def list_command(as_json: bool) -> None:
    """List the shipped splits."""
    from fsar.splits import list_splits, load_split

    splits = [load_split(name) for name in list_splits()]
    lines = [f"{'split':<22}{'classes':<12}{'videos (train/val/test)':<26}{'aliases'}"]
    for split in splits:
        counts = "/".join(str(len(split.parts[part])) for part in PARTS)
        videos = "/".join(str(split.n_videos(part)) for part in PARTS)
        lines.append(f"{split.name:<22}{counts:<12}{videos:<26}{', '.join(split.aliases)}".rstrip())
    summary({"splits": [_facts(split) for split in splits]}, "\n".join(lines), as_json=as_json)


@command.command("show")
@click.argument("split")
@click.option("--part", type=click.Choice(PARTS), help="Only this part.")
@click.option("--csv", "as_csv", is_flag=True, help="Every video, as CSV (its sha256 is the split's).")
@json_option
def show_command(split: str, part: str | None, as_csv: bool, as_json: bool) -> None:
    """Show the classes of SPLIT with their number of videos."""
    from fsar.splits import load_split

    if as_csv and as_json:
        raise click.UsageError("--csv and --json are two forms of one output: give one")
    table = load_split(split)
    if as_csv:
        echo(_csv(table, part).removesuffix("\n"))
        return
    shown = [part] if part else list(PARTS)
    lines = [f"{table.name}: {table.title}" if table.title else table.name]
    lines += [f"{label}: {text}" for label, text in _described(table) if text]
    lines.append(f"sha256: {table.sha256}")
    for name in shown:
        lines.append(f"{name}: {count_of(len(table.parts[name]), 'class')}, {count_of(table.n_videos(name), 'video')}")
        lines += [
            f"{k:>4}  {_count(table, name, class_name):>5}  {class_name}" for k, class_name in _numbered(table, name)
        ]
    classes = {name: _class_facts(table, name) for name in shown}
    summary({**_facts(table), "classes": classes}, "\n".join(lines), as_json=as_json)


@command.command("compare")
@click.argument("first")
@click.argument("second")
@json_option
def compare_command(first: str, second: str, as_json: bool) -> None:
    """Say what the splits FIRST and SECOND share, part by part: above all, whether one trains on the other's test."""
    from fsar.splits import load_split
    from fsar.splits.compare import compare_splits

    comparison = compare_splits(load_split(first), load_split(second))
    summary(comparison.to_dict(), comparison.to_text(), as_json=as_json)


@command.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="CSV to write.")
@click.option("--part", type=click.Choice(PARTS), help="Part of lists that do not say it themselves.")
@click.option(
    "--names", type=click.Path(path_type=Path), help="Names of numbered classes: JSON, or 'train8 name' lines."
)
@click.option("--like", help="Name numbered classes as this split names the classes of their videos.")
@click.option("--force", is_flag=True, help="Replace an existing CSV.")
@json_option
def import_command(
    files: tuple[Path, ...],
    out: Path,
    part: str | None,
    names: Path | None,
    like: str | None,
    force: bool,
    as_json: bool,
) -> None:
    """Write the published lists FILES as one split CSV.

    The form is recognised: TRX and CLIP-MEI class/video, CLIP-FSAR train8/78687 and train0//path.ext, HCL *.list with
    *_class.txt, UCF101 class/video.avi 1, mmaction class/video 120 1, and CSV.

    \b
    Example:
        fsar-prep splits import trainlist03.txt vallist03.txt testlist03.txt --out mine.csv
    """  # noqa: D301 - click wants the backspace itself
    from fsar.files import write_atomic
    from fsar.splits import import_lists, load_split
    from fsar.splits.published import names_like, read_class_names, rename_classes

    if names and like:
        raise click.UsageError("--names and --like are two sources for one thing: give one")
    if out.exists() and not force:
        raise InputError(f"{out} exists: choose another --out or add --force")
    split = import_lists(files, name=out.stem, part=part)
    if names or like:
        found = read_class_names(names) if names else names_like(split, load_split(str(like)))
        split = rename_classes(split, found)
    write_atomic(out, split.to_csv())
    lines = [f"wrote {out}", f"sha256: {split.sha256}"]
    lines += [
        f"{name}: {count_of(len(split.parts[name]), 'class')}, {count_of(split.n_videos(name), 'video')}"
        for name in PARTS
    ]
    summary({**_facts(split), "path": str(out)}, "\n".join(lines), as_json=as_json)


@command.command("resample")
@click.argument("split")
@click.option("--folds", "n_folds", default=5, show_default=True, type=click.IntRange(min=2), help="How many.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the order of the classes.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=".", show_default=True, help="Folder.")
@click.option("--force", is_flag=True, help="Replace existing CSVs.")
@json_option
def resample_command(split: str, n_folds: int, seed: int, out: Path, force: bool, as_json: bool) -> None:
    """Draw new folds of the classes of SPLIT: NAME-fold0of5.csv and so on, parts as large as before.

    A result on one list of test classes does not show how much it owes to that list. Train and test on each fold, and
    `fsar-report` sets the spread over folds beside the interval over episodes.

    \b
    Example:
        fsar-prep splits resample ssv2-cmn --folds 5 --seed 0 --out folds
    """  # noqa: D301 - click wants the backspace itself
    from fsar.files import write_atomic
    from fsar.splits import load_split
    from fsar.splits.resample import resample_split

    folds = resample_split(load_split(split), n_folds, seed=seed)
    paths = [out / f"{fold.name}.csv" for fold in folds]
    for path in paths:
        if path.exists() and not force:
            raise InputError(f"{path} exists: choose another --out or add --force")
    for fold, path in zip(folds, paths, strict=True):
        write_atomic(path, fold.to_csv())
    lines = [f"wrote {path}, sha256 {fold.sha256}" for fold, path in zip(folds, paths, strict=True)]
    facts = [{**_facts(fold), "path": str(path)} for fold, path in zip(folds, paths, strict=True)]
    summary({"folds": facts, "seed": seed}, "\n".join(lines), as_json=as_json)


@command.command("overlap")
@click.argument("train")
@click.argument("test")
@click.option("--part", type=click.Choice(PARTS), default="test", show_default=True, help="Part of TEST.")
@json_option
def overlap_command(train: str, test: str, part: str, as_json: bool) -> None:
    """List classes of a part of TEST that may be training or validation classes of TRAIN under other names.

    For tests on another dataset than the training's: a class that was trained on by another name is not few-shot.
    Names are compared by the stems of their words; the list is for you to read.

    \b
    Example:
        fsar-prep splits overlap kinetics100-cmn hmdb51-arn
    """  # noqa: D301 - click wants the backspace itself
    from fsar.splits import load_split
    from fsar.splits.alike import alike_classes

    seen = load_split(train)
    pairs = alike_classes([*seen.parts["train"], *seen.parts["val"]], load_split(test).parts[part])
    lines = [f"{pair.kind:<6}{pair.second}  ({train}: {pair.first})" for pair in pairs] or ["none found"]
    found = [{"seen": pair.first, "tested": pair.second, "kind": pair.kind} for pair in pairs]
    summary({"train": train, "test": test, "part": part, "pairs": found}, "\n".join(lines), as_json=as_json)


def _described(split: "Split") -> list[tuple[str, str]]:
    return [("paper", split.paper), ("link", split.link), ("class order", split.class_order)]


def _facts(split: "Split") -> dict[str, Any]:
    return {
        "name": split.name,
        "aliases": list(split.aliases),
        "title": split.title,
        "paper": split.paper,
        "link": split.link,
        "class_order": split.class_order,
        "sha256": split.sha256,
        "n_classes": {part: len(split.parts[part]) for part in PARTS},
        "n_videos": {part: split.n_videos(part) for part in PARTS},
    }


def _class_facts(split: "Split", part: str) -> list[dict[str, Any]]:
    return [
        {"class_id": k, "class": name, "n_videos": split.expected_counts[part].get(name), "video_ids": ids}
        for k, (name, ids) in enumerate(split.parts[part].items())
    ]


def _numbered(split: "Split", part: str) -> Iterable[tuple[int, str]]:
    return enumerate(split.parts[part])


def _count(split: "Split", part: str, class_name: str) -> str:
    count = split.expected_counts[part].get(class_name)
    return "all" if count is None else str(count)


def _csv(split: "Split", part: str | None) -> str:
    text = split.to_csv()
    if part is None:
        return text
    header, *rows = text.splitlines(keepends=True)
    return header + "".join(row for row in rows if row.startswith(f"{part},"))
