"""Tiny settings of the metric heads."""

from tests.heads.cases import Case, add_case

add_case("otam", Case())
add_case("otam:adapter", Case({"dim": 16, "adapter": "temporal"}))
add_case("tsn", Case())
add_case("tsn:adapter", Case({"dim": 16, "adapter": "linear"}))
add_case("tsn:euclidean", Case({"metric": "euclidean"}))
add_case("proto", Case())
add_case("trx", Case({"dim": 16, "out_dim": 24}))
add_case("trx:triples", Case({"dim": 16, "out_dim": 24, "temp_set": (3,), "reduction": "mean"}))
add_case("pal", Case({"dim": 16}))
add_case("crosstransformer", Case({"dim": 16, "hidden": 24}))
