"""Interventions: the part of a session that looks inside the decoder and changes it. Knows the shape of a decoder, and asks nothing.

Hooks and edits live in the session, not in the model: they act on every question asked from now on, until they are removed, and
the model's modules carry something only while a question is being answered. With none registered the model is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .answer import Answer
from .edits import where as at
from .edits.groups import check_places
from .edits.handle import Handle
from .edits.heads import Ablation
from .edits.looks import AttentionEvent, AttentionHook, HiddenEvent, HiddenHook, as_rows
from .edits.program import Program
from .errors import OptionError
from .hooks.edits import State
from .options import spelled

if TYPE_CHECKING:
    import pandas as pd


class Interventions:
    """What `Session` can do to the layers of its decoder."""

    def __init__(self) -> None:
        self._program = Program()

    @property
    def head_sets(self) -> dict[str, Sequence[tuple[int, int]]]:
        """(layer, head) pairs by the name that ``heads=`` may give."""
        raise NotImplementedError

    @property
    def shape(self) -> at.Shape:
        """Layers and heads of the decoder."""
        raise NotImplementedError

    def layer_table(self, tower: str) -> pd.DataFrame:
        """The layers of the "text" or the "vision" tower, without what acts on them."""
        raise NotImplementedError

    def _edit(self, name: str, **typed: Any) -> Handle:
        """Have an edit act, from what was typed for it."""
        raise NotImplementedError

    def _hook(self, hook: AttentionHook | HiddenHook) -> Handle:
        """Have a hook look."""
        raise NotImplementedError

    # ---- what is there -------------------------------------------------------------------------------------------

    @property
    def cross_modal_layers(self) -> pd.DataFrame:
        """The decoder's layers, in which rows of text look at columns of pictures: one row per layer.

        Returns
        -------
        pandas.DataFrame
            Index ``layer``; columns ``name`` (the attention module's path), ``heads``, ``kv_heads``, ``window`` (of
            sliding-window attention, else None), ``implementation`` (what runs), ``edits`` (hooks and edits that act there).

        Examples
        --------
        >>> import vila_lab
        >>> vila_lab.load().cross_modal_layers["heads"].tolist()
        [4, 4, 4, 4, 4, 4]
        """
        table = self.layer_table("text")
        table["edits"] = [sum(_acts_on(handle, layer) for handle in self._program) for layer in table.index]
        return table

    @property
    def vision_layers(self) -> pd.DataFrame:
        """The vision tower's layers, as `cross_modal_layers`; they see one tile at a time and no text.

        Examples
        --------
        >>> import vila_lab
        >>> len(vila_lab.load().vision_layers)
        5
        """
        return self.layer_table("vision")

    @property
    def edits(self) -> tuple[Handle, ...]:
        """The hooks and edits that act on what this thread and task asks, in order.

        Examples
        --------
        >>> import vila_lab
        >>> lab = vila_lab.load()
        >>> with lab.knockout("image_1 -> *", layers=3):
        ...     lab.edits
        (Handle(knock-out of image_1 -> * in all heads of layer 3),)
        """
        return tuple(self._program)

    def clear_edits(self) -> None:
        """Remove the hooks and edits that act here; those of other threads stay.

        Examples
        --------
        >>> import vila_lab
        >>> lab = vila_lab.load()
        >>> handle = lab.knockout("image_1 -> answer")
        >>> lab.clear_edits()
        >>> lab.edits, handle
        ((), Handle(knock-out of image_1 -> answer in all layers and heads, removed))
        """
        self._program.clear()

    # ---- looking -------------------------------------------------------------------------------------------------

    @spelled
    def on_attention(
        self,
        fn: Callable[[AttentionEvent], Any],
        layers: at.Layers = None,
        heads: at.Heads = None,
        rows: str | Sequence[int] = "answer",
        columns: str | Sequence[str] | Sequence[int] = "images",
    ) -> Handle:
        """Call a function with exact attention weights while a question is answered, like torch's hooks.

        Parameters
        ----------
        fn
            Gets an `AttentionEvent` in every forward that has one of the rows: once per layer while the prompt is read, then
            once per layer and token. It must return None: hooks look, `knockout`, `steer` and the others change. An exception
            ends the answer with its traceback and leaves the session clean.
        layers, heads
            One layer, several, or None for all; heads by number, as (layer, head) pairs, or a set's name ("routing").
        rows
            "answer" (the rows that choose its tokens), "question", "all", another group of the prompt, or positions.
        columns
            "images", "image_2", another group, several, or positions.

        Returns
        -------
        Handle

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder, seen = vila_lab.load(), vila_lab.demo_images(), []
        >>> with lab.on_attention(lambda event: seen.append(event.weights.shape), layers=4):
        ...     _ = lab.ask([folder / "g.png", folder / "m.png", "What is in image 2?"])
        >>> len(seen), tuple(seen[0])  # one per token: 4 heads, 1 row, 2 pictures of 36 visual tokens
        (3, (4, 1, 72))
        """
        if not callable(fn):
            raise OptionError(f"a hook is a function of one event, not {fn!r}")
        where = self._where(layers, heads)
        check_places(columns)
        given: Any = columns if isinstance(columns, str) else tuple(columns)
        return self._hook(AttentionHook(fn, where, as_rows(rows), given, self._words(where, heads)))

    @spelled
    def on_hidden(
        self,
        fn: Callable[[HiddenEvent], Any],
        layers: at.Layers = None,
        positions: str | Sequence[int] = "answer",
    ) -> Handle:
        """Call a function with the residual stream behind layers, at some positions.

        Parameters
        ----------
        fn
            Gets a `HiddenEvent` in every forward that has one of the positions, and must return None.
        layers
            One layer, several, or None for all.
        positions
            "answer" (the rows that choose its tokens), "all", a group of the prompt, or positions.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> shapes = []
        >>> with lab.on_hidden(lambda event: shapes.append(tuple(event.vectors.shape)), layers=3):
        ...     answer = lab.ask(question, max_new_tokens=2)
        >>> len(shapes)
        2
        """
        if not callable(fn):
            raise OptionError(f"a hook is a function of one event, not {fn!r}")
        return self._hook(HiddenHook(fn, tuple(self._where(layers)), as_rows(positions)))

    # ---- changing ------------------------------------------------------------------------------------------------

    @spelled
    def knockout(self, edge: str, layers: at.Layers = None, heads: at.Heads = None) -> Handle:
        """Close attention edges between named parts of the prompt and the answer.

        The scores of the edges are set to minus infinity before the softmax, so the other weights of a row sum to 1 again.
        A position always sees itself. The next answers prove that the edit acts, or raise `NoEffect`.

        Parameters
        ----------
        edge
            "source -> reader". Sources and readers: ``image_2``, ``images``, ``prompt`` (all of it that is no picture),
            ``question`` (what the user wrote), ``template``, ``separators``, ``answer``, a quoted phrase of the question; and
            as reader ``*``, every later row: ``"image_2 -> *"`` takes the picture out of sight. As a reader, "answer" begins at
            the prompt's last row, which chooses the first token, and that row belongs to no other reader.
        layers, heads
            One layer, several, or None for all; heads by number, as (layer, head) pairs, or a set's name ("routing").

        Returns
        -------
        Handle
            A context manager; `Handle.remove` ends the edit.

        Raises
        ------
        NoEffect
            If there is no such layer or head, or a part has a name that is in no prompt (now); if this prompt has no such edge (when
            asked).

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> with lab.knockout("image_2 -> *"):
        ...     blind = lab.ask(question)
        >>> blind.text == lab.ask(question).text
        False
        """
        return self._edit("knockout", edge=edge, layers=layers, heads=heads)

    @spelled
    def steer(
        self,
        source: str,
        strength: float,
        *,
        reader: str = "answer",
        layers: at.Layers = None,
        heads: at.Heads = None,
    ) -> Handle:
        """Make rows look more (or less) at a part of the prompt: a bias on the scores of "source -> reader".

        Parameters
        ----------
        source
            As in `knockout`, such as "image_2".
        strength
            Added to the scores before the softmax, in nats: an edge's weight grows by up to a factor of exp(strength).
        reader
            As in `knockout`.
        layers, heads
            As in `knockout`; by default the session's routing heads where they are known, else all.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> with lab.steer("image_1", 4.0, layers=[4, 5]):
        ...     lab.ask(question).edits
        ('steering by +4 of image_1 -> answer in all heads of layers 4, 5',)
        """
        return self._edit("steer", source=source, strength=strength, reader=reader, layers=layers, heads=heads)

    @spelled
    def scale_heads(
        self, heads: at.Heads, factor: float, *, layers: at.Layers = None, rows: str | Sequence[int] = "all"
    ) -> Handle:
        """Multiply what heads hand to the output projection.

        Parameters
        ----------
        heads, layers
            As in `knockout`.
        factor
            What the heads' outputs are multiplied with: 0 takes them out, 1 leaves them as they are (and alone may change nothing).
        rows
            "all", "answer", another group, or positions.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> with lab.scale_heads([(4, 0)], 0.5):
        ...     lab.ask(question).edits
        ('scaling by 0.5 of head 0 of layer 4',)
        """
        return self._edit("scale_heads", heads=heads, factor=factor, layers=layers, rows=rows)

    @spelled
    def ablate_heads(
        self,
        heads: at.Heads,
        mode: Ablation | str = "zero",
        *,
        layers: at.Layers = None,
        rows: str | Sequence[int] = "all",
    ) -> Handle:
        """Take heads out: "zero" sets what they hand on to 0, "mean" to its mean over the prompt's positions.

        Parameters
        ----------
        heads, layers, rows
            As in `scale_heads`.
        mode
            "zero" or "mean" (the unedited mean of the same prompt, one more forward).

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> with lab.ablate_heads("routing"):
        ...     lab.ask(question).edits
        ('ablation (zero) of the routing heads',)
        """
        return self._edit("ablate_heads", heads=heads, mode=mode, layers=layers, rows=rows)

    @spelled
    def patch(
        self,
        from_answer: Answer,
        positions: str | int | Sequence[str] | Sequence[int],
        layers: at.Layers = None,
        *,
        state: State | str = "residual",
    ) -> Handle:
        """Put vectors of another answer's prompt in place of this one's: activation patching.

        Parameters
        ----------
        from_answer
            An answer of this session to a prompt of the same shape (as many positions, pictures at the same places).
        positions
            A group of the prompt ("image_2", a quoted phrase ...), several, or positions.
        layers
            One layer, several, or None for all.
        state
            "residual" (what the layer hands on), "attention" (what its attention adds) or "mlp".

        Raises
        ------
        OptionError
            If the shapes differ (when asked), or the answer is another session's.

        Examples
        --------
        >>> import vila_lab
        >>> lab, folder = vila_lab.load(), vila_lab.demo_images()
        >>> question = [folder / "g.png", folder / "m.png", "What is in image 2?"]
        >>> other = lab.ask([folder / "g.png", folder / "a.png", "What is in image 2?"])
        >>> with lab.patch(other, "image_2", layers=0):
        ...     lab.ask(question).text
        'Apple.'
        """
        return self._edit("patch", from_answer=from_answer, positions=positions, layers=layers, state=state)

    # ---- layers and heads ----------------------------------------------------------------------------------------

    def _where(self, layers: at.Layers = None, heads: at.Heads = None) -> Any:
        return at.resolve(self.shape, layers, heads)

    def _acting(self) -> str:
        """The hooks and edits that act here, as they end a repr: one that was forgotten shall be seen."""
        return f", edits: {'; '.join(handle.label for handle in self._program)}" if self._program else ""

    def _words(self, where: Any, heads: at.Heads) -> str:
        return at.in_words(where, self.shape, heads)


def _acts_on(handle: Handle, layer: int) -> bool:
    spec: Any = handle.spec
    return layer in (spec.where if hasattr(spec, "where") else spec.layers)
