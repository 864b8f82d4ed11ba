"""`fsar-prep import-features` and `import-episodes`: what temporal_matching publishes, as stores."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import EXIT_DONE, EXIT_FAILED, json_option, quiet_option, summary
from fsar.errors import count_of

FOLDER = click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
OUT = click.option("--out", required=True, type=click.Path(path_type=Path), help="NAME.zarr or NAME.h5.")
DTYPE = click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float32",
    show_default=True,
    help="Precision of the stored numbers.",
)


@click.command("import-features")
@FOLDER
@OUT
@click.option("--frames", "n_slots", type=click.IntRange(1), default=8, show_default=True, help="Clips of a video.")
@click.option(
    "--views",
    "n_views",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Draws of clips; training uses all.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the draws.")
@DTYPE
@quiet_option
@json_option
def features_command(
    folder: Path, out: Path, n_slots: int, n_views: int, seed: int, dtype: Any, quiet: bool, as_json: bool
) -> int:
    """Write published features of clips as a store.

    Reads FOLDER/train|val|test/CLASS/VIDEO/video_features.pth, as temporal_matching publishes them: one vector for the
    clip of 16 frames that begins at each frame. Of each view and video one clip is drawn from each of 8 equal parts, as
    its code does. Nothing in the files is executed; one that cannot be read becomes a failed row of the store (then the
    exit code is 1). Run the same command again to resume.

    \b
    Example:
      fsar-prep import-features features/ucf101 --views 8 --out ucf101.zarr
      fsar-train-head chamfer --store ucf101.zarr --split ucf101-tsl --preset published
    """  # noqa: D301 - click needs a real backspace
    from fsar.pipeline.published.features import ImportOptions, import_features

    report = import_features(folder, out, ImportOptions(n_slots, n_views, seed, dtype), quiet=quiet)
    data = {"store": str(out), "videos": report.n_videos, "failed": report.n_failed}
    failed = f", {report.n_failed} failed (fsar-store info lists them)" if report.n_failed else ""
    summary(data, f"{out}: {count_of(report.n_videos, 'video')} of {n_slots} clips{failed}", as_json=as_json)
    return EXIT_FAILED if report.n_failed else EXIT_DONE


@click.command("import-episodes")
@FOLDER
@OUT
@click.option(
    "--split", required=True, help="Of which class a video is: ssv2-tsl, kinetics100-tsl, ucf101-tsl, or a CSV."
)
@click.option("--episodes-file", type=click.Path(path_type=Path), help="List of episodes to write [OUT with .npz].")
@DTYPE
@quiet_option
@json_option
def episodes_command(
    folder: Path, out: Path, split: str, episodes_file: Path | None, dtype: Any, quiet: bool, as_json: bool
) -> int:
    """Write published test episodes as a store and a list of episodes.

    Reads support_set_ID.pth, support_labels_ID.pth, support_frame_names_ID.txt and the same of target, as
    temporal_matching publishes them. Every video of an episode becomes a row of the store, for each episode shows its
    own clips. Nothing in the files is executed.

    \b
    Example:
      fsar-prep import-episodes episodes/ucf101_w5_s1 --split ucf101-tsl --out episodes.zarr
      fsar-eval-head runs/chamfer --store episodes.zarr --episodes-file episodes.npz --allow-recipe
    """  # noqa: D301 - click needs a real backspace
    from fsar.heads.episodes.published import published_list
    from fsar.heads.episodes.saved_list import save_list
    from fsar.pipeline.published.episodes import import_episodes
    from fsar.splits import load_split

    found = import_episodes(folder, out, load_split(split), dtype=dtype, quiet=quiet)
    listed, path = published_list(found), episodes_file or out.with_suffix(".npz")
    save_list(listed, path)
    data = {
        "store": str(out),
        "videos": found.report.n_videos,
        "failed": found.report.n_failed,
        "episodes": len(found.class_ids),
        "episodes_file": str(path),
        "episodes_sha256": listed.sha256,
    }
    videos, episodes = count_of(found.report.n_videos, "video"), count_of(len(found.class_ids), "episode")
    text = f"{out}: {videos} of {episodes}, listed in {path}"
    text += f", {found.report.n_failed} failed" if found.report.n_failed else ""
    summary(data, text, as_json=as_json)
    return EXIT_FAILED if found.report.n_failed else EXIT_DONE
