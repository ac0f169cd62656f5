"""The paper's tables and figures: what they need, measuring it, and ours beside what is printed."""
