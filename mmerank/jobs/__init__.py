"""What a person calls, and the result it gives back."""
