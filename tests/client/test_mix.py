"""What is sent under load: mix files, and the requests that are made of them."""

import pytest

from gradserve.load import requests
from gradserve.load.mix import RPCS, MixEntry, explanations, read_mix
from gradserve.v1 import common_pb2

EVERY_RPC = """
[[requests]]
rpc = "predict"
weight = 5
parameters = { top_k = 2 }

[[requests]]
rpc = "explain"
model = "tiny"
method = "smooth_grad"
parameters = { samples = 8, format = "png", target = 1, seed = 3 }
priority = "batch"
deadline = 2.5

[[requests]]
rpc = "attack"
method = "fgsm"
parameters = { eps = "8/255" }

[[requests]]
rpc = "certify"
parameters = { sigma = 0.5, samples = 200 }

[[requests]]
rpc = "maximize"
parameters = { goals = 1, preset = "plain", steps = 4 }

[[requests]]
rpc = "stylize"
parameters = { steps = 3 }

[[requests]]
rpc = "influence"
method = "neighbours"
parameters = { top = 3 }

[[requests]]
rpc = "embed"
parameters = { pooling = "max" }

[[requests]]
rpc = "differentiate"
parameters = { goals = 2, rows = 3, format = "float16" }
"""


@pytest.fixture
def mix_file(tmp_path):
    path = tmp_path / "mix.toml"
    path.write_text(EVERY_RPC)
    return path


def test_a_file_has_all_rpcs(mix_file):
    entries = read_mix(mix_file)
    assert [each.rpc for each in entries] == list(RPCS)
    assert entries[0] == MixEntry("predict", 5, parameters={"top_k": 2})
    assert (entries[1].model, entries[1].priority, entries[1].deadline) == ("tiny", "batch", 2.5)
    assert entries[1].name == "explain smooth_grad (tiny)"


def test_parameters_are_those_of_the_client(mix_file):
    predict, explain, attack, certify, maximize, stylize, influence, embed, differentiate = (
        requests.message(entry, b"picture") for entry in read_mix(mix_file)
    )
    assert predict.top_k == 2
    assert (certify.sigma, certify.samples, certify.HasField("alpha")) == (0.5, 200, False)
    assert explain.methods[0].smooth_grad.samples == 8
    assert explain.targets[0].class_index == 1
    assert (explain.model, explain.options.seed, explain.options.priority) == ("tiny", 3, common_pb2.PRIORITY_BATCH)
    assert attack.method.WhichOneof("method") == "fgsm"
    assert attack.eps == pytest.approx(8 / 255)
    assert maximize.settings.steps == 4
    assert maximize.goals[0].summands[0].target.class_index == 1
    assert (stylize.content.encoded, stylize.styles[0].image.encoded) == (b"picture", b"picture")
    assert influence.method.WhichOneof("method") == "neighbours"
    assert embed.pooling == 2
    assert [image.encoded for image in differentiate.images] == [b"picture"] * 3
    assert differentiate.goals[0].summands[0].target.class_index == 2
    assert differentiate.preprocess == common_pb2.PREPROCESS_MODEL_DEFAULT


def test_requests_are_built_for_every_picture(mix_file):
    built = requests.built(read_mix(mix_file), [b"one", b"two"])
    assert [[each.entry for each in of_entry] for of_entry in built] == [[i, i] for i in range(len(RPCS))]
    assert b"one" in built[0][0].body
    assert b"two" in built[0][1].body
    assert built[1][0].path == "/gradserve.v1.GradientService/Explain"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "requests: a mix has a table"),
        ("requests = 3", "requests: a mix has a table"),
        ("requests = [3]", r"requests\[0\]: must be a table"),
        ("[[request]]", "request: a mix has nothing but"),
        ("[[requests]", "mix.toml: "),
        ("[[requests]]", r"requests\[0\].rpc: must be one of predict, .*, not None"),
        ('[[requests]]\nrpc = "suspects"', r"requests\[0\].rpc: must be one of predict, .*, not 'suspects'"),
        ('[[requests]]\nrpc = ["predict"]', r"requests\[0\].rpc: must be one of predict"),
        ('[[requests]]\nrpc = "predict"\nwieght = 2', r"requests\[0\].wieght: no field .* nearest: weight"),
        ('[[requests]]\nrpc = "predict"\nweight = 0', r"requests\[0\].weight: must be a number above 0, not 0"),
        ('[[requests]]\nrpc = "predict"\nweight = true', r"requests\[0\].weight: must be a number above 0, not True"),
        ('[[requests]]\nrpc = "predict"\nweight = inf', r"requests\[0\].weight: must be a number above 0, not inf"),
        ('[[requests]]\nrpc = "predict"\nmodel = 1', r"requests\[0\].model: must be a text, not 1"),
        ('[[requests]]\nrpc = "predict"\nparameters = 1', r"requests\[0\].parameters: must be a table, not 1"),
        ('[[requests]]\nrpc = "predict"\n[[requests]]\nrpc="embed"\ndeadline = -1', r"requests\[1\].deadline: must be"),
        (
            '[[requests]]\nrpc = "predict"\npriority = "high"',
            r"requests\[0\] \(predict\): priority must be one of batch",
        ),
        ('[[requests]]\nrpc = "predict"\nmethod = "pgd"', r"requests\[0\] \(predict pgd\): predict has no methods"),
        (
            '[[requests]]\nrpc = "explain"\nmethod = "grad"',
            r"requests\[0\] \(explain grad\): no method 'grad'; nearest",
        ),
        ('[[requests]]\nrpc = "explain"\nparameters = { smples = 3 }', "no parameter of gradient 'smples'"),
        ('[[requests]]\nrpc = "predict"\nparameters = { topk = 3 }', "no parameter of predict 'topk'; nearest: top_k"),
        ('[[requests]]\nrpc = "predict"\nparameters = { top_k = "x" }', "top_k must be a whole number"),
        ('[[requests]]\nrpc = "predict"\nparameters = { model = "x" }', r"parameters: model has a field of its own"),
        ('[[requests]]\nrpc = "embed"\nparameters = { layr = "x" }', "no parameter of embed 'layr'; nearest: layer"),
        ('[[requests]]\nrpc = "influence"\nparameters = { tpo = 3 }', "no parameter of influence 'tpo'; nearest: top"),
        (
            '[[requests]]\nrpc = "maximize"\nparameters = { stps = 3 }',
            "no parameter of maximize 'stps'; nearest: steps",
        ),
        ('[[requests]]\nrpc = "stylize"\nparameters = { steps = "x" }', "steps: must be a whole number"),
    ],
)
def test_the_error_names_the_table_and_the_field(tmp_path, text, says):
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=says):
        requests.built(read_mix(path), [b""])


def test_shares_of_options():
    assert explanations(["predict", "grad_cam=2"], "tiny") == [
        MixEntry("predict", 1, "tiny"),
        MixEntry("explain", 2, "tiny", "grad_cam"),
    ]
