"""`gradserve check`: what it says of models that are refused, odd or fine, and its exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gradserve_server.config import Settings
from gradserve_server.models.catalogue import ModelSpec
from gradserve_server.models.served import not_served
from gradserve_server.models.tables import toml_value
from gradserve_server.offline import check
from gradserve_server.offline.check import reported
from gradserve_server.offline.model_check import ModelReport, check_model
from gradserve_server.pool.wire import WorkerSettings

WHOLE = {"mean": [0.5] * 3, "std": [0.25] * 3, "height": 32, "width": 32, "resize": 32, "precisions": ["exact"]}
NAMES = {"labels": list("abcdef")}


def entry(name: str, builder: str, **facts: Any) -> str:
    """A model of the settings file, without what `facts` has as None."""
    table = {"builder": builder, **WHOLE, **NAMES, **facts}
    lines = [f"{key} = {toml_value(value)}" for key, value in table.items() if value is not None]
    return "\n".join([f"[models.{name}]", *lines, ""])


def spec(builder: str, **facts: Any) -> ModelSpec:
    return ModelSpec.model_validate({"name": "it", "builder": builder, **WHOLE, **NAMES, **facts})


def checked(builder: str, **facts: Any) -> ModelReport:
    """The report of one network, made in this process."""
    return check_model(WorkerSettings((spec(builder, **facts),), "cpu"))


class Run:
    """The command over a settings file."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._file, self._capfd, self.text, self.errors = folder / "models.toml", capfd, "", ""

    def __call__(self, config: str, *flags: str) -> int:
        self._file.write_text(config)
        self._capfd.readouterr()
        code = check.main(["--config", str(self._file), "--device", "cpu", *flags])
        self.text, self.errors = self._capfd.readouterr()
        return code

    @property
    def models(self) -> Mapping[str, Any]:
        return {model["name"]: model for model in json.loads(self.text)["models"]}


@pytest.fixture
def run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    return Run(tmp_path, capfd)


def test_nothing_is_odd_about_an_embedded_model(run: Run) -> None:
    assert run("[models.digits]\n", "--strict") == 0
    first, *_, last = run.text.splitlines()
    assert first.startswith("digits: softmax, 10 classes, 8x8; exact (")
    assert last.startswith("1 of 1 models served, 0 maps failed, 0 odd, ")
    assert "odd:" not in run.text
    assert run.errors == "", "a bar is for people who watch"


def test_a_refused_model_is_told_as_a_server_tells_it_and_keeps_no_other_from_being_tried(run: Run) -> None:
    bad = [entry("broken", "own_networks:raises"), entry("fatal", "own_networks:kills_its_process")]
    file = entry("fileless", "own_networks:trunk", weights="gone.pt")
    assert run("\n".join([*bad, file, entry("good", "own_networks:trunk", labels=list("abcde"))])) == 1
    reason = "its builder own_networks:raises failed at own_networks.py:"
    assert not_served("broken", reason) in run.text
    assert not_served("fatal", "the worker died while loading it (out of memory?") in run.text
    assert not_served("fileless", "no file of weights") in run.text
    assert "\ngood: softmax, 5 classes, 32x32; exact (" in run.text
    assert run.text.splitlines()[-1].startswith("1 of 4 models served, 0 maps failed, ")


def test_what_is_odd_fails_where_that_is_wanted(run: Run) -> None:
    config = entry("it", "kinds:head_of_angles", labels=None)
    assert run(config) == 0
    assert "    odd: its classes have no names" in run.text
    assert run(config, "--strict") == 1
    assert run(config, "--strict", "--json") == 1
    assert json.loads(run.text)["passed"] is False
    assert run.models["it"]["served"]


def test_a_map_that_fails(run: Run) -> None:
    assert run(entry("it", "odd_networks:gradient_of_nan"), "--json") == 1
    model = run.models["it"]
    assert model["served"]
    assert not model["methods"]["gradient"]["map"]
    assert "not finite" in model["methods"]["gradient"]["reason"].lower().replace("nan", "not finite")
    assert model["methods"]["occlusion"] == {"applies": True, "map": True, "reason": ""}
    run(entry("it", "odd_networks:gradient_of_nan"))
    assert "    the map of gradient failed: " in run.text


@pytest.mark.parametrize(
    ("config", "flags", "says"),
    [
        ("[models.it]\nheigth = 3\n", [], "[models.it]: unknown key heigth"),
        ("[pool]\nthreads = 0\n", [], "threads"),
        ("nonsense", [], "models.toml"),
        ("", ["--model", "a:b"], "--model takes NAME, timm:NAME or hf:NAME_OR_FOLDER"),
        ("", ["--config", "gone.toml"], "gone.toml"),
        ("", ["--threads", "0"], "--threads"),
        ("", ["--device", "tpu"], "tpu"),
    ],
)
def test_mistakes_in_the_file_or_the_arguments(run: Run, config: str, flags: list[str], says: str) -> None:
    assert run(config, *flags) == 2
    assert says in " ".join(run.errors.split())
    assert run.text == ""


def test_a_reason_is_told_once_for_all_methods_on_one_line(run: Run) -> None:
    assert run(entry("it", "kinds:without_gradient")) == 0
    (line,) = [line for line in run.text.splitlines() if " not apply: " in line]
    assert line.startswith("    gradient, gradient_x_input, smooth_grad, ")
    assert "it: softmax, 6 classes, 32x32; exact (" in run.text
    assert "; 4 maps, " in run.text


def test_only_the_named_ones(run: Run) -> None:
    both = entry("one", "own_networks:raises") + entry("two", "kinds:head_of_angles")
    assert run(both, "--model", "two", "--json") == 0
    assert list(run.models) == ["two"]


def test_the_facts_of_a_document(run: Run) -> None:
    assert run(entry("it", "kinds:head_of_angles"), "--json") == 0
    model = run.models["it"]
    assert (model["head"], model["classes"], model["input_size"]) == ("softmax", list("abcdef"), [32, 32])
    assert set(model["rows"]) == {"exact"}
    assert set(model["absent"]) == {"balanced", "fast"}
    assert len(model["weights_digest"]) == 64
    assert model["seconds"] > 0
    assert all(each["map"] for each in model["methods"].values() if each["applies"])


def test_what_a_builder_prints_and_leaves_running(tmp_path: Path) -> None:
    """In a process of its own, since those that models are tried in are forked from one that these tests share."""
    (tmp_path / "models.toml").write_text(entry("it", "odd_networks:talkative"))
    program = "import sys; from gradserve_server.offline import check; sys.exit(check.main())"
    command = [sys.executable, "-c", program, "--json", "--config", str(tmp_path / "models.toml")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0
    assert [model["name"] for model in json.loads(ended.stdout)["models"]] == ["it"]
    assert "a builder's own words" in ended.stderr


ODD = {
    "probabilities": ({}, "SOFTMAX_OUTPUTS: it gives probabilities"),
    "certain": ({}, "its probabilities are 0 or 1, up to 1e-4, for every test picture"),
    "with_dead_layer": ({}, "layers that give nothing but 0 for every test picture: quiet"),
    "with_unused_layers": ({}, "its logits do not depend on the weights of aside, never"),
    "constant": ({}, "maps of gradient, gradient_x_input, smooth_grad and 7 more are 0 everywhere"),
}


@pytest.mark.parametrize("builder", ODD)
def test_what_is_odd(builder: str) -> None:
    facts, text = ODD[builder]
    report = checked(f"odd_networks:{builder}", **facts)
    assert report.passed
    (found,) = [each for each in report.odd if text in each]
    others = [each for each in report.odd if each != found]
    assert not others or builder == "constant", "nothing else is odd about it"


@pytest.mark.parametrize("builder", ["certain", "with_dead_layer"])
def test_random_weights_are_not_judged_as_trained_ones(builder: str) -> None:
    assert checked(f"odd_networks:{builder}", weights="random").odd == ()


def test_weights_without_use_are_odd_even_where_they_are_random() -> None:
    (text,) = checked("odd_networks:with_unused_layers", weights="random").odd
    assert "do not depend on the weights of aside, never" in text


@pytest.mark.parametrize("builder", ["aux_branches", "in_graph_module", "weights_lent", "called_past_hooks"])
def test_layers_that_are_reached_on_other_ways_are_not_odd(builder: str) -> None:
    assert not [text for text in checked(f"kinds:{builder}").odd if "depend on the weights" in text]


def test_what_is_left_to_be_assumed() -> None:
    left_out = {"mean": None, "std": None, "height": None, "width": None, "resize": None}
    report = checked("kinds:head_of_angles", **left_out)
    assert report.odd == (
        "mean and std are not given: ImageNet's are used",
        "height and width are not given: 224x224 is used",
    )
    assert report.notes == ("its weights are those that the builder made",)


def test_notes_of_the_entry_are_not_odd() -> None:
    report = checked("kinds:one_channel", channels=1, mean=(0.5,), std=(0.5,), notes=("X-rays",))
    assert report.odd == ()
    assert not any("X-rays" in note for note in report.notes)


def test_methods_that_do_not_apply_are_told_and_not_odd() -> None:
    report = checked("kinds:without_gradient")
    assert "cannot be differentiated by the image" in report.refusals["gradient"]
    assert [text.partition(":")[0] for text in report.odd] == ["NO_GRADIENT"]
    assert not report.failures


@pytest.mark.parametrize("builder", ["unseeded", "draws_outside"])
def test_a_network_that_is_another_one_in_every_process(builder: str) -> None:
    """A server that has several workers refuses it; one of a single worker serves it until that one dies."""
    own = spec(f"own_networks:{builder}", labels=None)
    settings = Settings(models=(own,))
    assert "at every call" in reported(own, settings, ["cpu", "cpu"], {}).refused
    alone = reported(own, settings, ["cpu"], {})
    assert alone.passed
    assert "at every call" in alone.odd[-1]
