"""Display: one state of an answer, ready to be shown as a cell or as a page. Knows the view and its html, no model."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..writing import write_file
from .html import identity_of, live, overview_picture, plain, static, whole_page
from .payload import AnswerView, pack, to_json

__all__ = ["Display", "fragment", "mimebundle", "page", "page_text"]


@dataclass(frozen=True, eq=False)
class Display:
    """What a cell, a page and a widget show of the same state, made once and as bytes: it is kept with its answer.

    Attributes
    ----------
    payload : dict
        What ``viewer.js`` draws.
    body : str
        A div with a picture of the same state, which stays wherever scripts are stripped.
    png : bytes
        That picture for readers that show no html; empty without matplotlib.
    words : str
        The answer in words.
    title : str
        Of a page.

    Examples
    --------
    >>> import vila_lab
    >>> from vila_lab.view import view_of
    >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
    >>> sorted(Display.of(view_of(answer.record)).mimebundle())
    ['image/png', 'text/html', 'text/plain']
    >>> shown = answer.display()
    >>> shown.title, shown.words.splitlines()[0], shown.nbytes > len(shown.png)
    ('What is in image 1?', '[1] What is in image 1?', True)
    """

    payload: dict[str, Any]
    body: str
    png: bytes
    words: str
    title: str

    @classmethod
    def of(cls, view: AnswerView) -> Display:
        """Draw a view; nothing of it is held.

        Examples
        --------
        >>> import vila_lab
        >>> from vila_lab.view import view_of
        >>> answer = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"])
        >>> Display.of(view_of(answer.record)).payload == answer.display().payload
        True
        """
        payload, words, picture = pack(view), plain(view), overview_picture(view)
        png = b""
        if picture is not None:
            from .sheet import compact

            png = compact(picture.light)
        body = static(identity_of(to_json(payload)), words, picture)
        return cls(payload, body, png, words, view.title or view.text or "An answer")

    @property
    def nbytes(self) -> int:
        """Bytes in memory, of its texts one for each character."""
        return len(to_json(self.payload)) + len(self.body) + len(self.png) + len(self.words)

    def fragment(self) -> str:
        """The text/html of a notebook cell: one div with its static picture and the script that revives it.

        Examples
        --------
        >>> import vila_lab
        >>> shown = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"]).display()
        >>> shown.fragment().startswith(shown.body)
        True
        """
        return f'{self.body}\n<script type="module">{self._script()}</script>'

    def fragment_of(self, payload: dict[str, Any], function: str, more: str) -> str:
        """`fragment`, brought to life by a host of its own and from another payload.

        Parameters
        ----------
        payload
            What the host draws.
        function
            The host's name.
        more
            Its source, behind the viewer's.

        Examples
        --------
        >>> import vila_lab
        >>> shown = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"]).display()
        >>> "showMine(" in shown.fragment_of(shown.payload, "showMine", "function showMine() {}")
        True
        """
        text = to_json(payload)
        identity, script = live(function, text, more)
        body = self.body.replace(identity_of(to_json(self.payload)), identity, 1)
        return f'{body}\n<script type="module">{script}</script>'

    def page_text(self) -> str:
        """A whole page that works offline: everything inside, and a policy that forbids every request.

        Examples
        --------
        >>> import vila_lab
        >>> shown = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"]).display()
        >>> shown.body in shown.page_text()
        True
        """
        return whole_page(self.title, self.body, self._script())

    def page(self, path: str | Path) -> Path:
        """Write the offline page; returns its path.

        Raises
        ------
        FileAccessError
            If the place cannot be written.

        Examples
        --------
        >>> import tempfile, vila_lab
        >>> shown = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"]).display()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shown.page(f"{folder}/answer.html").name
        'answer.html'
        """
        return write_file(path, self.page_text)

    def mimebundle(self) -> dict[str, str]:
        """The cell's display: text/html, image/png (base64) and text/plain, and never a widget.

        A widget would break when the notebook is opened again without its kernel; without matplotlib there is no PNG.

        Examples
        --------
        >>> import vila_lab
        >>> shown = vila_lab.load().ask([vila_lab.demo_images() / "g.png", "What is in image 1?"]).display()
        >>> list(shown.mimebundle())
        ['text/html', 'text/plain', 'image/png']
        """
        bundle = {"text/html": self.fragment(), "text/plain": self.words}
        return bundle | ({"image/png": base64.b64encode(self.png).decode("ascii")} if self.png else {})

    def _script(self) -> str:
        return live("mount", to_json(self.payload))[1]


def fragment(view: AnswerView) -> str:
    """See `Display.fragment`."""
    return Display.of(view).fragment()


def page_text(view: AnswerView) -> str:
    """See `Display.page_text`."""
    return Display.of(view).page_text()


def page(view: AnswerView, path: str | Path) -> Path:
    """See `Display.page`."""
    return Display.of(view).page(path)


def mimebundle(view: AnswerView) -> dict[str, str]:
    """See `Display.mimebundle`."""
    return Display.of(view).mimebundle()
