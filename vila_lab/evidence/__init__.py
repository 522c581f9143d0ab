"""Can a map be trusted? Metrics, baselines, agreement, order tests and head rankings. Knows attribution, draws nothing."""

from .agreement import Evidence, evidence
from .card import MetricCard, metric_card
from .heads import HeadRanking, Sample, rank_heads
from .order import OrderTest, order_test

__all__ = [
    "Evidence",
    "HeadRanking",
    "MetricCard",
    "OrderTest",
    "Sample",
    "evidence",
    "metric_card",
    "order_test",
    "rank_heads",
]
