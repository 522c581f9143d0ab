"""axe-core finds no serious fault in the page: light and dark, in every state of the viewer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vila_lab.view import fragment

pytestmark = pytest.mark.browser

# Only what can be seen is judged; a fragment is not a whole page, so landmarks and the page's heading are not asked for.
RUN = """async () => {
  const found = await axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'],
    rules: { region: { enabled: false }, 'page-has-heading-one': { enabled: false }, 'landmark-one-main': { enabled: false },
      'heading-order': { enabled: false } } });
  return [found.passes.length, found.violations.filter(({ impact }) => ['serious', 'critical'].includes(impact))
    .map(({ id, help, nodes }) => [id, help, nodes.slice(0, 3).map(({ html, failureSummary }) => [html.slice(0, 420), failureSummary])])];
}"""


def view_with_everything(make_view, with_layers, pictures=2, tokens="words"):
    view = with_layers(make_view(pictures, tokens, shape="square"))
    words = ("Which", " picture", "?")
    return replace(
        view,
        words=words,
        word_shares=np.full((len(view.tokens), 3), 0.1),
        tiles=(((0, 0, 120, 240), (120, 0, 240, 240)), *[()] * (pictures - 1)),
        edits=("image 2 → answer cut",),
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("state", ["first", "two tokens", "signed", "region", "long question"])
def test_no_serious_violation(make_view, with_layers, open_page, axe, scheme, state):
    view = view_with_everything(make_view, with_layers)
    if state == "long question":
        view = replace(view, words=(), word_shares=None, prompt_parts=("word " * 2000,))
    # A fragment in a page without a policy: axe has to be able to run in it.
    head = '<meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>t</title>'
    sheet = open_page(f'<!doctype html><html lang="en"><head>{head}</head><body>{fragment(view)}', scheme=scheme)
    if state == "two tokens":
        sheet.locator(".chip").nth(1).click()
        sheet.locator(".chip").nth(3).click()
    if state == "signed":
        sheet.get_by_label("Method").select_option("leave_one_out")
    if state == "region":
        sheet.locator(".stack").first.focus()
        sheet.keyboard.press("Enter")
    sheet.evaluate(axe)
    passes, violations = sheet.evaluate(RUN)
    assert passes > 10
    assert violations == []
