"""Tiny settings of the metric heads."""

from tests.heads.cases import N_CLASSES, Case, add_case

add_case("otam", Case())
add_case("otam:adapter", Case({"dim": 16, "adapter": "temporal"}))
add_case("tsn", Case())
add_case("tsn:adapter", Case({"dim": 16, "adapter": "linear"}))
add_case("tsn:euclidean", Case({"metric": "euclidean"}))
add_case("proto", Case())
add_case("trx", Case({"dim": 16, "out_dim": 24}))
add_case("trx:triples", Case({"dim": 16, "out_dim": 24, "temp_set": (3,), "reduction": "mean"}))
add_case("pal", Case({"dim": 16}))
add_case("crosstransformer", Case({"dim": 16, "out_dim": 24}))
add_case("hyrsm", Case({"dim": 16}))
add_case("hyrsm:videos", Case({"dim": 16, "relate": "videos", "n_classes": N_CLASSES}))
add_case("hyrsm++", Case({"dim": 16, "n_classes": N_CLASSES}))
add_case("hyrsm++:semi", Case({"dim": 16, "confidence": 0.3, "position": None}, unlabelled=5))
add_case("bi-mhm", Case())
add_case("bi-mhm:classes", Case({"dim": 16, "n_classes": N_CLASSES, "class_weight": 2.0}))
MOLO = {"dim": 16, "hidden": 32}
add_case("molo", Case(MOLO, roles={"map": (16, 3, 3)}))
add_case(
    "molo:everything",
    Case(
        {**MOLO, "n_classes": N_CLASSES, "reconstruction_weight": 0.4},
        roles={"map": (16, 1, 2)},
        extra_roles={"pixels": (3, 32, 64)},
    ),
)
