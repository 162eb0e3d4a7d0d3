"""Named sets of pictures and captions, checked and edited."""
