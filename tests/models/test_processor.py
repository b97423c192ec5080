"""Which precisions are loaded on which processor, by its instructions and oneDNN's limit."""

from typing import Any

import pytest
import torch
from zoo import off, pictures

from gradserve_server.models import processor
from gradserve_server.models.catalogue import EMBEDDED, PRECISIONS, ModelSpec
from gradserve_server.models.preparation import prepare
from gradserve_server.models.processor import LIMITS, choose, fast_precisions

CPU = torch.device("cpu")
OLD = {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Pretends another processor and another limit."""

    def pretend(capabilities: dict[str, bool], **limits: str) -> None:
        monkeypatch.setattr(processor, "bfloat16_missing", processor.bfloat16_missing.__wrapped__)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
        for name in LIMITS:
            monkeypatch.delenv(name, raising=False)
        for name, value in limits.items():
            monkeypatch.setenv(name, value)

    return pretend


@pytest.mark.parametrize(
    ("capability", "limit", "fast"),
    [
        ("avx512_bf16", "", True),
        ("amx_bf16", "DEFAULT", True),
        ("avx512_bf16", "AVX512_CORE_BF16", True),
        ("avx512_bf16", "avx512_core_amx", True),
        ("avx512_bf16", "AVX10_1_512", True),
        ("bf16", "", True),
        ("avx512_f", "", False),
        ("avx512_bf16", "AVX512_CORE", False),
        ("avx512_bf16", "avx2", False),
        ("avx512_bf16", "AVX2_VNNI_2", False),
    ],
)
@pytest.mark.parametrize("variable", LIMITS)
def test_instructions_and_limit_decide(on: Any, variable: str, capability: str, limit: str, fast: bool) -> None:
    on({capability: True}, **{variable: limit})
    assert fast_precisions(CPU) == (PRECISIONS if fast else ("exact",))
    choice = choose(ModelSpec(name="net"), CPU)
    assert choice.loaded == fast_precisions(CPU)
    assert set(choice.absent) == set(PRECISIONS) - set(choice.loaded)
    assert not choice.warnings
    for reason in choice.absent.values():
        assert (variable if capability == "avx512_bf16" else "no bfloat16 instructions") in reason


def test_onednns_own_name_of_the_limit_comes_first(on: Any) -> None:
    on({"avx512_bf16": True}, ONEDNN_MAX_CPU_ISA="AVX512_CORE_BF16", DNNL_MAX_CPU_ISA="AVX2")
    assert fast_precisions(CPU) == PRECISIONS


@pytest.mark.parametrize(
    ("facts", "loaded"),
    [
        ({"precisions": ("exact", "fast")}, ("exact", "fast")),
        ({"auto": {"maximize": "balanced"}}, ("exact", "balanced")),
        ({"rows": {"fast": 3}}, ("exact", "fast")),
        ({"rows": {"exact": 3}}, ("exact",)),
    ],
)
def test_what_the_catalogue_names_is_loaded_with_a_warning(on: Any, facts: dict[str, Any], loaded: Any) -> None:
    on(OLD)
    choice = choose(ModelSpec.model_validate({"name": "net", **facts}), CPU)
    assert choice.loaded == loaded
    assert len(choice.warnings) == len(loaded) - 1
    for precision, warning in zip(loaded[1:], choice.warnings, strict=True):
        assert warning.startswith(f"{precision.upper()} is slower than EXACT here, and loaded only since ")
        assert "this processor" in warning


def test_what_the_catalogue_leaves_out_is_not_loaded() -> None:
    choice = choose(ModelSpec(name="net", precisions=("exact",)), CPU)
    assert choice.loaded == ("exact",)
    assert choice.absent == dict.fromkeys(("balanced", "fast"), "its entry in the configuration does not name it")


def test_a_card_says_what_is_missing_and_what_is_slow(on: Any, caplog: pytest.LogCaptureFixture) -> None:
    on(OLD)
    card = prepare(EMBEDDED["digits"], CPU).card
    assert card.precisions == ("exact",)
    assert "no bfloat16 instructions" in card.absent["fast"]
    assert caplog.records == []
    card = prepare(EMBEDDED["digits"].model_copy(update={"precisions": ("exact", "fast")}), CPU).card
    assert any("FAST is slower than EXACT here" in note for note in card.notes)
    assert "FAST is slower than EXACT here" in caplog.text


def test_a_precision_that_is_named_is_right_on_every_processor() -> None:
    """Also where this processor, as these tests are run, only emulates it."""
    model = prepare(EMBEDDED["digits"].model_copy(update={"precisions": PRECISIONS}), CPU)
    images = pictures(model, 5)
    logits = {precision: model.at(precision)(images) for precision in PRECISIONS}
    assert torch.equal(logits["balanced"], logits["exact"])
    assert off(logits["fast"], logits["exact"]) < 2**-5, "a few roundings of 2**-9 each"
