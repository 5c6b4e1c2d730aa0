"""Publishing: versions of an image with signed measurements, and the TUF repository that says which count now."""
