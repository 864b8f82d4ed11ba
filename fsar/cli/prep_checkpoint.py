"""`fsar-prep import-checkpoint`: a published checkpoint to a head and a backbone of ours."""

from pathlib import Path
from typing import Any

import click

from fsar.cli.common import json_option, summary


@click.command("import-checkpoint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Run folder to write.")
@click.option("--cfg", "settings", type=click.Path(path_type=Path), help="Config of the run, if FILE holds none.")
@click.option("--method", help="Official method, where FILE does not tell, e.g. hyrsm_pp.")
@click.option(
    "--compat",
    type=click.Choice(["official", "fixed"]),
    help="Behave as the released code, or without its faults. [default: official where they differ]",
)
@json_option
def command(file: Path, out: Path, settings: Path | None, method: str | None, compat: Any, as_json: bool) -> None:
    """Import a published checkpoint: its head as a run folder, its fine-tuned backbone as a weights file.

    Reads the files that the code of CLIP-FSAR, MoLo, HyRSM(++), EMP-Net, TRX, STRM, CLIP-MEI, HCL, TS-FSAR, TEAM,
    temporal_matching, Task-Adapter++, D2ST-Adapter, ARN and TARN writes. Nothing in FILE is executed. What was left out
    or is missing is listed; weights that do not fit are an error.

    \b
    Example:
      fsar-prep import-checkpoint checkpoint_epoch_00010.pyth --out clip-fsar-released
      fsar-prep encode catalog.csv --backbone open_clip:RN50/clip-fsar-released/backbone.safetensors --out NAME.zarr
      fsar-eval-head clip-fsar-released --store NAME.zarr
    """  # noqa: D301 - click needs a real backspace
    from fsar.heads.checkpoints.importer import import_checkpoint, write_import

    report = import_checkpoint(file, settings=settings, method=method, compat=compat)
    written = write_import(report, file, out)
    summary(written, _text(written, out), as_json=as_json)


def _text(written: dict[str, Any], out: Path) -> str:
    options = ", ".join(f"{name}={value}" for name, value in written["options"].items())
    lines = [f"{written['method']}: head {written['head']} ({options}) in {out}"]
    if written["backbone"]:
        line = f"fsar-prep encode CATALOG --backbone {written['backbone']} {written['encode']}".rstrip()
        lines.append(f"backbone, with frames as its authors prepared them: {line} ...")
    else:
        lines.append(
            "backbone: none of a known kind in the file; the head fits only features of the one it was trained with"
        )
    lines.append(f"ignored: {_some(written['ignored'])}")
    lines.append(f"not in the file, left at a fixed random value: {_some(written['missing'])}")
    if written["assumed"]:
        lines.append(f"assumed, for the file holds no such settings (--cfg gives them): {_some(written['assumed'])}")
    return "\n".join(lines)


def _some(names: list[str], n_shown: int = 12) -> str:
    more = f" and {len(names) - n_shown} more (all in import.json)" if len(names) > n_shown else ""
    return (", ".join(names[:n_shown]) + more) or "nothing"
