"""The report of runs: what they answered, how sure that is, why, and what it cost."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fsar.errors import InputError
from fsar.heads.episodes.feature_source import spread
from fsar.heads.episodes.sampler import EpisodePool, Episodes
from fsar.heads.evaluation.candidates import Reading, Subject, load_subject
from fsar.heads.evaluation.cost import cost
from fsar.heads.evaluation.report import marks
from fsar.heads.evaluation.terms import trained_terms
from fsar.pipeline.packs import FramePack
from fsar.pipeline.share import open_store
from fsar.progress import progress
from fsar.report import svg
from fsar.report.figures import accuracy_bars, class_bars, confusion, learning_curves, shot_curves
from fsar.report.filmstrips import Scene, scene_figure
from fsar.report.frames import FrameFetcher
from fsar.report.leaderboard import add_leaderboard
from fsar.report.measures import Neighbours, order_effects, video_map
from fsar.report.page import Page, number, percent, points
from fsar.report.published import beside
from fsar.report.runs import Difference, Result, Run, paired_differences, read_runs, seed_spreads, spreads_over_folds


@dataclass(frozen=True)
class ReportOptions:
    """What a report measures anew."""

    store: str | Path | None = None
    """Where the features are; None for the store that each run was trained on."""
    frames: Path | None = None
    """Packed frames to show in place of videos that are gone."""
    n_episodes: int = 200
    """Of the measures of order."""
    n_hard: int = 2
    n_easy: int = 1
    """Episodes shown as filmstrips."""
    device: str = "cpu"
    measure: bool = True
    """False: only what the run folders hold."""


@dataclass
class _Material:
    """What the sections share: a run with the store and the head opened, or why they could not be."""

    run: Run
    subject: Subject | None = None
    pool: EpisodePool | None = None
    episodes: Episodes | None = None
    note: str = ""


def make_report(paths: Sequence[Path], options: ReportOptions, *, quiet: bool = False) -> Page:
    """Return the page of one or more runs.

    Raises:
        InputError: no run, an unfinished one, or one without any result.
    """
    runs = read_runs(paths)
    if not any(run.results for run in runs):
        raise InputError(f"{paths[0]} has no test result yet: run fsar-eval-head {paths[0]} --store STORE")
    opened = [_open(run, options) for run in runs] if options.measure else [_Material(run) for run in runs]
    names = ", ".join(run.label for run in runs)
    page = Page("Few-shot results", f"{len(runs)} runs: {names}" if len(runs) > 1 else names)
    add_leaderboard(page, runs)
    _accuracy(page, runs)
    _spreads(page, runs)
    _differences(page, paired_differences(runs))
    _published(page, runs)
    _curves(page, runs)
    _classes(page, runs)
    _confusions(page, runs)
    if options.measure:
        steps = [_filmstrips, _maps, _order, _cost]
        with progress("report", len(steps) * len(opened), unit="measures", quiet=quiet) as advance:
            for step in steps:
                step(page, opened, options, advance)
    _recipes(page, runs)
    return page


def _accuracy(page: Page, runs: Sequence[Run]) -> None:
    page.section(
        "accuracy",
        "Accuracy",
        "Mean over test episodes and its 95 % interval. The interval is over episodes of these videos: it says nothing "
        "about other classes or other videos.",
    )
    columns = ["run", "head", "test", "accuracy %", "episodes", "order matters, points", "seed", "notes"]
    rows = []
    for run in runs:
        for result in run.results:
            data = result.data
            order = data.get("order")
            notes = "; ".join([*marks(data), *data.get("notes", [])])
            rows.append(
                [
                    run.label, run.head, result.title, percent(data["accuracy"], data.get("ci95")),
                    number(data["n_episodes"]), points(order["difference"], order["ci95"]) if order else "-",
                    data.get("seed", run.config.get("seed", "-")), notes,
                ]
            )  # fmt: skip
    page.table("accuracy", columns, rows)
    for title, group in groupby(sorted(_tested(runs), key=lambda pair: pair[1].title), key=lambda pair: pair[1].title):
        results = list(group)
        bars = [(run.label, r.data["accuracy"], r.data.get("ci95")) for run, r in results]
        accuracy_bars(page, title, bars, results[0][1].data["n_way"])
    shots: dict[str, list[tuple[int, float]]] = {}
    for run, result in _tested(runs):
        if isinstance(result.data["n_shot"], int):
            shots.setdefault(run.label, []).append((result.data["n_shot"], result.data["accuracy"]))
    shot_curves(page, shots)
    page.note("Order matters: accuracy with frames as filmed less that with shuffled frames, on the same episodes.")


def _tested(runs: Sequence[Run]) -> list[tuple[Run, Result]]:
    return [(run, result) for run in runs for result in run.results]


def _spreads(page: Page, runs: Sequence[Run]) -> None:
    for key, title, lead, found in (
        ("seeds", "Spread over seeds", "Runs that differ in the seed of training alone.", seed_spreads(runs)),
        (
            "folds",
            "Spread over folds of the classes",
            "Other draws of the training and test classes: what a result on one fixed list does not show.",
            spreads_over_folds(runs),
        ),
    ):
        if not found:
            continue
        page.section(key, title, lead)
        columns = ["runs", "test", "number", "mean %", "standard deviation, points", "interval over episodes, points"]
        rows = [
            [s.label, s.title, number(s.n_runs), percent(s.mean), number(s.std, f"{100 * s.std:.2f}"),
             number(s.episodes_half, f"± {100 * s.episodes_half:.2f}")]
            for s in found
        ]  # fmt: skip
        page.table(key, columns, rows)


def _differences(page: Page, found: Sequence[Difference]) -> None:
    if not found:
        return
    page.section(
        "differences", "Paired differences", "Runs on the same episodes: what makes an episode hard for both cancels."
    )
    rows = [[d.first, d.second, d.title, points(d.mean, d.half), _verdict(d), number(d.n_episodes)] for d in found]
    page.table("differences", ["first", "second", "test", "first minus second, points", "at 95 %", "episodes"], rows)


def _verdict(difference: Difference) -> str:
    return "clear" if difference.half is not None and abs(difference.mean) > difference.half else "not clear"


def _published(page: Page, runs: Sequence[Run]) -> None:
    rows = []
    for run, result in _tested(runs):
        data = result.data
        recipe = run.config.get("recipe", {})
        own = f"{recipe.get('library', '')} {recipe.get('backbone', '')}".strip() or "-"
        for found in beside(run.head, str(data.get("split")), data["n_way"], data["n_shot"]):
            entry = found.entry
            rows.append(
                [
                    run.label, result.title, percent(data["accuracy"], data.get("ci95")), own, entry.method,
                    percent(entry.accuracy), entry.backbone, found.tuning, entry.source,
                ]
            )  # fmt: skip
    page.section("published", "Published numbers", "As their sources give them; nobody here measured them.")
    if not rows:
        page.note("Nothing is published for these heads on these splits, ways and shots, as far as we know.")
        return
    columns = ["run", "test", "ours %", "our features", "method", "published %", "backbone", "backbone trained along?",
               "source"]  # fmt: skip
    page.table("published", columns, rows)


def _curves(page: Page, runs: Sequence[Run]) -> None:
    if any(run.curve for run in runs):
        page.section("curves", "Learning curves")
        learning_curves(page, {run.label: run.curve for run in runs})


def _classes(page: Page, runs: Sequence[Run]) -> None:
    page.section("classes", "Per class", "Share of each class's queries that were right.")
    for run in runs:
        for result in run.results[:1]:
            if any(share is not None for share in result.data.get("per_class_accuracy", {}).values()):
                page.heading(f"{run.label}, {result.title}")
                class_bars(page, run.label, result.data["per_class_accuracy"])


def _confusions(page: Page, runs: Sequence[Run]) -> None:
    page.section("confusion", "Confusions", "Rows are true classes; an error can only be another class of the episode.")
    for run in runs:
        for result in run.results[:1]:
            found = result.confusion()
            if found is not None and found[1].sum():
                page.heading(f"{run.label}, {result.title}")
                confusion(page, run.label, *found)


def _open(run: Run, options: ReportOptions) -> _Material:
    """Return a run with its head, store and episodes, or a note that says why not."""
    if not run.results:
        return _Material(run, note="not tested yet")
    path = options.store or run.config.get("store")
    if not path:
        return _Material(run, note="the run does not name its feature store: give --store")
    try:
        store = open_store(path)
        terms = trained_terms(run.path)
        reading = Reading(split=terms.split() if terms else None, device=options.device)
        subject = load_subject(str(run.path), store, reading)
        listed = run.results[0].episodes()
        if listed is None:
            return _Material(run, note="the list of its test episodes is gone")
        pool = subject.task.parts.pool(str(run.results[0].data.get("part", "test")))
        episodes = listed.in_store(store.row_of, {name: i for i, name in enumerate(pool.class_names)})
    except (InputError, OSError) as error:
        return _Material(run, note=f"{error}")
    return _Material(run, subject, pool, episodes)


def _filmstrips(page: Page, opened: Sequence[_Material], options: ReportOptions, advance: Any) -> None:
    page.section(
        "episodes",
        "Hardest and easiest episodes",
        "The query above, a support below. Bars say what each frame of the query says for the class (up) or against "
        "it; lines join frames that the head matched, patches that count are tinted.",
    )
    pack = FramePack.open(options.frames) if options.frames is not None else None
    for material in opened:
        page.heading(material.run.label)
        subject, episodes = material.subject, material.episodes
        if subject is None or episodes is None:
            page.note(f"left out: {material.note}")
            advance(1)
            continue
        store = subject.task.store
        frames = spread(store.n_slots, subject.task.n_frames).tolist()
        fetcher = FrameFetcher(store, frames, pack)
        for place in _chosen(material.run.results[0], options):
            page.html(scene_figure(_scene(material, fetcher, place)))
        advance(1)


def _chosen(result: Result, options: ReportOptions) -> list[int]:
    accuracies = result.accuracies
    if accuracies is None:
        return []
    order = np.argsort(accuracies, kind="stable")
    hard, easy = order[: options.n_hard].tolist(), order[::-1][: options.n_easy].tolist()
    return list(dict.fromkeys([*hard, *easy]))


@torch.inference_mode()
def _scene(material: _Material, fetcher: FrameFetcher, place: int) -> Scene:
    subject, pool, accuracies = material.subject, material.pool, material.run.results[0].accuracies
    assert subject is not None
    assert pool is not None
    assert material.episodes is not None
    assert accuracies is not None
    one = material.episodes[place : place + 1]
    batch, targets = subject.task.episode_data(subject.task.source(one.rows()), pool).batch(one)
    explanation = subject.head.explain(batch)
    answers, own = explanation.logits[0].argmax(-1).cpu(), targets.query_labels[0].cpu()
    wrong = (answers != own).nonzero()[:, 0].tolist()
    query = wrong[0] if wrong else 0
    supports: dict[int, list[Any]] = {label: [] for label in range(one.n_way)}
    for position, (row, label) in enumerate(zip(one.support[0].tolist(), one.support_labels[0].tolist(), strict=True)):
        supports[label].append((position, row))
    shown = {int(answers[query]), int(own[query])}
    return Scene(
        episode=int(one.indices[0]),
        accuracy=float(accuracies[place]),
        query=fetcher.strip(int(one.query[0, query])),
        own=int(own[query]),
        answered=int(answers[query]),
        class_names=[pool.class_names[i] for i in one.class_ids[0]],
        supports={label: [(p, fetcher.strip(row)) for p, row in supports[label]] for label in shown},
        explanation=explanation,
        place=query,
    )


def _maps(page: Page, opened: Sequence[_Material], options: ReportOptions, advance: Any) -> None:
    page.section(
        "map", "Where the test videos lie", "One mark per video, coloured by class, before and after the head."
    )
    drawn: set[Any] = set()
    neighbours = Neighbours()
    for material in opened:
        page.heading(material.run.label)
        if material.subject is None or material.pool is None:
            page.note(f"left out: {material.note}")
        else:
            task = material.subject.task
            features = (task.store.address, tuple(task.taps.values()), task.n_frames)
            found = video_map(material.subject.head, task, material.pool, neighbours, before=features not in drawn)
            figures = []
            for name, places in found.places.items():
                figure = svg.scatter([tuple(p) for p in places.tolist()], found.classes, found.class_names, name)
                figures.append(page.figure_html(f"map {material.run.label} {name}", figure, name))
                page.tables[f"map {material.run.label} {name}"] = [
                    ["class", "x", "y"],
                    *([found.class_names[c], *p] for c, p in zip(found.classes, places.tolist(), strict=True)),
                ]
            drawn.add(features)
            page.html(f'<div class="pair">{"".join(figures)}</div>')
            for note in found.notes:
                page.note(note)
        advance(1)


def _order(page: Page, opened: Sequence[_Material], options: ReportOptions, advance: Any) -> None:
    page.section(
        "order",
        "How much the order of frames matters",
        f"The first {options.n_episodes} test episodes again, with the frames of all videos shuffled or made equal "
        "(the middle one), or those of the queries reversed. A head that cannot tell the order keeps its accuracy.",
    )
    rows = []
    for material in opened:
        if material.subject is None or material.pool is None or material.episodes is None:
            page.note(f"{material.run.label} left out: {material.note}")
        else:
            episodes = material.episodes[: options.n_episodes]
            for row in order_effects(material.subject.head, material.subject.task, material.pool, episodes):
                rows.append(
                    [material.run.label, row.condition, percent(row.accuracy, row.half),
                     points(row.difference, row.difference_half), number(row.n_episodes)]
                )  # fmt: skip
        advance(1)
    if rows:
        page.table("order", ["run", "frames", "accuracy %", "to as filmed, points", "episodes"], rows)


def _cost(page: Page, opened: Sequence[_Material], options: ReportOptions, advance: Any) -> None:
    page.section(
        "cost",
        "Cost of the heads",
        "Of one test episode, features at hand. Operations are those of matrix products and convolutions; times are of "
        "this machine and compare heads, not papers.",
    )
    rows = []
    for material in opened:
        if material.subject is not None and material.pool is not None and material.episodes is not None:
            c = cost(material.subject.head, material.subject.task, material.pool, material.episodes)
            flops = None if c.flops_per_episode is None else c.flops_per_episode / 1e6
            rows.append(
                [
                    material.run.label, number(c.n_parameters), number(flops, f"{flops or 0:,.1f}"),
                    number(c.ms_per_episode, f"{c.ms_per_episode:.2f}"),
                    number(c.ms_per_query, f"{c.ms_per_query:.2f}"), number(c.bytes_per_video), c.device,
                ]
            )  # fmt: skip
        advance(1)
    columns = ["run", "parameters", "MFLOP an episode", "ms an episode", "ms a query", "bytes a video", "device"]
    if rows:
        page.table("cost", columns, rows)
    else:
        page.note("left out: no store is at hand")


def _recipes(page: Page, runs: Sequence[Run]) -> None:
    page.section("recipe", "Recipes, splits and episode lists", "What must agree for numbers to be compared.")
    rows = []
    for run, result in _tested(runs):
        recipe = run.config.get("recipe", {})
        backbone = " ".join(str(recipe.get(key, "")) for key in ("library", "backbone", "pretrained")).strip()
        data = result.data
        rows.append(
            [
                run.label, result.title, backbone or "-", data.get("recipe_id", "-"), data.get("split", "-"),
                data.get("split_sha256") or "-", data.get("episodes_sha256") or "-",
            ]
        )  # fmt: skip
    columns = ["run", "test", "backbone", "recipe", "split", "sha256 of the split", "sha256 of the episodes"]
    page.table("recipe", columns, rows)
    for run in runs:
        shown = json.dumps(run.config, indent=1, sort_keys=True, ensure_ascii=False)
        page.html(f"<details><summary>All settings of {escape(run.label)}</summary><pre class=scroll tabindex=0>"
                  f"{escape(shown)}</pre></details>")  # fmt: skip
