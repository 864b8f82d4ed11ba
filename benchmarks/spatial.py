"""STRM and HCL against plain statements of their published algorithms, at real widths, in one run.

    python benchmarks/spatial.py [--threads 2] [--pairs 24] [--repeats 3] [--only strm,hcl-train,...]

Each row first proves that both sides give the same numbers, then prints how many times faster ours is, the floor it has
to reach, and the largest memory each side took. "matmul" is the share of the machine's own matrix rate (a large float32
product, measured in the same run) that ours reaches on the operations that are left after the exact savings.

HCL's test cannot reach 30x: encoding takes 10.4 GFLOP a video, so the published way spends 104 GFLOP on an episode of 5
queries and the tables of 2400 videos 2.5 GFLOP on each of 10,000 episodes; but the best patches of 25 pairs of videos,
about 20 products of 49 x 49 patches of width 1152 each, take another 2.8 GFLOP: 20x is left (with 25 queries, too).
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from fsar.heads import EpisodeBatch, PairBatch, Targets, create_head, seeded
from fsar.heads.methods.hcl.head import HCL
from fsar.heads.methods.strm.head import STRMHead

DIM, FRAMES, WIDTH, SIDE = 2048, 8, 1152, 7
N_EPISODES = 10_000


# ---- STRM, as published: one episode, loops over classes, tuples built, no folding of matrices


def strm_patches(head: STRMHead, tokens: Tensor) -> Tensor:
    """(V*T, 16, D) -> (V*T, D)."""
    block = head.patch_enrichment
    y = block.dropout(tokens + position(16, tokens.shape[-1]))
    energy = block.query_proj(y) @ block.key_proj(y).transpose(1, 2)
    z = block.gamma * (energy.softmax(-1) @ block.value_conv(y)) + y
    hidden = F.relu(block.mlp.hid_fc(F.relu(block.mlp.inp_fc(z))))
    return (block.mlp.out_fc(hidden) + z).mean(1)


def position(length: int, dim: int) -> Tensor:
    """Return the scaled sinusoids (length, dim)."""
    rate = torch.exp(torch.arange(0, dim, 2) * (-torch.log(torch.tensor(10000.0)) / dim))
    angle = torch.arange(length).unsqueeze(1) * rate
    return 0.1 * torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


def tuples_of(frames: Tensor, size: int) -> Tensor:
    """(V, T, D) -> (V, P, size*D)."""
    index = torch.combinations(torch.arange(frames.shape[1]), size)
    return torch.stack([frames[:, i].flatten(1) for i in index], 1)


def strm_episode(head: STRMHead, support: Tensor, labels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
    """Both streams of one episode, (Q, N) each; support (S, T, 16, D)."""
    n_way = int(labels.max()) + 1
    x = [strm_patches(head, v.flatten(0, 1)).view(*v.shape[:2], -1) for v in (support, query)]
    nearest = strm_nearest(head, x[0], labels, x[1], n_way)
    enriched = [head.frame_enrichment(v) for v in x]
    return strm_matching(head, enriched[0], labels, enriched[1], n_way), nearest


def strm_nearest(head: STRMHead, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return the similarity stream (Q, N), class by class."""
    similarity = head.similarities[0]
    embed = lambda v: F.relu(similarity.linear(tuples_of(similarity.dropout(v), similarity.size)))  # noqa: E731
    support, query = embed(support), embed(query)
    columns = []
    for label in range(n_way):
        distance = torch.cdist(query.flatten(0, 1), support[labels == label].flatten(0, 1))
        columns.append(-distance.amin(1).view(len(query), -1).mean(1))
    return torch.stack(columns, 1)


def strm_matching(head: STRMHead, support: Tensor, labels: Tensor, query: Tensor, n_way: int) -> Tensor:
    """Return the tuple-matching stream (Q, N), class by class."""
    layer = head.transformers[0]
    tuples = [tuples_of(layer.dropout(v + position(*v.shape[1:])), layer.size) for v in (support, query)]
    (support_k, query_k), (support_v, query_v) = ([m(t) for t in tuples] for m in (layer.k_linear, layer.v_linear))
    support_k, query_k = layer.norm_k(support_k), layer.norm_k(query_k)
    columns = []
    for label in range(n_way):
        keys, values = support_k[labels == label].flatten(0, 1), support_v[labels == label].flatten(0, 1)
        scores = query_k @ keys.T / keys.shape[1] ** 0.5
        weights = torch.cat([row.softmax(-1).unsqueeze(0) for row in scores])  # query by query, as published
        difference = query_v - weights @ values
        columns.append(-difference.square().sum((1, 2)) / difference.shape[1])
    return torch.stack(columns, 1)


# ---- HCL, as published: token-major transformer with full attention weights, one video after another


def hcl_tokens(head: HCL, maps: Tensor) -> Tensor:
    """(V, T, C, h, w) -> (V, T, P, d)."""
    encoder = head.encoder
    weight = encoder.input_proj.weight[:, :, None, None]
    x = F.conv2d(maps.flatten(0, 1), weight, encoder.input_proj.bias)
    grid = x.shape[-2:]
    x = x.view(*maps.shape[:2], -1, *grid).permute(1, 3, 4, 0, 2).flatten(0, 2)  # (T*P, V, d)
    where = encoder.positions(maps.shape[1], *grid).unsqueeze(1)
    for layer in encoder.layers:
        own = layer.attention
        mixed, _ = F.multi_head_attention_forward(
            x + where, x + where, x, x.shape[-1], own.n_heads, own.in_proj_weight, own.in_proj_bias, None, None, False,
            own.dropout.p, own.out_proj.weight, own.out_proj.bias, training=own.training, need_weights=True,
        )  # fmt: skip
        x = layer.norm1(x + layer.dropout(mixed))
        hidden = layer.dropout(F.gelu(layer.linear1(x)))
        x = layer.norm2(x + layer.dropout(layer.linear2(hidden)))
    return x.transpose(0, 1).reshape(*maps.shape[:2], -1, x.shape[-1])


def hcl_pair_loss(head: HCL, batch: PairBatch) -> Tensor:
    """The weighted loss with pairs of triples off: (2B, ...) videos, a loop over the first of each pair."""
    tokens = hcl_tokens(head, batch.features["map"])
    n_videos = len(tokens)
    total = head.loss_weights["classification"] * F.cross_entropy(head.classifier(tokens.mean((1, 2))), batch.class_ids)
    tuples = head.temporal(head.tuple_linears["2"](tuples_of(tokens.mean(2), 2)))
    patches = head.spatial(tokens)
    frames = torch.combinations(torch.arange(tokens.shape[1]), 2)
    temporal, spatial, cycles = [], [], []
    for i in range(n_videos):
        own, other = hcl_tuple_match(tuples[i], tuples, head.n_tuples)
        pooled = tuples[i][own].mean(1), torch.stack([tuples[j][other[j]] for j in range(n_videos)]).mean(1)
        temporal.append((pooled[0] * pooled[1]).sum(-1))
        mine = torch.stack([patches[i][frames[own[j, 0]]].flatten(0, 1) for j in range(n_videos)])
        theirs = torch.stack([patches[j][frames[other[j, 0]]].flatten(0, 1) for j in range(n_videos)])
        spatial.append(hcl_patch_match(mine, theirs, head.n_patches, "dot"))
        x, y = tuples[i], tuples[i ^ 1]
        back = ((x @ y.T).softmax(-1) @ y) @ x.T / head.temperature
        cycles.append(F.cross_entropy(back, torch.arange(len(x))))
    whole = patches.mean((1, 2))
    for name, scores in (
        ("global", whole @ whole.T),
        ("temporal", torch.stack(temporal)),
        ("spatial", torch.stack(spatial)),
    ):
        z = (scores / head.temperature).masked_fill(torch.eye(n_videos, dtype=torch.bool), -torch.inf)
        partner = torch.arange(n_videos) ^ 1
        total = total + head.loss_weights[name] * (z.logsumexp(1) - z[torch.arange(n_videos), partner]).mean()
    return total + head.loss_weights["temporal_cycle"] * torch.stack(cycles).mean()


def hcl_tuple_match(query: Tensor, support: Tensor, n_keep: int) -> tuple[Tensor, Tensor]:
    """Query tuples (N, d) against support videos (S, N, d): tuples of both, (S, K)."""
    best, chosen = torch.einsum("nd,smd->snm", query, support).max(2)
    kept = best.topk(n_keep, dim=1).indices
    return kept, chosen.gather(1, kept)


def hcl_patch_match(query: Tensor, support: Tensor, n_keep: int, metric: str, *, score: bool = True) -> Tensor:
    """Patches (S, R, d) of both sides -> scores (S,), or the chosen patches (2, S, n_keep, d)."""
    best, column = (query @ support.transpose(1, 2)).max(2)
    kept = best.topk(n_keep, dim=1).indices
    take = lambda x, index: x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))  # noqa: E731
    chosen = take(query, kept), take(support, column.gather(1, kept))
    if not score:
        return torch.stack(chosen)
    return (chosen[0].mean(1) * chosen[1].mean(1)).sum(-1)


def hcl_episode(head: HCL, support: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """Logits (Q, N) of one episode of one shot, from maps; every video encoded anew, query after query."""
    n_way = int(labels.max()) + 1
    tokens = [hcl_tokens(head, v) for v in (support, query)]
    tuples = [F.normalize(head.tuple_linears["2"](tuples_of(v.mean(2), 2)), dim=-1) for v in tokens]
    patches = [F.normalize(v, dim=-1) for v in tokens]
    frames = torch.combinations(torch.arange(FRAMES), 2)
    whole = [v.mean((1, 2)) for v in patches]
    rows = []
    for q in range(len(query)):
        own, other = hcl_tuple_match(tuples[1][q], tuples[0], head.n_tuples)
        x = tuples[1][q][own].mean(1)
        y = torch.stack([tuples[0][s][other[s]] for s in range(len(support))]).mean(1)
        chosen = []
        for rank in range(head.n_ranks):
            mine = torch.stack([patches[1][q][frames[own[s, rank]]].flatten(0, 1) for s in range(len(support))])
            theirs = torch.stack([patches[0][s][frames[other[s, rank]]].flatten(0, 1) for s in range(len(support))])
            chosen.append(hcl_patch_match(mine, theirs, head.n_patches, "dot", score=False))
        mine, theirs = torch.cat(chosen, 2).mean(2)
        weights = head.fusion_weights
        score = weights["temporal"] * (x * y).sum(-1) + weights["spatial"] * (mine * theirs).sum(-1)
        rows.append(score + weights["global"] * whole[0] @ whole[1][q])
    per_video = torch.stack(rows)
    return torch.stack([per_video[:, labels == label].mean(1) for label in range(n_way)], 1)


# ---- the cases


@dataclass
class Case:
    """Two ways to the same numbers."""

    published: Callable[[], Tensor]
    ours: list[tuple[Callable[[], object], float]]
    """Parts of our way and how often each is done."""
    floor: float
    """Ratio to reach."""
    prove: Callable[[], None]
    times_published: float = 1.0
    """How often the published way is done."""
    flops: float | None = None
    """Operations of ours in its matrix products; None where they are not counted."""


def strm_data(n_shot: int, n_query: int, n_episodes: int = 1) -> tuple[STRMHead, EpisodeBatch, Targets]:
    """Return a head at real widths and random episodes for it."""
    generator = torch.Generator().manual_seed(0)
    with seeded(0):
        head = create_head("strm", dim=DIM)
        assert isinstance(head, STRMHead)
        torch.nn.init.constant_(head.patch_enrichment.gamma, 0.5)
    draw = lambda n: torch.randn(n_episodes, n, FRAMES, 16, DIM, generator=generator).relu()  # noqa: E731
    labels = torch.arange(5).repeat_interleave(n_shot).expand(n_episodes, -1)
    batch = EpisodeBatch({"patches": draw(5 * n_shot)}, labels, {"patches": draw(n_query)}, 5)
    return head, batch, Targets((torch.arange(n_query) % 5).expand(n_episodes, -1))


def strm_train(n_shot: int, n_episodes: int) -> Case:
    """A training step: forward and backward of the published loss, dropout on."""
    head, batch, targets = strm_data(n_shot, 25, n_episodes)

    def published() -> Tensor:
        head.zero_grad()
        total = torch.zeros(())
        for e in range(n_episodes):
            query = batch.query["patches"][e]
            streams = strm_episode(head, batch.support["patches"][e], batch.support_labels[e], query)
            losses = [F.cross_entropy(x, targets.query_labels[e], reduction="sum") for x in streams]
            loss = (losses[0] + 0.1 * losses[1]) / n_episodes
            loss.backward()
            total += loss.detach()
        return total

    def ours() -> Tensor:
        head.zero_grad()
        loss = head.loss(batch, head.outputs(batch), targets)["total"]
        loss.backward()
        return loss.detach()

    def prove() -> None:
        head.eval()
        sides = []
        for run in (ours, published):
            loss = run()
            sides.append((loss, head.patch_enrichment.value_conv.weight.grad.clone()))
        check("strm loss", sides[0][0], sides[1][0])
        check("strm gradient", sides[0][1] / sides[1][1].abs().max(), sides[1][1] / sides[1][1].abs().max())
        head.train()

    return Case(published, [(ours, 1)], 1.3, prove, flops=strm_flops(n_episodes * (5 * n_shot + 25)))


def strm_flops(n_videos: int) -> float:
    """Forward and backward operations of what is left in STRM, without gradients of the features."""
    square, tokens = DIM * DIM, n_videos * FRAMES * 16
    attention = 2 * 16 * DIM * tokens
    # Folded query and key 1+1, MLP entry from patches 0.5+0.5, from attended patches 0.5+1, hidden 0.25+0.5.
    patches = tokens * square * 5.25 + 3 * attention + 3 * 1.5 * square * DIM
    frames = n_videos * FRAMES * square * (2 * 3 + 1.5 * 3 + 3)
    tuples = n_videos * 14 * DIM * (2 * WIDTH + DIM // 2) * 3
    return 2 * (patches + frames + tuples)


def hcl_data(n_pairs: int) -> tuple[HCL, PairBatch]:
    """Return a head at real widths and a random batch of pairs for it."""
    generator = torch.Generator().manual_seed(0)
    with seeded(0):
        head = create_head("hcl", dim=DIM)
    assert isinstance(head, HCL)
    maps = torch.randn(2 * n_pairs, FRAMES, DIM, SIDE, SIDE, generator=generator).relu()
    return head, PairBatch({"map": maps}, torch.arange(n_pairs).repeat_interleave(2))


def hcl_train(n_pairs: int) -> Case:
    """A training step over pairs of videos, dropout on."""
    head, batch = hcl_data(n_pairs)

    def step(loss: Callable[[], Tensor]) -> Tensor:
        head.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    def prove() -> None:
        head.eval()
        small = PairBatch({"map": batch.features["map"][:8]}, batch.class_ids[:8])
        check("hcl loss", head.pair_loss(small)["total"], hcl_pair_loss(head, small))
        head.train()

    return Case(
        lambda: step(lambda: hcl_pair_loss(head, batch)),
        [(lambda: step(lambda: head.pair_loss(batch)["total"]), 1)],
        2.0,
        prove,
        flops=hcl_flops(2 * n_pairs),
    )


def hcl_flops(n_videos: int) -> float:
    """Forward and backward operations of HCL's training step, without gradients of the features."""
    n_tokens = FRAMES * SIDE**2
    encoder = (
        n_tokens * (2 * DIM * WIDTH + 3 * (4 * WIDTH**2 + 2 * WIDTH * 2048 + WIDTH**2)) + 3 * 2 * n_tokens**2 * WIDTH
    )
    pairs = n_videos * (2 * SIDE**2) ** 2 * WIDTH + n_videos * 6 * 2 * n_tokens * WIDTH
    return 2 * n_videos * (encoder + pairs)


def evaluation(name: str, n_videos: int, n_query: int, n_episodes: int) -> Case:
    """10,000 test episodes over 2400 videos: each video embedded once against each episode on its own."""
    if name == "strm":
        head: STRMHead | HCL = strm_data(1, 1)[0]
        maps = torch.randn(n_videos, FRAMES, 16, DIM).relu()
    else:
        head, maps = hcl_data(1)[0], torch.randn(n_videos, FRAMES, DIM, SIDE, SIDE).relu()
    head.eval()
    role = head.inputs[0].role
    labels = torch.arange(5).expand(n_episodes, -1)
    rows = torch.stack([torch.randperm(n_videos)[: 5 + n_query] for _ in range(n_episodes)])

    @torch.inference_mode()
    def published() -> Tensor:
        support, query = maps[rows[0, :5]], maps[rows[0, 5:]]
        if isinstance(head, HCL):
            return hcl_episode(head, support, labels[0], query)
        matching, similarity = strm_episode(head, support, labels[0], query)
        return matching + 0.1 * similarity

    @torch.inference_mode()
    def embed() -> dict[str, Tensor]:
        return head.embed({role: maps})

    @torch.inference_mode()
    def match(table: dict[str, Tensor]) -> Tensor:
        support, query = ({r: take(x, part) for r, x in table.items()} for part in (rows[:, :5], rows[:, 5:]))
        return head.match(EpisodeBatch(support, labels, query, 5))["logits"]

    table = embed()

    def prove() -> None:
        check(f"{name} evaluation", match(table)[0], published())

    parts = [(embed, 2400 / n_videos), (lambda: match(table), N_EPISODES / n_episodes)]
    return Case(published, parts, 30.0, prove, times_published=N_EPISODES)


def take(table: Tensor, rows: Tensor) -> Tensor:
    """Return table[rows] the way that evaluation does."""
    return table.index_select(0, rows.flatten()).view(*rows.shape, *table.shape[1:])


CASES: dict[str, Callable[[argparse.Namespace], Case]] = {
    "strm-train-1shot": lambda options: strm_train(1, options.episodes),
    "strm-train-5shot": lambda options: strm_train(5, options.episodes),
    "hcl-train": lambda options: hcl_train(options.pairs),
    "strm-10000-episodes-5-queries": lambda options: evaluation("strm", 64, 5, 16),
    "hcl-10000-episodes-25-queries": lambda options: evaluation("hcl", 48, 25, 2),
    "hcl-10000-episodes-5-queries": lambda options: evaluation("hcl", 48, 5, 4),
}

# ---- measuring


def best_of(function: Callable[[], object], repeats: int) -> float:
    """Return the shortest of several times in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def matmul_rate(repeats: int = 5) -> float:
    """Return float32 operations per second of a product as large as those in the heads."""
    a, b = torch.randn(4096, DIM), torch.randn(DIM, DIM)
    return 2 * 4096 * DIM * DIM / best_of(lambda: a @ b, repeats)


def check(name: str, ours: Tensor, published: Tensor, tolerance: float = 1e-4) -> None:
    """End the run if the two sides differ."""
    error = float(((ours - published).detach().abs() / published.detach().abs().clamp(min=1)).max())
    if not error <= tolerance:
        raise SystemExit(f"{name}: the two sides differ by {error:.1e}")


def measure(case: Case, repeats: int) -> tuple[float, float]:
    """Return the best times of both sides in seconds, measured in turn so that a busy machine slows both."""
    published, ours = [], [[] for _ in case.ours]
    for _ in range(repeats):
        published.append(best_of(case.published, 1))
        for times, (part, _) in zip(ours, case.ours, strict=True):
            times.append(best_of(part, 1))
    parts = [min(times) * often for times, (_, often) in zip(ours, case.ours, strict=True)]
    return min(published) * case.times_published, sum(parts)


def peak(name: str, side: str, options: argparse.Namespace) -> str:
    """Return the memory in GB that one side adds to its data, measured in a process of its own."""
    sizes = ["--threads", options.threads, "--pairs", options.pairs, "--episodes", options.episodes]
    command = [sys.executable, __file__, "--peak", name, side, *map(str, sizes)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def print_peak(case: Case, side: str) -> None:
    """Run one side once and print what it added to the resident memory."""
    before = resident()
    for part in [case.published] if side == "published" else [part for part, _ in case.ours]:
        part()
    print(f"{(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20) - before:.1f}")


def resident() -> float:
    """Return the memory of this process in GB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**30


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=24, help="classes in a batch of HCL, two videos each")
    parser.add_argument("--episodes", type=int, default=1, help="episodes in a training step of STRM")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES), help="rows, separated by commas")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("ROW", "SIDE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print_peak(CASES[options.peak[0]](options), options.peak[1])
        return
    chosen = options.only.split(",")
    if unknown := [name for name in chosen if name not in CASES]:
        parser.error(f"no row {', '.join(unknown)}; there are {', '.join(CASES)}")
    rate = matmul_rate()
    print(f"torch {torch.__version__}, {options.threads} threads, {rate / 1e9:.0f} GFLOP/s in a float32 matrix product")
    print(
        f"{'':<32}{'published s':>12}{'ours s':>10}{'ratio':>8}{'floor':>7}  {'matmul':>7}  peak GB (published, ours)"
    )
    for name in chosen:
        case = CASES[name](options)
        case.prove()
        published, ours = measure(case, options.repeats)
        share = f"{case.flops / ours / rate:.0%}" if case.flops else ""
        memory = "" if options.no_memory else ", ".join(peak(name, side, options) for side in ("published", "ours"))
        mark = "" if published / ours >= case.floor else "  BELOW"
        ratio = f"{published / ours:.2f}"
        print(
            f"{name:<32}{published:>12.2f}{ours:>10.2f}{ratio:>8}{case.floor:>7}  {share:>7}  {memory}{mark}",
            flush=True,
        )


if __name__ == "__main__":
    main()
