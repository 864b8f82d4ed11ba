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
