"""What transformers' common tests are run on: a tiny model, and a processor with a small tokenizer."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from fetch_hub_objects_for_ci import url_to_local_path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, SiglipVisionConfig
from transformers_tests import test_image_processing_common, test_modeling_common, test_processing_common

from vila_lab.nvila.configuration_nvila import NVILAConfig
from vila_lab.nvila.conversation import CHAT_TEMPLATES
from vila_lab.nvila.image_processing_nvila import NVILAImageProcessor
from vila_lab.nvila.modeling_nvila import NVILAForConditionalGeneration
from vila_lab.nvila.processing_nvila import NVILAProcessor

IMAGE_TOKEN_ID = 5  # the common tests fill up with ids below


class ModelTester:
    """Makes the tiny model's configuration and inputs: one picture of four visual tokens before each text."""

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.batch_size = 7  # as many as the common tests want, so that they add none without pictures
        self.image_size, self.patch_size, self.tokens_per_picture = 16, 4, 4
        self.seq_length = 7 + self.tokens_per_picture
        self.vocab_size = 99
        self.hidden_size = 32
        self.num_hidden_layers = 2
        self.num_attention_heads = 4
        self.is_training = True
        self.vision_config = {"num_hidden_layers": 2}

    def get_config(self) -> NVILAConfig:
        text = Qwen2Config(
            vocab_size=self.vocab_size, hidden_size=self.hidden_size, intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers, num_attention_heads=self.num_attention_heads, num_key_value_heads=2,
            max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        )  # fmt: skip
        vision = SiglipVisionConfig(
            hidden_size=32, intermediate_size=37, num_hidden_layers=self.vision_config["num_hidden_layers"],
            num_attention_heads=4, image_size=self.image_size, patch_size=self.patch_size,
        )  # fmt: skip
        return NVILAConfig(text, vision, mm_projector_type="mlp_downsample", image_token_id=IMAGE_TOKEN_ID)

    def prepare_config_and_inputs_for_common(self) -> tuple[NVILAConfig, dict[str, torch.Tensor]]:
        ids = test_modeling_common.ids_tensor([self.batch_size, self.seq_length], self.vocab_size - IMAGE_TOKEN_ID - 1)
        ids = ids + IMAGE_TOKEN_ID + 1
        ids[:, : self.tokens_per_picture] = IMAGE_TOKEN_ID
        pixels = test_modeling_common.floats_tensor([self.batch_size, 3, self.image_size, self.image_size])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
        return self.get_config(), inputs


class NVILAModelTest(
    test_modeling_common.ModelTesterMixin, test_modeling_common.GenerationTesterMixin, unittest.TestCase
):
    all_model_classes = (NVILAForConditionalGeneration,)
    _is_composite = True
    additional_model_inputs = ["pixel_values"]  # noqa: RUF012
    test_torch_exportable = False  # tests/nvila exports it
    test_all_params_have_gradient = False  # layers of the tower after the selected one are not run

    def setUp(self) -> None:
        self.model_tester = ModelTester(self)

    def _prepare_for_class(
        self, inputs: dict[str, Any], model_class: Any, return_labels: bool = False
    ) -> dict[str, Any]:
        """The common tests know from a table of their own whose inputs have labels."""
        prepared = dict(super()._prepare_for_class(inputs, model_class, return_labels))
        return {**prepared, "labels": inputs["input_ids"]} if return_labels else prepared


def tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and the tokens of the chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    model = models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[])
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=4096,
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    made.chat_template = CHAT_TEMPLATES["qwen2"]
    return made


def image_processor() -> NVILAImageProcessor:
    return NVILAImageProcessor({"height": 28, "width": 28})


class NVILAProcessorTest(test_processing_common.ProcessorTesterMixin, unittest.TestCase):
    processor_class = NVILAProcessor
    chat_template_max_length = 200  # one token per byte

    @classmethod
    def _setup_tokenizer(cls) -> PreTrainedTokenizerFast:
        return tokenizer()

    @classmethod
    def _setup_image_processor(cls) -> NVILAImageProcessor:
        return image_processor()


class ImageProcessorTester:
    """Makes pictures and settings for the image processor's tests."""

    num_channels = 3
    size = {"height": 28, "width": 28}  # noqa: RUF012
    image_processing_classes = {"pil": NVILAImageProcessor}  # noqa: RUF012

    def __init__(self, parent: Any) -> None:
        self.parent = parent
        self.batch_size = 3

    def prepare_image_processor_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "image_mean": [0.4, 0.5, 0.6],
            "image_std": [0.5, 0.5, 0.5],
            "image_aspect_ratio": "resize",
        }

    def expected_output_image_shape(self, images: Any) -> tuple[int, int, int]:
        return self.num_channels, self.size["height"], self.size["width"]

    def prepare_image_inputs(
        self, batch_size: int | None = None, num_channels: int | None = None, **options: Any
    ) -> Any:
        return test_image_processing_common.prepare_image_inputs(
            batch_size=batch_size or self.batch_size, min_resolution=30, max_resolution=80,
            num_channels=num_channels or self.num_channels,
            **{name: value for name, value in options.items() if name in ("equal_resolution", "numpify", "torchify")},
        )  # fmt: skip

    def prepare_processor_inputs(self, **options: Any) -> dict[str, Any]:
        return {"images": self.prepare_image_inputs(**options)}


class NVILAImageProcessorTest(test_image_processing_common.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = ImageProcessorTester
    test_cast_dtype = True

    def setUp(self) -> None:
        self.image_processor_tester = ImageProcessorTester(self)

    @property
    def image_processing_classes(self) -> Any:
        return self.image_processor_tester.image_processing_classes

    @image_processing_classes.setter
    def image_processing_classes(self, value: Any) -> None:
        """Earlier versions find the classes in their own table and set them here."""

    @property
    def image_processor_dict(self) -> dict[str, Any]:
        return self.image_processor_tester.prepare_image_processor_dict()


__all__ = ["NVILAImageProcessorTest", "NVILAModelTest", "NVILAProcessorTest", "url_to_local_path"]
