"""What a sweep keeps of an answer: a row, a row per token and picture, maps. Knows answers, no store and no table of questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..answer import Answer

__all__ = ["Found", "findings"]

Arrays = dict[str, NDArray[Any]]


class Found:
    """What was found of one answer.

    Attributes
    ----------
    cells : dict
        Of the row of its question, by column.
    tokens : list of dict
        A row per token and picture.
    arrays : dict
        Maps over the pictures, ``method/image_k``, (rows, columns) each.
    failed : dict
        What a method raised, by the method's name.
    """

    def __init__(self) -> None:
        self.cells: dict[str, Any] = {}
        self.tokens: list[dict[str, Any]] = []
        self.arrays: Arrays = {}
        self.failed: dict[str, Exception] = {}


def findings(answer: Answer, methods: Sequence[str]) -> Found:
    """Compute what a plan asks for. A method that fails takes neither the answer with it nor the other methods.

    Parameters
    ----------
    answer
        With its model. Without a picture there is nothing that methods could share out, and only what was said is found.
    methods
        "ledger", "evidence", and names in `vila_lab.methods`.

    Examples
    --------
    >>> import vila_lab
    >>> folder = vila_lab.demo_images()
    >>> answer = vila_lab.load().ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
    >>> found = findings(answer, ["ledger", "leave_one_out"])
    >>> found.cells["answer"], found.cells["leave_one_out_picture"], len(found.tokens)
    ('Microsoft.', 2, 6)
    """
    found = Found()
    found.cells |= _said(answer)
    for method in methods if answer.images else ():
        try:
            _find(answer, method, found)
        except Exception as error:  # whatever a model raises is this method's
            found.failed[method] = error
    return found


def _find(answer: Answer, method: str, found: Found) -> None:
    if method == "ledger":
        _ledger(answer, found)
    elif method == "evidence":
        _evidence(answer, found)
    else:
        _attribution(answer, method, found)


def _said(answer: Answer) -> dict[str, Any]:
    logprobs = [token.logprob for token in answer.tokens if not token.stop]
    return {
        "answer": answer.text,
        "pictures": len(answer.images),
        "n_tokens": len(answer.tokens),
        "n_positions": len(answer.token_map),
        "logprob": float(np.sum(logprobs)),
        "confidence": float(np.exp(np.mean(logprobs))) if logprobs else None,
        "notes": list(answer.notes),
    }


def _ledger(answer: Answer, found: Found) -> None:
    """Shares of attention: of each picture over the answer, of each token, and where in the pictures."""
    table = answer.record.ledger_values()  # (tokens, pictures + 3)
    n = len(answer.images)
    said = [k for k, token in enumerate(answer.tokens) if not token.stop]
    mean = table[said].mean(0) if said else np.full(table.shape[1], np.nan)
    found.cells["ledger"] = mean[:n].tolist()
    found.cells["ledger_prompt"], found.cells["ledger_answer"], found.cells["ledger_sink"] = map(float, mean[n:])
    found.cells["ledger_picture"] = _first(mean[:n])
    for number, token in enumerate(answer.tokens):
        same = {"token": number, "text": token.text, "probability": token.probability, "stop": token.stop}
        found.tokens += [{**same, "picture": k + 1, "ledger": float(table[number, k])} for k in range(n)]
    found.arrays |= {f"attention/image_{k + 1}": answer.heatmap(k).astype(np.float32) for k in range(n)}


def _evidence(answer: Answer, found: Found) -> None:
    evidence = answer.evidence()
    n = len(answer.images)
    effect = [float(evidence.effect[f"image_{k + 1}"]) for k in range(n)]
    found.cells |= {
        "verdict": evidence.verdict,
        "effect": effect,
        "effect_all": float(evidence.effect["all"]),
        "weight": float(evidence.weight),
        "probability": float(evidence.probability),
        "agree": bool(evidence.agree),
        "evidence_picture": _first(np.asarray(effect)),
    }
    for method, shares in evidence.shares.iterrows():
        found.cells[f"share_{method}"] = [float(share) for share in shares]


def _attribution(answer: Answer, method: str, found: Found) -> None:
    attribution = answer.attribute(method)
    n = len(answer.images)
    totals = attribution.total()
    scores = [float(totals.get(f"image_{k + 1}", np.nan)) for k in range(n)]
    found.cells |= {method: scores, f"{method}_picture": _first(np.asarray(scores))}
    per_token = {number: row for number, row in zip(attribution.token, attribution.per_image().to_numpy(), strict=True)}
    by_place = {(row["token"], row["picture"]): row for row in found.tokens}
    for number, scores_of in per_token.items():
        for k in range(n):
            row = by_place.get((number, k + 1))
            if row is None:
                token = answer.tokens[number]
                row = {
                    "token": number,
                    "text": token.text,
                    "probability": token.probability,
                    "stop": token.stop,
                    "picture": k + 1,
                }
                found.tokens.append(row)
            row[method] = float(scores_of[k])
    found.arrays |= {f"{method}/image_{k + 1}": attribution.heatmap(k).astype(np.float32) for k in range(n)}


def _first(scores: NDArray[np.float64]) -> int | None:
    """The picture that counts most, from 1; None where none speaks for the answer."""
    if not scores.size or not np.nanmax(np.nan_to_num(scores, nan=-np.inf)) > 0:
        return None
    return int(np.nanargmax(scores)) + 1


def kept(answer: Answer, found: Found, *, records: bool, originals: bool) -> Arrays:
    """The arrays of a part that are this answer's: its maps, and all of it."""
    arrays: Arrays = {f"map/{name}": each for name, each in found.arrays.items()}
    if records:
        arrays["record"] = np.frombuffer(answer.record.to_bytes(originals=originals), np.uint8)
    return arrays
