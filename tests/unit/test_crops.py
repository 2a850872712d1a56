"""Crops that are chosen before their file is decoded, against decoding all of it first."""

import io
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from crossbatch._torchvision import import_torchvision
from crossbatch.data import _decode, transforms
from crossbatch.data._decode import Part, decode, decode_part
from crossbatch.data.transforms import Seeded, eval_transform, seeded, train_transform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@pytest.fixture(autouse=True, params=["simplejpeg", "pillow"])
def decoder(request, monkeypatch):
    """Every test here holds with and without simplejpeg."""
    if request.param == "pillow":
        monkeypatch.setattr(_decode, "_simplejpeg", lambda: None)
    else:
        pytest.importorskip("simplejpeg")
    return request.param


def texture(width, height, seed=0):
    """Long waves that are strong, and short ones that are weak, as in a photo."""
    g = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = 127.5 + sum(
        5 / f * np.sin(x[..., None] * g.uniform(-f, f, 3) + y[..., None] * g.uniform(-f, f, 3))
        for f in (0.1, 0.2, 0.4, 0.8)
    )
    return Image.fromarray(waves.clip(0, 255).astype(np.uint8))


def saved(image, kind="jpeg", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image):
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_part_is_that_of_the_upright_picture(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(texture(90, 70), kind, exif=exif)
    whole = decode(content)
    part, sizes = Part(20, 11, 51, 66), []

    def choose(*size):
        sizes.append(size)
        return part

    assert (pixels(decode_part(content, choose, side=60)) == pixels(whole.crop(part))).all()
    assert sizes == [whole.size]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_a_part_of_any_mode(mode):
    if mode == "I;16":
        image = Image.fromarray(np.arange(4000, dtype=np.uint16).reshape(50, 80) * 16)
    else:
        image = texture(80, 50).convert(mode)
    content = saved(image, "tiff" if mode == "CMYK" else "png")
    part = Part(3, 5, 70, 33)
    assert (
        pixels(decode_part(content, lambda *_: part, side=8)) == pixels(decode(content).crop(part))
    ).all()


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize(
    ("part", "side", "scale"),
    [
        (Part(0, 0, 1203, 901), 112, 8),
        (Part(300, 99, 900, 899), 112, 4),
        (Part(301, 97, 525, 421), 112, 2),
        (Part(301, 97, 524, 421), 112, 1),
        (Part(1, 1, 1201, 449), 224, 2),
        (Part(5, 7, 40, 60), 224, 1),
    ],
)
def test_drafted_parts_are_what_the_whole_picture_shows(part, side, scale, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    width, height = (901, 1203) if orientation == 6 else (1203, 901)
    content = saved(texture(width, height), quality=95, exif=exif)
    drafted = decode_part(content, lambda *_: part, side=side)
    height, width = part.bottom - part.top, part.right - part.left
    assert drafted.shape == ((side, side, 3) if scale > 1 else (height, width, 3))
    whole = decode(content).crop(part).resize((side, side), Image.Resampling.BICUBIC)
    small = Image.fromarray(drafted).resize((side, side), Image.Resampling.BICUBIC)
    difference = np.abs(pixels(small) - pixels(whole))
    assert difference.mean() < 2.5, "of 255"


def test_a_draft_costs_a_fraction(monkeypatch, decoder):
    sizes = []
    if decoder == "simplejpeg":
        jpeg = _decode._jpeg_pixels
        watched = ("_jpeg_pixels", lambda *a: sizes.append((p := jpeg(*a)).shape[1::-1]) or p)
        monkeypatch.setattr(_decode, *watched)
    else:
        crop = Image.Image.crop
        monkeypatch.setattr(Image.Image, "crop", lambda i, b: sizes.append(i.size) or crop(i, b))
    content = saved(texture(1600, 1200))
    decode_part(content, lambda w, h: Part(0, 0, w, h), side=140)
    decode_part(content, lambda w, h: Part(0, 0, w, 139), side=140)
    assert sizes == [(200, 150), (1600, 1200)]


@pytest.mark.parametrize("part", [Part(0, 0, 333, 250), Part(0, 0, 60, 70), Part(9, 8, 330, 250)])
@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "progressive", "sideways", "more", "no end"])
def test_pixels_are_those_of_pillow(monkeypatch, kind, part):
    image = texture(333, 251).convert(kind if kind in ("L", "CMYK") else "RGB")
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "sideways" else 1
    content = saved(image, quality=85, progressive=kind == "progressive", exif=exif)
    content += b"more" * (kind == "more")
    content = content[:-2] if kind == "no end" else content
    if kind == "sideways":
        part = Part(*(part[i] for i in (1, 0, 3, 2)))

    def read():
        try:
            return decode_part(content, lambda *_: part, side=60)
        except OSError as error:
            return str(error)

    found = read()
    monkeypatch.setattr(_decode, "_simplejpeg", lambda: None)
    np.testing.assert_array_equal(found, read())


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff"])
def test_a_part_of_a_truncated_file_is_an_error(kind):
    content = saved(texture(200, 150), kind)
    with pytest.raises(Exception, match=r".+"):
        decode_part(content[: len(content) // 2], lambda w, h: Part(0, 0, w, h), side=300)


def test_random_crops_are_those_of_torchvision():
    import_torchvision()
    from torchvision.transforms import InterpolationMode, v2

    theirs = v2.Compose(
        [
            v2.RandomResizedCrop(48, scale=(0.2, 1.0), interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(MEAN), list(STD)),
        ]
    )
    ours = train_transform(48, MEAN, STD)
    step = 1 / 255 / min(STD)
    for seed, size in enumerate([(80, 60), (60, 90), (500, 40), (31, 47), (64, 1000)] * 4):
        image = texture(*size, seed=seed)
        wanted = Seeded(theirs)(image, seed)
        assert (Seeded(ours)(image, seed) - wanted).abs().max() < 2.01 * step
        with seeded(seed):
            read = ours.standardise(ours.read(saved(image, "png")))
            assert (read - wanted).abs().max() < 2.01 * step
        with seeded(seed):
            seen = ours.standardise(ours.see(np.asarray(image)))
            assert seen.equal(Seeded(ours)(image, seed))


def test_evaluation_reads_what_it_sees():
    transform = eval_transform(64, MEAN, STD)
    image = texture(300, 200)
    assert transform.standardise(transform.read(saved(image, "png"))).equal(transform(image))
    photo = saved(image, quality=95)
    read = transform.standardise(transform.read(photo))
    assert (read - transform(decode(photo))).abs().mean() < 0.05


def test_transforms_go_to_other_processes():
    for transform in (train_transform(8, MEAN, STD), eval_transform(8, MEAN, STD)):
        copy = pickle.loads(pickle.dumps(transform))
        image = texture(30, 20)
        assert Seeded(copy)(image, 3).equal(Seeded(transform)(image, 3))


def test_parts_cover_the_range_of_their_share_and_ratio():
    parts = []
    for seed in range(300):
        with seeded(seed):
            parts.append(transforms._random(400, 300, scale=(0.2, 1.0)).part)
    sizes = np.array([(p.right - p.left, p.bottom - p.top) for p in parts])
    shares = sizes.prod(1) / 120_000
    ratios = sizes[:, 0] / sizes[:, 1]
    assert 0.19 < shares.min() < 0.25
    assert shares.max() > 0.8
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.34
    assert all(0 <= p.left < p.right <= 400 and 0 <= p.top < p.bottom <= 300 for p in parts)
