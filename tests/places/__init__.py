"""Studies on schedulers that the tests start."""
