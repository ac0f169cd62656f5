"""Finished run folders -> tables, figures and one HTML page; without torch and without a model."""
