"""The terms of a test: split, part, way and shot. A run is tested on those of its training, if no others are given."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fsar.errors import InputError
from fsar.heads.run_folder import CONFIG, RESULT, SPLIT, read_json
from fsar.splits import Split, load_split, read_split_csv
from fsar.splits.resample import fold_of

T = TypeVar("T")
Shot = int | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainedTerms:
    """What a run was trained for."""

    label: str
    """Of the run, for messages."""
    folder: Path
    split_name: str
    split_sha256: str
    """Empty where the parts recorded in the store were used."""
    part: str
    """That was tested at the end of the training."""
    n_way: int
    n_shot: Shot

    def split(self) -> Split | None:
        """Return the table of the split; None for the parts recorded in the store.

        Raises:
            InputError: the run does not hold it, and it is none of the shipped ones.
        """
        if not self.split_sha256:
            return None
        kept = self.folder / SPLIT
        if kept.is_file():
            return read_split_csv(kept, name=self.split_name)
        try:
            found = load_split(self.split_name)
        except (InputError, FileNotFoundError):
            found = None
        if found is None or found.sha256 != self.split_sha256:
            raise InputError(
                f"{self.folder} was trained on split {self.split_name!r}, whose table is not in the folder: "
                "name it with --split"
            )
        return found


def trained_terms(folder: Path) -> TrainedTerms | None:
    """Return what a run was trained for; None for a head without a config, such as an imported checkpoint."""
    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder / CONFIG)
    result = read_json(folder / RESULT) if (folder / RESULT).is_file() else {}
    shape = config["episodes"]
    shot = shape["n_shot"]
    return TrainedTerms(
        label=folder.name or str(folder),
        folder=folder,
        split_name=config["split"],
        split_sha256=config.get("split_sha256", ""),
        part=result.get("part") or "test",
        n_way=int(shape["n_way"]),
        n_shot=tuple(shot) if isinstance(shot, list) else int(shot),
    )


def agreed(
    option: str, given: T | None, runs: Sequence[TrainedTerms], value: Callable[[TrainedTerms], T], other: T
) -> T:
    """Return one term of a test: as given, else as the runs were trained, else `other`.

    Raises:
        InputError: nothing is given and the runs were trained for different values.
    """
    if given is not None:
        return given
    of_runs = {run.label: value(run) for run in runs}
    values = list(dict.fromkeys(of_runs.values()))
    if len(values) > 1:
        shown = ", ".join(f"{label} with {describe_value(found)}" for label, found in of_runs.items())
        raise InputError(f"the runs were trained for different terms ({option}: {shown}): say --{option}")
    return values[0] if values else other


def are_folds(runs: Sequence[TrainedTerms]) -> bool:
    """Tell whether runs were trained on several folds of one benchmark's classes."""
    folds = [fold_of(run.split_name) if run.split_sha256 else None for run in runs]
    bases = {fold[0] if fold else None for fold in folds}
    return len(set(folds)) > 1 and len(bases) == 1


def agreed_split(given: str | None, runs: Sequence[TrainedTerms]) -> Split | str | None:
    """Return the split of a test: as given, else that of the runs, None for the parts recorded in the store.

    Raises:
        InputError: nothing is given, and the runs were trained on different splits or theirs cannot be found.
    """
    if given is not None:
        return given
    agreed("split", None, runs, lambda run: (run.split_sha256 and run.split_name, run.split_sha256), ("", ""))
    return runs[0].split() if runs else None


def describe_value(value: Any) -> str:
    """Return a term for people: "5", "1/2/1", "ssv2-cmn"."""
    if isinstance(value, tuple) and value and isinstance(value[0], str):
        return value[0] or "the parts of the store"
    return "/".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def departures(trained: TrainedTerms | None, tested: Mapping[str, Any]) -> list[str]:
    """Return in which terms a test differs from what its run was trained for; `tested` is a result."""
    if trained is None:
        return []
    found = []
    if trained.split_sha256 != tested["split_sha256"]:
        found.append(f"trained on {trained.split_name if trained.split_sha256 else 'the parts of its store'}")
    if trained.part != (tested["part"] or "test"):
        found.append(f"not the {trained.part} part")
    shot = tested["n_shot"] if isinstance(tested["n_shot"], int) else tuple(tested["n_shot"])
    if (trained.n_way, trained.n_shot) != (tested["n_way"], shot):
        found.append(f"trained {trained.n_way}-way {describe_value(trained.n_shot)}-shot")
    return found
