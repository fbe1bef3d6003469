"""Draws 300 images of bars, discs and rings, in a folder for each class: images/CLASS/NUMBER.png."""

import random
from pathlib import Path

from PIL import Image, ImageDraw

random.seed(0)
for number in range(300):
    shape = ("bar", "disc", "ring")[number % 3]
    picture = Image.new("RGB", (random.randint(40, 90), random.randint(40, 90)), (random.randrange(60),) * 3)
    left, top = random.randint(4, 14), random.randint(4, 14)
    box = (left, top, left + 20, top + (8 if shape == "bar" else 20))
    draw, colour = ImageDraw.Draw(picture), tuple(random.randint(120, 255) for _ in range(3))
    if shape == "bar":
        draw.rectangle(box, fill=colour)
    else:
        draw.ellipse(box, fill=colour if shape == "disc" else None, outline=colour, width=3)
    path = Path("images", shape, f"{number}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
