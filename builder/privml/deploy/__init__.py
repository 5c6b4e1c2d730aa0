"""Files that start an image on another host: one record for each kind, none of which starts anything itself."""
