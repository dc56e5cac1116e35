"""What architectures for small images have in common: the sizes that they take."""


def check_sizes(width: float, img_size: int, num_classes: int) -> None:
    """Raise ValueError, saying which values are valid, unless these sizes are.

    width: of which 16 * width is a number of channels; img_size: side of the images, pixels.
    """
    if not 0 < width < 1000 or 16 * width != int(16 * width):
        raise ValueError(f"--width={width:g}: must be positive and 16 * width a whole number of channels: "
                         "0.5, 1, 1.5, 2, 4, 10, ...")
    check_images(img_size, num_classes)


def check_images(img_size: int, num_classes: int) -> None:
    """Raise ValueError, saying which values are valid, unless images of this side, pixels, and so many classes are."""
    if img_size < 4:
        raise ValueError(f"--img_size={img_size}: expected at least 4 pixels")
    if num_classes < 2:
        raise ValueError(f"--num_classes={num_classes}: expected at least 2")
