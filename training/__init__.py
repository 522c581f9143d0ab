"""How the embedded model was made: its pictures, questions, training, export and evaluation. Not part of the wheel."""
