"""Changes of a picture or a text, by name and strength."""
