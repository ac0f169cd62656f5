"""Intervals, paired tests, effect sizes and nulls of any metric."""
