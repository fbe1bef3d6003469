"""A first look at images: their classes, and the sizes of some of them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median

from PIL import Image

from gauntlet.backends import storage
from gauntlet.tasks.images.reading import IMAGE_SUFFIXES, SPLIT_FOLDERS
from gauntlet.tasks.texts.look import look_at_table

OPENED = 20  # images whose size is looked at
SIDES = (32, 64, 96, 128, 224)
FEWEST = 10


@dataclass(frozen=True)
class ImagesLook:
    """What was seen.

    Attributes:
        labels: How many images each class has.
        images: URIs of some images.
        columns: Those of the table with their paths; empty for a folder for each class.
    """

    labels: Counter[str]
    images: Sequence[str]
    columns: Mapping[str, str]


def look_at_images(uri: str) -> ImagesLook | None:
    """The images of a folder of class folders, or of a table; None if there are none, or no classes.

    Raises:
        DataError: The table is damaged, or has no rows.
        UsageError: There is nothing at the URI.
    """
    if storage.is_folder(uri):
        names = [name for name in storage.list_tree(uri) if name.lower().endswith(IMAGE_SUFFIXES)]
        classes = [_class_of(PurePosixPath(name).parts) for name in names]
        labels = Counter(one for one in classes if one is not None)
        if len(labels) > 1 and sum(labels.values()) >= FEWEST:
            return ImagesLook(
                labels, [storage.join(uri, name) for name in names[:: len(names) // OPENED or 1]], {}
            )
    return _of_table(uri)


def usual_shape(images: Sequence[str]) -> tuple[int, int]:
    """The largest of `SIDES` up to the median of the images' sides, and the channels that they need."""
    sides, grey = [], []
    for uri in images[:OPENED]:
        with Image.open(io.BytesIO(storage.read_bytes(uri))) as image:
            sides.append(min(image.size))
            grey.append(image.mode in ("1", "L", "LA", "I;16"))
    side = median(sides)
    return max((one for one in SIDES if one <= side), default=SIDES[0]), 1 if all(grey) else 3


def _class_of(parts: Sequence[str]) -> str | None:
    below = parts[1:] if parts[0].lower() in SPLIT_FOLDERS else parts
    return below[0] if len(below) > 1 else None


def _of_table(uri: str) -> ImagesLook | None:
    look = look_at_table(uri)
    if look is None:
        return None
    of_images = [
        column
        for column in look.columns.values()
        if column.values and all(str(value).lower().endswith(IMAGE_SUFFIXES) for value in column.values)
    ]
    if not of_images:
        return None
    image = of_images[0]
    classes = [column for column in look.others(image.name) if column.is_class]
    if not classes:
        return None
    label = classes[0]
    folder = uri if storage.is_folder(uri) else uri.rpartition("/")[0] or "."
    paths = [storage.join(folder, str(value)) for value in image.values[:OPENED]]
    columns = {"image": str(image.name), "label": str(label.name)}
    return ImagesLook(label.counts, paths, columns)
