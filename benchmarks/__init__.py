"""Speed and memory of mmerank, beside the published recipe and beside bare forwards: `python -m benchmarks`."""
