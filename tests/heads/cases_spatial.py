"""Tiny settings of the spatial heads."""

from tests.heads.cases import N_CLASSES, Case, add_case

HCL = {"dim": 12, "n_classes": N_CLASSES, "width": 18, "ffn_dim": 20, "n_heads": 3, "n_patches": 9}
MAP = {"map": (12, 4, 4)}

add_case("hcl", Case(HCL, MAP))
add_case(
    "hcl:everything",
    Case(
        {**HCL, "temp_set": (2, 3), "multi_scale": True, "semantic": True, "text_dim": 10, "loss_spatial_cycle": 0.25},
        MAP,
        text_dim=10,
    ),
)

add_case("second-order", Case({"dim": 12, "channels": 16}, MAP))
add_case(
    "second-order:relation",
    Case({"dim": 12, "channels": 16, "compare": "relation", "attention": True}, MAP, learned_judge=True),
)

add_case("strm", Case({"dim": 12, "out_dim": 16}, {"patches": (16, 12)}, frames_option="n_frames"))
add_case(
    "strm:map",
    Case(
        {"dim": 12, "out_dim": 16, "temp_set": (2, 3), "reduction": "mean"},
        {"patches": (12, 5, 6)},
        frames_option="n_frames",
    ),
)
