"""The vision-language heads against the published algorithms, one episode at a time, as their authors wrote them down.

    python benchmarks/text_heads.py [clip-fsar] [clip-mei] [emp-net] [--threads 2] [--repeats 5]

Ratios within one run, at the published widths, 5-way 1-shot, 8 frames, features in memory. The plain side states the
official algorithm in our own words: a loop over alignment cells, materialised attention, one episode at a time, and it
gives the same logits, losses and gradients (checked first). Floors: training step CLIP-FSAR 2x, CLIP-MEI and EMP-Net
1.3x and 60 % of the matrix-product rate of the same run; 10,000 test episodes 30x.

CLIP-MEI's test cannot reach 30x: every query is mixed with a token of its episode and with the other queries. What of
that is linear is done once per video, and the training-only branch, which the release computes at test as well, not at
all. Of 5.0 GFLOP an episode 1.1 are left, half of them in feed-forward blocks behind the attention across videos.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from plain_heads import plain_alignment, plain_cosine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fsar.heads import EpisodeBatch, Features, Head, TableHead, Targets, TextTableHead, create_head, seeded
from fsar.heads.evaluation.evaluate import embed_both
from fsar.heads.methods.emp_net.encoder import LEVELS

N_WAY, N_FRAMES, N_CLASSES, N_TEST_VIDEOS, N_TEST_CLASSES = 5, 8, 64, 2_400, 24
TEST_EPISODES = 10_000


# ---------------------------------------------------------------- the plain algorithms


def plain_costs(query: Tensor, prototypes: Tensor) -> Tensor:
    """Two-way alignment of queries (Q, T, D) and prototypes (N, T, D)."""
    n_query, n_way = len(query), len(prototypes)
    cosine = plain_cosine(query.flatten(0, 1), prototypes.flatten(0, 1))
    distance = 1 - cosine.view(n_query, query.shape[1], n_way, -1).transpose(1, 2)
    return plain_alignment(distance, 0.5) + plain_alignment(distance.transpose(-1, -2), 0.5)


def plain_dropout(x: Tensor, layer: nn.Dropout) -> Tensor:
    """Return dropout as torch does it."""
    return F.dropout(x, layer.p, layer.training)


def plain_feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    """Return the feed-forward block of tokens."""
    first, _, inner, second, outer = module.net
    return plain_dropout(second(plain_dropout(F.gelu(first(x)), inner)), outer)


def plain_attention(module: nn.Module, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention with its scores written out, projected, dropped out."""
    heads = module.heads
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
    return plain_dropout(module.to_out((scores.softmax(-1) @ value).transpose(1, 2).flatten(2)), module.dropout)


def plain_block(block: nn.Module, x: Tensor, context: Tensor | None = None) -> Tensor:
    """Return the block of tokens, each norm computed where it is used."""
    own = block.attention
    context = x if context is None else context
    query, key, value = own.to_q(own.norm(x)), own.to_k(own.norm(context)), own.to_v(own.norm(context))
    x = x + plain_attention(own, query, key, value)
    return x + plain_feed_forward(block.feed_forward, x)


def plain_means(x: Tensor, labels: Tensor) -> Tensor:
    """Return class means, class by class."""
    return torch.stack([x[labels == label].mean(0) for label in labels.unique()])


def plain_clip_fsar(head: Head, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return logits and loss of CLIP-FSAR."""
    support, query = batch.support["frames"][0], batch.query["frames"][0]
    labels, text = batch.support_labels[0], batch.class_text[0, :, 0]
    tokens = torch.cat((support, text[labels].unsqueeze(1)), 1)
    for block in head.context:
        query, tokens = plain_block(block, query), plain_block(block, tokens)
    logits = -plain_costs(query, plain_means(tokens[:, :N_FRAMES], labels))
    videos = torch.cat((batch.support["frames"][0], batch.query["frames"][0])).mean(1)
    class_logits = head.scale * plain_cosine(videos, targets.all_class_text[:, 0])
    ids = torch.cat((targets.support_class_ids[0], targets.query_class_ids[0]))
    loss = F.cross_entropy(logits, targets.query_labels[0])
    return logits, loss + head.text_loss_weight * F.cross_entropy(class_logits, ids)


def plain_inject(head: Head, frames: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    """Return frames and token after attention within each video."""
    token = token.unsqueeze(1)
    tokens = plain_block(head.video_block, torch.cat((token, frames + 0.1 * token), 1))
    return tokens[:, 1:], tokens[:, :1]


def plain_motion(head: Head, x: Tensor) -> Tensor:
    """Return the mean two-sided frame difference of the convolved frames."""
    convolved = head.motion.conv_2(head.motion.conv_1(x.transpose(1, 2))).transpose(1, 2)
    return (((convolved[:, 1:] - x[:, :-1]) + (convolved[:, :-1] - x[:, 1:])) / 2).mean(1)


def plain_square(a: Tensor, b: Tensor) -> Tensor:
    """Return the squared distance, mean over the first axis."""
    return (a - b).square().flatten(1).sum(1).mean()


def plain_clip_mei(head: Head, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return logits and loss of CLIP-MEI."""
    support, query = batch.support["frames"][0], batch.query["frames"][0]
    labels, text = batch.support_labels[0], batch.class_text[0, :, 0]
    true_text = text[targets.query_labels[0]]
    base = text.mean(0)
    token = plain_feed_forward(head.token_network, query.mean((1, 2)).unsqueeze(1) * base)
    plain_feed_forward(
        head.token_network, support.mean((1, 2)).unsqueeze(1) * base
    )  # computed for supports too, and thrown away
    query_1, query_token = plain_inject(head, query, token)
    support_1, _ = plain_inject(head, support, text[labels])
    tokens = torch.stack([torch.cat((support_1[labels == c], query_1)).mean(0) for c in labels.unique()])
    mixed_support = plain_block(head.episode_block, torch.cat((tokens, support_1)).transpose(0, 1)).transpose(0, 1)
    mixed_query = plain_block(
        head.episode_block, torch.cat((tokens.mean(0, keepdim=True), query_1)).transpose(0, 1)
    ).transpose(0, 1)
    across = plain_costs(mixed_query[1:], plain_means(mixed_support[len(tokens) :], labels))
    across = across + plain_costs(mixed_query[:1], mixed_support[: len(tokens)])
    logits = -(0.5 * plain_costs(query_1, plain_means(support_1, labels)) + across)
    motion = torch.zeros(())
    for frames in (support, query):
        shallow = plain_motion(head, frames)
        moved, moved_token = plain_inject(head, frames, shallow)
        motion = motion + plain_square(plain_motion(head, moved), moved_token.squeeze(1))
    true_query, true_token = plain_inject(head, query, true_text)
    consistency = plain_square(torch.cat((true_token, true_query), 1), torch.cat((query_token, query_1), 1))
    text_term = 0.5 * (plain_square(true_text, token) + plain_square(true_token, query_token))
    auxiliary = consistency + text_term + head.motion_weight.squeeze() * motion
    loss = F.cross_entropy(logits, targets.query_labels[0], reduction="sum")
    return logits, loss + head.auxiliary_weight * auxiliary


def plain_stage(stage: nn.Module, z: Tensor) -> Tensor:
    """Return the stage of tokens z (V, T, 1+P, C), joined again after it."""
    token, patch = z[:, :, 0], z[:, :, 1:].flatten(0, 1)
    mixed = []
    for own, x in ((stage.temporal, token), (stage.spatial, patch)):
        query, key, value = own.to_qkv(own.norm(x)).chunk(3, -1)
        mixed.append(x + plain_attention(own, query, key, value))
    z = torch.cat((mixed[0].unsqueeze(2), mixed[1].view(*z.shape[:2], -1, z.shape[-1])), 2)
    return z + plain_feed_forward(stage.feed_forward, z)


def plain_describe(encoder: nn.Module, early: Tensor, middle: Tensor, late: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return token, frame and patch level of videos."""
    z = plain_stage(encoder.early, early)
    z = plain_stage(encoder.middle, z + middle)
    z = plain_stage(encoder.late, z + late)
    token, patch = z[:, :, 0], z[:, :, 1:]
    frame = patch.mean(2)
    token = plain_block(encoder.reasoning.token, token)
    tokens = torch.cat((token.unsqueeze(2), patch), 2)
    patch = plain_block(encoder.reasoning.patch, tokens.flatten(0, 1)).view_as(tokens)[:, :, 1:]
    return token, plain_block(encoder.reasoning.frame, frame + patch.mean(2)), patch


def plain_fuse(encoder: nn.Module, levels: tuple[Tensor, ...], text: Tensor | None) -> list[Tensor]:
    """Return the levels after attention over time."""
    token, frame, patch = levels
    n_patches = patch.shape[2]
    tubes = patch.transpose(1, 2).flatten(0, 1)
    fused = []
    for block, x in ((encoder.fusion.token, token), (encoder.fusion.frame, frame), (encoder.fusion.patch, tubes)):
        if text is None:
            fused.append(plain_block(block, x))
        else:
            own = text.repeat_interleave(len(x) // len(text), 0).unsqueeze(1)
            fused.append(plain_block(block, x + own, torch.cat((x, own), 1)))
    fused[2] = fused[2].unflatten(0, (-1, n_patches)).mean(1)
    return fused


def plain_emp_net(head: Head, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """Return logits and loss of EMP-Net."""
    labels, text = batch.support_labels[0], batch.class_text[0].mean(1)
    both = [torch.cat((batch.support[role][0], batch.query[role][0])) for role in batch.query]
    levels = plain_describe(head.encoder, *both)
    token, frame, patch = levels
    by_patch = plain_cosine(patch, text).mean(1).topk(49, 1).values.mean(1)
    by_frame = plain_cosine(frame, text).topk(2, 1).values.mean(1)
    by_text = {"token": plain_cosine(token, text).mean(1), "frame": by_frame, "patch": by_patch}
    n_support = len(labels)
    own, of_support = text[labels], tuple(x[:n_support] for x in levels)
    prototypes = labels
    if head.merge_before and n_support > len(text):
        own, of_support, prototypes = text, tuple(plain_means(x, labels) for x in of_support), labels.unique()
    support = plain_fuse(head.encoder, of_support, own)
    query = plain_fuse(head.encoder, tuple(x[n_support:] for x in levels), None)
    loss, total = torch.zeros(()), torch.zeros(())
    all_labels = torch.cat((labels, targets.query_labels[0]))
    for level, of_support, of_query in zip(LEVELS, support, query, strict=True):
        aligned = (-plain_costs(of_query, plain_means(of_support, prototypes))).softmax(-1)
        scores = by_text[level].softmax(-1)
        loss = loss + F.cross_entropy(aligned, targets.query_labels[0]) + F.cross_entropy(scores, all_labels)
        total = total + aligned + scores[n_support:]
    return total / 6, loss


PLAIN = {"clip-fsar": plain_clip_fsar, "clip-mei": plain_clip_mei, "emp-net": plain_emp_net}
QUERIES = {"clip-fsar": 5, "clip-mei": 4, "emp-net": 5}
EPISODES = {"clip-fsar": 4, "clip-mei": 4, "emp-net": 1}  # whose gradients a measured step adds up
FLOORS = {"clip-fsar": (2.0, None), "clip-mei": (1.3, 0.6), "emp-net": (1.3, 0.6)}
SHAPES = {"clip-fsar": (512,), "clip-mei": (512,), "emp-net": (197, 512)}
ROLES = {"emp-net": ("tokens_early", "tokens_middle", "tokens_late")}


# ---------------------------------------------------------------- measuring

clock = time.perf_counter


def make_episode(name: str, n_query: int, n_episodes: int = 1) -> tuple[EpisodeBatch, Targets]:
    """Return random episodes at the published widths."""
    generator = torch.Generator().manual_seed(0)

    def videos(n: int) -> Features:
        shape = (n_episodes, n, N_FRAMES, *SHAPES[name])
        return {role: torch.randn(shape, generator=generator) for role in ROLES.get(name, ("frames",))}

    dim = SHAPES[name][-1]
    labels = torch.stack([torch.randperm(N_WAY, generator=generator) for _ in range(n_episodes)])
    text = torch.randn(N_CLASSES, 1, dim, generator=generator)
    ids = torch.stack([torch.randperm(N_CLASSES, generator=generator)[:N_WAY] for _ in range(n_episodes)])
    queries = (torch.arange(n_query * N_WAY) % N_WAY).expand(n_episodes, -1)
    batch = EpisodeBatch(videos(N_WAY), labels, videos(n_query * N_WAY), N_WAY, text[ids])
    return batch, Targets(queries, ids.gather(1, labels), ids.gather(1, queries), text)


def plain_step(name: str, head: Head, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """Run the episodes one after the other and add up their gradients; the results are detached."""
    logits, losses = [], []
    for e in range(batch.n_episodes):
        alone, its_targets = episode_of(batch, targets, e)
        one, loss = PLAIN[name](head, alone, its_targets)
        (loss / batch.n_episodes).backward()
        logits.append(one.detach())
        losses.append(loss.detach())
    return torch.stack(logits), torch.stack(losses).mean()


def episode_of(batch: EpisodeBatch, targets: Targets, e: int) -> tuple[EpisodeBatch, Targets]:
    """Return one episode of a batch."""

    def only(features: Features) -> Features:
        return {role: x[e : e + 1] for role, x in features.items()}

    rows = slice(e, e + 1)
    alone = EpisodeBatch(
        only(batch.support), batch.support_labels[rows], only(batch.query), batch.n_way, batch.class_text[rows]
    )
    return alone, Targets(
        targets.query_labels[rows],
        targets.support_class_ids[rows],
        targets.query_class_ids[rows],
        targets.all_class_text,
    )


def our_step(head: Head, batch: EpisodeBatch, targets: Targets) -> tuple[Tensor, Tensor]:
    """Run the episodes as one batch; the results are detached."""
    outputs = head.outputs(batch)
    loss = head.loss(batch, outputs, targets)["total"]
    loss.backward()
    return outputs["logits"].detach(), loss.detach()


@contextmanager
def without_dropout(head: Head) -> Iterator[None]:
    """Switch dropout off inside the block."""
    rates = {module: module.p for module in head.modules() if isinstance(module, nn.Dropout)}
    for module in rates:
        module.p = 0.0
    yield
    for module, rate in rates.items():
        module.p = rate


def check_equal(name: str, head: Head, batch: EpisodeBatch, targets: Targets) -> None:
    """Fail unless both sides give the same logits, loss and gradients."""
    with without_dropout(head):
        results = []
        for step in (partial(plain_step, name), our_step):
            logits, loss = step(head, batch, targets)
            results.append((logits, loss, {n: p.grad for n, p in head.named_parameters()}))
            head.zero_grad(set_to_none=True)
    (plain_logits, plain_loss, plain_grads), (logits, loss, grads) = results
    torch.testing.assert_close(logits, plain_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(loss, plain_loss, rtol=1e-4, atol=1e-4)
    for parameter, reference in plain_grads.items():
        bound = 2e-3 * float(reference.abs().max()) + 1e-7
        assert float((grads[parameter] - reference).abs().max()) <= bound, parameter


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Return the best time of `repeats` runs after one that is not counted: the machine may be busy otherwise."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return min(times)


def interleaved(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Return the median times of two functions that take turns, so that other load falls on both."""
    first(), second()
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, into in zip((first, second), times, strict=True):
            start = clock()
            run()
            into.append(clock() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def matmul_rate(repeats: int) -> float:
    """Return FLOP/s of a float32 matrix product (2048 x 1024 x 1024)."""
    a, b = torch.randn(2048, 1024), torch.randn(1024, 1024)
    return 2 * 2048 * 1024 * 1024 / seconds(lambda: a @ b, 10 * repeats)


def training(name: str, head: Head, repeats: int) -> None:
    """Print the time of a training step."""
    batch, targets = make_episode(name, QUERIES[name], EPISODES[name])
    head.train()
    check_equal(name, head, batch, targets)

    def run(step: Callable[..., tuple[Tensor, Tensor]]) -> None:
        head.zero_grad(set_to_none=True)
        step(head, batch, targets)

    rate_before = matmul_rate(repeats)
    plain, ours = interleaved(lambda: run(partial(plain_step, name)), lambda: run(our_step), repeats)
    rate = max(rate_before, matmul_rate(repeats))
    with FlopCounterMode(display=False) as counter:
        run(our_step)
    share = counter.get_total_flops() / ours / rate
    floor, share_floor = FLOORS[name]
    wanted = f", {share:.0%} of the matrix-product rate" + (f" (floor {share_floor:.0%})" if share_floor else "")
    times = f"{plain * 1e3:8.1f} -> {ours * 1e3:7.1f} ms  {plain / ours:5.1f}x (floor {floor}x)"
    print(f"{name:10} training step     {times}{wanted}")


@torch.inference_mode()
def evaluation(name: str, head: Head, repeats: int) -> None:
    """Estimate 10,000 episodes of 5 supports and 5 queries over 2,400 videos from parts."""
    assert isinstance(head, TableHead)
    head.eval()
    batch, targets = make_episode(name, 1)
    plain = seconds(lambda: PLAIN[name](head, batch, targets), repeats)
    n_videos = 8 if name == "emp-net" else 64
    generator = torch.Generator().manual_seed(1)
    shape = (n_videos, N_FRAMES, *SHAPES[name])
    features = {role: torch.randn(shape, generator=generator) for role in ROLES.get(name, ("frames",))}
    text = torch.randn(N_TEST_CLASSES, 1, SHAPES[name][-1], generator=generator)
    own = text[torch.arange(n_videos) % N_TEST_CLASSES]

    def embed() -> tuple[Features, Features]:
        return embed_both(head, features, own, text)

    support, query = embed()
    per_video = seconds(embed, repeats) / n_videos
    n_batch = 64
    rows = torch.randint(n_videos, (n_batch, N_WAY), generator=generator)
    labels = torch.arange(N_WAY).expand(n_batch, -1)
    supports, queries = ({role: x[rows] for role, x in table.items()} for table in (support, query))
    for role in head.class_roles if isinstance(head, TextTableHead) else ():
        queries[role] = queries[role][..., :N_WAY]
    class_text = text[:N_WAY].expand(n_batch, -1, -1, -1)
    episodes = EpisodeBatch(supports, labels, queries, N_WAY, class_text)
    per_episode = seconds(lambda: head.match(episodes), repeats) / n_batch
    ours = N_TEST_VIDEOS * per_video + TEST_EPISODES * per_episode
    whole = TEST_EPISODES * plain
    print(
        f"{name:10} {TEST_EPISODES:,} episodes   {whole:8.1f} -> {ours:7.1f} s   {whole / ours:5.1f}x (floor 30x), "
        f"{per_video * 1e3:.1f} ms a video, {per_episode * 1e3:.2f} ms an episode"
    )


def main() -> None:
    """Run the chosen heads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("heads", nargs="*", default=list(PLAIN), metavar="HEAD", help=", ".join(PLAIN))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--cpu-time", action="store_true", help="Count processor time (with --threads 1).")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    global clock
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    for name in arguments.heads:
        with seeded(0):
            head = create_head(name)
        training(name, head, arguments.repeats)
        evaluation(name, head, arguments.repeats)


if __name__ == "__main__":
    main()
