"""Conformance cases of the vision-language heads."""

from tests.heads.cases import Case, add_case

add_case("clip-fsar", Case(options={"dim": 16, "hidden": 32}, text_dim=16))
add_case("clip-fsar:merge", Case(options={"dim": 16, "hidden": 32, "depth": 2, "merge_before": True}, text_dim=16))
add_case(
    "clip-fsar:combined",
    Case(options={"dim": 16, "hidden": 32, "scoring": "combined", "single_direction": True}, text_dim=16),
)
add_case("clip-mei", Case(options={"dim": 16, "hidden": 32, "head_dim": 4}, text_dim=16))
