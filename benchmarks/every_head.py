"""Every head by the clock against a plain statement of its own official algorithm: one table.

    python benchmarks/every_head.py [--only TEAM] [--shots 1] [--rounds 9] [--no-check]

5-way 1-shot (with `--shots` tests of several, and no steps), features at published widths, one thread, processor time
(a busy machine slows both sides alike). A step is the forward and backward pass of a cross entropy, 25 queries (5 where
a video is megabytes); a test episode has 5 queries and is one of 10,000 over 2,400 videos, which our side embeds once.
The plain side computes one episode after the other; ours also several at once. First both sides are shown to agree in
double precision, logits and gradients, to 1e-4: in single precision kinks (the largest of several distances, a
rectifier at zero) fall to either side, and a gradient with them. Medians of rounds in which all take turns, and the
spread of the ratio over the rounds: quartiles. The floor is the multiplications of our side at the rate of a large
matrix product of the same run.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import plain_heads
import plain_side
import plain_simple
import spatial
import text_heads
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fsar.allocator import keep_big_buffers
from fsar.heads import EpisodeBatch, Features, Head, TableHead, Targets, create_head, list_heads, seeded
from fsar.heads.evaluation.evaluate import embed_both

N_WAY, N_FRAMES, N_VIDEOS, N_EPISODES = 5, 8, 2400, 10_000
Logits = Callable[[Head, EpisodeBatch], Tensor]
"""Of one episode in a batch of its own: (Q, N)."""


@dataclass(frozen=True)
class Row:
    """A head, what it reads, and how its official code goes about it."""

    plain: Logits
    options: Mapping[str, Any] = field(default_factory=dict)
    roles: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"frames": (2048,)})
    """Shape of one frame."""
    text: int = 0
    """Width of class text."""
    n_frames: int = N_FRAMES
    n_query: int = 25
    """Of a step."""
    n_batch: int = 4
    """Episodes that our side takes at once."""
    note: str = ""


def frames_of(plain: Callable[..., Tensor]) -> Logits:
    """Adapt a statement that takes (head, support, labels, query, n_way) of frames."""
    return lambda head, batch: plain(
        head, batch.support["frames"][0], batch.support_labels[0], batch.query["frames"][0], batch.n_way
    )


def text_of(name: str) -> Logits:
    """Adapt a statement of `text_heads.py`."""

    def plain(head: Head, batch: EpisodeBatch) -> Tensor:
        n_query = next(iter(batch.query.values())).shape[1]
        ids = torch.arange(n_query)[None] % N_WAY
        targets = Targets(ids, batch.support_labels, ids, batch.class_text[0])
        logits: Tensor = text_heads.PLAIN[name](head, batch, targets)[0]
        return logits

    return plain


def plain_strm(head: Head, batch: EpisodeBatch) -> Tensor:
    """Both streams of STRM."""
    patches = batch.support["patches"][0], batch.support_labels[0], batch.query["patches"][0]
    matching, similarity = spatial.strm_episode(head, *patches)  # type: ignore[arg-type]
    return matching + 0.1 * similarity


def plain_hcl(head: Head, batch: EpisodeBatch) -> Tensor:
    """HCL's test."""
    return spatial.hcl_episode(head, batch.support["map"][0], batch.support_labels[0], batch.query["map"][0])  # type: ignore[arg-type]


def plain_zero_shot(head: Head, batch: EpisodeBatch) -> Tensor:
    """Cosines to the class texts."""
    query, text = batch.query["frames"][0].mean(1), batch.class_text[0].mean(1)
    return head.scale * F.cosine_similarity(query.unsqueeze(1), text, dim=-1)


def plain_proto_text(head: Head, batch: EpisodeBatch) -> Tensor:
    """Cosines to texts and to class means, weighed."""
    means = plain_simple.means_of_classes(batch.support["frames"][0].mean(1), batch.support_labels[0], batch.n_way)
    visual = F.cosine_similarity(batch.query["frames"][0].mean(1).unsqueeze(1), means, dim=-1)
    return head.text_weight * plain_zero_shot(head, batch) + (1 - head.text_weight) * head.scale * visual


CLIP = {"roles": {"frames": (512,)}, "text": 512}
DIM = {"dim": 2048}
LEVELS = {f"level.{k}": (197, 768) for k in range(13)}
TOKENS = dict.fromkeys(text_heads.ROLES["emp-net"], (197, 512))
ROWS: dict[str, Row] = {
    "baseline": Row(frames_of(plain_simple.plain_baseline)),
    "baseline-plus": Row(frames_of(plain_simple.plain_baseline)),
    "bd-cspn": Row(frames_of(plain_simple.plain_bd_cspn)),
    "bi-mhm": Row(frames_of(plain_simple.plain_bi_mhm)),
    "chamfer": Row(frames_of(plain_heads.plain_chamfer), {"dim": 512}, {"frames": (512,)}),
    "clip-fsar": Row(text_of("clip-fsar"), **CLIP),
    "clip-mei": Row(text_of("clip-mei"), n_query=20, **CLIP),
    "clip-proto-text": Row(plain_proto_text, **CLIP),
    "clip-zero-shot": Row(plain_zero_shot, **CLIP),
    "cmn": Row(frames_of(plain_heads.plain_cmn), DIM),
    "crosstransformer": Row(frames_of(plain_simple.plain_crosstransformer), DIM),
    "emp-net": Row(text_of("emp-net"), {"merge_before": True}, TOKENS, 512, n_query=5, n_batch=1),
    "hcl": Row(plain_hcl, DIM, {"map": (2048, 7, 7)}, n_query=5, n_batch=2, note="trains on pairs: 8.8x"),
    "hyrsm": Row(frames_of(plain_heads.plain_hyrsm), DIM),
    "hyrsm++": Row(frames_of(plain_heads.plain_hyrsm), DIM, note="step: ours computes the regulariser too"),
    "laplacian-shot": Row(frames_of(plain_simple.plain_laplacian_shot)),
    "molo": Row(plain_side.plain_molo, DIM, {"map": (2048, 7, 7)}, n_query=5, n_batch=2),
    "otam": Row(frames_of(lambda head, *episode: plain_heads.plain_otam(*episode))),
    "pal": Row(frames_of(plain_simple.plain_pal), DIM),
    "proto": Row(frames_of(plain_simple.plain_proto)),
    "second-order": Row(
        plain_side.plain_second_order,
        {"dim": 64, "compare": "relation", "attention": True},
        {"map": (64, 32, 32)},
        n_frames=5,
        n_query=5,
        note="ARN's widths",
    ),
    "strm": Row(plain_strm, DIM, {"patches": (16, 2048)}, n_query=5, n_batch=2),
    "tarn": Row(frames_of(plain_heads.plain_tarn), {"dim": 4096}, {"frames": (4096,)}),
    "team": Row(frames_of(plain_heads.plain_team), DIM, n_query=5, n_batch=2),
    "tim": Row(frames_of(plain_simple.plain_tuned_prototypes)),
    "trx": Row(frames_of(plain_heads.plain_trx), DIM),
    "ts-fsar": Row(plain_side.plain_ts_fsar, {}, {**LEVELS, "clip": (512,)}, 512, n_query=5, n_batch=1),
    "tsl": Row(frames_of(plain_simple.plain_tsl)),
    "tsn": Row(frames_of(plain_simple.plain_tsn)),
    "tuned-prototypes": Row(frames_of(plain_simple.plain_tuned_prototypes)),
}


def make(name: str, row: Row, dtype: torch.dtype = torch.float32) -> Head:
    """Return the head in evaluation mode: no dropout, running statistics."""
    with seeded(0):
        head = create_head(name, **row.options)
        for parameter in head.parameters():
            if not bool(parameter.any()):
                torch.nn.init.normal_(parameter, std=0.02)
    return head.eval().to(dtype)


def episodes(
    row: Row, n_episodes: int, n_query: int, *, n_way: int = N_WAY, n_shot: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[EpisodeBatch, Tensor]:
    """Return random episodes and the labels of their queries."""
    generator = torch.Generator().manual_seed(0)

    def videos(n: int) -> Features:
        shapes = {role: (n_episodes, n, row.n_frames, *shape) for role, shape in row.roles.items()}
        return {role: torch.randn(shape, generator=generator).to(dtype) for role, shape in shapes.items()}

    labels = torch.arange(n_way).repeat_interleave(n_shot).expand(n_episodes, -1)
    text = torch.randn(n_episodes, n_way, 1, row.text, generator=generator).to(dtype) if row.text else None
    batch = EpisodeBatch(videos(n_way * n_shot), labels, videos(n_query), n_way, text)
    return batch, (torch.arange(n_query) % n_way).expand(n_episodes, -1)


def one_of(batch: EpisodeBatch, number: int) -> EpisodeBatch:
    """Return one episode in a batch of its own."""
    rows = slice(number, number + 1)
    support, query = ({role: x[rows] for role, x in part.items()} for part in (batch.support, batch.query))
    text = None if batch.class_text is None else batch.class_text[rows]
    return EpisodeBatch(support, batch.support_labels[rows], query, batch.n_way, text)


def check(name: str, row: Row) -> None:
    """Fail unless logits and gradients agree to 1e-4 of their largest entry; tiny gradients to 1e-6 of the largest."""
    head = make(name, row, torch.float64)
    batch, labels = episodes(row, 1, 3, n_way=3, n_shot=2 if name != "hcl" else 1, dtype=torch.float64)
    sides = [row.plain(head, batch), head(batch)[0]]
    compare(name, "logits", *sides)
    parameters = {n: p for n, p in head.named_parameters() if p.requires_grad}
    if not sides[1].requires_grad:
        return
    gradients = [
        torch.autograd.grad(F.cross_entropy(side, labels[0]), list(parameters.values()), allow_unused=True)
        for side in sides
    ]
    largest = max(float(x.abs().max()) for x in gradients[0] if x is not None)
    for parameter, *pair in zip(parameters, *gradients, strict=True):
        if pair[0] is not None and pair[1] is not None:
            compare(name, f"gradient of {parameter}", *pair, least=1e-2 * largest)


def compare(name: str, what: str, plain: Tensor, ours: Tensor, least: float = 0.0) -> None:
    """End the run if two results differ."""
    error = float((plain - ours).detach().abs().max()) / max(float(plain.detach().abs().max()), least, 1e-30)
    if not error <= 1e-4:
        raise SystemExit(f"{name}: {what} differ by {error:.1e}")


@dataclass(frozen=True)
class Timing:
    """Milliseconds an episode of the plain side and of ours, and their ratios by round."""

    plain: float
    ours: float
    ratios: list[float]
    floor: float
    """Milliseconds of our multiplications."""

    def cells(self) -> str:
        """Return the cells of a row."""
        low, _, high = statistics.quantiles(self.ratios, n=4)
        share = f"{100 * self.floor / self.ours:.0f} %"
        return f"{self.plain:.3g} | {self.ours:.3g} | {self.plain / self.ours:.2g}x ({low:.2g}-{high:.2g}) | {share}"


def timed(plain: Callable[[], object], ours: Callable[[], object], n_ours: int, rounds: int, rate: float) -> Timing:
    """Time both in turn; `ours` computes `n_ours` episodes."""
    for run in (plain, ours):
        run()
    many = [max(1, round(0.02 / max(seconds(run), 1e-6))) for run in (plain, ours)]  # the clock ticks coarsely
    pairs = []
    for _ in range(rounds):
        pair = [sum(seconds(run) for _ in range(n)) / n for run, n in zip((plain, ours), many, strict=True)]
        pairs.append((1e3 * pair[0], 1e3 * pair[1] / n_ours))
    medians = [statistics.median(times) for times in zip(*pairs, strict=True)]
    return Timing(medians[0], medians[1], [a / b for a, b in pairs], 1e3 * flops(ours) / n_ours / rate)


def flops(run: Callable[[], object]) -> int:
    """Return the operations of products in a run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time of one run."""
    start = time.process_time()
    run()
    return time.process_time() - start


def matmul_rate() -> float:
    """Return the operations a second of a large matrix product."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / min(seconds(lambda: [a @ b for _ in range(4)]) / 4 for _ in range(5))


def step(name: str, row: Row, n_batch: int, rounds: int, rate: float) -> Timing | None:
    """Time a step of several episodes; None for a head that learns nothing from episodes."""
    head = make(name, row)
    batch, labels = episodes(row, n_batch, row.n_query)
    if name == "hcl" or not any(p.requires_grad for p in head.parameters()) or not head(one_of(batch, 0)).requires_grad:
        return None
    alone = one_of(batch, 0)

    def run(logits: Tensor, labels: Tensor) -> None:
        head.zero_grad(set_to_none=True)
        F.cross_entropy(logits.flatten(0, -2), labels.flatten()).backward()

    return timed(
        lambda: run(row.plain(head, alone), labels[0]), lambda: run(head(batch), labels), n_batch, rounds, rate
    )


@torch.inference_mode(False)
@torch.no_grad()
def test(name: str, row: Row, n_shot: int, rounds: int, rate: float) -> Timing:
    """Time a test episode; our side's share of embedding the videos is in it."""
    head = make(name, row)
    for parameter in head.parameters():
        parameter.requires_grad_(False)
    batch, _ = episodes(row, row.n_batch * 2, 5, n_shot=n_shot)
    alone = one_of(batch, 0)
    if not isinstance(head, TableHead) or not head.embeds_alone(n_shot):
        return timed(lambda: row.plain(head, alone), lambda: head(batch), batch.n_episodes, rounds, rate)
    embedded = batch.embedded(*(tables(head, batch, side)[use] for use, side in enumerate(("support", "query"))))

    def embed() -> None:
        tables(head, alone, "query")

    match = timed(lambda: row.plain(head, alone), lambda: head.match(embedded), batch.n_episodes, rounds, rate)
    once = statistics.median(seconds(embed) for _ in range(rounds)) / 5
    share = 1e3 * once * N_VIDEOS / N_EPISODES
    floor = match.floor + 1e3 * flops(embed) / 5 * N_VIDEOS / N_EPISODES / rate
    ratios = [match.plain / (match.plain / ratio + share) for ratio in match.ratios]
    return replace(match, ours=match.ours + share, ratios=ratios, floor=floor)


def tables(head: TableHead, batch: EpisodeBatch, side: str) -> tuple[Features, Features]:
    """Return the supports or queries of a batch as evaluation has them in its tables of supports and of queries."""
    videos: Features = getattr(batch, side)
    text = batch.class_text
    if text is None or not head.embeds_text:
        return (head.embed(videos),) * 2
    labels = batch.support_labels if side == "support" else torch.arange(5).expand(batch.n_episodes, -1)
    parts = [
        embed_both(head, {role: x[e] for role, x in videos.items()}, text[e, labels[e]], text[e], batch.n_shot)
        for e in range(batch.n_episodes)
    ]
    support, query = ({role: torch.stack([p[use][role] for p in parts]) for role in parts[0][use]} for use in (0, 1))
    return support, query


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="heads, separated by commas")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shots", type=int, default=1, help="Of tests; steps are timed at 1 shot only.")
    parser.add_argument("--no-check", action="store_true", help="Time without showing that both sides agree.")
    options = parser.parse_args()
    keep_big_buffers()  # as the commands do: a gradient of 100 MB would be faulted in anew in every step
    torch.set_num_threads(1)
    rate = matmul_rate()
    print(f"torch {torch.__version__}, one thread, {rate / 1e9:.0f} GFLOP/s\n")
    columns = ("head", "test: plain, ms", "ours", "ratio", "floor", "step: plain, ms", "ours", "ratio", "floor")
    print(f"| {' | '.join((*columns, 'several at once', 'ratio', 'floor', ''))} |\n|" + "---|" * 13)
    for name in list_heads():
        if options.only and name not in options.only.split(","):
            continue
        row = ROWS.get(name)
        if row is None:
            print(f"| {name} |" + " |" * 11 + " no plain statement |", flush=True)
            continue
        if not options.no_check:
            check(name, row)
        cells = [test(name, row, options.shots, options.rounds, rate).cells()]
        for n_batch in (1, row.n_batch):
            is_new = options.shots == 1 and (n_batch > 1 or len(cells) == 1)
            timing = step(name, row, n_batch, options.rounds, rate) if is_new else None
            text = timing.cells() if timing else "- | - | - | -"
            cells.append(text if len(cells) == 1 else text.partition(" | ")[2])
        print(f"| {name} | " + " | ".join(cells) + f" | {row.note} |", flush=True)


if __name__ == "__main__":
    main()
