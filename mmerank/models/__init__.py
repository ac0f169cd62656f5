"""A MODEL argument -> an adapter: loading, hook points, layers, token sequences, untrained weights."""
