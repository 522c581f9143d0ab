"""The names of other packages that may change: each is found, and each that is gone is said in one sentence."""

from __future__ import annotations

import argparse
import types
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from transformers import DynamicCache, GenerationConfig, Qwen2Config, Qwen2ForCausalLM
from transformers.cache_utils import DynamicLayer, QuantizedLayer, StaticCache
from transformers.generation.utils import GenerationMixin

import vila_lab
from vila_lab import upstream
from vila_lab.errors import UpstreamChanged, VilaLabError
from vila_lab.prompt import Prompt


def config() -> Qwen2Config:
    return Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return Qwen2ForCausalLM(config()).eval()


def filled(cache: Any, length: int = 3) -> Any:
    for layer in range(2):
        cache.update(torch.ones(1, 2, length, 4), torch.ones(1, 2, length, 4), layer)
    return cache


# -- the cache -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", upstream.CACHE_NAMES)
def test_a_cache_is_found_by_its_type_under_any_name_and_at_any_place(name):
    cache = DynamicCache()
    assert upstream.cache_of((), {"use_cache": True, name: cache}) is cache
    assert upstream.cache_of((torch.zeros(1), cache), {}) is cache
    assert upstream.cache_of((None,), {"a_name_of_next_year": cache}) is cache
    assert upstream.cache_of((torch.zeros(1),), {name: None}) is None


@pytest.mark.parametrize("as_dict", [True, False])
def test_the_cache_that_a_forward_made_is_found_in_what_it_returns(model, as_dict):
    ids = torch.arange(4)[None]
    made = upstream.made_cache(model(ids, use_cache=True, return_dict=as_dict))
    assert made is not None
    assert made.get_seq_length() == 4
    assert upstream.made_cache(model(ids, use_cache=False, return_dict=as_dict)) is None


def test_the_keyword_is_the_one_that_the_installed_model_takes(model):
    cache = DynamicCache(config=model.config)
    model(torch.arange(4)[None], **{upstream.CACHE: cache}, use_cache=True)
    assert cache.get_seq_length() == 4


@pytest.mark.parametrize("name", upstream.CACHE_NAMES)
def test_a_cache_given_under_any_name_goes_on_under_the_installed_one(name):
    cache = DynamicCache()
    assert upstream.with_cache(None, {name: cache, "use_cache": True}) == {upstream.CACHE: cache, "use_cache": True}
    assert upstream.with_cache(cache, {}) == {upstream.CACHE: cache}
    assert upstream.with_cache(None, {}) == {upstream.CACHE: None}


def test_generation_without_a_known_name_for_its_cache_is_said(monkeypatch):
    monkeypatch.setattr(GenerationMixin, "prepare_inputs_for_generation", lambda self, input_ids, memory=None: {})
    with pytest.raises(UpstreamChanged, match="names its cache neither"):
        upstream._cache_name()


def test_the_first_keys_are_those_of_the_cache():
    cache = filled(DynamicCache())
    assert upstream.first_keys(cache) is cache.layers[0].keys
    assert upstream.first_keys(DynamicCache()) is None


def test_only_a_static_cache_hands_out_its_buffer():
    assert upstream.is_buffer(filled(StaticCache(config=config(), max_cache_len=8)).layers[0])
    assert not upstream.is_buffer(filled(DynamicCache()).layers[0])
    assert upstream.layer_of(filled(DynamicCache()), 7) is None


def test_a_plain_cache_keeps_its_keys_and_sliding_or_quantised_ones_do_not():
    plain = filled(DynamicCache())
    assert upstream.keeps_keys(plain, 0)
    assert upstream.keeps_keys(None, 0)
    assert upstream.keeps_keys(DynamicCache(), 0)
    sliding = types.SimpleNamespace(layers=[type("Sliding", (DynamicLayer,), {"is_sliding": True})()], offloading=False)
    assert not upstream.keeps_keys(sliding, 0)
    kind = type("Quantised", (QuantizedLayer,), {"_quantize": None, "_dequantize": None})
    quantised = types.SimpleNamespace(layers=[kind.__new__(kind)], offloading=False)
    assert not upstream.keeps_keys(quantised, 0)
    plain.offloading = True
    assert not upstream.keeps_keys(plain, 0)


def test_a_cache_is_cut_behind_so_many_positions_and_the_whole_stays(model):
    whole = filled(DynamicCache(), 5)
    keys = whole.layers[0].keys
    for length in (5, 3, 1):
        cut = upstream.shortened(whole, length)
        assert [layer.keys.shape[2] for layer in cut.layers] == [length] * 2
        filled(cut, 2)
        assert cut.get_seq_length() == length + 2
    assert whole.layers[0].keys is keys
    assert whole.get_seq_length() == 5
    assert upstream.shortened(whole, 6) is None
    assert upstream.shortened(DynamicCache(), 1) is None


def test_only_caches_that_hold_every_position_are_cut():
    settings = config()
    settings.use_sliding_window, settings.sliding_window, settings.max_window_layers = True, 8, 0
    settings.layer_types = ["sliding_attention"] * 2
    inside, past = (filled(DynamicCache(config=settings), length) for length in (6, 9))
    assert [layer.is_sliding for layer in inside.layers] == [True] * 2
    cut = upstream.shortened(inside, 4)
    assert [layer.keys.shape[2] for layer in cut.layers] == [4] * 2
    assert upstream.shortened(past, 4) is None
    assert upstream.shortened(past, 9) is None
    assert upstream.shortened(filled(StaticCache(config=config(), max_cache_len=8)), 2) is None
    whole = filled(DynamicCache())
    whole.layers[1].__class__ = type("Quantized", (DynamicLayer,), {})  # as QuantizedLayer, whose backends are not here
    assert upstream.shortened(whole, 2) is None


def test_the_bytes_of_a_cache_are_those_of_its_storage():
    whole = filled(DynamicCache(), 5)
    assert upstream.cache_bytes(whole) == sum(2 * layer.keys.nbytes for layer in whole.layers)
    assert upstream.cache_bytes(upstream.shortened(whole, 2)) == upstream.cache_bytes(whole)
    assert upstream.cache_bytes(DynamicCache()) == 0


def test_a_model_is_told_from_itself_before(model):
    before = upstream.state_of(model)
    assert upstream.state_of(model) == before
    weight = model.lm_head.weight
    with torch.no_grad():
        weight.mul_(1)
    changed = upstream.state_of(model)
    assert changed != before
    weight.data = weight.data.clone()
    assert upstream.state_of(model) != changed


def test_hooks_are_foreign_unless_they_are_ours_or_transformers_own(model):
    assert not upstream.foreign_hooks(model, "vila_lab")
    model(torch.arange(4)[None], output_hidden_states=True)  # transformers leaves its own behind
    assert not upstream.foreign_hooks(model, "vila_lab")
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda *given: None)
    assert upstream.foreign_hooks(model, "vila_lab")
    assert not upstream.foreign_hooks(model, __name__.partition(".")[0])
    handle.remove()
    assert not upstream.foreign_hooks(model, "vila_lab")


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("DefaultCPUAllocator"), False),
    ],
)
def test_an_allocator_that_gave_up_is_told(error, is_so):
    assert upstream.is_out_of_memory(error) is is_so


def test_a_reordering_that_waits_is_seen():
    cache = filled(DynamicCache())
    assert not upstream.changes_later(cache)
    cache.layers[1]._pending_beam_idx = torch.tensor([0])
    assert upstream.changes_later(cache)


# -- attention -----------------------------------------------------------------------------------------------------------


def attention(model: Any) -> nn.Module:
    return model.model.layers[0].self_attn


def test_attention_modules_are_told_by_what_their_forward_looks_up(model):
    found = [name for name, module in model.named_modules() if upstream.calls_attention_function(module)]
    assert found == ["model.layers.0.self_attn", "model.layers.1.self_attn"]


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_the_function_is_the_one_that_the_modeling_file_would_call(model, name):
    function = upstream.attention_function(attention(model), name)
    expected = (
        transformers.models.qwen2.modeling_qwen2.eager_attention_forward
        if name == "eager"
        else transformers.AttentionInterface()["sdpa"]
    )
    assert function is expected


@pytest.mark.parametrize(("version", "left_out"), [("5.20.2", True), ("5.21.0", False)])
def test_a_soft_cap_that_is_left_out_is_seen(version, left_out, monkeypatch):
    monkeypatch.setattr(upstream, "installed", lambda name: version)
    module = nn.Linear(2, 2)
    assert not upstream.leaves_softcap_out(module, "sdpa")
    module.attn_logit_softcapping = 5.0
    assert upstream.leaves_softcap_out(module, "sdpa") == left_out
    assert not upstream.leaves_softcap_out(module, "eager")


def test_a_modeling_file_without_the_table_is_said():
    with pytest.raises(UpstreamChanged, match="ALL_ATTENTION_FUNCTIONS"):
        upstream.attention_function(nn.Linear(2, 2), "sdpa")


def test_another_implementation_stands_in_a_copy_only(model):
    before = upstream.attention_name(model.config)
    other = upstream.config_with_attention(model.config, "something else")
    assert upstream.attention_name(other) == "something else"
    assert upstream.attention_name(model.config) == before
    assert other.hidden_size == model.config.hidden_size


def test_a_config_that_no_longer_holds_its_implementation_is_said():
    for lost in (types.SimpleNamespace(), types.SimpleNamespace(_attn_implementation_internal="sdpa")):
        with pytest.raises(UpstreamChanged, match="_attn_implementation"):
            upstream.config_with_attention(lost, "x")
    with pytest.raises(UpstreamChanged, match="does not take"):
        upstream.config_with_attention(
            types.SimpleNamespace(_attn_implementation_internal="sdpa", _attn_implementation="sdpa"), "x"
        )


# -- generation, models, torch -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_prepare_generated_length", "_get_logits_processor"])
def test_the_private_methods_that_the_model_takes_the_place_of_are_called(name, monkeypatch):
    """A method that transformers no longer calls would be dead: each is really reached by `generate`."""
    lab = vila_lab.load()
    called = []
    ours = getattr(type(lab.model), name)

    def spy(self: Any, *args: Any, **kwargs: Any) -> Any:
        called.append(name)
        return ours(self, *args, **kwargs)

    monkeypatch.setattr(type(lab.model), name, spy)
    lab.model.generate(**lab.family.prepare(Prompt.of("Hello")).inputs, max_new_tokens=1)
    assert called


def test_what_a_generation_config_asks_of_the_scores_is_done_without_sampling(model):
    config = GenerationConfig(do_sample=True, temperature=9.0, suppress_tokens=[3], min_new_tokens=2, eos_token_id=[1])
    process = upstream.logits_processors(model, config, 4)
    row = process(torch.zeros(1, 4, dtype=torch.int64), torch.arange(6.0)[None])[0]
    assert row.tolist() == [0, -torch.inf, 2, -torch.inf, 4, 5]
    later = process(torch.zeros(1, 6, dtype=torch.int64), torch.arange(6.0)[None])[0]
    assert later.tolist() == [0, 1, 2, -torch.inf, 4, 5]
    assert config.do_sample


def test_a_private_method_that_is_gone_is_said_when_the_class_is_made():
    with pytest.raises(UpstreamChanged, match=r"GenerationMixin has no '_gone'"):

        class Model(GenerationMixin):
            @upstream.overrides(GenerationMixin)
            def _gone(self) -> None: ...


def test_a_plain_model_has_no_adapter_and_is_not_quantised(model):
    assert not upstream.has_adapter(model)
    assert not upstream.is_quantized(model)
    model.hf_quantizer = object()
    try:
        assert upstream.is_quantized(model)
    finally:
        del model.hf_quantizer


def test_torch_tells_which_kernel_it_would_take():
    query = torch.zeros(1, 4, 3, 8)
    assert upstream.fused_kernel(query, query, query, None, True, 0.5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert not upstream.fused_kernel(query, query, query, None, True, 0.5)


def test_a_tensor_changed_in_place_is_told():
    tensor = torch.zeros(2)
    before = upstream.times_written(tensor)
    tensor += 1
    assert upstream.times_written(tensor) == before + 1


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (torch, "_fused_sdp_choice", lambda: upstream.fused_kernel(*[torch.zeros(1, 1, 1, 8)] * 3, None, True, 1.0)),
        (types.SimpleNamespace, "offloading", lambda: upstream.keeps_keys(types.SimpleNamespace(layers=[]), 0)),
        (types.SimpleNamespace, "layers", lambda: upstream.first_keys(types.SimpleNamespace())),
        (Qwen2Config, "_attn_implementation", lambda: upstream.attention_name(config())),
        (Qwen2Config, "_attn_implementation_internal", lambda: upstream.config_with_attention(config(), "x")),
        (Qwen2ForCausalLM, "_hf_peft_config_loaded", lambda: upstream.has_adapter(Qwen2ForCausalLM(config()))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_name_that_vanished_is_one_sentence_with_the_way_out(owner, name, call, monkeypatch):
    class Gone:
        """An attribute that is not there, whatever the instance holds."""

        def __get__(self, instance: Any, kind: Any = None) -> Any:
            raise AttributeError(name)

        def __set__(self, instance: Any, value: Any) -> None: ...

    if isinstance(owner, types.ModuleType):
        monkeypatch.delattr(owner, name)
    elif owner is not types.SimpleNamespace:
        monkeypatch.setattr(owner, name, Gone(), raising=False)
    with pytest.raises(UpstreamChanged, match=f"has no '{name}' any more.*transformers") as caught:
        call()
    assert isinstance(caught.value, VilaLabError)
    assert isinstance(caught.value, RuntimeError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "can_return_tuple",
        "compilable_check",
        "has_flash_attention",
        "offloaded_state",
        "render_jinja_template",
    ],
)
def test_what_is_imported_from_inside_a_package_is_there(name):
    assert callable(getattr(upstream, name)) or isinstance(getattr(upstream, name), type)


def test_tuples_are_returned_where_they_are_asked_for(model):
    class Part:
        config = model.config

        @upstream.can_return_tuple
        def forward(self, **kwargs: Any) -> Any:
            return transformers.modeling_outputs.BaseModelOutput(last_hidden_state=torch.zeros(1))

    assert isinstance(Part().forward(return_dict=False), tuple)
    assert not isinstance(Part().forward(return_dict=True), tuple)


def test_a_check_that_fails_says_why():
    upstream.compilable_check(torch.tensor(True), "fine")
    with pytest.raises(ValueError, match="why"):
        upstream.compilable_check(torch.tensor(False), "why")


def test_a_template_is_rendered():
    texts, _ = upstream.render_jinja_template(
        conversations=[[{"role": "user", "content": "x"}]], chat_template="{{ messages[0]['content'] }}!"
    )
    assert texts == ["x!"]


def test_the_state_of_a_model_that_is_nowhere_offloaded_is_its_own(model):
    assert set(upstream.offloaded_state(model)) == set(model.state_dict())


@pytest.mark.parametrize(
    "place", [("transformers.no_such_module", "x"), ("transformers.utils.generic", "no_such_name")]
)
def test_an_import_that_vanished_is_one_sentence(place):
    with pytest.raises(UpstreamChanged, match="any more, on which vila_lab stands"):
        upstream.imported(*place)


def test_every_argument_of_a_command_line_is_found():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers()
    commands.add_parser("a").add_mutually_exclusive_group().add_argument("--file", metavar="FILE")
    assert {"help", "file"} <= {action.dest for action in upstream.arguments_of(parser)}
