"""How much of anything is taken from outside: every count, length, pixel and byte in one place.

What a single method takes of a setting stands with the setting, in the method's signature, as
`engine.core.settings` describes; these bound what no setting can exceed, and all of them together.
"""

# ---------------------------------------------------------------------- recipes
DOCUMENT_CHARACTERS = 20_000_000  # a recipe with a picture of four megapixels of noise inside
DOCUMENT_VALUES = 10_000  # numbers, texts, lists; a value of five bytes fills sixty once it is read
LINK_CHARACTERS = 2000
SOURCE_CHARACTERS = 500  # of the name, Hub id or folder of a model, and of its revision

# ---------------------------------------------------------------------- settings
TEXT_CHARACTERS = 10_000  # of a setting that declares no length
LIST_ITEMS = 100  # of a setting that declares no number
PICTURE_PIXELS = 4_000_000
UNPACKED_BYTES = 100_000_000  # of all pictures of a job together, as arrays
# Pictures larger than the network's own: attention takes the square of the area, and a step cannot
# be stopped half way.
DRAWN_SIDE, DRAWN_AREA = 2048, 4  # pixels; times the area of the network's own pictures

# ---------------------------------------------------------------------- files
# PIL warns above this number of pixels and refuses above twice as many. Photographs of phones are
# taken; the largest fills 75 MB while it is decoded.
FILE_PIXELS = 12_500_000
SOUND_SECONDS, SOUND_RATE, SOUND_BYTES = 15, 16_000, 50_000_000
SOUND_CHARACTERS = SOUND_SECONDS * SOUND_RATE * 2 * 4 // 3 + 1000  # as text of 16 bit

# ---------------------------------------------------------------------- the shelf of a browser
SHELF_MODELS = 20
MODEL_EDITS = 32
SHELF_NAME = 80  # characters

# ---------------------------------------------------------------------- the server
WAITING_RUNS = 32
KEPT_SESSIONS = 200  # each of at most 1 MB
UPLOAD = "1gb"
