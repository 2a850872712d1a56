"""Files of every kind to tensors, each a function of its row and seed alone."""

import io

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from crossbatch.data import ImageDataset, Manifest, item_keys, transforms
from crossbatch.data._decode import decode
from crossbatch.errors import CrossbatchError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def noise(width=40, height=30, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(width, height):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, 255 - x], axis=2).astype(np.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(content, **options):
    image = decode(content, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def test_plain_pictures_are_unchanged():
    for kind in ("png", "bmp", "tiff"):
        assert (pixels(saved(Image.fromarray(noise()), kind)) == noise()).all()


def test_paths_and_bytes_are_the_same(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "x.jpg")
    assert (pixels(tmp_path / "x.jpg") == pixels((tmp_path / "x.jpg").read_bytes())).all()


def test_grey_and_black_and_white():
    grey = noise(channels=1)
    assert (pixels(saved(Image.fromarray(grey), "png")) == grey[..., None]).all()
    bits = Image.fromarray(grey).convert("1")
    assert (pixels(saved(bits, "png"))[..., 0] == np.asarray(bits) * 255).all()


def test_transparency_lies_on_white():
    layer = noise(channels=4)
    alpha = layer[..., 3:].astype(float) / 255
    wanted = layer[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(pixels(saved(Image.fromarray(layer), "png")) - wanted).max() <= 1
    layer[..., 3] = 0
    assert (pixels(saved(Image.fromarray(layer), "png")) == 255).all()


def test_transparent_palettes_and_grey_lie_on_white():
    palette = Image.new("P", (4, 4))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((0, 0), 1)
    assert pixels(saved(palette, "png"))[0, :2].tolist() == [[40, 50, 60], [10, 20, 30]]
    shown = pixels(saved(palette, "gif", transparency=0))
    assert shown[0, :2].tolist() == [[40, 50, 60], [255, 255, 255]]
    shown = pixels(saved(palette, "png", transparency=bytes([0, 255])))
    assert shown[0, :2].tolist() == [[40, 50, 60], [255, 255, 255]]
    grey = Image.new("LA", (1, 1), (100, 0))
    assert pixels(saved(grey, "png")).tolist() == [[[255, 255, 255]]]
    solid = Image.new("RGB", (1, 1), (9, 8, 7))
    assert (pixels(saved(solid, "png", transparency=(9, 8, 7))) == 255).all()


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = (noise(channels=1).astype(np.uint16) * 257).astype(np.uint16)
    assert (pixels(saved(Image.fromarray(deep), kind))[..., 1] == noise(channels=1)).all()


def test_cmyk_is_converted():
    colour = Image.new("RGB", (16, 16), (200, 30, 60))
    shown = pixels(saved(colour.convert("CMYK"), "jpeg", quality=95))
    assert np.abs(shown.astype(int) - [200, 30, 60]).max() < 12


def test_the_first_frame_of_an_animation():
    frames = [Image.fromarray(noise(seed=seed)).quantize(16) for seed in range(2)]
    content = saved(frames[0], "gif", save_all=True, append_images=frames[1:])
    assert (pixels(content) == np.asarray(frames[0].convert("RGB"))).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_pictures_stand_upright(orientation, kind):
    content = saved(Image.fromarray(noise()), kind)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = saved(Image.open(io.BytesIO(content)), kind, exif=exif)
    flips = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, 1),
    }
    assert (pixels(turned) == flips[orientation](noise())).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_orientation_does_no_harm():
    content = saved(Image.fromarray(noise()), "jpeg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert pixels(content).shape == (30, 40, 3)


def test_jpegs_are_decoded_no_larger_than_wanted():
    content = saved(Image.fromarray(smooth(640, 480)), "jpeg", quality=95)
    assert decode(content).size == (640, 480)
    assert decode(content, shortest=200).size == (320, 240)
    assert decode(content, shortest=241).size == (640, 480)
    assert decode(content, shortest=1).size == (80, 60)
    small = np.asarray(Image.fromarray(pixels(content)).resize((160, 120), Image.Resampling.BOX))
    drafted = pixels(content, shortest=120)
    assert np.abs(drafted.astype(int) - small).mean() < 3


def test_what_cannot_be_decoded():
    with pytest.raises(OSError, match="floating-point pixels"):
        decode(saved(Image.new("F", (2, 2)), "tiff"))
    with pytest.raises(OSError, match="truncated"):
        decode(saved(Image.fromarray(noise()), "jpeg")[:-300])
    with pytest.raises(OSError, match="cannot identify"):
        decode(b"text")


@pytest.fixture
def photos(tmp_path):
    for i in range(6):
        Image.fromarray(smooth(90 + i, 70)).save(tmp_path / f"{i}.jpg")
    table = pa.table({"path": [f"{i}.jpg" for i in range(6)], "label": list("aabbcc")})
    return Manifest(table, tmp_path)


def train():
    return transforms.train_transform(32, MEAN, STD)


def test_evaluation_sees_the_centre():
    image = Image.fromarray(smooth(640, 480))
    tensor = transforms.eval_transform(224, MEAN, STD)(image)
    assert tensor.shape == (3, 224, 224)
    assert tensor.dtype == torch.float32
    whole = image.resize((round(640 * 256 / 480), 256), Image.Resampling.BICUBIC)
    left = (whole.width - 224) // 2
    wanted = np.asarray(whole.crop((left, 16, left + 224, 240)), dtype=np.float32) / 255
    shown = tensor * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
    assert np.abs(shown.permute(1, 2, 0).numpy() - wanted).max() < 3 / 255


def test_evaluation_may_see_the_whole_square():
    pixels = smooth(64, 64)
    whole = transforms.eval_transform(64, (0, 0, 0), (1, 1, 1), crop=1)(Image.fromarray(pixels))
    assert (whole.permute(1, 2, 0) * 255).round().byte().equal(torch.from_numpy(pixels))
    assert transforms.eval_transform(60, MEAN, STD, crop=0.5).side == 120


@pytest.mark.parametrize("crop", [0, 1.5])
def test_crops_out_of_range(crop):
    with pytest.raises(CrossbatchError, match=r"`crop` in \(0, 1\]. Got .*1 keeps the whole side"):
        transforms.eval_transform(8, MEAN, STD, crop=crop)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 400)])
def test_odd_shapes_cost_no_more_than_others(size):
    image = Image.new("RGB", size, (255, 0, 0))
    for transform in (train(), transforms.eval_transform(32, MEAN, STD)):
        tensor = transform(image)
        assert tensor.shape == (3, 32, 32)
        assert tensor[0].allclose(torch.tensor((1 - MEAN[0]) / STD[0]))


def test_training_crops_differ_and_keep_within_their_scale():
    ramp = Image.fromarray(smooth(400, 400))
    dataset = transforms.Seeded(transforms.train_transform(64, (0, 0, 0), (1, 1, 1)))
    crops = [dataset(ramp, seed) for seed in range(200)]
    spans = [(crop[0].max() - crop[0].min()).item() for crop in crops]
    areas = [
        (crop[0].max() - crop[0].min()).item() * (crop[1].max() - crop[1].min()).item()
        for crop in crops
    ]
    assert len(set(spans)) > 100
    assert 0.15 < min(areas) < 0.3
    assert max(areas) > 0.9
    mirrored = sum((crop[0, :, 0].mean() > crop[0, :, -1].mean()).item() for crop in crops)
    assert 60 < mirrored < 140


def test_an_item_depends_on_its_seed_alone(photos):
    dataset = ImageDataset(photos, train())
    first = dataset[2, 7]
    torch.manual_seed(99)
    torch.rand(5)
    assert dataset[2, 7].equal(first)
    assert not dataset[2, 8].equal(first)
    assert dataset[3].equal(dataset[3, 3])


def test_items_leave_the_random_state_alone(photos):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    _ = ImageDataset(photos, train())[0, 1]
    assert torch.rand(2).equal(wanted)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # where there is one core
def test_workers_change_nothing(photos):
    dataset = ImageDataset(photos, train())
    batches = [item_keys([0, 5, 3], seed=1, step=0), item_keys([5, 4, 1], seed=1, step=1)]
    alone, shared = (
        list(DataLoader(dataset, batch_sampler=batches, num_workers=workers)) for workers in (0, 2)
    )
    assert all(one.equal(other) for one, other in zip(alone, shared, strict=True))
    assert not alone[0][1].equal(alone[1][0])


@pytest.mark.parametrize("collate", [None, ImageDataset.collate])
def test_a_batch_is_its_images(photos, collate):
    dataset = ImageDataset(photos, train())
    keys = item_keys([0, 5, 3], seed=1, step=0)
    batch = next(iter(DataLoader(dataset, batch_sampler=[keys], collate_fn=collate)))
    assert batch.equal(torch.stack([dataset[key] for key in keys]))
    items = dataset.__getitems__(keys)
    assert ImageDataset.collate(items).data_ptr() == items[0].data_ptr(), "nothing is copied"
    sizes = ImageDataset(photos, lambda image: torch.tensor(image.size))
    assert ImageDataset.collate(sizes.__getitems__([1, 2])).tolist() == [[91, 70], [92, 70]]


def test_keys_are_rows_with_seeds_of_their_own():
    keys = item_keys(np.array([4, 4, 2]), seed=0, step=5)
    assert [row for row, _ in keys] == [4, 4, 2]
    assert len({seed for _, seed in keys}) == 3
    assert keys == item_keys([4, 4, 2], seed=0, step=5)
    assert {seed for _, seed in keys}.isdisjoint(
        seed for _, seed in item_keys([4, 4, 2], seed=0, step=6)
    )
    assert all(0 <= seed < 2**63 for _, seed in keys)


def test_embedded_images_look_as_their_files(photos):
    files, embedded = (ImageDataset(m, train()) for m in (photos, photos.embed()))
    assert len(embedded) == 6
    assert embedded[4, 1].equal(files[4, 1])


def test_a_transform_of_ones_own_gets_the_whole_picture(photos):
    sizes = ImageDataset(photos, lambda image: torch.tensor(image.size))
    assert sizes[2].tolist() == [92, 70]


def test_a_plain_loader_sees_every_row(photos):
    dataset = ImageDataset(photos, transforms.eval_transform(8, MEAN, STD))
    batch = next(iter(DataLoader(dataset, batch_size=6)))
    assert batch.shape == (6, 3, 8, 8)
    with pytest.raises(IndexError):
        dataset[6]


@pytest.mark.parametrize("embed", [False, True])
def test_a_broken_image_is_named(photos, embed):
    (photos.root / "3.jpg").write_bytes(b"nothing")
    manifest = photos.select(np.array([3, 2]))
    dataset = ImageDataset(manifest.embed() if embed else manifest, train())
    message = r"in row 0 \(id 3\) of the manifest. Got 3.jpg: cannot identify.*Mend the file"
    with pytest.raises(CrossbatchError, match=message):
        dataset[0, 0]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_worker_passes_the_message_on(photos):
    (photos.root / "3.jpg").unlink()
    loader = DataLoader(ImageDataset(photos, train()), batch_sampler=[[(3, 0)]], num_workers=1)
    with pytest.raises(CrossbatchError, match=r"in row 3 \(id 3\).*No such file"):
        next(iter(loader))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, r"`size` of at least 1 pixel. Got 0"),
        ({"std": (1, 1)}, r"`mean` and `std` of three channels, `std` positive. Got"),
        ({"mean": (1,)}, r"`mean` and `std` of three channels"),
        ({"std": (1, 0, 1)}, r"`std` positive.*\(1, 0, 1\). Use those of the trunk"),
    ],
)
@pytest.mark.parametrize("make", [transforms.train_transform, transforms.eval_transform])
def test_transforms_out_of_range(make, arguments, message):
    with pytest.raises(CrossbatchError, match=message):
        make(**({"size": 8, "mean": MEAN, "std": STD} | arguments))


@pytest.mark.parametrize("scale", [(0, 1), (0.5, 0.2), (0.2, 1.5)])
def test_scales_out_of_range(scale):
    with pytest.raises(CrossbatchError, match=r"`scale` with 0 < least ≤ largest ≤ 1. Got"):
        transforms.train_transform(8, MEAN, STD, scale=scale)
