"""Is a build reproducible? Two legs in different surroundings, compared by layers; every difference has a cause."""
