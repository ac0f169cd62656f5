"""A page on which pictures are changed and runs are looked through; the numbers of it need no page."""
