"""Is a build reproducible? Two legs in different surroundings, compared layer by layer, each difference with its cause."""
