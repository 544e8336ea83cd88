"""The drawings of the embedded world, rendered once from seven published emoji sets.

Each set is an npm package of vector drawings. We keep one PNG atlas a set; the packages themselves
are not shipped. Sets whose licence asks for share-alike are left out.
"""

import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from engine.world.sprites import COLUMNS, FOLDER, SIZE, Sprites
from engine.world.vocabulary import OBJECTS


@dataclass(frozen=True)
class EmojiSet:
    artist: str
    package: str
    licence: str
    credit: str


SETS = (
    EmojiSet("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "Noto Emoji, Google Inc."),
    EmojiSet(
        "noto-v1", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Noto Emoji (v1), Google Inc."
    ),
    EmojiSet(
        "twemoji",
        "@iconify-json/twemoji@1.2.5",
        "CC-BY-4.0",
        "Twemoji, Twitter, Inc. and other contributors",
    ),
    EmojiSet(
        "fluent-emoji-flat",
        "@iconify-json/fluent-emoji-flat@1.2.6",
        "MIT",
        "Fluent Emoji Flat, Microsoft Corporation",
    ),
    EmojiSet(
        "fluent-emoji",
        "@iconify-json/fluent-emoji@1.2.7",
        "MIT",
        "Fluent Emoji, Microsoft Corporation",
    ),
    EmojiSet("fxemoji", "@iconify-json/fxemoji@1.2.2", "Apache-2.0", "Firefox OS Emoji, Mozilla"),
    EmojiSet(
        "emojione", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "EmojiOne 2, EmojiOne (JoyPixels)"
    ),
)
# Of no part in the training, to measure with: its licence asks for share-alike, so nothing of it
# ships.
UNSEEN = EmojiSet(
    "openmoji", "@iconify-json/openmoji@1.2.29", "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd"
)
# What the sets call an object where they do not use our name.
ICON_NAMES = {
    "burger": "hamburger",
    "donut": "doughnut",
    "car": "automobile",
    "plane": "airplane",
    "boat": "sailboat",
    "box": "package",
    "heart": "red-heart",
}


def build(packages: Path, folder: Path = FOLDER) -> None:
    """Fetch the npm packages into `packages` unless they are there, and write the atlases."""
    folder.mkdir(parents=True, exist_ok=True)
    packages.mkdir(parents=True, exist_ok=True)
    index = []
    for emoji_set in SETS:
        drawings = _drawings(emoji_set, packages)
        atlas = Image.new("RGBA", (COLUMNS * SIZE, -(-len(OBJECTS) // COLUMNS) * SIZE))
        for name, drawing in drawings.items():
            row, column = divmod(OBJECTS.index(name), COLUMNS)
            atlas.paste(drawing, (column * SIZE, row * SIZE))
        atlas.save(folder / f"{emoji_set.artist}.png", optimize=True)
        index.append({**vars(emoji_set), "objects": list(drawings)})
    (folder / "sprites.json").write_text(json.dumps({"sets": index}, indent=1) + "\n")


def unseen(packages: Path) -> Sprites:
    """Drawings of the objects by an artist of no part in the training, fetched into `packages`."""
    packages.mkdir(parents=True, exist_ok=True)
    artist, drawings = UNSEEN.artist, _drawings(UNSEEN, packages)
    return Sprites((artist,), {(artist, name): drawing for name, drawing in drawings.items()})


def _drawings(emoji_set: EmojiSet, packages: Path) -> dict[str, Image.Image]:
    """The objects that a set has, by our name."""
    icons = _read_package(_fetch(emoji_set, packages))
    drawings = {name: _draw(icons, ICON_NAMES.get(name, name)) for name in OBJECTS}
    return {name: drawing for name, drawing in drawings.items() if drawing is not None}


def _fetch(emoji_set: EmojiSet, packages: Path) -> Path:
    name, version = emoji_set.package.removeprefix("@").rsplit("@", 1)
    archive = packages / f"{name.replace('/', '-')}-{version}.tgz"
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", emoji_set.package], cwd=packages, check=True)
    return archive


def _read_package(archive: Path) -> dict:
    with tarfile.open(archive) as package:
        icons = package.extractfile("package/icons.json")
        assert icons is not None  # as it is a plain file
        return json.load(icons)


def _draw(icons: dict, name: str) -> Image.Image | None:
    """The icon cropped and fitted into SIZE x SIZE, or None where the set lacks it."""
    import resvg_py

    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    icon = icons["icons"].get(name)
    if icon is None:
        return None
    measure = {key: icon.get(key, icons.get(key, default)) for key, default in _BOX.items()}
    view = "{left} {top} {width} {height}".format(**measure)
    body = icon["body"].replace("currentColor", "#000")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view}" width="192" height="192">{body}</svg>'
    )
    png = resvg_py.svg_to_bytes(svg_string=svg, width=192, height=192)
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    visible = picture.getchannel("A").point(lambda alpha: 255 if alpha > 20 else 0).getbbox()
    picture = picture.crop(visible)
    scale = SIZE / max(picture.size)
    size = [max(1, round(side * scale)) for side in picture.size]
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    fitted = Image.new("RGBA", (SIZE, SIZE))
    fitted.paste(picture, ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return fitted


_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}
