"""Where the cells of a study run: each file is one place, which takes cells and says of each when it has ended."""
