"""Where journals and blobs are kept."""
