"""Conformance cases of the vision-language heads."""

from tests.heads.cases import Case, add_case

add_case("clip-fsar", Case(options={"dim": 16, "hidden": 32}, text_dim=16))
add_case("clip-fsar:merge", Case(options={"dim": 16, "hidden": 32, "depth": 2, "merge_before": True}, text_dim=16))
add_case(
    "clip-fsar:combined",
    Case(options={"dim": 16, "hidden": 32, "scoring": "combined", "single_direction": True}, text_dim=16),
)
add_case("clip-mei", Case(options={"dim": 16, "hidden": 32, "head_dim": 4}, text_dim=16))
TOKENS = {f"tokens_{depth}": (1 + 6, 16) for depth in ("early", "middle", "late")}
add_case("emp-net", Case(options={"dim": 16, "chunk_videos": 3}, roles=TOKENS, text_dim=16))
add_case("emp-net:merge", Case(options={"dim": 16, "merge_before": True}, roles=TOKENS, text_dim=16))
add_case("clip-zero-shot", Case(text_dim=16))
add_case("clip-proto-text", Case(text_dim=16))
