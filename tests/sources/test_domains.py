"""Domains made of images against what they are called, and cue conflict pixel by pixel."""

import numpy as np
import pytest
from scipy import ndimage, stats
from skimage import data, feature, transform

from kdviz.errors import DataError
from kdviz.sources import DOMAINS, ImageSet, LazyArray, cue_conflict, fashion_composites, make_domain

GREY = (0.299, 0.587, 0.114)


def make_set(images, masks=None, labels=None):
    count = len(images)
    labels = np.arange(count) % 2 if labels is None else np.array(labels)
    return ImageSet(
        images=np.asarray(images, np.uint8), masks=masks, labels=labels, split=np.full(count, "all"),
        sample_ids=tuple(f"image {k}" for k in range(count)), classes=("a", "b", "c"), source="hand-made",
    )  # fmt: skip


@pytest.fixture(scope="module")
def fashion():
    return fashion_composites("held-out", count=60)


@pytest.fixture
def square():
    """A square of grey 90 on noise, twice: plain, and brighter in its right half."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    masks = np.zeros((2, 32, 32), bool)
    masks[:, 6:26, 6:26] = True
    images[masks] = 90
    images[1, 6:26, 16:26] = 170
    return make_set(images, masks)


@pytest.mark.parametrize("domain", DOMAINS)
def test_domain__of_an_image_depends_on_no_other_and_is_read_when_indexed(fashion, domain):
    drawn = make_domain(fashion, domain)
    assert isinstance(drawn.images, LazyArray)
    again = make_domain(fashion.select([7, 3]).read(), domain)
    assert isinstance(again.images, np.ndarray)
    np.testing.assert_array_equal(again.images, drawn.images[[7, 3]])
    assert drawn.masks is fashion.masks
    assert drawn.sample_ids == fashion.sample_ids
    assert drawn.source == f"{domain} of {fashion.source}"


def test_silhouettes__are_the_masks(fashion):
    images = make_domain(fashion, "silhouette").images[:]
    np.testing.assert_array_equal(images == 0, fashion.masks[:][..., None].repeat(3, 3))
    assert set(np.unique(images)) == {0, 255}


def test_silhouette__leaves_void_out():
    marks = np.array([[[1, 0, -1]]], np.int8)
    drawn = make_domain(make_set(np.full((1, 1, 3, 3), 9), marks), "silhouette").images
    assert drawn[0, 0, :, 0].tolist() == [0, 255, 255]


def test_inverted__is_the_negative_and_twice_the_identity(fashion):
    once = make_domain(fashion, "inverted")
    np.testing.assert_array_equal(once.images[:].astype(int) + fashion.images[:], 255)
    np.testing.assert_array_equal(make_domain(once, "inverted").images[:], fashion.images[:])


def test_edges__of_a_plain_square_are_its_outline_and_of_a_step_one_line_more(square):
    lines = (make_domain(square, "edges").images == 0).all(3)
    outline = square.masks[0] & ~ndimage.binary_erosion(square.masks[0])
    np.testing.assert_array_equal(lines[0], outline)
    inner = lines[1] & ~outline
    assert set(np.nonzero(inner)[1]) <= {15, 16}
    assert inner[10:22].sum(1).tolist() == [1] * 12


def test_edges__without_masks_lie_where_another_library_finds_them():
    """To a pixel; its slopes are those of Sobel, 8 times ours and smoothed once more."""
    image = (transform.resize(data.astronaut(), (48, 48), anti_aliasing=True) * 255).astype(np.uint8)
    found = (make_domain(make_set([image]), "edges").images[0] == 0).all(2)
    expected = feature.canny(image @ GREY, sigma=0.8, low_threshold=8 * 5, high_threshold=8 * 12)
    near_found, near_expected = (ndimage.binary_dilation(one, np.ones((3, 3))) for one in (found, expected))
    border = np.s_[3:-3, 3:-3]
    assert expected[border].sum() > 200
    assert (near_expected & found)[border].sum() / found[border].sum() > 0.9
    assert (near_found & expected)[border].sum() / expected[border].sum() > 0.9


def test_sketch__is_pencil_on_white_paper_around_the_object(fashion):
    images = make_domain(fashion, "sketch").images[:]
    assert (images == images[..., :1]).all()
    ink, masks = 255 - images[..., 0].astype(float), fashion.masks[:]
    around = np.zeros((3, 3, 3))
    around[1] = 1  # within each image
    away = ~ndimage.binary_dilation(masks, around, iterations=4)
    outline = masks & ~ndimage.binary_erosion(masks, around, border_value=1)
    inside = ndimage.binary_erosion(masks, around, iterations=3, border_value=1)
    assert not ink[away].any()
    assert ink[outline].mean() > 120
    assert 0 < ink[inside].mean() < 0.5 * ink[outline].mean()


def test_sketch__hatches_what_is_dark():
    masks = np.ones((2, 32, 32), bool)
    dark, bright = make_domain(
        make_set(np.stack([np.full((32, 32, 3), grey) for grey in (30, 220)]), masks), "sketch"
    ).images[..., 0]
    assert (255 - dark).mean() > 4 * (255.0 - bright).mean() > 0


def test_stylised__keeps_tones_and_none_of_the_colours(fashion):
    images = make_domain(fashion, "stylised").images[:]
    tones = [
        stats.spearmanr(ndimage.median_filter(before @ GREY, 5).ravel(), (after @ GREY).ravel())[0]
        for before, after in zip(fashion.images[:], images, strict=True)
    ]
    assert np.mean(tones) > 0.75
    red_before, red_after = (
        [
            one[mask].mean(0)[0] - one[mask].mean(0)[2]
            for one, mask in zip(some, fashion.masks[:], strict=True)
        ]
        for some in (fashion.images[:], images)
    )
    # of 60 pairs without relation a correlation has a standard error of 0.13
    assert abs(np.corrcoef(red_before, red_after)[0, 1]) < 4 * 0.13
    assert np.std(red_after) > 2 * np.std(red_before)


def test_stylised__strokes_run_along_forms():
    stripes = np.broadcast_to(128 + 100 * np.sin(np.arange(48) / 3)[None, :, None], (48, 48, 3))
    for turned, axes in ((stripes, (0, 1)), (stripes.transpose(1, 0, 2), (1, 0))):
        painted = make_domain(make_set([turned]), "stylised").images[0] @ GREY
        painted -= painted.mean(axes[0], keepdims=True)  # the stripes themselves
        along, across = (np.abs(np.diff(painted, axis=axis)).mean() for axis in axes)
        assert along < 0.5 * across


def test_make_domain__says_what_is_wrong(fashion):
    with pytest.raises(ValueError, match="domain is 'edge'; did you mean 'edges'"):
        make_domain(fashion, "edge")
    with pytest.raises(ValueError, match="a silhouette needs masks, and images have none"):
        make_domain(make_set(np.zeros((1, 4, 4, 3))), "silhouette")


def test_cue_conflict__keeps_masks_and_takes_pixels_of_the_texture_class_only(fashion):
    made, textures = cue_conflict(fashion)
    assert isinstance(made.images, LazyArray)
    assert textures.dtype == np.int64
    np.testing.assert_array_equal(made.labels, fashion.labels)
    assert (textures != fashion.labels).all()
    images, masks = fashion.images[:], fashion.masks[:]
    for k, drawn in enumerate(made.images[:]):
        np.testing.assert_array_equal(drawn[~masks[k]], images[k][~masks[k]])
        colours = {tuple(colour) for colour in drawn[masks[k]].tolist()}
        sources = [images[row][masks[row]].tolist() for row in np.flatnonzero(fashion.labels == textures[k])]
        assert any(colours <= {tuple(colour) for colour in source} for source in sources), k


def test_cue_conflict__tiles_the_largest_square_and_mirrors_it():
    images = np.zeros((2, 7, 9, 3), np.uint8)
    masks = np.zeros((2, 7, 9), bool)
    masks[0], masks[1, 2:5, 1:9] = True, True
    images[1, ..., 0] = np.arange(63).reshape(7, 9)
    made, textures = cue_conflict(make_set(images, masks))
    assert textures.tolist() == [1, 0]
    square = np.array([[19, 20, 21], [28, 29, 30], [37, 38, 39]])
    line = np.concatenate([square, square[:, ::-1], square], 1)
    np.testing.assert_array_equal(made.images[0, ..., 0], np.concatenate([line, line[::-1], line[:1]]))
    np.testing.assert_array_equal(made.images[1][masks[1]], 0)


def test_cue_conflict__draws_classes_alike_and_anew_with_another_seed():
    images = fashion_composites("held-out", count=1000)
    _, textures = cue_conflict(images)
    counts = np.bincount((textures - images.labels) % 10, minlength=10)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:]).pvalue > 1e-3
    _, again = cue_conflict(images)
    _, others = cue_conflict(images, seed=1)
    np.testing.assert_array_equal(textures, again)
    assert np.mean(textures == others) == pytest.approx(1 / 9, abs=4 * np.sqrt(8 / 81 / 1000))


def test_cue_conflict__passes_by_images_without_object():
    images = np.zeros((3, 4, 4, 3), np.uint8)
    images[2] = 50
    masks = np.array([np.ones((4, 4)), np.zeros((4, 4)), np.ones((4, 4))], bool)
    made, _ = cue_conflict(make_set(images, masks, [0, 1, 1]))
    assert (made.images[0] == 50).all()
    masks[2] = False
    lazy = LazyArray(lambda k: images[k], 3, (4, 4, 3), np.uint8)
    lost, _ = cue_conflict(
        ImageSet(
            images=lazy, masks=masks, labels=np.array([0, 1, 1]), sample_ids=("a", "b", "c"),
            classes=("x", "y"), split=np.full(3, "all"), source="lazy",
        )
    )  # fmt: skip
    with pytest.raises(DataError, match="no image of class 'y' shows an object"):
        lost.images[0]


def test_cue_conflict__says_what_is_wrong(fashion):
    with pytest.raises(ValueError, match="cue conflict needs masks, and images have none"):
        cue_conflict(make_set(np.zeros((2, 4, 4, 3))))
    with pytest.raises(ValueError, match="cue conflict needs samples of two classes or more"):
        cue_conflict(fashion.select([0]))
    with pytest.raises(ValueError, match="seed must be an integer of 0 or more"):
        cue_conflict(fashion, seed=-1)
