"""Which of transformers' common tests are exempt, and why. Only data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Exemption:
    """A test that fails for a reason; `versions` are those of transformers in which it does."""

    test: str
    reason: str
    versions: str = ""


LAYOUT = (
    "it reads or writes one model.safetensors at the root; a checkpoint of this family has its weights in three folders, which "
    "the reference must be able to read (tests/nvila/test_checkpoint.py and test_saving.py hold instead)"
)

EXEMPTIONS: tuple[Exemption, ...] = (
    Exemption("NVILAModelTest::test_load_save_without_tied_weights", LAYOUT),
    Exemption("NVILAModelTest::test_model_weights_reload_no_missing_tied_weights", LAYOUT),
    Exemption(
        "NVILAModelTest::test_model_base_model_prefix",
        "the family has no base model without a head: three parts stand side by side, as in its files",
    ),
    Exemption(
        "NVILAModelTest::test_inputs_embeds",
        "refused by name: it gives inputs_embeds and pixel_values together, and where pictures belong cannot be seen in "
        "embeddings, because the id of <image> mostly lies outside the embedding matrix",
    ),
    Exemption(
        "NVILAModelTest::test_bc_cache_name_forward",
        "it wants a warning for past_key_values; both names of the cache are taken without one in all versions",
        ">=5.24",
    ),
    Exemption(
        "NVILAProcessorTest::test_call_arguments_not_in_attributes",
        "conv_mode is what a checkpoint means by auto, and also an option of one call",
        ">=5.23",
    ),
    Exemption(
        "NVILAProcessorTest::test_init_arguments_not_in_class_attributes",
        "chat_template is a property, so that processor and tokenizer cannot have different ones",
        ">=5.23",
    ),
    Exemption(
        "NVILAImageProcessorTest::test_call_numpy_4_channels",
        "the vision tower reads three channels; a fourth one is dropped, as the reference does",
    ),
    Exemption(
        "NVILAImageProcessorTest::test_new_models_require_torchvision_backend",
        "resampling is PIL's: torchvision's differs from the reference by up to two grey levels",
    ),
    Exemption(
        "NVILAImageProcessorTest::test_pil_can_load_without_torchvision",
        "it imports the class from a module of transformers; `make probe` loads this one without torchvision",
        "<5.23",
    ),
)
