"""Stores that lie elsewhere: pulled, pushed, and opened by their address."""

from fsar.pipeline.share import file_transport, http_transport, hub, object_store
from fsar.pipeline.share.address import Address, is_address, parse_address
from fsar.pipeline.share.opened import RemoteFeatureStore, open_store
from fsar.pipeline.share.pull import PullReport, Selection, pull
from fsar.pipeline.share.push import PushReport, push

__all__ = [
    "Address",
    "PullReport",
    "PushReport",
    "RemoteFeatureStore",
    "Selection",
    "file_transport",
    "http_transport",
    "hub",
    "is_address",
    "object_store",
    "open_store",
    "parse_address",
    "pull",
    "push",
]
