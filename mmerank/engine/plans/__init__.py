"""What is measured of pairs, of texts and by an encoder: what a model reads, and which passes that takes."""
