"""`fsar-prep index`: a dataset on disk becomes catalog.csv."""

import json
from collections.abc import Iterable
from pathlib import Path

import click

from fsar.cli.common import json_option, summary

DATASETS = ("ssv2", "hmdb51", "ucf101", "kinetics", "folder", "csv")

NEEDED = {"ssv2": ("--videos", "--annotations"), "csv": ("--annotations",)}
"""Options without which a dataset cannot be read, where it is not --videos alone."""


@click.command("index")
@click.option("--dataset", required=True, type=click.Choice(DATASETS), help="Layout of the dataset.")
@click.option("--videos", type=click.Path(path_type=Path), help="Folder of the videos.")
@click.option("--annotations", type=click.Path(path_type=Path), help="ssv2: folder of the json files; csv: the file.")
@click.option("--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="Catalog to write.")
@click.option("--split", "splits", multiple=True, help="Report on this split (name or CSV); may be repeated.")
@click.option("--only-split", is_flag=True, help="Leave out videos that no chosen split uses.")
@click.option("--way", default=5, show_default=True, type=click.IntRange(min=2), help="Classes of an episode.")
@click.option("--shot", default=5, show_default=True, type=click.IntRange(min=1), help="Supports of a class.")
@click.option("--query", default=1, show_default=True, type=click.IntRange(min=1), help="Queries of a class.")
@click.option(
    "--duplicates/--no-duplicates", default=True, show_default=True, help="Look for videos that hold the same bytes."
)
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the whole report as JSON here.")
@json_option
def command(
    dataset: str,
    videos: Path | None,
    annotations: Path | None,
    out: Path,
    splits: tuple[str, ...],
    only_split: bool,
    way: int,
    shot: int,
    query: int,
    duplicates: bool,
    report: Path | None,
    as_json: bool,
) -> None:
    """Write catalog.csv: id, path, class, size and part of every video of a dataset.

    \b
    ssv2      --videos DIR of 10.webm ..., --annotations DIR of the three json files. Without --split the train file
              gives the base classes (part train), the validation file the novel ones (test), if they are disjoint.
    hmdb51    class/clip.avi
    ucf101    class/v_Class_g01_c01.avi, or all clips in one folder
    kinetics  class/ID_000012_000022.mp4, or such trees in train_256 and val_256
    folder    class/clip.* or class/clip/*.jpg, at any depth; train, val, test above are the parts. Ids are paths.
    csv       --annotations FILE with the columns path, class and optionally video_id, part

    The part column follows --split if one is given; with several it stays empty and later stages take --split.
    Missing videos and classes that can no longer fill an episode are reported; they are no error.
    """  # noqa: D301 - click wants the backspace itself
    from fsar.files import write_atomic
    from fsar.pipeline.catalog.catalog import write_catalog
    from fsar.pipeline.catalog.index import EpisodeSize, index_dataset
    from fsar.splits import load_split

    for name, value in (("--videos", videos), ("--annotations", annotations)):
        if name in NEEDED.get(dataset, ("--videos",)) and value is None:
            raise click.UsageError(f"--dataset {dataset} needs {name}")
    if only_split and not splits:
        raise click.UsageError("--only-split needs --split")
    catalog, found = index_dataset(
        dataset,
        videos=videos,
        annotations=annotations,
        splits=[load_split(name) for name in splits],
        only_splits=only_split,
        episode=EpisodeSize(way, shot, query),
        compare_content=duplicates,
    )
    _refuse_overwriting(out, report, [*_files_read(dataset, annotations, splits), *(row.path for row in catalog.rows)])
    write_catalog(catalog, out)
    if report is not None:
        write_atomic(report, json.dumps(found.to_dict(), indent=2, ensure_ascii=False) + "\n")
    summary({"catalog": str(out), **found.to_dict()}, f"{found.to_text()}\nwrote {out}", as_json=as_json)


def _files_read(dataset: str, annotations: Path | None, splits: tuple[str, ...]) -> list[Path]:
    from fsar.pipeline.catalog.ssv2 import annotation_files

    given = [] if annotations is None else annotation_files(annotations) if dataset == "ssv2" else [annotations]
    return [path.resolve() for path in (*given, *map(Path, splits))]


def _refuse_overwriting(out: Path, report: Path | None, read: Iterable[Path]) -> None:
    """Raise InputError where a file to write is one that is read, or the other file to write."""
    from fsar.errors import InputError

    options = {out.resolve(): f"--out {out}"}
    if report is not None and options.setdefault(report.resolve(), f"--report {report}").startswith("--out"):
        raise InputError(f"--report {report} is the file of --out, too: give it another name")
    for path in read:
        if path in options:
            raise InputError(f"{options[path]} is a file that is read here: give another name, it would be overwritten")
