"""Stores that lie elsewhere: pulled, pushed, and opened by their address."""

from fsar.pipeline.share import file_transport, http_transport
from fsar.pipeline.share.address import Address, is_address, parse_address
from fsar.pipeline.share.opened import RemoteFeatureStore, open_store
from fsar.pipeline.share.pull import PullReport, Selection, pull

__all__ = [
    "Address",
    "PullReport",
    "RemoteFeatureStore",
    "Selection",
    "file_transport",
    "http_transport",
    "is_address",
    "open_store",
    "parse_address",
    "pull",
]
