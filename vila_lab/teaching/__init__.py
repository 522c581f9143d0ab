"""What a course needs: words that are drawn, exercises to predict before looking, and the scores of a class. Knows an answer's
and a session's public questions, nothing of how they are answered."""

from .exercise import Exercise, Prediction, Reveal
from .gradebook import Gradebook
from .quiz import Quiz, Score
from .scorecard import Result, Scorecard
from .words import WORDS, show_word

__all__ = [
    "WORDS",
    "Exercise",
    "Gradebook",
    "Prediction",
    "Quiz",
    "Result",
    "Reveal",
    "Score",
    "Scorecard",
    "show_word",
]
