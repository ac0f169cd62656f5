"""Hidden states of one example -> what is kept of them: spectrum, entropy, reductions."""
