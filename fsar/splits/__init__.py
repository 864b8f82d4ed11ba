"""Few-shot splits: which classes, and which of their videos, are for training, validation and testing."""

from fsar.splits.custom import read_split_csv
from fsar.splits.matching import Matching, Place, match_videos
from fsar.splits.names import PARTS, class_key
from fsar.splits.published import import_lists
from fsar.splits.split import Split
from fsar.splits.tables import list_splits, load_split

__all__ = [
    "PARTS",
    "Matching",
    "Place",
    "Split",
    "class_key",
    "import_lists",
    "list_splits",
    "load_split",
    "match_videos",
    "read_split_csv",
]
