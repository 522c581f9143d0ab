"""What a caller may hand over for a picture or a text, and how it is read. Knows no prompt and no model."""
