"""Exercises for a class: predict first, then look. Knows the session's public questions, nothing of how they are answered."""

from .exercise import Exercise, Reveal
from .quiz import Quiz, Score

__all__ = ["Exercise", "Quiz", "Reveal", "Score"]
