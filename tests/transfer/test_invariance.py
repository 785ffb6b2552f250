"""Changes against their definitions, and agreement against networks whose answers are known by hand."""

import colorsys
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

from kdviz import transfer
from kdviz.errors import MissingExtraError
from kdviz.transfer import CHANGES, Change, Pixels, Words, changes
from kdviz.transfer.question import generator_of

PLAIN = Pixels((0.0,) * 3, (1.0,) * 3)
EACH = [(kind, name) for kind, known in CHANGES.items() for name in known]


def apply(kind, name, sample, strength, row=0):
    return CHANGES[kind][name].apply(sample, strength, generator_of(0, row))


def draw_sample(kind, row=0):
    generator = generator_of(1, row)
    if kind == "image":
        return torch.rand(3, 12, 9, generator=generator)
    if kind == "cloud":
        return torch.randn(40, 4, generator=generator)
    ids = torch.randint(10, 1000, (20,), generator=generator)
    free = torch.arange(20).clamp(1, 14) == torch.arange(20)
    return Words(ids, free, 3)


class Rule(nn.Module):
    """Gives class 1 where a rule of the inputs holds, else 0; remembers what it was given."""

    def __init__(self, rule):
        super().__init__()
        self.rule, self.given = rule, []

    def forward(self, inputs=None, **named):
        inputs = named["input_ids"] if inputs is None else inputs
        self.given += [(named.get("attention_mask", inputs), row.numpy().tobytes()) for row in inputs]
        return nn.functional.one_hot(self.rule(inputs).long(), 2).float()

    def seen(self):
        return sorted(row for _, row in self.given)


def by_mean(inputs):
    return inputs.double().flatten(1).mean(1) > 0.5


def find_unchanged(rule, inputs, **options):
    """Ask one rule, as teacher and as student, who are to agree; return (change, level, sample)."""
    networks = {"teacher": Rule(rule), "student": Rule(rule)}
    given = {"pixels": PLAIN, "progress": False, "teacher": "teacher"} | options
    count = len(inputs) if torch.is_tensor(inputs) else len(inputs["input_ids"])
    ds = transfer.invariance(networks, inputs, np.zeros(count, int), **given)
    assert networks["teacher"].seen() == networks["student"].seen()
    assert bool((ds["unchanged"] == ds["unchanged"].sel(network="teacher")).all())
    return ds["unchanged"].sel(network="student")


# --- changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), EACH)
def test_change__of_strength_0_changes_nothing_to_the_bit(kind, name):
    sample = draw_sample(kind)
    before = sample.ids if kind == "text" else sample
    assert torch.equal(apply(kind, name, sample, 0.0), before)
    assert not torch.equal(apply(kind, name, sample, CHANGES[kind][name].strengths[-1]), before)


@pytest.mark.parametrize("name", ["jitter", "blur", "noise", "rotation"])
def test_change_of_images__grows_from_nothing(name):
    image = draw_sample("image")
    assert (apply("image", name, image, 1e-3 if name == "blur" else 1e-5) - image).abs().max() < 1e-4


@pytest.mark.parametrize("name", CHANGES["image"])
def test_change_of_images__leaves_a_grey_one_grey_and_of_its_brightness(name):
    grey = torch.full((3, 12, 9), 0.4)
    changed = apply("image", name, grey, CHANGES["image"][name].strengths[-1])
    if name == "jitter":  # contrast, saturation and hue have nothing to change
        drawn = torch.rand(1, generator=generator_of(0, 0), dtype=torch.float64).item()
        # torchvision's weights of red, green and blue sum to 0.9999
        torch.testing.assert_close(changed, grey * (1 + 0.6 * (2 * drawn - 1)), rtol=2e-4, atol=0)
    elif name != "noise":
        torch.testing.assert_close(changed, grey)


@pytest.mark.parametrize(("strength", "most"), [(0.2, 0.1), (0.6, 0.2)])
def test_jitter__changes_each_factor_by_its_strength_and_hue_by_half_up_to_that_published(strength, most):
    """Red keeps its hue under all but the last, whose angle is read off two of the colours."""
    red = torch.tensor([0.5, 0.25, 0.25])[:, None, None].expand(3, 2, 2)
    brightness, hues = [], []
    for row in range(300):
        colours = apply("image", "jitter", red, strength, row)[:, 0, 0].tolist()
        brightness.append(max(colours) / 0.5)
        hues.append(colorsys.rgb_to_hsv(*colours)[0])
    turns = np.minimum(hues, 1 - np.array(hues))
    assert turns.max() <= most + 1e-6
    assert turns.max() > 0.9 * most  # of 300 draws, the largest is within a tenth but once in 10^13
    assert 0.9 < np.mean(brightness) < 1.1


def test_blur__is_a_gaussian_of_so_many_pixels():
    image = torch.rand(3, 20, 24, generator=generator_of(0, 0))
    expected = ndimage.gaussian_filter(image.double().numpy(), (0, 1.0, 1.0), mode="mirror", truncate=3.0)
    np.testing.assert_allclose(apply("image", "blur", image, 1.0), expected, atol=1e-6)


def test_noise__has_its_deviation_and_stays_in_the_range():
    noisy = apply("image", "noise", torch.full((3, 60, 60), 0.5), 0.1)
    assert float(noisy.std()) == pytest.approx(0.1, abs=4 * 0.1 / np.sqrt(2 * 10800))
    dark = apply("image", "noise", torch.zeros(3, 60, 60), 0.1)
    assert float(dark.min()) == 0.0


def test_shift__cuts_a_window_out_of_the_reflected_image():
    image = draw_sample("image")
    wider = np.pad(image.numpy(), ((0, 0), (2, 3), (2, 3)), mode="reflect")
    for row in range(20):
        top, left = (torch.rand(2, generator=generator_of(0, row), dtype=torch.float64) * 6).int().tolist()
        window = wider[:, top : top + 12, left : left + 9]
        np.testing.assert_array_equal(apply("image", "shift", image, 5, row), window)


def test_crop__shows_the_share_of_the_area_that_is_left():
    """On a ramp, from one edge of the crop to the other there is the side that is left."""
    ramp = torch.linspace(0, 1, 101).expand(3, 101, 101)
    for row in range(5):
        shown = apply("image", "crop", ramp, 0.75, row)[0, 50]
        assert float(shown[-1] - shown[0]) == pytest.approx(0.5, abs=0.02)


def test_rotation__turns_about_the_middle_by_at_most_its_degrees():
    axes = np.mgrid[-20:21, -20:21]
    disc = np.hypot(axes[0], axes[1] - 6) < 3  # right of the middle, its reflection never in sight
    turned = []
    for row in range(60):
        image = apply("image", "rotation", torch.from_numpy(disc).float().expand(3, 41, 41), 40, row)[0]
        y, x = (float((image * torch.from_numpy(axis)).sum() / image.sum()) for axis in axes)
        assert np.hypot(x, y) == pytest.approx(6, abs=0.1)
        turned.append(np.degrees(np.arctan2(y, x)))
    assert 35 < np.abs(turned).max() <= 40.2
    assert min(turned) < -20 < 20 < max(turned)


def test_words__specials_and_padding_are_untouched_and_the_share_is_dropped():
    words = draw_sample("text")
    dropped = apply("text", "dropout", words, 0.3)
    assert int((dropped == 3).sum()) == round(0.3 * 14) == 4
    assert torch.equal(dropped[~words.free], words.ids[~words.free])
    more = apply("text", "dropout", words, 0.5)
    assert bool((more[dropped == 3] == 3).all())


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_words__order_is_a_permutation_of_the_share(share):
    words = Words(torch.arange(100, 120), draw_sample("text").free)
    moved = apply("text", "order", words, share)
    assert torch.equal(moved.sort().values, words.ids)
    assert int((moved != words.ids).sum()) == round(share * 14)
    assert torch.equal(moved[~words.free], words.ids[~words.free])


@pytest.mark.parametrize("count", [1, 2, 5])
def test_words__of_short_texts_one_is_dropped_and_two_change_places(count):
    """Of the least strength too; a single token has no other place to go to."""
    words = Words(torch.arange(100, 107), torch.arange(7) < count, 3)
    for row in range(20):
        assert int((apply("text", "dropout", words, 0.05, row) != words.ids).sum()) == 1
        moved = apply("text", "order", words, 0.05, row)
        assert int((moved != words.ids).sum()) == (2 if count > 1 else 0)
        assert torch.equal(moved.sort().values, words.ids)


def test_cloud__rotation_keeps_distances_and_heights():
    points = draw_sample("cloud")
    turned = apply("cloud", "rotation", points, 180.0)
    before, after = (torch.cdist(one.double(), one.double()) for one in (points[:, :3], turned[:, :3]))
    torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert torch.equal(turned[:, 2:], points[:, 2:])


def test_cloud__dropout_leaves_the_counted_points():
    points = draw_sample("cloud")
    left = apply("cloud", "dropout", points, 0.75)
    assert len(left.unique(dim=0)) == 10
    assert {tuple(row) for row in left.tolist()} <= {tuple(row) for row in points.tolist()}


def test_cloud__jitter_is_clipped_and_leaves_further_channels():
    points = torch.zeros(20000, 4)
    moved = apply("cloud", "jitter", points, 0.02)
    assert 0.07 < float(moved.abs().max()) <= 0.1 + 1e-9
    assert float(moved[:, :3].std()) == pytest.approx(0.02, rel=0.02)
    assert torch.equal(moved[:, 3], points[:, 3])


# --- agreement -----------------------------------------------------------------------------------------


def test_invariance__of_any_network_is_whole_at_strength_0():
    torch.manual_seed(0)
    networks = {name: nn.Sequential(nn.Flatten(), nn.Linear(3 * 81, 10)) for name in "ab"}
    inputs = Pixels().write(torch.rand(30, 3, 9, 9))
    ds = transfer.invariance(
        networks, inputs, np.zeros(30, int), teacher="a", strengths={"shift": (1, 2, 4, 7)}, pixels=Pixels(),
        progress=False,
    )  # fmt: skip
    assert ds["unchanged"].dims == ("change", "level", "network", "sample")
    assert bool(ds["unchanged"].sel(level=0).all())
    assert float(ds["unchanged"].sel(level=4).mean()) < 0.9
    np.testing.assert_array_equal(ds["strength"].sel(change="shift"), [0, 1, 2, 4, 7])
    np.testing.assert_array_equal(ds["strength"].sel(level=0), 0)
    assert ds["strength_unit"].sel(change="rotation").item() == "degree"


def test_invariance__of_mean_brightness():
    """Shift, rotation, crop and blur leave the mean of noise near where it was; brightness is known."""
    images = torch.rand(20, 3, 16, 16, generator=generator_of(0, 0)) * 0.4
    images[10:] += 0.6  # means of 0.2 and 0.8
    known = find_unchanged(
        by_mean, images, changes=("shift", "rotation", "blur"), strengths={"shift": (1, 2, 4, 7)}
    )
    assert bool(known.all())

    def brighten(image, strength, generator):
        return image * (1 + strength)

    own = find_unchanged(by_mean, images, changes={"brighter": brighten}, strengths={"brighter": (1, 1.4, 2)})
    expected = [
        [bool(image.double().mean() * (1 + strength) > 0.5) == bool(image.double().mean() > 0.5)
         for image in images] for strength in (0, 1, 1.4, 2)
    ]  # fmt: skip
    np.testing.assert_array_equal(own[0], expected)
    assert own.mean(("change", "sample")).values[[0, 1, 3]].tolist() == [1.0, 1.0, 0.5]


def test_invariance__to_jitter_is_that_of_the_brightness_drawn():
    """Of grey images of 0.45, brightness alone changes, and beyond 1 / 0.9 the class does."""
    images = torch.full((50, 3, 6, 6), 0.45)
    found = find_unchanged(by_mean, images, changes="jitter", seed=3)
    for row in range(50):
        drawn = torch.rand(1, generator=generator_of(3, row), dtype=torch.float64).item()
        expected = [0.45 * (1 + strength * (2 * drawn - 1)) <= 0.5 for strength in (0, 0.3, 0.4, 0.5, 0.6)]
        assert found[0, :, row].values.tolist() == expected


def test_invariance__compares_two_shifted_views():
    """A network tells left from right by one column: half of the places of a window are alike."""
    columns = (torch.arange(8.0) > 3).float().expand(3, 8, 8)
    images = columns.expand(400, 3, 8, 8)
    found = find_unchanged(
        lambda inputs: inputs[:, 0, 4, 3] > 0.5, images, changes=["shift"], strengths={"shift": (1, 3)}
    )
    for row in range(0, 400, 7):
        generator = generator_of(0, row)
        # the window's left is at most `strength`, and the image begins `strength // 2` within
        for level, margin in enumerate((1, 3), start=1):
            generator = generator_of(0, row)
            lefts = [
                int(torch.rand(2, generator=generator, dtype=torch.float64)[1] * (margin + 1))
                for _ in range(2)
            ]
            right = [3 + left - margin // 2 > 3 for left in lefts]
            assert found[0, level, row].item() == (right[0] == right[1])
    # two fair draws are alike half of the time, 0.5 +- 4 * 0.025
    np.testing.assert_allclose(found[0, 1:].mean("sample"), 0.5, atol=0.1)


def test_invariance__does_not_depend_on_batches(labels):
    images = torch.rand(8, 3, 16, 16, generator=generator_of(0, 0))
    seen, found = [], []
    for max_batch in (1, 3, 64):
        networks = {"teacher": Rule(by_mean), "student": Rule(by_mean)}
        ds = transfer.invariance(
            networks, images, labels % 2, teacher="teacher", pixels=PLAIN, progress=False,
            max_batch=max_batch, strengths={"shift": (1, 2, 4, 7)},
        )  # fmt: skip
        seen.append(networks["student"].seen())
        found.append(ds)
    assert set(seen[0]) == set(seen[1]) == set(seen[2])
    # one trial, the samples, four levels of one view or two; at strength 0 none is asked again
    assert len(seen[2]) == 1 + 8 + 8 * 4 * (4 + 2 * 2)
    assert found[0]["unchanged"].equals(found[2]["unchanged"])
    other = transfer.invariance(
        networks, images, labels % 2, teacher="teacher", pixels=PLAIN, progress=False, changes="noise", seed=1
    )
    assert other.attrs["seed"] == 1
    assert not set(networks["student"].seen()) <= set(seen[0])


def test_invariance__takes_changes_that_work_in_place_and_leaves_inputs_as_they_are():
    def turn_over(image, strength, generator):
        return image.copy_(1 - image) if strength else image

    def move(points, strength, generator):
        points += 100 * strength
        return points

    def say_one(words, strength, generator):
        words.free.zero_()
        return words.ids.fill_(1) if strength else words.ids

    images = torch.rand(6, 3, 4, 4, generator=generator_of(0, 0)) * 0.4
    clouds, ids = torch.zeros(6, 4, 3), torch.full((6, 4), 900)
    for inputs, rule, change in (
        (images, by_mean, turn_over),
        (clouds, by_mean, move),
        (ids, lambda ids: ids[:, 0] > 500, say_one),
    ):
        before = inputs.clone()
        found = find_unchanged(
            rule, inputs, changes={"own": change}, strengths={"own": (1,)}, special_ids=(0,), max_batch=4
        )
        assert torch.equal(inputs, before)
        np.testing.assert_array_equal(found[0], [[True] * 6, [False] * 6])


def test_invariance__leaves_pixels_alone_that_a_change_leaves():
    """To pixels and back is rounded; what is not changed comes back to the bit."""
    inputs = Pixels().write(torch.rand(3, 3, 4, 4, generator=generator_of(0, 0)))
    assert not torch.equal(Pixels().write(Pixels().read(inputs)), inputs)

    def darken_a_corner(image, strength, generator):
        return image.index_fill(2, torch.tensor([0]), 0.0) if strength else image

    networks = {name: Rule(by_mean) for name in ("teacher", "student")}
    transfer.invariance(
        networks, inputs, np.zeros(3, int), teacher="teacher", progress=False,
        changes={"corner": darken_a_corner}, strengths={"corner": (1,)}, pixels=Pixels(),
    )  # fmt: skip
    last = [np.frombuffer(row, np.float32).reshape(3, 4, 4) for _, row in networks["student"].given[-3:]]
    np.testing.assert_array_equal(np.stack(last)[..., 1:], inputs[..., 1:])
    assert (np.stack(last)[..., 0] < -1.5).all()


def test_invariance__of_a_bag_of_words_is_whole_under_order():
    ids = torch.randint(10, 1000, (12, 9), generator=generator_of(0, 0))
    ids[:, 0], ids[:, 6:] = 1, 0
    mask = (ids > 0).long()

    def first_word(inputs):
        return inputs[:, 1] > 500

    def sum_of_words(inputs):
        return inputs.sum(1) > 2500

    texts = {"input_ids": ids, "attention_mask": mask}
    given = {"special_ids": (1,), "changes": ("order",)}
    assert bool(find_unchanged(sum_of_words, texts, **given).all())
    assert not bool(find_unchanged(first_word, texts, **given).all())
    by_tensor = find_unchanged(first_word, ids, **given | {"special_ids": (0, 1)})
    assert by_tensor.equals(find_unchanged(first_word, texts, **given))
    typed = torch.stack([ids, mask], 1)
    by_pair = find_unchanged(
        lambda inputs: first_word(inputs[:, 0]), typed, **given | {"special_ids": (0, 1)}
    )
    assert by_pair.equals(by_tensor)


def test_invariance__of_clouds_is_the_same_whatever_comes_first():
    clouds = torch.randn(10, 30, 3, generator=generator_of(0, 0))
    points_first = find_unchanged(lambda inputs: inputs[:, :, 0].amax(1) > 2, clouds)
    coordinates_first = find_unchanged(lambda inputs: inputs[:, 0].amax(1) > 2, clouds.mT.contiguous())
    assert points_first.equals(coordinates_first)
    assert not bool(points_first.all())
    assert bool(find_unchanged(lambda inputs: inputs[:, :, 2].amax(1) > 2, clouds, changes="rotation").all())


def test_invariance__takes_any_inputs_with_a_change_of_ones_own(tables, numbered, labels):
    """Samples that hold their number: by one further, the table of answers is read one row on."""

    def count_on(sample, strength, generator):
        return (sample + strength) % 8

    ds = transfer.invariance(
        tables, numbered, labels, teacher="teacher", independent="alone", progress=False,
        changes={"on": Change(count_on, "row", (1, 3))},
    )  # fmt: skip
    for name, network in tables.items():
        answers = network.answers.numpy()
        expected = [answers == np.roll(answers, -step) for step in (0, 1, 3)]
        np.testing.assert_array_equal(ds["unchanged"].sel(network=name, change="on"), expected)
        np.testing.assert_array_equal(ds["right"].sel(network=name), answers == labels)
    assert ds.attrs["modality"] == "other"


def test_invariance__says_what_is_wrong():
    images = torch.rand(4, 3, 6, 6)

    def ask(inputs=images, **options):
        find_unchanged(by_mean, inputs, **options)

    with pytest.raises(ValueError, match="changes is 'jiter'; did you mean 'jitter'"):
        ask(changes=("jiter",))
    with pytest.raises(ValueError, match="strengths is 'crop'; allowed: jitter"):
        ask(changes="jitter", strengths={"crop": (0.5,)})
    with pytest.raises(ValueError, match=r"strengths of 'jitter' must be at most 1 .*got 1\.5"):
        ask(changes="jitter", strengths={"jitter": (1.5,)})
    with pytest.raises(ValueError, match="strengths of 'jitter' must be a positive number"):
        ask(changes="jitter", strengths={"jitter": (0,)})
    with pytest.raises(ValueError, match=r"strengths of 'shift' must be an integer of 1 or more, got 1\.5"):
        ask(changes="shift", strengths={"shift": (1.5,)})
    with pytest.raises(ValueError, match="as many for every change, got jitter 1, crop 4"):
        ask(changes=("jitter", "crop"), strengths={"jitter": (0.5,)})
    with pytest.raises(ValueError, match="a shift of 12 pixels needs larger images, got 6 x 6"):
        ask(changes="shift", strengths={"shift": (12,)})
    with pytest.raises(ValueError, match=r"strengths must give those of 'own', as strengths=\{'own'"):
        ask(changes={"own": lambda image, strength, generator: image})
    with pytest.raises(TypeError, match="change 'own' must be a function, got str"):
        ask(changes={"own": "jitter"})
    with pytest.raises(ValueError, match="change 'own' must change nothing at strength 0, and does"):
        ask(changes={"own": lambda image, *_: 1 - image}, strengths={"own": (1,)})
    with pytest.raises(ValueError, match=r"change 'own' must return a tensor \(3, 6, 6\) of .*got \(6, 6\)"):
        ask(changes={"own": lambda image, *_: image[0]}, strengths={"own": (1,)})
    with pytest.raises(ValueError, match="change 'own' must return finite values"):
        ask(changes={"own": lambda image, *_: image / 0}, strengths={"own": (1,)})
    with pytest.raises(ValueError, match=r"kind is 'text', and inputs are \(1, 3, 6, 6\) of torch.float32"):
        ask(kind="text")
    with pytest.raises(ValueError, match="changes are none; pass one's own"):
        ask(kind="other")
    with pytest.raises(ValueError, match=r"invariance works on pixels .*: pass pixels=kdviz.transfer.Pixels"):
        ask(pixels=None)
    with pytest.raises(TypeError, match=r"pixels must be a kdviz.transfer.Pixels\(mean, std\), got 'ima"):
        ask(pixels="imagenet")
    ask(pixels=None, kind="other", changes={"own": lambda image, *_: image}, strengths={"own": (1,)})
    with pytest.raises(ValueError, match="jitter of colours needs images of 1 or 3 channels, got 2"):
        ask(images[:, :2], pixels=Pixels((0, 0), (1, 1)))
    for flat in (torch.rand(4, 40, 2), torch.rand(4, 2, 40)):
        with pytest.raises(ValueError, match=r"points need 3 coordinates or more, got inputs \(1, .*'other'"):
            ask(flat)
        ask(flat, kind="other", changes={"own": lambda points, *_: points}, strengths={"own": (1,)})
    ids = torch.randint(0, 9, (4, 5))
    with pytest.raises(ValueError, match="texts need special_ids="):
        ask(ids)
    with pytest.raises(ValueError, match="dropout of words needs mask_id="):
        ask(ids, special_ids=(0,))


def test_changes_of_images__need_torchvision(monkeypatch):
    changes._image_functions.cache_clear()
    for name in ("torchvision", "torchvision.transforms.v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        MissingExtraError, match=r"changes of images need torchvision: install kdviz\[vision\]"
    ):
        apply("image", "crop", draw_sample("image"), 0.5)
    assert len(apply("cloud", "rotation", draw_sample("cloud"), 5.0)) == 40
