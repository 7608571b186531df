"""AugMix copies: the paper's operations, diverse, reproducible, and without a trace in torch's global generators."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torchvision.transforms import v2

from fieldrepair_plugin.augment import OPERATIONS, augmix_copies

AUGMIX = cast(Any, v2.AugMix(severity=10, all_ops=False))
SPACE = cast(
    "dict[str, tuple[Callable[[int, int, int], torch.Tensor | None], bool]]", AUGMIX._PARTIAL_AUGMENTATION_SPACE
)


def images(count: int, channels: int = 3, height: int = 12, width: int = 12) -> torch.Tensor:
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=seeded(1))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copies_of(pixels: torch.Tensor, seed: int = 0, copies: int = 4) -> torch.Tensor:
    return augmix_copies(pixels, copies, seeded(seed), severity=3)


def torchvisions(pixels: torch.Tensor, name: str, level: int, sign: int) -> torch.Tensor:
    strengths = SPACE[name][0](10, *pixels.shape[2:])
    strength = 0.0 if strengths is None else sign * float(strengths[level])
    return AUGMIX._apply_image_or_video_transform(
        pixels, name, strength, interpolation=AUGMIX.interpolation, fill=AUGMIX._fill
    )


def test_the_operations_are_the_papers() -> None:
    assert set(OPERATIONS) == {
        "AutoContrast", "Equalize", "Posterize", "Rotate", "Solarize", "ShearX", "ShearY", "TranslateX", "TranslateY",
    } == set(SPACE)  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_on_many_images_is_torchvisions_on_each(name: str, channels: int) -> None:
    signs = [-1, 1] if SPACE[name][1] else [1]
    each = [(level, sign) for level in range(10) for sign in signs]
    pixels = images(len(each), channels, 32, 26)
    levels, directions = torch.tensor(each).T
    got = OPERATIONS[name](pixels, levels, directions)
    wanted = torch.cat([torchvisions(pixels[at : at + 1], name, level, sign) for at, (level, sign) in enumerate(each)])
    assert got.dtype == torch.uint8
    # Where an interpolated value lies halfway between two whole numbers, either may come out.
    off = (got.int() - wanted.int()).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < (0.03 if name in ("ShearX", "ShearY", "Rotate") else 1e-9)


def test_a_chain_is_one_to_three_operations_mixed_with_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int]] = []  # place in the chain and images, of each call

    def brighter(pixels: torch.Tensor, _: torch.Tensor, __: torch.Tensor) -> torch.Tensor:
        done.append((len(done), len(pixels)))
        return pixels + 50

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, brighter)
    count = 9000
    copies = augmix_copies(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), 1, seeded(0), severity=3).flatten().float()
    by_place = [sum(many for place, many in done if place // len(OPERATIONS) == at) for at in range(3)]
    assert by_place[0] == count
    assert by_place[1] == pytest.approx(count * 2 / 3, rel=0.05)
    assert by_place[2] == pytest.approx(count / 3, rel=0.05)
    # Depths 1, 2 and 3 end at 50, 100 and 150; the share of them that is kept is uniform.
    assert copies.max() > 140
    assert copies.mean() == pytest.approx(100 / 2, rel=0.05)


def test_every_operation_strength_and_sign_comes_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[tuple[int, int]]] = {name: [] for name in OPERATIONS}

    def noting(name: str) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
        def note(pixels: torch.Tensor, levels: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
            seen[name] += [(int(level), int(sign)) for level, sign in zip(levels, signs, strict=True)]
            return pixels

        return note

    for name in OPERATIONS:
        monkeypatch.setitem(OPERATIONS, name, noting(name))
    augmix_copies(torch.zeros(9000, 1, 1, 1, dtype=torch.uint8), 1, seeded(0), severity=3)
    for drawn in seen.values():
        assert len(drawn) == pytest.approx(2000, rel=0.1)
        for each in [(level, sign) for level in range(3) for sign in (-1, 1)]:
            assert drawn.count(each) == pytest.approx(len(drawn) / 6, rel=0.25)
        assert {level for level, _ in drawn} == {0, 1, 2}


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
    first, second = (augmix_copies(images(4), 2, generator, severity=3) for _ in range(2))
    assert not torch.equal(first, second)


def test_copies_of_one_image_differ_from_each_other_and_from_it() -> None:
    copies = copies_of(images(1), copies=8)
    assert len({copy.numpy().tobytes() for copy in copies}) > 4


def test_equal_images_get_chains_of_their_own() -> None:
    same = images(1).repeat(32, 1, 1, 1)
    # An image's copy lies on the line between it and what its chain makes of it.
    directions = (copies_of(same, copies=1)[0].float() - same.float()).flatten(1)
    unit = torch.nn.functional.normalize(directions[directions.norm(dim=1) > 0], dim=1)
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
