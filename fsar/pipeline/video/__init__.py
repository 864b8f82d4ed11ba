"""One video to frames: probing, decoding, sampling, transcoding."""
