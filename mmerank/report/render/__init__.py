"""A table -> Markdown, LaTeX, CSV, HTML."""
