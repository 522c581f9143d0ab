"""Can a map be trusted? Metrics, baselines, agreement, order tests and head rankings. Knows attribution, draws nothing."""

from .agreement import Evidence, evidence
from .baselines import flat_map, random_map, random_weights_map
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
    "flat_map",
    "metric_card",
    "order_test",
    "random_map",
    "random_weights_map",
    "rank_heads",
]
