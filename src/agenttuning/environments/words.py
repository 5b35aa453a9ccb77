"""The words of the miniature world. Each is one token of the miniature's tokenizer, so that texts stay short."""

PLACES = ("desk", "shelf", "bed", "sofa", "sink", "oven", "chair", "drawer", "lamp", "box", "cabinet", "table")
OBJECTS = (
    "mug", "pen", "book", "key", "plate", "apple", "bread", "soap", "cloth", "bowl", "spoon", "phone",
    "clock", "pan", "egg", "knife",
)  # fmt: skip

FIRST_NAMES = (
    "Ann", "Ben", "Dan", "Eva", "Finn", "Hugo", "Ida", "Jack", "Kim", "Leo", "Mia", "Olga", "Paul", "Rosa", "Sam",
    "Tina",
)  # fmt: skip
LAST_NAMES = (
    "Hill", "Stone", "Wood", "Lake", "Field", "Ford", "West", "Lane", "Frost", "Snow", "Fox", "Wolf", "Bird", "Baker",
    "King", "Young",
)  # fmt: skip
CITIES = ("Rome", "Oslo", "Paris", "Lima", "Cairo", "Delhi", "Tokyo", "Bern")
TEAMS = ("lions", "bears", "hawks", "bulls", "foxes", "crows")
JOBS = ("cook", "pilot", "nurse", "judge", "clerk", "coach")
TABLE_ADJECTIVES = ("red", "blue", "green", "old", "new", "big", "small", "north", "south", "gold", "fast", "cold")
TABLE_NOUNS = ("club", "crew", "class", "staff", "band", "fleet", "group", "camp")

COLOURS = ("red", "blue", "green", "black", "white", "brown", "pink", "grey")
GOODS = ("hat", "coat", "shirt", "shoe", "bag", "belt", "scarf", "glove", "ring", "tent")
SIZES = ("small", "medium", "large")
LETTERS = ("B", "C", "D", "F", "G", "H", "K", "M", "N", "P", "R", "T")

FOLDERS = ("docs", "music", "photos", "work", "games", "mail", "backup", "code", "trips")
FILES = ("report", "letter", "song", "list", "plan", "poem", "draft", "notes", "map", "bill")
