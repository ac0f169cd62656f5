"""Plain functions of arrays behind the metrics, and the table of them."""
