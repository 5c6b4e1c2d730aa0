"""The content-addressed input store, and the sources that fill it."""
