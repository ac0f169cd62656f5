"""A ladder of small models that are aligned to a known degree, and what every metric says of them."""
