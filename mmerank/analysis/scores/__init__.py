"""Scores of models on benchmarks, from files of one's own and of evaluation harnesses."""
