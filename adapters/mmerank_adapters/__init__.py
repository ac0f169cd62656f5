"""One file per model family; each is found through the entry point group `mmerank.adapters`."""
