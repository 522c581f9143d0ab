"""The expanded sequence and its map agree with each other and with the text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vila_lab.errors import PictureNotFound, PromptError
from vila_lab.nvila.processing_nvila import NVILAProcessor


def check_layout(processor: Any, batch: Any, layout: Any) -> None:
    ids = batch["input_ids"][0].numpy()
    np.testing.assert_array_equal(ids, layout.input_ids)
    assert len(layout.offsets) == len(ids)
    visual = np.zeros(len(ids), bool)
    for block in layout.blocks:
        assert len(block.boxes) == len(block.tiles) == block.rows * block.cols
        assert not visual[block.start : block.stop].any()
        visual[block.start : block.stop] = True
        start, stop = layout.offsets[block.start]
        assert layout.text[start:stop] == "<image>"
    np.testing.assert_array_equal(visual, ids == processor.image_token_id)
    assert not visual[layout.separators].any()
    rest = np.setdiff1d(np.flatnonzero(~visual), layout.separators)
    np.testing.assert_array_equal(
        ids[rest], [t for t in processor.tokenizer(layout.text).input_ids if t != processor.image_token_id]
    )
    assert (np.diff(layout.offsets[:, 0]) >= 0).all()


def test_layout_agrees(golden: Any, golden_parts: list[Any], load: Any) -> None:
    _, processor = load(golden[0].checkpoint)
    batch, layout = processor.prepare(
        [p.replace("<image>", "") if isinstance(p, str) else p for p in golden_parts], golden[0].conv_mode
    )
    check_layout(processor, batch, layout)
    assert len(layout.blocks) == layout.text.count("<image>")
    assert len(layout.separators) == len(layout.blocks)
    written = "".join(layout.text[a:b] for a, b in layout.user_spans)
    assert written == "".join(p.replace("<image>", "") for p in golden_parts if isinstance(p, str))


def test_positions_follow_a_block(load: Any, open_picture: Any) -> None:
    """dynamic, one picture: visual tokens, the encoder's newline, and a newline of the text after every tile."""
    _, processor = load("nvila-lite")
    _, layout = processor.prepare([open_picture("b_port.png"), "Q"])
    newline = processor.tokenizer("\n").input_ids
    for block in layout.blocks:
        assert layout.input_ids[block.stop : block.stop + 1].tolist() == newline
        assert block.stop in layout.separators
        assert layout.text[slice(*layout.offsets[block.stop + 1])].startswith("\n")


def test_picture_last_loses_the_final_newline(load: Any, open_picture: Any) -> None:
    _, processor = load("nvila-lite")
    _, layout = processor.prepare(["Q ", open_picture("b_port.png")])
    assert "Q <image>\n<image>\n<image><|im_end|>" in layout.text


def test_tile_all_images(load: Any, open_picture: Any) -> None:
    pictures = [open_picture("a_land.png"), open_picture("b_port.png")]
    for name in ("nvila-lite", "nvila-dynamic_s2"):
        model, processor = load(name)
        batch, layout = processor.prepare([*pictures, "Q"], tile_all_images=True)
        check_layout(processor, batch, layout)
        alone = [processor.prepare([picture, "Q"]) for picture in pictures]
        assert torch.equal(batch["pixel_values"], torch.cat([each["pixel_values"] for each, _ in alone]))
        assert [b.picture for b in layout.blocks] == [k for k, (_, each) in enumerate(alone) for _ in each.blocks]
        with torch.no_grad():
            together = model.get_image_features(batch["pixel_values"], batch["block_sizes"]).pooler_output
            apart = [
                f
                for each, _ in alone
                for f in model.get_image_features(each["pixel_values"], each["block_sizes"]).pooler_output
            ]
        for mine, other in zip(together, apart, strict=True):
            torch.testing.assert_close(mine, other)


def test_more_than_one_separator_row(copy_of: Any, edit_json: Any, open_picture: Any) -> None:
    """A tokenizer that adds a begin token puts it into every separator; start tokens come before the block."""
    root: Path = copy_of("VILA1.5-3b-tiny")
    path = root / "llm" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    begin = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": begin,
        "pair": [*begin, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [401], "tokens": ["<s>"]}},
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    edit_json(root / "config.json", image_encoder=json.dumps({"_target_": "BasicImageEncoder", "start_tokens": "a"}))
    processor = NVILAProcessor.from_pretrained(root)
    batch, layout = processor.prepare([open_picture("a_land.png"), "Q"])
    (block,) = layout.blocks
    ids = batch["input_ids"][0]
    assert ids[0] == 401
    before, after = processor.tokenizer("a").input_ids, processor.tokenizer("\n").input_ids
    assert len(before) == len(after) == 2
    assert ids[block.start - 2 : block.start].tolist() == before
    assert ids[block.stop : block.stop + 2].tolist() == after
    assert layout.separators.tolist() == [block.start - 2, block.start - 1, block.stop, block.stop + 1]


def test_without_end_tokens(copy_of: Any, edit_json: Any, open_picture: Any) -> None:
    root = copy_of("nvila-resize")
    edit_json(root / "config.json", image_encoder={"end_tokens": None})
    _, layout = NVILAProcessor.from_pretrained(root).prepare([open_picture("a_land.png")] * 2 + ["Q"])
    assert len(layout.separators) == 0
    assert layout.blocks[0].stop == layout.blocks[1].start


def test_transformers_call_form(golden: Any, golden_parts: list[Any], load: Any) -> None:
    """apply_chat_template, then text and images apart, gives the same inputs as the list of parts."""
    case = golden[0]
    _, processor = load(case.checkpoint)
    parts = [p.replace("<image>", "") if isinstance(p, str) else p for p in golden_parts]
    content = [{"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in parts]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, conv_mode=case.conv_mode
    )
    pictures = [p for p in parts if not isinstance(p, str)]
    apart = processor(text=text, images=pictures or None, return_tensors="pt")
    whole = processor(parts, conv_mode=case.conv_mode)
    assert apart.keys() == whole.keys()
    for key in whole:
        assert torch.equal(apart[key], whole[key]), key


def test_tokenising_messages_directly(load: Any, open_picture: Any) -> None:
    _, processor = load("nvila-resize")
    content = [{"type": "image", "image": open_picture("a_land.png")}, {"type": "text", "text": "Q"}]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": content}]
    batch, layout = processor.prepare(messages)
    assert layout.text.startswith("<|im_start|>system\nS<|im_end|>")
    direct = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert torch.equal(direct["input_ids"], batch["input_ids"])
    assert [layout.text[a:b] for a, b in layout.user_spans] == ["Q"]


@pytest.mark.parametrize("side", ["left", "right"])
def test_batches_are_padded(load: Any, open_picture: Any, side: str) -> None:
    _, processor = load("nvila-lite")
    images = [[open_picture("b_port.png")], [], [open_picture("a_land.png"), open_picture("b_port.png")]]
    batch = processor(text=["<image>A", "B b b", "<image><image>C"], images=images, padding_side=side)
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    lengths = batch["attention_mask"].sum(1)
    assert len(batch["pixel_values"]) == 3 + 2
    edge = 0 if side == "left" else -1
    assert batch["attention_mask"][:, edge].tolist() == [int(n == lengths.max()) for n in lengths]


@pytest.mark.parametrize(
    ("text", "count", "words"),
    [("no marker", 1, "1 pictures for 0"), ("<image><image>", 1, "1 pictures for 2"), (None, 0, "no prompt")],
)
def test_counts_that_do_not_match(load: Any, text: str | None, count: int, words: str) -> None:
    _, processor = load("nvila-lite")
    with pytest.raises(PromptError, match=words):
        processor(text=text, images=[Image.new("RGB", (3, 3))] * count or None)


def test_missing_picture_file(load: Any, tmp_path: Path) -> None:
    _, processor = load("nvila-lite")
    with pytest.raises(PictureNotFound, match=r"no file .*gone\.png"):
        processor.prepare([tmp_path / "gone.png", "Q"])
