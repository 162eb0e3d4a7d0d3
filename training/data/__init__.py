"""Pictures and captions: folder, decoding, buckets, captions."""
