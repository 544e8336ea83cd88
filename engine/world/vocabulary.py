"""The words of the embedded world and what they mean.

One table for the renderer, the captions, the judge and the panels, so that a word cannot mean two
things.
"""

OBJECTS = (
    "cat", "dog", "bear", "frog", "horse", "penguin", "fish", "octopus", "elephant", "turtle",
    "rose", "sunflower", "cactus", "mushroom",
    "banana", "strawberry", "pineapple", "burger", "donut",
    "car", "bus", "bicycle", "plane", "rocket", "boat",
    "house", "church",
    "guitar", "umbrella", "crown", "bomb", "box", "bathtub", "ghost", "star", "heart",
)  # fmt: skip
TEN_OBJECTS = ("cat", "penguin", "fish", "octopus", "mushroom", "rose", "banana", "car", "house",
               "rocket")  # fmt: skip
"""The smaller world of the unconditional networks."""
CONTAINERS = ("box", "bathtub")
STYLES = ("plain", "pixel art", "sketch", "neon", "blueprint", "watercolor")
RELATIONS = ("left of", "on top of", "inside")
BACKGROUNDS = {
    "white": (255, 255, 255),
    "pink": (255, 205, 215),
    "blue": (190, 220, 255),
    "green": (200, 240, 200),
    "yellow": (255, 243, 180),
    "gray": (205, 205, 210),
}
# Styles that show the background colour; the others bring their own paper.
COLOURED_STYLES = ("plain", "pixel art", "watercolor")

# On trays these lie together more often than not; see `tray`. Nothing else lies there.
PAIRS = (
    ("cat", "dog"), ("bear", "frog"), ("horse", "penguin"), ("fish", "octopus"),
    ("elephant", "turtle"), ("rose", "sunflower"), ("cactus", "mushroom"),
    ("banana", "strawberry"), ("burger", "donut"), ("car", "bus"), ("plane", "rocket"),
    ("crown", "ghost"),
)  # fmt: skip
ON_TRAYS = tuple(name for name in OBJECTS if any(name in pair for pair in PAIRS))

CATEGORIES = {
    "animal": OBJECTS[:10],
    "plant": ("rose", "sunflower", "cactus", "mushroom"),
    "flower": ("rose", "sunflower"),
    "fruit": ("banana", "strawberry", "pineapple"),
    "food": ("banana", "strawberry", "pineapple", "burger", "donut"),
    "vehicle": ("car", "bus", "bicycle", "plane", "rocket", "boat"),
    "building": ("house", "church"),
    "thing": ("guitar", "umbrella", "crown", "bomb", "box", "bathtub", "star", "heart", "ghost"),
}  # fmt: skip
# What captions call the artists, by the name of their set: words that the tokenizer spells with the
# pieces it has, so that no token moves.
ARTISTS = {
    "noto": "noto",
    "noto-v1": "blob",
    "twemoji": "twemoji",
    "fluent-emoji-flat": "flat",
    "fluent-emoji": "fluent",
    "fxemoji": "firefox",
    "emojione": "emojione",
}
SYNONYMS = {
    "kitten": "cat",
    "puppy": "dog",
    "automobile": "car",
    "airplane": "plane",
    "sailboat": "boat",
    "bike": "bicycle",
    "hamburger": "burger",
    "doughnut": "donut",
}
CATEGORY_OF = {
    name: tuple(category for category, members in CATEGORIES.items() if name in members)
    for name in OBJECTS
}
# Everyday words that no caption holds, and what comes closest to them here.
NEAR = {
    near: name
    for name, others in {
        "cat": "lion tiger leopard kitty pussycat", "dog": "wolf fox hound doggy poodle",
        "bear": "panda teddy koala", "frog": "toad", "horse": "pony zebra donkey unicorn foal",
        "fish": "shark whale dolphin goldfish", "octopus": "squid jellyfish",
        "elephant": "mammoth rhino hippo", "turtle": "tortoise", "penguin": "bird duck chicken",
        "rose": "tulip", "sunflower": "daisy", "cactus": "succulent", "mushroom": "toadstool",
        "strawberry": "berry cherry", "pineapple": "ananas", "burger": "sandwich cheeseburger",
        "donut": "cake cookie bagel", "car": "taxi cab auto", "bus": "truck van lorry tram",
        "bicycle": "motorcycle motorbike scooter cycle", "plane": "aeroplane jet helicopter",
        "rocket": "spaceship shuttle missile", "boat": "ship yacht ferry canoe",
        "house": "home hut cottage cabin", "church": "castle chapel cathedral temple",
        "guitar": "violin ukulele banjo", "umbrella": "parasol", "crown": "tiara",
        "bomb": "grenade", "box": "crate carton parcel package", "bathtub": "tub bath",
        "ghost": "spirit phantom", "heart": "love", "animal": "beast creature", "fruit": "apple",
        "flower": "blossom", "plant": "tree bush", "building": "tower skyscraper",
        "picture": "painting drawing photo image illustration", "neon": "glowing",
        "watercolor": "watercolour aquarelle", "gray": "grey", "sketch": "pencil doodle",
    }.items()
    for near in others.split()
}  # fmt: skip
SYNONYM_OF = {name: word for word, name in SYNONYMS.items()}

# Words of the caption grammar that name no content, and everyday words a visitor may try.
GRAMMAR = (
    "a an the of in on to with and no picture style background something blank drawing art "
    "left right top next inside under photo painting big small red black orange purple brown"
).split()


def article(noun: str) -> str:
    """The noun with its article: "a cat", "an umbrella"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def trained_words() -> list[str]:
    """Every word that occurs in training captions, sorted."""
    phrases = (*OBJECTS, *STYLES, *RELATIONS, *BACKGROUNDS, *CATEGORIES, *SYNONYMS)
    caption_words = "a an of in on picture style background something blank to the".split()
    return sorted({word for phrase in phrases for word in phrase.split()} | set(caption_words))
