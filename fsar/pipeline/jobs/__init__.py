"""One function over many videos: processes, failures, folders that know what they hold."""
