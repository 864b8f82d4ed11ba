"""Tiny settings of TEAM, the Chamfer family, CMN, TARN and the classifiers of an episode."""

from tests.heads.cases import Case, add_case

add_case("team", Case({"dim": 16, "n_tokens": 5}))
add_case("team:plain", Case({"dim": 16, "n_tokens": 5, "adapt": "plain"}))
add_case("team:none", Case({"dim": 16, "n_tokens": 5, "adapt": "none"}))

FIXED = (r"temperature",)  # a factor that the published training does not train
FRAMES = {"dim": 16, "out_dim": 24, "tuple_length": 1}
SEPARATE = {**FRAMES, "joint": False}
add_case("chamfer", Case({"dim": 16, "out_dim": 24}, unused=FIXED))
add_case("chamfer:frames", Case({"dim": 16, "tuple_length": 1, "project": False}, unused=FIXED))
add_case("chamfer:otam", Case({**SEPARATE, "matching": "otam"}, unused=FIXED))
add_case("chamfer:visil", Case({**SEPARATE, "visil": True}, unused=FIXED, learned_judge=True))
add_case(
    "chamfer:linear",
    Case({**SEPARATE, "matching": "linear", "learn_temperature": "both"}, frames_option="n_frames", learned_judge=True),
)
for matching in ("mean", "max", "diag", "chamfer-query", "chamfer-support"):
    add_case(f"chamfer:{matching}", Case({**FRAMES, "matching": matching}, unused=FIXED))

add_case("cmn", Case({"dim": 16, "n_hidden": 3}))
SMALL = {"dim": 16, "hidden": 6, "judge_hidden": 5}
add_case("tarn", Case(SMALL, learned_judge=True))
PRODUCT = {**SMALL, "compare": "product", "axis": "support", "loss": "episode"}
add_case("tarn:product", Case(PRODUCT, learned_judge=True))

add_case("baseline", Case({"n_rounds": 5}))
add_case("baseline-plus", Case({"n_rounds": 5}))
add_case("tsl", Case())
add_case("bd-cspn", Case())
add_case("laplacian-shot", Case())
add_case("laplacian-shot:official", Case({"compat": "official"}))
add_case("tuned-prototypes", Case({"n_steps": 20, "lr": 0.01, "temperature": 10.0}))
add_case("tim", Case({"n_steps": 20, "lr": 0.01}))
add_case("proto:cl2n", Case({"dim": 16, "centre": "train", "normalise": True}))
