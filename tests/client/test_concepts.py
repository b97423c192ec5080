"""Concepts by the client and on the command line, pictures that are drawn, and directions in files."""

import io
import json
import pickle

import numpy as np
import pytest
from PIL import Image

from gradserve import AsyncClient, Direction, Goal, InvalidArgument, NotFound, Rank, cli, patterns
from gradserve.concepts import pictures
from gradserve.messages import vectors

from .fake_concepts import direction_of

PICTURES = [Image.new("RGB", (8, 8), (i, 0, 0)) for i in range(12)]
NUMBERS = np.array([3.0, 0.0, -4.0], np.float32)


def run(capsys, *words):
    """What a command prints, which must end well."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    printed = capsys.readouterr()
    assert not ended.value.code, printed.err
    return printed.out


def failed(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    assert ended.value.code
    return capsys.readouterr().err


def test_the_request_and_the_result(client, server):
    result = client.concepts(
        PICTURES, np.zeros((4, 6, 8, 3), np.uint8), classes=[Rank(1), "espresso"], class_images=PICTURES[:2],
        layer="blocks.3", random_directions=30, keep_as="mine", seed=5,
    )  # fmt: skip
    request = server.requests[-1]
    counts = len(request.concept_images), len(request.negative_images), len(request.class_images)
    assert counts == (12, 4, 2)
    assert [each.WhichOneof("kind") for each in request.classes] == ["rank", "class_name"]
    assert (request.layer, request.random_directions, request.keep_as, request.options.seed) == (
        "blocks.3",
        30,
        "mine",
        5,
    )
    assert (result.layer, result.name, result.by_weights) == ("blocks.3", "mine", False)
    assert result.expires == "2033-05-18T03:33:20+00:00"
    assert result.vector.tolist() == [0.5] * 4
    assert result.classes[0].verdict == "for"


def test_all_classes_by_name(client):
    result = client.concepts(PICTURES, PICTURES)
    assert [(row.name, row.rank, row.verdict) for row in result] == [
        ("goldfish", 1, "for"),
        ("tabby cat", 2, "insignificant"),
        ("espresso", 3, "against"),
    ]
    assert result["espresso"].z == -9.0
    assert "goldfish z 9.0" in repr(result)
    with pytest.raises(KeyError, match="no class 'dog'"):
        result["dog"]


def test_a_misspelt_argument_is_told(client):
    with pytest.raises(ValueError, match="class_images"):
        client.concepts(PICTURES, PICTURES, class_image=PICTURES)


def test_kept_directions_are_listed_and_deleted(client):
    assert [(each.name, each.channels) for each in client.directions()] == [("dots", 4), ("stripes", 4)]
    client.delete_direction("dots")
    assert [each.name for each in client.directions()] == ["stripes"]
    with pytest.raises(NotFound, match="no direction 'dots'"):
        client.delete_direction("dots")


async def test_the_client_for_asyncio_too(server):
    async with AsyncClient(server.target) as client:
        assert (await client.concepts(PICTURES, PICTURES)).layer == "last"
        assert [each.name for each in await client.directions()] == ["dots", "stripes"]


# Directions as targets


def ask(client, target):
    """The direction in the requests of three calls, which must be the same."""
    found = []
    client.explain(PICTURES[0], "gradient", target=target)
    found.append(direction_of(client.server.requests[-1]))
    client.differentiate(PICTURES[:1], target)
    found.append(direction_of(client.server.requests[-1]))
    client.maximize(Goal(target) * 2.0)
    found.append(direction_of(client.server.requests[-1]))
    assert found[0] == found[1] == found[2]
    return found[0]


@pytest.fixture
def asking(client, server):
    client.server = server
    return client


def test_a_direction_by_numbers_result_or_name(asking):
    own = ask(asking, Direction("last", NUMBERS))
    assert (own.layer, list(own.vector), own.name) == ("last", [3, 0, -4], "")
    own = ask(asking, asking.concepts(PICTURES, PICTURES).direction)
    assert (own.layer, list(own.vector)) == ("last", [0.5] * 4)
    own = ask(asking, Direction.kept("stripes"))
    assert (own.layer, list(own.vector), own.name) == ("", [], "stripes")


def save_file(arrays, path):
    """Writes a file as the library itself does, which the tests of the client alone do not have."""
    pytest.importorskip("safetensors.numpy").save_file(arrays, path)


def test_a_direction_in_a_file(asking, tmp_path):
    np.save(tmp_path / "a.npy", NUMBERS)
    np.savez(tmp_path / "b.npz", direction=NUMBERS, metadata="{}")
    save_file({"direction": NUMBERS, "other": NUMBERS[:1]}, tmp_path / "c.safetensors")
    save_file({"mine": NUMBERS.astype(np.float64)}, tmp_path / "d.safetensors")
    asking.concepts(PICTURES, PICTURES).save(tmp_path / "e.npz")
    for name in ("a.npy", "b.npz", "c.safetensors", "d.safetensors"):
        assert list(ask(asking, Direction("last", tmp_path / name)).vector) == [3, 0, -4]
    assert vectors.read(tmp_path / "e.npz").tolist() == [0.5] * 4


class Evil:
    def __reduce__(self):
        return (print, ("this was run",))


def write_bad(folder):
    """Files that hold no direction, with what is said of each."""
    np.save(folder / "pickled.npy", np.array([Evil()], object), allow_pickle=True)
    (folder / "plain.npy").write_bytes(pickle.dumps(Evil()))
    np.save(folder / "matrix.npy", np.ones((2, 3)))
    np.save(folder / "nan.npy", np.array([1.0, np.nan]))
    np.save(folder / "infinite.npy", np.array([1.0, np.inf]))
    np.save(folder / "huge.npy", np.array([1e300, 1.0]))
    np.save(folder / "zero.npy", np.zeros(4))
    np.save(folder / "empty.npy", np.zeros(0))
    np.save(folder / "words.npy", np.array(["a", "b"]))
    np.save(folder / "complex.npy", np.array([1j, 2]))
    (folder / "list.safetensors").write_bytes((6).to_bytes(8, "little") + b"[1, 2]")
    np.save(folder / "large.npy", np.ones(vectors.MAX_BYTES, np.float32))
    np.savez(folder / "other.npz", vector=NUMBERS)
    save_file({"a": NUMBERS, "b": NUMBERS}, folder / "two.safetensors")
    save_file({"a": NUMBERS.astype(np.int32)}, folder / "whole.safetensors")
    (folder / "damaged.safetensors").write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    (folder / "nothing.safetensors").write_bytes(b"")
    head = b'{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}'
    (folder / "short.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + b"1234")
    return {
        "pickled.npy": "has no direction",
        "plain.npy": "has no direction",
        "matrix.npy": "one number for each channel",
        "nan.npy": "finite numbers",
        "infinite.npy": "finite numbers",
        "huge.npy": "finite numbers",
        "zero.npy": "not all of them 0",
        "empty.npy": "one number for each channel",
        "words.npy": "which are no real numbers",
        "large.npy": "a direction at most 1048576",
        "other.npz": "has no direction",
        "two.safetensors": "it has 2 arrays",
        "whole.safetensors": "its numbers are I32",
        "damaged.safetensors": "header of the safetensors file is damaged",
        "complex.npy": "type complex128, which are no real numbers",
        "list.safetensors": "header of the safetensors file is damaged",
        "nothing.safetensors": "header of the safetensors file is damaged",
        "short.safetensors": "outside of the file",
    }


def test_files_that_hold_no_direction(asking, server, tmp_path, capsys):
    cases = write_bad(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(cases)
    before = len(server.requests)
    for name, text in cases.items():
        with pytest.raises(ValueError, match=text):
            asking.explain(PICTURES[0], "gradient", target=Direction("last", tmp_path / name))
    assert len(server.requests) == before
    assert "this was run" not in capsys.readouterr().out


def test_a_direction_without_anything(asking):
    with pytest.raises(ValueError, match="a direction needs its numbers"):
        asking.explain(PICTURES[0], "gradient", target=Direction("last"))


# Pictures that are drawn


@pytest.mark.parametrize("draw", [*patterns.PATTERNS.values(), patterns.blobs], ids=lambda each: each.__name__)
def test_pictures_come_from_their_seed_alone(draw):
    first, again, other = draw(5, 3), draw(3, 3), draw(3, 4)
    assert {each.size for each in first} == {(224, 224)}
    pixels = [np.asarray(each) for each in first]
    assert all((a == np.asarray(b)).all() for a, b in zip(pixels, again, strict=False))
    assert not any((a == np.asarray(b)).all() for a, b in zip(pixels, other, strict=False))
    assert len({each.tobytes() for each in pixels}) == 5


def along(pixels, axis):
    """How much brightness changes along an axis."""
    return np.abs(np.diff(pixels.mean(2), axis=axis)).mean()


def test_orientation_and_colours_of_stripes():
    drawn = {way: patterns.stripes(8, orientation=way) for way in ("vertical", "horizontal")}
    upright, lying = (np.stack([np.asarray(each, float) for each in drawn[way]]) for way in drawn)
    print([along(each, 1) / along(each, 0) for each in upright])
    assert np.mean([along(each, 1) / along(each, 0) for each in upright]) > 1.5
    assert np.mean([along(each, 0) / along(each, 1) for each in lying]) > 1.5
    grey = np.stack([np.asarray(each, float) for each in patterns.stripes(8, colours="black_white")])
    assert np.abs(grey - grey.mean(3, keepdims=True)).mean() < 8
    assert all(each.std() > 60 for each in grey)
    with pytest.raises(ValueError, match="black_white"):
        patterns.stripes(1, colours="pink")
    with pytest.raises(ValueError, match="orientation is one of any"):
        patterns.dots(1, orientation="up")


@pytest.mark.parametrize("colour", patterns.TINTS)
def test_tinted_pictures_have_the_colour(colour):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
    (tinted,) = patterns.tinted([photo], colour)
    mean, tint = np.asarray(tinted, float).mean((0, 1)), np.array(patterns.TINTS[colour])
    assert tinted.size == photo.size
    assert np.corrcoef(mean, tint)[0, 1] > 0.95


# The command line


@pytest.fixture
def folder(tmp_path):
    for i in range(11):
        pixels = np.random.default_rng(i).integers(0, 256, (600 if i == 10 else 16, 20, 3), np.uint8)
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i:02}.png")
    return tmp_path / "photos"


def test_drawn_stripes_against_photos(server, capsys, folder):
    words = ("concepts", "--concept", "stripes", "--negatives", str(folder), "--count", "5", "--server", server.target)
    out = run(capsys, *words)
    request = server.requests[-1]
    assert (len(request.concept_images), len(request.negative_images)) == (5, 11)
    assert max(len(each.encoded) for each in request.negative_images) < 60_000
    assert "stripes in last" in out
    assert [line.split()[:2] for line in out.splitlines()[2:4]] == [["1", "goldfish"], ["2", "tabby"]]
    assert "insignificant" in out


@pytest.mark.parametrize("concept", [*pictures.DRAWN, "red", "FOLDER"])
def test_every_kind_of_concept(server, capsys, folder, concept):
    named = str(folder) if concept == "FOLDER" else concept
    words = ("--concept", named, "--negatives", str(folder), "--count", "4", "--json", "--server", server.target)
    document = json.loads(run(capsys, "concepts", *words))
    counts = len(server.requests[-1].concept_images), len(server.requests[-1].negative_images)
    assert counts == {"FOLDER": (11, 11), "red": (5, 6)}.get(concept, (4, 11))
    assert document["concept"] == ("photos" if concept == "FOLDER" else concept)
    assert document["classes"][0]["verdict"] == "for"
    assert document["vector"] == [0.5] * 4


def test_blobs_are_the_default_negatives(server, capsys):
    run(capsys, "concepts", "--count", "3", "--class", "rank:2", "--seed", "4", "--server", server.target)
    request = server.requests[-1]
    assert (len(request.negative_images), request.classes[0].rank, request.options.seed) == (3, 2, 4)


def test_what_is_saved(server, capsys, tmp_path, folder):
    common = ("--negatives", str(folder), "--count", "3", "--server", server.target)
    for name in ("a.npy", "a.npz"):
        run(capsys, "concepts", *common, "--out", str(tmp_path / name))
        assert vectors.read(tmp_path / name).tolist() == [0.5] * 4
    run(capsys, "concepts", *common, "--out", str(tmp_path / "deeper" / "page.html"))
    page = (tmp_path / "deeper" / "page.html").read_text()
    assert page.count("data:image/") == 3 + 10
    assert "goldfish" in page
    assert "FEW_PICTURES" in page
    assert "saved as .npy or .npz, and a page as .html" in failed(capsys, "concepts", *common, "--out", "a.png")


def test_a_kept_direction_on_the_command_line(server, capsys, folder, tmp_path):
    out = run(capsys, "concepts", "--count", "3", "--keep-as", "mine", "--server", server.target)
    assert "kept as mine until 2033-05-18T03:33:20+00:00: --target direction:mine" in out
    photo = str(folder / "00.png")
    run(capsys, "explain", photo, "--target", "direction:mine", "--method", "gradient", "--server", server.target,
        "--out", str(tmp_path / "map.png"))  # fmt: skip
    assert direction_of(server.requests[-1]).name == "mine"
    np.save(tmp_path / "own.npy", NUMBERS)
    run(capsys, "maximize", "--target", f"direction:{tmp_path}/own.npy@last", "--server", server.target,
        "--out", str(tmp_path / "made.png"))  # fmt: skip
    own = direction_of(server.requests[-1])
    assert (own.layer, list(own.vector)) == ("last", [3, 0, -4])
    assert "write direction:NAME or direction:FILE@LAYER" in failed(
        capsys, "maximize", "--target", "direction:@last", "--server", server.target
    )


def test_directions_on_the_command_line(server, capsys):
    assert [line.split()[0] for line in run(capsys, "directions", "--server", server.target).splitlines()] == [
        "name",
        "dots",
        "stripes",
    ]
    words = ("directions", "--delete", "dots", "--delete", "stripes", "--server", server.target)
    assert run(capsys, *words).strip() == "none is kept"
    assert "no direction 'dots'" in failed(capsys, "directions", "--delete", "dots", "--server", server.target)


def test_an_unknown_concept_is_told_with_the_nearest(server, capsys):
    text = failed(capsys, "concepts", "--concept", "strips", "--server", server.target)
    assert "stripes" in text
    assert server.requests == []


def test_an_orientation_of_what_is_not_drawn_is_refused(server, capsys, folder):
    words = "concepts", "--concept", str(folder), "--orientation", "vertical", "--server", server.target
    assert "--orientation is for stripes, dots, chequers" in failed(capsys, *words)
    assert server.requests == []


def test_a_file_without_its_layer_is_no_name(server, capsys, tmp_path):
    path = tmp_path / "own.npy"
    np.save(path, NUMBERS)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    words = "explain", str(tmp_path / "a.png"), "--target", f"direction:{path}", "--server", server.target
    assert f"direction:{path}@LAYER" in failed(capsys, *words).replace("\n", "")


def test_photos_are_sent_small_enough_for_many_in_a_request():
    photo = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    photo = np.asarray(Image.fromarray(photo).resize((60, 48)).resize((500, 400)))
    files = [pictures.sent(photo), pictures.sent(photo[:200, :200]), pictures.sent(photo[:20, :20])]
    opened = [Image.open(io.BytesIO(file)) for file in files]
    assert [each.size for each in opened] == [(384, 307), (200, 200), (20, 20)]
    assert opened[2].format == "PNG"
    assert max(map(len, files)) <= pictures.MAX_PNG_BYTES


def test_refusals_of_the_server_reach_the_caller(client):
    with pytest.raises(InvalidArgument):
        client.concepts(PICTURES, PICTURES, model="invalid")
