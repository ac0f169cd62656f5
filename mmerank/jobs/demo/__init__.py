"""The tour over the two models that come with mmerank."""
