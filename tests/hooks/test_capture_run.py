"""What a capture records, refuses and leaves behind, on one small decoder."""

from __future__ import annotations

import threading

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, Qwen2ForCausalLM, StaticCache
from transformers.cache_utils import QuantizedLayer

from tests.inside import hooks_of
from vila_lab.errors import CaptureError, OptionError
from vila_lab.hooks import Capture, Tape, group_indicator
from vila_lab.hooks.call import ACTING
from vila_lab.hooks.recorder import DecoderRecorder
from vila_lab.hooks.sites import select_sites
from vila_lab.upstream import CACHE, attention_name, made_cache

TOKENS = 6
EXACT, STORED = 1e-5, 5e-4  # as in test_capture_families


@pytest.fixture
def model(make):
    return make("qwen2")


def traces(model):
    """Everything a capture could leave in a model: implementations, configs, hooks, attributes."""
    return [
        (
            name,
            id(getattr(module, "config", None)),
            attention_name(module.config) if hasattr(module, "config") else None,
            hooks_of(module),
            ACTING in module.__dict__,
            sorted(set(module.__dict__) - {"_previous_max_cache_length"}),  # left there by generate with a static cache
        )
        for name, module in model.named_modules()
    ]


def assert_rows(tape, reference, tolerance=EXACT, layers=None):
    for layer in tape.layers if layers is None else layers:
        torch.testing.assert_close(tape.weights(layer), reference[layer][0, tape.positions], rtol=0, atol=tolerance)


# -- what generate may do ------------------------------------------------------------------------------------------


def test_sampling_draws_the_same_tokens(model, generate, eager_rows, prompt):
    def sample():
        torch.manual_seed(7)
        return generate(model, prompt, TOKENS, do_sample=True, temperature=1.5)

    plain = sample()
    assert not torch.equal(plain, generate(model, prompt, TOKENS)), "sampling should differ from greedy search here"
    with Capture(model) as tape:
        ids = sample()
    assert torch.equal(ids, plain)
    assert_rows(tape, eager_rows(model, ids[:, :-1]))


@pytest.mark.parametrize("mode", ["tape", "live"])
@pytest.mark.parametrize(
    "options",
    [{}, {"prefill_chunk_size": 5}, {"prefill_chunk_size": 16}, {"cache_implementation": "static"}],
    ids=["whole", "chunks", "one row left over", "static"],
)
def test_prompts_in_chunks_and_static_caches(options, mode, model, generate, eager_rows, prompt):
    plain = generate(model, prompt, TOKENS, **options)
    with Capture(model, mode=mode, prompt_length=prompt.shape[1]) as tape:
        ids = generate(model, prompt, TOKENS, **options)
    generate(model, prompt.flip(1), TOKENS, **options)  # a static cache is reused and overwritten
    assert torch.equal(ids, plain)
    assert tape.positions.tolist() == list(range(prompt.shape[1] - 1, prompt.shape[1] + TOKENS - 1))
    assert_rows(tape, eager_rows(model, ids[:, :-1]), EXACT if mode == "tape" else STORED)


def test_a_generation_of_one_token_has_one_row(model, generate, eager_rows, prompt):
    with Capture(model) as tape:
        generate(model, prompt, 1)
    assert tape.positions.tolist() == [prompt.shape[1] - 1]
    assert_rows(tape, eager_rows(model, prompt))


def test_a_conversation_goes_on_from_a_filled_cache(model, generate, eager_rows, prompt):
    first = generate(model, prompt, TOKENS, return_dict_in_generate=True)
    more = torch.cat([first.sequences, torch.tensor([[11, 12, 13]])], dim=1)
    with Capture(model) as tape:
        ids = generate(model, more, TOKENS, **{CACHE: made_cache(first)})
    assert tape.length == ids.shape[1] - 1
    assert_rows(tape, eager_rows(model, ids[:, :-1]))


def test_a_single_forward_without_cache(model, eager_rows, prompt):
    with Capture(model, rows="all") as tape, torch.no_grad():
        model(prompt, use_cache=False)
    assert tape.n_rows == prompt.shape[1]
    assert_rows(tape, eager_rows(model, prompt))


def test_rows_by_position_come_beside_the_answer(model, generate, eager_rows, prompt):
    with Capture(model, rows=[0, 3, 4, 20], prompt_length=prompt.shape[1]) as tape:
        ids = generate(model, prompt, TOKENS, prefill_chunk_size=4)
    assert tape.positions.tolist() == [0, 3, 4, *range(16, 22)]
    assert_rows(tape, eager_rows(model, ids[:, :-1]))
    assert tape.row_of(4) == 2
    with pytest.raises(OptionError, match="position 7 was not recorded"):
        tape.row_of(7)


@pytest.mark.parametrize("mode", ["tape", "live"])
def test_all_rows(mode, model, generate, eager_rows, prompt):
    with Capture(model, rows="all", mode=mode) as tape:
        ids = generate(model, prompt, TOKENS)
    assert tape.positions.tolist() == list(range(ids.shape[1] - 1))
    assert_rows(tape, eager_rows(model, ids[:, :-1]), EXACT if mode == "tape" else STORED)


class RoundedLayer(QuantizedLayer):
    """A quantised cache layer whose only loss is rounding to steps of 1/4."""

    def _quantize(self, tensor, axis):
        return (tensor * 4).round()

    def _dequantize(self, q_tensor):
        return q_tensor / 4


def test_a_quantised_cache_is_recorded_live(model, generate, prompt):
    """Its keys lose precision after they were used; only what was computed at once is what the model saw."""

    def run():
        cache = DynamicCache()
        cache.layers, cache.layer_class_to_replicate = [RoundedLayer(residual_length=3) for _ in range(3)], None
        return generate(model, prompt, TOKENS, **{CACHE: cache})

    plain = run()
    with Capture(model) as tape:
        ids = run()
    assert torch.equal(ids, plain)
    assert tape.layer(0).live is not None
    sums = tape.weights(1).sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=2e-3)
    with pytest.raises(CaptureError, match="does not keep its keys"), Capture(model, mode="tape"):
        run()


# -- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 2}, "beam search"),
        ({"num_beams": 2, "cache_implementation": "static"}, "beam search"),
        ({"use_cache": False}, "use_cache=True"),
        ({"prompt_lookup_num_tokens": 3}, "assisted decoding"),
    ],
    ids=["beams", "beams on a static cache", "no cache", "prompt lookup"],
)
def test_generations_that_cannot_be_captured_are_refused(options, named, model, generate):
    ids = torch.tensor([[5, 6, 7, 8, 9] * 3])  # repetitive, so that prompt lookup finds candidates
    before = traces(model)
    with pytest.raises(CaptureError, match=named), Capture(model):
        generate(model, ids, TOKENS, **options)
    assert traces(model) == before


def test_assisted_decoding_is_refused(model, make, generate, prompt):
    with pytest.raises(CaptureError, match="assisted decoding"), Capture(model):
        generate(model, prompt, TOKENS, assistant_model=make("qwen2", sharp=3.0))


def test_assisted_decoding_without_a_single_rejection_is_noticed(model, make, generate, prompt):
    """An assistant that is always right leaves no trace in the cache, but several rows in one forward."""
    for known in (None, prompt.shape[1]):
        with pytest.raises(CaptureError, match="assist"), Capture(model, prompt_length=known):
            generate(model, prompt, TOKENS, assistant_model=make("qwen2"))


def test_a_second_generation_is_refused(model, generate, prompt):
    def twice():
        generate(model, prompt, TOKENS)
        generate(model, prompt, TOKENS)

    with pytest.raises(CaptureError, match="one Capture per generate"), Capture(model):
        twice()


def test_a_model_is_captured_once_at_a_time(model, generate, prompt):
    with Capture(model) as tape:
        with pytest.raises(CaptureError, match="already being captured"), Capture(model):
            pass
        generate(model, prompt, TOKENS)
    assert tape.n_rows == TOKENS, "the refused inner capture must not disturb the outer one"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"mode": "fast"}, "auto, tape, live"),
        ({"rows": "last"}, "'answer', 'all'"),
        ({"rows": [3, -1]}, "rows holds -1"),
        ({"mass_block": 0}, "mass_block"),
        ({"towers": []}, "towers is empty"),
        ({"towers": ["vision"]}, "no tower 'vision'.*it has"),
        ({"groups": torch.zeros(4)}, "integer tensor"),
    ],
)
def test_options_are_checked(options, named, model):
    with pytest.raises(OptionError, match=named), Capture(model, **options):
        pass


# -- nothing is missed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 16, 18, 100])
def test_another_length_of_the_prompt_is_noticed(length, model, generate, prompt):
    with (
        pytest.raises(CaptureError, match=f"after a prompt of {length} positions"),
        Capture(model, prompt_length=length),
    ):
        generate(model, prompt, 1)


def test_a_prompt_in_parts_needs_its_length(model, generate, prompt):
    with pytest.raises(CaptureError, match="prompt_length="), Capture(model):
        generate(model, prompt, TOKENS, prefill_chunk_size=5)


def test_a_layer_that_does_not_run_is_noticed(model, generate, prompt):
    attention = model.model.layers[1].self_attn
    plain, calls = type(attention).forward, iter(range(100))

    def bypasses_the_capture_once(hidden_states, **kwargs):
        recording = attention.config
        attention.config = model.config if next(calls) == 2 else recording
        output = plain(attention, hidden_states, **kwargs)
        attention.config = recording
        return output

    attention.forward = bypasses_the_capture_once
    with pytest.raises(CaptureError, match="layer 1 recorded 5 of 6"), Capture(model) as tape:
        generate(model, prompt, TOKENS)
    with pytest.raises(CaptureError, match="incomplete"):
        tape.weights(0)


def test_an_empty_block_is_noticed(model):
    with pytest.raises(CaptureError, match="nothing was recorded"), Capture(model):
        pass


def test_a_row_that_never_comes_is_noticed(model, generate, prompt):
    with pytest.raises(CaptureError, match="position 99"), Capture(model, rows=[99]):
        generate(model, prompt, TOKENS)


# -- nothing stays behind ------------------------------------------------------------------------------------------


class Stop:
    """A logits processor that raises at the second token, as an impatient user or a bug would."""

    def __init__(self, error):
        self.error, self.calls = error, 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == 2:
            raise self.error
        return scores


@pytest.mark.parametrize(
    "error", [None, RuntimeError("bug"), KeyboardInterrupt()], ids=["normal", "error", "interrupt"]
)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(attn, error, make, generate, prompt):
    model = make("qwen2", attn)
    before, plain = traces(model), generate(model, prompt, TOKENS)
    if error is None:
        with Capture(model):
            assert attention_name(model.config) == attn, "the model's own config is never touched"
            generate(model, prompt, TOKENS)
    else:
        with pytest.raises(type(error)), Capture(model) as tape:
            generate(model, prompt, TOKENS, logits_processor=[Stop(error)])
        with pytest.raises(CaptureError, match="did not end"):
            tape.weights(0)
    assert traces(model) == before
    assert torch.equal(generate(model, prompt, TOKENS), plain)
    with Capture(model) as tape:
        generate(model, prompt, TOKENS)
    assert tape.n_rows == TOKENS


def test_a_failure_while_entering_leaves_nothing(model, monkeypatch):
    before = traces(model)
    monkeypatch.setattr("vila_lab.hooks.call.config_with_attention", lambda config, name: 1 / 0)
    with pytest.raises(ZeroDivisionError), Capture(model):
        pass
    assert traces(model) == before


# -- models and threads do not mix ---------------------------------------------------------------------------------


def test_two_models_that_share_one_config_do_not_mix(model, generate, eager_rows, prompt):
    torch.manual_seed(3)
    other = Qwen2ForCausalLM(model.config).eval()
    assert other.config is model.config
    plain = generate(other, prompt, TOKENS)
    with Capture(model) as tape:
        assert torch.equal(generate(other, prompt, TOKENS), plain)
        with Capture(other) as tape_of_other:
            ids = generate(model, prompt, TOKENS)
            ids_of_other = generate(other, prompt.flip(1), TOKENS + 2)
    assert_rows(tape, eager_rows(model, ids[:, :-1]))
    assert_rows(tape_of_other, eager_rows(other, ids_of_other[:, :-1]))


def test_other_threads_are_answered_but_not_recorded(model, generate, eager_rows, prompt):
    plain, answers = generate(model, prompt.flip(1), TOKENS), []
    with Capture(model) as tape:
        thread = threading.Thread(target=lambda: answers.append(generate(model, prompt.flip(1), TOKENS)))
        thread.start()
        ids = generate(model, prompt, TOKENS)
        thread.join()
    assert torch.equal(answers[0], plain)
    assert_rows(tape, eager_rows(model, ids[:, :-1]))


def test_a_generation_in_another_thread_only_is_noticed(model, generate, prompt):
    def elsewhere():
        thread = threading.Thread(target=generate, args=(model, prompt, 1))
        thread.start()
        thread.join()

    with pytest.raises(CaptureError, match="another thread"), Capture(model):
        elsewhere()


# -- cost ----------------------------------------------------------------------------------------------------------


class NoTensorOf(TorchDispatchMode):
    """Fails on any result with that many elements or more, but for so many that may be."""

    def __init__(self, elements, allowed=0):
        super().__init__()
        self.elements, self.allowed, self.found = elements, allowed, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, torch.Tensor) and value.numel() >= self.elements:
                self.found.append(f"{func} made {tuple(value.shape)}")
                assert len(self.found) <= self.allowed, self.found[-1]
        return out


@pytest.mark.parametrize(
    "options", [{}, {"mode": "live"}, {"groups": torch.arange(480) // 60}], ids=["tape", "live", "mass"]
)
def test_nothing_as_large_as_the_attention_matrix_is_made(options, model, generate):
    ids = torch.randint(3, 96, (1, 480), generator=torch.Generator().manual_seed(2))
    with NoTensorOf(480 * 480, allowed=1000) as alone:  # with an old torch, transformers itself builds a mask
        generate(model, ids, 3)
    with NoTensorOf(480 * 480, allowed=len(alone.found)), Capture(model, **options) as tape:
        generate(model, ids, 3)
    with NoTensorOf(480 * 480):
        assert tape.weights(0).shape == (3, 4, 482)


def test_the_guard_itself_would_notice_eager_attention(make, generate):
    ids = torch.randint(3, 96, (1, 480), generator=torch.Generator().manual_seed(2))
    with pytest.raises(AssertionError, match="made"), NoTensorOf(480 * 480):
        generate(make("qwen2", "eager"), ids, 1)


def test_the_tape_holds_queries_and_refers_to_the_keys(model, generate, prompt):
    with Capture(model) as tape:
        out = generate(model, prompt, TOKENS, return_dict_in_generate=True)
    layers, heads, kv_heads, width, columns = 3, 4, 2, 8, prompt.shape[1] + TOKENS - 1
    assert tape.key_nbytes == layers * kv_heads * columns * width * 4
    assert tape.nbytes - tape.key_nbytes == layers * heads * TOKENS * width * 4
    held = tape.layer(1).key
    assert held.data_ptr() == made_cache(out).layers[1].keys.data_ptr(), "keys are the cache's own, not a copy"


def test_layers_share_one_copy_of_a_padding_mask(model, generate, prompt):
    mask = torch.ones_like(prompt)
    mask[:, :5] = 0
    with Capture(model) as tape:
        generate(model, prompt, TOKENS, attention_mask=mask)
    masks = [layer.mask for layer in map(tape.layer, tape.layers)]
    assert masks[0].numel() == tape.length, "one bool per column, not one per row and column"
    assert all(item is masks[0] for item in masks)


def test_a_static_cache_costs_no_mask(model, generate, prompt):
    with Capture(model) as tape:
        generate(model, prompt, TOKENS, **{CACHE: StaticCache(config=model.config, max_cache_len=64)})
    assert all(layer.mask is None for layer in map(tape.layer, tape.layers))


# -- the mass of column groups -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize(
    "options", [{}, {"prefill_chunk_size": 5}, {"prefill_chunk_size": 16}], ids=["whole", "chunks", "one row left over"]
)
def test_mass_of_every_prompt_row(family, options, make, generate, eager_rows, prompt):
    model = make(family, "eager" if family == "gemma2" else None)  # before 5.21 its sdpa left the soft-cap out
    groups = torch.tensor([-1, 0, 0, 0, 1, 1, -1, 2, 2, 2, 2, 0, -1, 1, 1, 2, -1])
    with Capture(model, groups=groups, prompt_length=17) as tape:
        ids = generate(model, prompt, TOKENS, **options)
    assert tape.mass_rows.tolist() == [[row, row + 1] for row in range(17)]
    for layer, reference in enumerate(eager_rows(model, ids[:, :-1])):
        expected = reference[0, :17, :, :17] @ group_indicator(groups)  # (T, H, n)
        torch.testing.assert_close(tape.mass(layer), expected, rtol=0, atol=1e-5)


def test_mass_in_blocks_of_rows(model, generate, prompt):
    groups = torch.arange(17) // 6
    with Capture(model, groups=groups) as tape:
        generate(model, prompt, TOKENS)
    with Capture(model, groups=group_indicator(groups), mass_block=4) as blocks:
        generate(model, prompt, TOKENS)
    assert blocks.mass_rows.tolist() == [[0, 4], [4, 8], [8, 12], [12, 16], [16, 17]]
    for row, (first, stop) in enumerate(blocks.mass_rows.tolist()):
        torch.testing.assert_close(blocks.mass(2)[row], tape.mass(2)[first:stop].mean(0), rtol=0, atol=1e-6)


def test_mass_with_left_padding(model, generate, prompt):
    mask = torch.ones_like(prompt)
    mask[:, :5] = 0
    with Capture(model, groups=torch.zeros(17, dtype=torch.int64), rows="all") as tape:
        generate(model, prompt, TOKENS, attention_mask=mask)
    torch.testing.assert_close(tape.mass(1)[..., 0], tape.weights(1)[:17, :, :17].sum(-1), rtol=0, atol=2e-6)


def test_groups_shorter_than_the_prompt_are_refused(model, generate, prompt):
    with pytest.raises(OptionError, match="groups name 4 positions"), Capture(model, groups=torch.arange(4)):
        generate(model, prompt, TOKENS)


def test_mass_without_groups_says_what_to_do(model, generate, prompt):
    with Capture(model) as tape:
        generate(model, prompt, 1)
    with pytest.raises(CaptureError, match="groups="):
        tape.mass(0)


# -- the tape ------------------------------------------------------------------------------------------------------


def test_rows_and_heads_can_be_chosen(model, generate, prompt):
    with Capture(model) as tape:
        generate(model, prompt, TOKENS)
    everything = tape.weights(1)
    assert everything.shape == (TOKENS, 4, 22)
    torch.testing.assert_close(
        tape.weights(-2, rows=[-1, 0], heads=[3, 1]), everything[[-1, 0]][:, [3, 1]], rtol=0, atol=1e-7
    )
    torch.testing.assert_close(tape.weights(1, rows=2, heads=0), everything[2:3, :1], rtol=0, atol=1e-6)
    torch.testing.assert_close(tape.weights(1, rows=torch.tensor([2, 3])), everything[2:4], rtol=0, atol=1e-6)
    for call, named in [
        (lambda: tape.weights(3), "layer 3 was not recorded"),
        (lambda: tape.weights(0, rows=6), "row 6 does not exist; there are 6"),
        (lambda: tape.weights(0, heads=[4]), "head 4"),
        (lambda: tape.weights(0, item=1), "item 1"),
    ]:
        with pytest.raises(OptionError, match=named):
            call()


@pytest.mark.parametrize("family", ["qwen2", "gemma3", "gpt_oss"])
def test_an_exported_tape_answers_the_same(family, make, generate, prompt):
    model = make(family)
    mask = torch.ones_like(prompt)
    mask[:, :3] = 0
    with Capture(model, groups=torch.arange(17) // 6) as tape:
        generate(model, prompt, TOKENS, attention_mask=mask)
    again = Tape.restore(*tape.export())
    assert (again.length, again.n_layers) == (tape.length, tape.n_layers)
    assert torch.equal(again.positions, tape.positions)
    assert again.nbytes <= tape.nbytes
    for layer in tape.layers:
        assert torch.equal(again.weights(layer), tape.weights(layer))
        assert torch.equal(again.mass(layer), tape.mass(layer))


def test_release_lets_go_and_says_so(model, generate, prompt):
    with Capture(model) as tape:
        with pytest.raises(CaptureError, match="not ended yet"):
            tape.weights(0)
        generate(model, prompt, TOKENS)
    assert tape.to("cpu") is tape
    assert tape.nbytes > 0
    tape.release()
    assert tape.nbytes == 0
    assert tape.n_rows == TOKENS
    with pytest.raises(CaptureError, match="released"):
        tape.weights(0)


@pytest.mark.parametrize("family", ["qwen2", "phi3", "gpt2"])
def test_what_is_kept_of_a_query_holds_nothing_beside_it(make, generate, prompt, family):
    """Where the query is a part of something larger, as in GPT-2's joint projection, it is copied; else it is its own."""
    if family == "gpt2":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4, n_positions=64)).eval()
    else:
        model = make(family)
    recorder = DecoderRecorder(select_sites(model, ("text",))["text"])
    with recorder.watching():
        generate(model, prompt, TOKENS)
    kept = [query for reel in recorder.reels.values() for query in reel.queries]
    assert len(kept) == TOKENS * len(recorder.reels)
    assert all(query.untyped_storage().nbytes() == query.nbytes for query in kept)


def test_recording_ends_a_graph_at_every_layer(make, prompt):
    """What the guide says of compiled decoders; that words and weights stay is tested below."""
    model = make("qwen2", num_hidden_layers=4)

    def graphs() -> int:
        torch.compiler.reset()
        found = []
        forward = torch.compile(
            lambda ids: model(input_ids=ids, use_cache=False).logits,
            backend=lambda graph, _: found.append(graph) or graph.forward,
        )
        with torch.no_grad():
            forward(prompt)
        return len(found)

    whole = graphs()
    with Capture(model):
        cut = graphs()
    torch.compiler.reset()
    assert (whole, cut) == (1, 9)


def test_a_compiled_forward_is_recorded_too(make, generate, eager_rows, prompt):
    model = make("qwen2", num_hidden_layers=1)
    plain = generate(model, prompt, 2)
    forward = model.model.forward
    model.model.forward = torch.compile(forward, backend="eager")
    with Capture(model) as tape:
        ids = generate(model, prompt, 2)
    model.model.forward = forward
    torch.compiler.reset()
    assert torch.equal(ids, plain)
    assert_rows(tape, eager_rows(model, ids[:, :-1]))
