"""Adapter x examples -> records: batches, workers, the loop. The only place with a device."""
