"""Feature stores: written in chunks by any number of processes, sealed by hash, read through memory maps."""

from fsar.pipeline.store.create import create_store, extend_store, open_writer
from fsar.pipeline.store.format import hdf5_format, zarr_format
from fsar.pipeline.store.format.chunk_data import ChunkData
from fsar.pipeline.store.format.identity import canonical_json, differing_fields, recipe_id
from fsar.pipeline.store.format.layout import STATUS_FAILED, STATUS_OK, STATUS_PENDING, Chunk, TapSpec, VideoRow
from fsar.pipeline.store.format.registry import list_formats
from fsar.pipeline.store.format.text_table import TextTable
from fsar.pipeline.store.reader import FeatureStore, open_store
from fsar.pipeline.store.text_tables import write_text
from fsar.pipeline.store.writer import StoreWriter

__all__ = [
    "STATUS_FAILED",
    "STATUS_OK",
    "STATUS_PENDING",
    "Chunk",
    "ChunkData",
    "FeatureStore",
    "StoreWriter",
    "TapSpec",
    "TextTable",
    "VideoRow",
    "canonical_json",
    "create_store",
    "differing_fields",
    "extend_store",
    "hdf5_format",
    "list_formats",
    "open_store",
    "open_writer",
    "recipe_id",
    "write_text",
    "zarr_format",
]
