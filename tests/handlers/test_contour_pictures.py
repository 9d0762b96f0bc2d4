# Copyright (c) The cakes-monai authors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures that inference draws of every case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    AsDiscreted,
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImage,
    LoadImaged,
    Orientation,
    Orientationd,
    SaveImaged,
    ScaleIntensityd,
)
from PIL import Image

from cakes_monai.handlers.contour_pictures import ContourPictures, _on_grid
from cakes_monai.plots import draw_contours, save_figure

pytestmark = [
    pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader"),
    pytest.mark.filterwarnings("ignore:builtin type .*:DeprecationWarning"),  # ITK's SWIG modules
]

AXES = (("L", "R"), ("P", "A"), ("I", "S"))


class Threshold(torch.nn.Module):
    """Network that finds what is brighter than half of the scaled range."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x <= 0.5, x > 0.5], 1).float()


def infer(files: list[str], pictures: ContourPictures, invert: bool = True, **save: Any) -> None:
    """Run an evaluator that turns and scales images, predicts, inverts and saves."""
    pre = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", "PLI", labels=AXES),
            ScaleIntensityd("image"),
        ]
    )
    post: list[Any] = [Invertd("pred", pre, orig_keys="image")] if invert else []
    post.append(AsDiscreted("pred", argmax=True))
    if save:
        post.append(SaveImaged("pred", output_postfix="seg", separate_folder=False, print_log=False, **save))
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": f} for f in files], pre), batch_size=1),
        network=Threshold(),
        postprocessing=Compose(post),
        val_handlers=[pictures],
    ).run()


def save(path: Path, seed: int) -> str:
    """Write an image with a bright block at a place of its own."""
    image = np.random.default_rng(seed).normal(100, 10, (12, 14, 16)).astype(np.float32)
    image[2 + seed : 6 + seed, 3:8, 5:12] = 1000
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(image, np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return str(path)


def pixels(path: Path) -> np.ndarray:
    """Pixels of a picture."""
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


def drawn(file: str, title: str, path: Path) -> np.ndarray:
    """Pixels of the picture that the original image and its bright block must give."""
    image = LoadImage(image_only=True)(file)
    save_figure(draw_contours(image, image > 500, None, ["block"], title=title), path)
    return pixels(path)


@pytest.mark.parametrize("invert", [True, False])
def test_picture_shows_the_file_as_it_was_before_preprocessing(tmp_path: Path, invert: bool) -> None:
    """However the network saw the image, and inverted or not, the picture is that of the file and its bright block."""
    file = save(tmp_path / "case.nii.gz", 1)
    infer([file], ContourPictures(tmp_path / "out", ["block"]), invert=invert)
    expected = drawn(file, "case", tmp_path / "expected.png")
    np.testing.assert_array_equal(pixels(tmp_path / "out" / "case_seg.png"), expected)


def test_pictures_lie_beside_the_label_maps_of_save_image(tmp_path: Path) -> None:
    """With data_root_dir every label map that SaveImaged writes has its picture beside it, under the same name."""
    root, out = tmp_path / "data", tmp_path / "out"
    files = [save(root / patient / "scan.nii.gz", seed) for seed, patient in enumerate(("p1", "p2"))]
    pictures = ContourPictures(out, ["block"], data_root_dir=str(root))
    infer(files, pictures, output_dir=out, data_root_dir=str(root))
    label_maps = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert label_maps == ["p1/scan_seg.nii.gz", "p2/scan_seg.nii.gz"]
    found = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.png"))
    assert found == [name.replace(".nii.gz", ".png") for name in label_maps]
    for file, name in zip(files, found, strict=True):
        title = name.removesuffix("_seg.png")
        np.testing.assert_array_equal(pixels(out / name), drawn(file, title, tmp_path / "expected.png"))


def test_dicom_series_is_read_by_itk_and_named_by_its_folder(data_root: Path, tmp_path: Path) -> None:
    """A folder of slices gives one picture, of the volume ITK reads from it."""
    folder = data_root / "hippocampus_dicom" / "Study1" / "13_HCropVolume"
    infer([str(folder)], ContourPictures(tmp_path, ["bright"]))
    image = LoadImage(reader="ITKReader", image_only=True)(folder)
    low, high = float(image.min()), float(image.max())
    expected = draw_contours(image, image > (low + high) / 2, None, ["bright"], title="13_HCropVolume")
    save_figure(expected, tmp_path / "expected.png")
    found, wanted = pixels(tmp_path / "13_HCropVolume_seg.png"), pixels(tmp_path / "expected.png")
    np.testing.assert_array_equal(found, wanted)


def test_label_map_of_another_reader_is_laid_onto_the_image() -> None:
    """Flipped and permuted axes are undone by the affine, with the labels unchanged."""
    affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0]))
    values = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (1, 5, 6, 7)))
    labels = MetaTensor(values, affine=affine)
    image = MetaTensor(torch.zeros(1, 5, 6, 7), affine=affine)
    turned = Orientation("PLI", labels=AXES)(labels)
    assert turned.shape != labels.shape
    np.testing.assert_array_equal(_on_grid(turned, image), values)
    assert _on_grid(labels, image) is labels


def test_image_without_a_file_is_drawn_as_the_network_saw_it(tmp_path: Path) -> None:
    """Images from memory have nothing to be read again; they are numbered."""
    image = torch.zeros(1, 8, 8, 8)
    image[:, 2:5, 2:5, 2:5] = 1
    SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": image}])),
        network=Threshold(),
        postprocessing=AsDiscreted("pred", argmax=True),
        val_handlers=[ContourPictures(tmp_path, ["block"])],
    ).run()
    save_figure(draw_contours(image[0], image[0] > 0, None, ["block"], title="0"), tmp_path / "expected.png")
    np.testing.assert_array_equal(pixels(tmp_path / "0_seg.png"), pixels(tmp_path / "expected.png"))
