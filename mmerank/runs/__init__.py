"""All that is on disk: records, Parquet parts, the run folder."""
