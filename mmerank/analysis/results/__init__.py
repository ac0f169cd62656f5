"""What a job gives back, made of records alone: the same from memory and from a run folder."""
