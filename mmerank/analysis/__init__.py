"""Records -> numbers. Works on a laptop from the records of a run: no torch, no model."""
