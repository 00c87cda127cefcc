"""Where recordings are: files under directories, objects in buckets."""
