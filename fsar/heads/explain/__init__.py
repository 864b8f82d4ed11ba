"""Evidence: what in a query and its supports made a head answer as it did."""

from fsar.heads.explain.evidence import Alignment, Evidence, Explanation, FrameScores, PatchScores, TupleMatch

__all__ = ["Alignment", "Evidence", "Explanation", "FrameScores", "PatchScores", "TupleMatch"]
