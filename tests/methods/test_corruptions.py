"""Each corruption against what its definition says of simple pictures, and what all of them must keep."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import color, data

from gradserve_server.methods.attack import corruptions
from gradserve_server.methods.attack.corruptions import KINDS, SEVERITIES, corrupt
from gradserve_server.methods.attack.textures import frosting, plasma

# Their numbers trade one thing for another as severity grows, so that the mean squared error may fall:
NOT_MONOTONE = {"elastic_transform", "frost", "fog", "glass_blur"}
BLURS = ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "elastic_transform", "pixelate"]


def photo(side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(data.chelsea()[:300, 60:360]).resize((side, side)))


def grey(value: int, side: int = 224) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def star(side: int) -> np.ndarray:
    """One white pixel on black."""
    dark = grey(0, side)
    dark[side // 2, side // 2] = 255
    return dark


def numbers(kind: str, side: int) -> list[tuple[float, ...]]:
    return list(KINDS[kind].small if side == 32 else KINDS[kind].large)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_stays_one_and_chance_comes_from_the_seed(kind):
    for shape in [(32, 32), (224, 224), (8, 8), (120, 200), (1, 5)]:
        picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        before = picture.copy()
        found = corrupt(picture, kind, 3, seed=1)
        assert found.shape == picture.shape
        assert found.dtype == np.uint8
        assert np.array_equal(picture, before)
        assert np.array_equal(found, corrupt(picture, kind, 3, seed=1))
    others = [corrupt(photo(32), kind, 3, seed) for seed in range(4)]
    certain = kind in {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert all(np.array_equal(others[0], other) for other in others[1:]) == certain


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("kind", KINDS)
def test_severity_hurts_more_and_more(kind, side):
    clean = photo(side) / 255.0
    seeds = range(3 if side == 32 else 1)
    errors = [np.mean([(corrupt(photo(side), kind, s, seed) / 255 - clean) ** 2 for seed in seeds]) for s in SEVERITIES]
    assert min(errors) > 0
    if kind not in NOT_MONOTONE:
        assert errors == sorted(errors)


@pytest.mark.parametrize("kind", BLURS)
@pytest.mark.parametrize("side", [32, 224])
def test_what_only_moves_light_leaves_an_even_picture_alone(kind, side):
    assert np.array_equal(corrupt(grey(90, side), kind, 5), grey(90, side))


@pytest.mark.parametrize("side", [32, 224])
@pytest.mark.parametrize("severity", [1, 2])
def test_the_noises_have_the_variance_of_their_definition(side, severity):
    even = np.concatenate([corrupt(grey(128, side), "gaussian_noise", severity, seed) for seed in range(3)]) / 255
    (deviation,) = numbers("gaussian_noise", side)[severity - 1]
    assert even.std() == pytest.approx(deviation, rel=0.03)
    counted = np.concatenate([corrupt(grey(64, side), "shot_noise", severity, seed) for seed in range(3)]) / 255
    (photons,) = numbers("shot_noise", side)[severity - 1]
    assert counted.mean() == pytest.approx(64 / 255, rel=0.03)
    assert counted.var() == pytest.approx(64 / 255 / photons, rel=0.06)


def test_salt_and_pepper():
    found = corrupt(grey(128), "impulse_noise", 4)
    (share,) = numbers("impulse_noise", 224)[3]
    assert set(np.unique(found)) == {0, 128, 255}
    assert (found == 0).mean() == pytest.approx(share / 2, rel=0.05)
    assert (found == 255).mean() == pytest.approx(share / 2, rel=0.05)


def test_defocus_turns_a_point_into_a_disk():
    radius, _ = numbers("defocus_blur", 224)[4]
    found = corrupt(star(225), "defocus_blur", 5)[..., 0] / 255.0
    y, x = np.mgrid[0:225, 0:225]
    far = np.hypot(y - 112, x - 112)
    assert np.allclose(found[far <= radius - 2], 1 / (np.pi * radius**2), rtol=0.3)  # 1 of 255 levels: coarse
    assert not found[far > radius + 2].any()


def test_motion_smears_a_point_along_one_line():
    scene = corruptions.Scene(star(225) / 255.0, 1.0, np.random.default_rng(3))
    found = corruptions.motion_blur(scene, 15, 8)[..., 0]
    assert found.sum() == pytest.approx(1)
    y, x = np.nonzero(found)
    angle = np.random.default_rng(3).uniform(-45, 45)
    across = (y - 112) * np.cos(np.radians(angle)) - (x - 112) * np.sin(np.radians(angle))
    assert np.abs(across).max() <= 1
    assert np.hypot(y - 112, x - 112).max() == pytest.approx(30, abs=1)


def test_zoom_leaves_the_middle_and_moves_the_rim():
    y, x = np.mgrid[0:224, 0:224] - 111.5
    scene = corruptions.Scene(np.stack([np.hypot(y, x) / 200] * 3, -1), 1.0, np.random.default_rng(0))
    found = corruptions.zoom_blur(scene, 1.21, 0.02)
    zooms = np.arange(1, 1.21, 0.02)  # A cone shrinks by 1 / zoom everywhere.
    share = (1 + (1 / zooms).sum()) / (len(zooms) + 1)
    inside = np.hypot(y, x) > 20
    assert np.abs(found[inside] / (share * scene.x[inside]) - 1).max() < 2e-3


def test_glass_swaps_pixels_and_no_further_than_it_says():
    scene = corruptions.Scene(np.arange(40 * 40 * 3.0).reshape(40, 40, 3), 1.0, np.random.default_rng(0))
    found = corruptions.glass_blur(scene, 0, 2, 1)
    assert np.array_equal(np.sort(found.ravel()), np.sort(scene.x.ravel()))
    y, x = np.divmod(found[..., 0] // 3, 40)
    assert (found != scene.x).mean() > 0.5
    assert np.median(np.maximum(abs(y - np.mgrid[0:40, 0:40][0]), abs(x - np.mgrid[0:40, 0:40][1]))) <= 2


def test_elastic_of_nothing_is_nothing_and_pure_jolts_are_affine():
    x = photo(64) / 255.0
    still = corruptions.elastic_transform(corruptions.Scene(x, 1.0, np.random.default_rng(0)), 0, 1, 0)
    assert np.allclose(still, x)
    y, x = np.mgrid[0:64, 0:64] / 64.0
    ramp = np.stack([y, x, (x + y) / 2], -1)
    found = corruptions.elastic_transform(corruptions.Scene(ramp, 1.0, np.random.default_rng(1)), 0, 1, 4)
    inner = found[16:48, 16:48]
    assert np.abs(np.diff(inner, 2, axis=0)).max() < 1e-9
    assert np.abs(np.diff(inner, 2, axis=1)).max() < 1e-9
    assert not np.allclose(found, ramp, atol=1e-2)


def test_brightness_is_that_of_hsv():
    found = corrupt(photo(224), "brightness", 2)
    reference = color.rgb2hsv(photo(224) / 255)
    reference[..., 2] = np.clip(reference[..., 2] + 0.2, 0, 1)
    assert np.abs(found / 255 - color.hsv2rgb(reference)).max() <= 0.5 / 255 + 1e-9
    assert np.array_equal(corrupt(grey(0), "brightness", 2), grey(51))


def test_contrast_shrinks_towards_the_mean():
    mean = photo(224).mean((0, 1))
    assert np.abs(corrupt(photo(224), "contrast", 3) - (mean + 0.2 * (photo(224) - mean))).max() <= 0.5 + 1e-9


def test_pixelate_makes_blocks_of_their_means():
    found = corrupt(photo(224), "pixelate", 2).reshape(112, 2, 112, 2, 3)
    assert np.array_equal(found[:, :1, :, :1].repeat(2, 1).repeat(2, 3), found)
    assert np.abs(found[:, 0, :, 0] - photo(224).reshape(112, 2, 112, 2, 3).mean((1, 3))).max() <= 1


def test_jpeg_is_the_file_of_that_quality():
    file = io.BytesIO()
    Image.fromarray(photo(32)).save(file, "JPEG", quality=40)
    assert np.array_equal(corrupt(photo(32), "jpeg_compression", 5), np.asarray(Image.open(file)))


def test_snow_frost_and_fog_of_a_black_picture_show_themselves():
    flakes = corrupt(grey(0), "snow", 1)
    assert 0 < (flakes > 200).mean() < 0.5
    assert np.abs(flakes.astype(int) - flakes[::-1, ::-1]).max() <= 1  # The layer is added to itself turned round.
    ice = corrupt(grey(0), "frost", 3, seed=5)
    seeded = np.random.default_rng([5, list(KINDS).index("frost")])
    assert np.abs(ice / 255 - 0.7 * frosting((224, 224), seeded)).max() <= 0.5 / 255 + 1e-9
    assert not corrupt(grey(0), "fog", 3).any()  # Fog keeps the brightest value, here 0, by its definition.
    white = corrupt(grey(255), "fog", 3) / 255
    assert white.max() == pytest.approx(1, abs=0.01)
    assert white.min() == pytest.approx(1 / 3.5, abs=0.01)


def test_clouds_span_the_range_and_are_rougher_where_noise_decays_slowly():
    clouds = {decay: plasma((64, 96), decay, np.random.default_rng(0)) for decay in (1.2, 3.0)}
    rough = {decay: np.abs(np.diff(cloud)).mean() for decay, cloud in clouds.items()}
    assert all((cloud.min(), cloud.max()) == (0, 1) for cloud in clouds.values())
    assert rough[1.2] > 2 * rough[3.0]


def test_there_are_fifteen_kinds_of_five_severities():
    assert len(KINDS) == 15
    assert all(len(kind.large) == len(kind.small) == 5 for kind in KINDS.values())
    with pytest.raises(ValueError, match="1 to 5, not 6"):
        corrupt(grey(0, 8), "snow", 6)
