"""Files, folders and the hub -> examples, or why there is none: pictures, texts, transforms."""
