"""From rates to rows and precisions, from there to a file, and from the file to what a server does."""

from pathlib import Path

import pytest
import torch
from zoo import prepared

from gradserve_server.config import settings_of
from gradserve_server.engine.batch_limits import MAX_CPU_ROWS, MAX_CPU_ROWS_FAST
from gradserve_server.engine.engine import Engine
from gradserve_server.engine.take import Key
from gradserve_server.models.catalogue import EMBEDDED, PRECISIONS, ModelSpec, read_tuning
from gradserve_server.models.preparation import prepare
from gradserve_server.offline.tune import Candidate, TuningResult, as_toml, candidates, rates

CPU = torch.device("cpu")
DIGITS = EMBEDDED["digits"].model_copy(update={"precisions": PRECISIONS})  # It has them on every processor.
SEEN = TuningResult(
    "net",
    {
        Candidate("exact", 4): 100.0,
        Candidate("exact", 8): 118.0,
        Candidate("exact", 15): 120.0,
        Candidate("balanced", 8): 125.0,
        Candidate("fast", 8): 200.0,
        Candidate("fast", 16): 300.0,
    },
)


def test_the_fewest_rows_near_the_best_rate() -> None:
    assert SEEN.rows == {"exact": 8, "balanced": 8, "fast": 16}


def test_the_fastest_precision_where_it_pays() -> None:
    assert SEEN.speedup == {"exact": 1.0, "balanced": 125 / 118, "fast": 300 / 118}
    assert SEEN.auto == {"maximize": "fast", "stylize": "fast"}
    slow = TuningResult(
        "net", {candidate: rate for candidate, rate in SEEN.rates.items() if candidate.precision != "fast"}
    )
    assert slow.auto == {}, "6 % do not make up for less exact gradients"


def test_candidates_stay_within_what_the_precision_allows() -> None:
    tried = list(candidates(prepare(DIGITS, CPU)))
    assert max(c.rows for c in tried if c.precision == "exact") == MAX_CPU_ROWS
    assert max(c.rows for c in tried if c.precision == "fast") == MAX_CPU_ROWS_FAST
    assert len(set(tried)) == len(tried)
    vit = prepared("vit_b_32")
    assert max(c.rows for c in candidates(vit)) == (16 if "fast" in vit.card.precisions else MAX_CPU_ROWS)


def test_every_candidate_is_measured() -> None:
    model = prepare(EMBEDDED["digits"], CPU)
    found = rates(model, range(3))
    assert set(found) == set(candidates(model))
    assert all(rate > 0 for rate in found.values())


def test_a_server_takes_up_what_was_written(tmp_path: Path) -> None:
    file = tmp_path / "tuned.toml"
    digits = TuningResult("digits", SEEN.rates)
    file.write_text(as_toml([digits, TuningResult("not served", SEEN.rates)], CPU))
    config = '[pool]\ntuned = "tuned.toml"\n[models.digits]\nprecisions = ["exact", "balanced", "fast"]\n'
    (tmp_path / "server.toml").write_text(f"{config}rows = {{ fast = 3 }}\n")
    (spec,) = settings_of(tmp_path / "server.toml", [], {}, {}).models
    assert spec.rows == {"exact": 8, "balanced": 8, "fast": 3}, "what the configuration says itself stays"
    assert spec.auto == {"maximize": "fast", "stylize": "fast"}
    model = prepare(spec, CPU)
    assert model.card.auto == spec.auto
    engine = Engine({"digits": model})
    assert engine.limit(Key("digits", "exact", 8, 8, "image")) == 8
    assert engine.limit(Key("digits", "fast", 8, 8, "image")) == 3
    assert engine.limit(Key("digits", "exact", 16, 16, "image")) == 2, "at other sizes: as many pixels"


def test_what_another_machine_measured_of_precisions_that_are_slow_here_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text(as_toml([SEEN], CPU))
    spec = read_tuning(file).applied(ModelSpec(name="net"), ("exact",))
    assert spec.rows == {"exact": 8}
    assert spec.auto == {}
    assert "model net: what was measured of BALANCED, FAST is left out" in caplog.text


def test_a_precision_that_is_not_loaded_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text(as_toml([SEEN], CPU))
    spec = read_tuning(file).applied(ModelSpec(name="net", precisions=("exact",)))
    assert spec.rows == {"exact": 8}
    assert spec.auto == {}


@pytest.mark.parametrize("text", ["[models.net]\nrows = { exact = 0 }", "[models.net]\nspeed = 3", "rows"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "tuned.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"."):
        read_tuning(file)


def test_a_missing_file_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pool\.tuned: .*'.*gone\.toml'; gradserve bench --tune writes"):
        settings_of(None, [], {}, {"tuned": tmp_path / "gone.toml"})
