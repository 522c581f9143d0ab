"""Names mean the positions they say, and what cannot be an edge is refused in one sentence."""

from __future__ import annotations

import pytest

from vila_lab.edits.groups import column_span, edge_spans, parse_edge, reader_span, source_span
from vila_lab.errors import NoEffect, OptionError
from vila_lab.hooks.spans import Span


@pytest.fixture
def tokens(plain):
    return plain.token_map


@pytest.mark.parametrize("edge", ["image_1->answer", " image_1  →  answer "])
def test_an_edge_is_source_and_reader(edge):
    assert parse_edge(edge) == ("image_1", "answer")


def test_a_quoted_phrase_may_hold_an_arrow():
    assert parse_edge('"a -> b" -> answer') == ('"a -> b"', "answer")


@pytest.mark.parametrize("edge", ["image_1", "a -> b -> c", "-> answer", "image_1 ->", "", 3])
def test_what_is_no_edge_is_named(edge):
    with pytest.raises(OptionError, match="source -> reader"):
        parse_edge(edge)


def test_a_star_is_no_source():
    with pytest.raises(OptionError, match="right of an edge only"):
        parse_edge("* -> answer")


def test_the_answer_reads_from_the_prompts_last_row_on_and_is_read_behind_it(tokens):
    length = tokens.prompt_length
    assert reader_span("answer", tokens) == Span(onward=length - 1)
    assert source_span("answer", tokens) == Span(onward=length)
    assert edge_spans("answer -> answer", tokens) == (Span(onward=length), Span(onward=length - 1))


@pytest.mark.parametrize("name", ["prompt", "template"])
def test_the_row_that_chooses_the_first_token_reads_for_the_answer_only(name, tokens):
    last = tokens.prompt_length - 1
    assert last in source_span(name, tokens).positions
    assert last not in reader_span(name, tokens).positions


def test_a_star_is_every_later_row_but_the_sources_own(tokens):
    source, reader = edge_spans("image_1 -> *", tokens)
    mine = tokens.positions("image_1").tolist()
    assert source == Span.of(mine)
    assert [p for p in range(130) if reader.inside(p, p + 1)[0]] == [
        p for p in range(130) if p > mine[0] and p not in mine
    ]


def test_question_is_what_the_user_wrote_and_a_quoted_phrase_is_a_part_of_it(tokens):
    text = tokens.positions("text").tolist()
    assert source_span("question", tokens) == source_span("text", tokens) == Span.of(text)
    phrase = sorted(source_span('"image 2"', tokens).positions)
    assert phrase
    assert set(phrase) < set(text)
    assert "".join(tokens.text[slice(*tokens.span[p])] for p in phrase).strip() == "image 2"


@pytest.mark.parametrize(
    ("edge", "why"),
    [
        ("image_3 -> answer", "there is no image_3"),
        ("image_0 -> answer", "there is no image_0"),
        ("image_1 -> picture", "unknown group of positions 'picture'"),
        ('"Google" -> answer', "Google"),
        ("image_2 -> image_1", "image_1 stands before image_2"),
        ("question -> images", "images stands before question"),
        ("answer -> question", "question stands before answer"),
    ],
)
def test_edges_that_do_not_exist_say_why(edge, why, tokens):
    with pytest.raises(NoEffect, match=why):
        edge_spans(edge, tokens)


def test_columns_of_several_groups_are_their_union(tokens):
    both = column_span(["image_1", "image_2"], tokens)
    assert both == source_span("images", tokens)
    assert column_span(["image_1", "answer"], tokens).onward == tokens.prompt_length
    assert column_span([3, 5], tokens) == Span.of([3, 5])
    assert column_span("all", tokens) == Span(onward=0)


@pytest.mark.parametrize("positions", [[], [-1, 3]])
def test_positions_count_from_the_start(positions, tokens):
    with pytest.raises(NoEffect, match="count from 0"):
        reader_span(positions, tokens)


@pytest.mark.parametrize(
    ("outer", "inner", "covers"),
    [
        (Span.of([1, 2]), Span.of([2]), True),
        (Span.of([1]), Span.of([1, 2]), False),
        (Span(onward=5), Span(onward=6), True),
        (Span(onward=6), Span(onward=5), False),
        (Span.of([5], onward=6), Span(onward=5), True),
        (Span.of([5, 6]), Span(onward=5), False),
        (Span(onward=3), Span.of([4]), True),
        (Span(onward=3), Span.of([2, 4]), False),
    ],
)
def test_a_span_covers_another_where_it_has_all_its_positions(outer, inner, covers):
    assert outer.covers(inner) == covers
