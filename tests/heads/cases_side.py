"""Tiny settings of the heads that read the tokens of a frozen CLIP: TS-FSAR and Task-Adapter++."""

from tests.heads.cases import N_CLASSES, Case, add_case

SIDE = {"dim": 24, "text_dim": 16, "side_dim": 64, "mlp_ratio": 1.0, "dropout": 0.0}


def levels(*numbers):
    return {f"level.{number}": (1 + 4, 24) for number in numbers}


add_case(
    "ts-fsar",
    Case(
        {**SIDE, "levels": (0, 1, 2, 3), "temporal_blocks": (1,), "n_classes": N_CLASSES, "chunk_videos": 3},
        roles={**levels(0, 1, 2, 3), "clip": (16,)},
        frames_option="n_frames",
        text_dim=16,
        learned_judge=True,
    ),
)
add_case(
    "ts-fsar:few",
    Case(
        {**SIDE, "levels": (4, 12), "recompute": True},
        roles={**levels(4, 12), "clip": (16,)},
        frames_option="n_frames",
        text_dim=16,
        learned_judge=True,
    ),
)
add_case(
    "task-adapter++",
    Case(
        {"dim": 24, "text_dim": 16, "levels": (10,), "n_heads": 4, "start": "random"},
        roles=levels(10),
        text_dim=16,
        learned_judge=True,
    ),
)
add_case(
    "task-adapter++:text",
    Case(
        {"dim": 24, "text_dim": 16, "levels": (10,), "n_heads": 4, "start": "random", "text_level": 1,
         "text_width": 12, "n_text_blocks": 3, "n_text_heads": 2},
        roles=levels(10),
        text_dim=1 + 5 * 12,
        learned_judge=True,
    ),
)  # fmt: skip
add_case(
    "task-adapter++:ordered",
    Case(
        {"dim": 24, "text_dim": 16, "levels": (11,), "n_heads": 2, "order_norm": True, "compat": "official"},
        roles=levels(11),
        text_dim=16,
        learned_judge=True,
    ),
)
