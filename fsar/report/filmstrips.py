"""Episodes as pictures: supports and a query, with the evidence for the answer drawn over and between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from fsar.heads.explain import Alignment, Explanation, PatchScores, TupleMatch
from fsar.report.frames import HEIGHT, WIDTH, Strip
from fsar.report.svg import picture, text

GAP = 4
BAR = 26
"""Pixels for the bars below a query."""
BETWEEN = 56
"""Pixels between the strips of the query and of a support, for what joins their frames."""
MIN_SHARE = 0.15
"""Thinner joins are not drawn."""
N_TUPLES = 3


@dataclass(frozen=True)
class Scene:
    """One query of an episode, with the class that it was taken for and its own."""

    episode: int
    accuracy: float
    query: Strip
    own: int
    answered: int
    class_names: Sequence[str]
    supports: dict[int, list[tuple[int, Strip]]]
    """Label -> (position in the episode, strip)."""
    explanation: Explanation
    place: int
    """Of the query in the explanation."""


def scene_figure(scene: Scene) -> str:
    """Return the query above a support of the answered class, and of its own class where that is another."""
    shown = [scene.answered] + ([scene.own] if scene.own != scene.answered else [])
    parts = [_against(scene, label) for label in shown]
    verdict = "right" if scene.own == scene.answered else "wrong"
    caption = (
        f"Episode {scene.episode} ({100 * scene.accuracy:.0f} % of its queries right): {scene.query.video_id} shows "
        f"“{scene.class_names[scene.own]}”, answered “{scene.class_names[scene.answered]}” ({verdict})."
    )
    return f'<figure class="scene {verdict}">{"".join(parts)}<figcaption>{escape(caption)}</figcaption></figure>'


def _against(scene: Scene, label: int) -> str:
    """Return the query and the support of one class that its evidence looks at most."""
    position, support = _looked_at(scene, label)
    n_frames = max(len(scene.query.times_seconds), len(support.times_seconds))
    width, contrast = n_frames * (WIDTH + GAP), scene.explanation.contrast()[0, scene.place, label]
    body = [_strip(scene.query, 0), _bars(contrast, HEIGHT + 2), _overlay(scene, label)]
    top = HEIGHT + BAR + BETWEEN
    body += [_joins(scene, label, position), _strip(support, top)]
    body.append(text(0, top + HEIGHT + 13, f"support: {support.video_id} ({scene.class_names[label]})", kind="small"))
    title = f"evidence for {scene.class_names[label]}"
    notes = "".join(f'<p class="note">{escape(s.note)}</p>' for s in (scene.query, support) if s.note)
    return f'<div class="scroll">{picture(width, top + HEIGHT + 18, "".join(body), title)}</div>{notes}'


def _looked_at(scene: Scene, label: int) -> tuple[int, Strip]:
    supports = scene.supports[label]
    for item in scene.explanation.evidence:
        if isinstance(item, TupleMatch):
            weights = [float(item.attention[0, scene.place, :, position].sum()) for position, _ in supports]
            return supports[weights.index(max(weights))]
        if isinstance(item, Alignment) and item.per_support:
            parts = -(item.share * item.distance).sum((-2, -1))[0, scene.place]
            return max(supports, key=lambda pair: float(parts[pair[0]]))
    return supports[0]


def _strip(strip: Strip, top: float) -> str:
    found = []
    for place, seconds in enumerate(strip.times_seconds):
        x = place * (WIDTH + GAP)
        title = f"<title>frame {place}, {seconds:.2f} s</title>"
        found.append(f'<rect x="{x}" y="{top}" width="{WIDTH}" height="{HEIGHT}" class="frame">{title}</rect>')
        if strip.pictures:
            found.append(
                f'<image x="{x}" y="{top}" width="{WIDTH}" height="{HEIGHT}" href="{strip.pictures[place]}">'
                f"{title}</image>"
            )
        found.append(text(x + 3, top + HEIGHT - 4, f"{seconds:.1f} s", kind="small on"))
    return "".join(found)


def _bars(contrast: Tensor, top: float) -> str:
    """Return a bar per frame: up, in one colour, where it speaks for the class, down in another where against it."""
    largest = float(contrast.abs().max()) or 1.0
    middle, found = top + BAR / 2, []
    for place, value in enumerate(contrast.tolist()):
        height = abs(value) / largest * (BAR / 2 - 1)
        y, kind = (middle - height, "for") if value > 0 else (middle, "against")
        x = place * (WIDTH + GAP) + WIDTH / 4
        found.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{WIDTH / 2}" height="{max(height, 0.5):.1f}" class="{kind}">'
            f"<title>frame {place}: {value:+.4g}</title></rect>"
        )
    return "".join(found)


def _overlay(scene: Scene, label: int) -> str:
    """Return the patches of the query that speak for the class, over its frames."""
    patches = next((item for item in scene.explanation.evidence if isinstance(item, PatchScores)), None)
    if patches is None:
        return ""
    grid = patches.parts[0, scene.place]  # (N, T, h, w)
    own = (grid[label] - grid.mean(0)).clamp(min=0)
    largest, (n_rows, n_columns) = float(own.max()) or 1.0, own.shape[1:]
    cell, found = (WIDTH / n_columns, HEIGHT / n_rows), []
    for frame in range(len(own)):
        for row in range(n_rows):
            for column in range(n_columns):
                share = float(own[frame, row, column]) / largest
                if share > MIN_SHARE:
                    x, y = frame * (WIDTH + GAP) + cell[0] * column, cell[1] * row
                    found.append(
                        f'<rect x="{x:.1f}" y="{y:.1f}" width="{cell[0]:.1f}" height="{cell[1]:.1f}" class="patch" '
                        f'fill-opacity="{0.6 * share:.2f}"/>'
                    )
    return "".join(found)


def _joins(scene: Scene, label: int, position: int) -> str:
    """Return lines from frames of the query to the frames of the support that they were matched with."""
    for item in scene.explanation.evidence:
        if isinstance(item, Alignment) and not item.between_frames:
            row = position if item.per_support else label
            return _lines(item.share[0, scene.place, row])
        if isinstance(item, TupleMatch):
            return _tuple_lines(item, scene.place, label, position)
    return ""


def _lines(share: Tensor) -> str:
    largest = float(share.abs().max()) or 1.0
    found = []
    for a in range(share.shape[0]):
        for b in range(share.shape[1]):
            strength = float(share[a, b]) / largest
            if strength >= MIN_SHARE:
                found.append(_join(a, b, strength))
    return "".join(found)


def _tuple_lines(item: TupleMatch, place: int, label: int, position: int) -> str:
    parts = item.parts[0, place]
    best = (parts[label] - parts.mean(0)).topk(min(N_TUPLES, parts.shape[1])).indices.tolist()
    found = []
    for number in best:
        attention = item.attention[0, place, number, position]
        if float(attention.max()) <= 0:
            continue
        other = int(attention.argmax())
        pairs = zip(item.tuples[number], item.tuples[other], strict=True)
        found += [_join(a, b, 1.0 - 0.3 * best.index(number)) for a, b in pairs]
    return "".join(found)


def _join(a: int, b: int, strength: float) -> str:
    top, bottom = HEIGHT + BAR + 2, HEIGHT + BAR + BETWEEN - 2
    x1, x2 = (place * (WIDTH + GAP) + WIDTH / 2 for place in (a, b))
    return (
        f'<line x1="{x1:.0f}" y1="{top}" x2="{x2:.0f}" y2="{bottom}" class="join" '
        f'stroke-opacity="{min(max(strength, 0.1), 1):.2f}"/>'
    )
