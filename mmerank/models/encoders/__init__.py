"""Vision encoders and dual encoders of pictures and texts, measured alone: open_clip, timm, transformers."""
