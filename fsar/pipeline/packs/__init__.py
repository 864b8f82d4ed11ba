"""Packed frames: the sampled frames of all videos of a catalog as JPEG in a few large files, NAME.frames.

NAME.frames/pack.json               how the frames were made, how rows fall into shards
NAME.frames/videos.csv              row -> video_id, class, part, path; once sealed also status, n_frames, sha256
NAME.frames/frames/000000.jpgs      the JPEG files of one shard, one after the other
NAME.frames/frames/000000.index     where each frame lies, which frame of its video it is, its time, its crc32c
NAME.frames/journal, manifest.json  as in a feature store: what is finished, and its sha256
"""

from fsar.pipeline.packs.reader import FramePack, PackedVideo, is_pack

__all__ = ["FramePack", "PackedVideo", "is_pack"]
