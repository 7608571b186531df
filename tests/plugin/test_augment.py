"""AugMix copies: the paper's operations, diverse, reproducible, and without a trace in torch's global generators."""

import torch
from torchvision.transforms import v2

from fieldrepair_plugin.augment import augmix_copies

# The operations the paper names; torchvision calls them so.
PAPER_OPERATIONS = {
    "AutoContrast",
    "Equalize",
    "Posterize",
    "Rotate",
    "Solarize",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
}


def images(count: int, channels: int = 3) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, 12, 12), dtype=torch.uint8, generator=seeded(1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copies_of(pixels: torch.Tensor, seed: int = 0, copies: int = 4, chain_share: int = 4) -> torch.Tensor:
    return augmix_copies(pixels, copies, seeded(seed), severity=3, chain_share=chain_share)


def test_torchvisions_partial_list_is_the_papers() -> None:
    assert set(v2.AugMix._PARTIAL_AUGMENTATION_SPACE) == PAPER_OPERATIONS  # pyright: ignore


def test_shape_type_and_grey_images() -> None:
    for channels in (1, 3):
        copies = copies_of(images(7, channels))
        assert copies.shape == (4, 7, channels, 12, 12)
        assert copies.dtype == torch.uint8


def test_one_seed_one_answer() -> None:
    assert torch.equal(copies_of(images(6)), copies_of(images(6)))
    assert not torch.equal(copies_of(images(6)), copies_of(images(6), seed=1))


def test_successive_calls_of_one_generator_differ() -> None:
    generator = seeded(0)
    first, second = (augmix_copies(images(4), 2, generator, severity=3, chain_share=2) for _ in range(2))
    assert not torch.equal(first, second)


def test_copies_of_one_image_differ_from_each_other_and_from_it() -> None:
    copies = copies_of(images(1), copies=8)
    assert len({copy.numpy().tobytes() for copy in copies}) > 4


def test_blocks_of_equal_images_get_chains_of_their_own() -> None:
    same = images(1).repeat(32, 1, 1, 1)
    copies = copies_of(same, copies=1, chain_share=4)[0]
    # Within a block only the mixing weight differs, so a block's copies lie on one line between image and chain.
    directions = (copies.float() - same.float()).flatten(1)
    blocks = directions.reshape(8, 4, -1)
    strongest = torch.stack([block[block.norm(dim=1).argmax()] for block in blocks])
    unit = torch.nn.functional.normalize(strongest[strongest.norm(dim=1) > 0], dim=1)
    alike = (unit @ unit.T > 0.999).sum() - len(unit)
    assert alike < len(unit)  # a single chain for all would make every pair alike


def test_global_generators_are_neither_read_nor_changed() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = copies_of(images(6))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(copies_of(images(6)), first)


def test_the_given_images_are_not_changed() -> None:
    pixels = images(5)
    copies_of(pixels)
    assert torch.equal(pixels, images(5))
