"""What the generated web sites are about: their forms, lists and words. No site, firm or text of the benchmark."""

from __future__ import annotations

from dataclasses import dataclass

CITIES = (
    "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Bern", "Porto", "Quito", "Dakar", "Hanoi", "Perth", "Turin", "Lagos",
    "Accra", "Bergen", "Havana", "Kyoto", "Leeds", "Malmo", "Nantes", "Ottawa", "Prague", "Riga", "Salem", "Tampa",
    "Utrecht", "Vienna", "Warsaw", "San Juan", "New Delhi", "Cape Town", "Las Palmas",
)  # fmt: skip
DATES = tuple(f"{month} {day}" for month in ("March", "April", "May", "June") for day in (2, 5, 9, 14, 18, 23, 27))
GOODS = (
    "rain jacket", "wool hat", "desk lamp", "tea kettle", "travel mug", "yoga mat", "bike helmet", "phone stand",
    "garden hose", "oak shelf", "linen shirt", "running shoes", "tent pegs", "paper lantern", "steel pan",
    "leather belt", "camp stove", "floor rug", "wall clock", "hand drill",
)  # fmt: skip
TOPICS = (
    "slow startup after update", "battery drains overnight", "best hiking boots", "how to prune roses",
    "keyboard feels sticky", "baking bread at altitude", "noise from rear brake", "first telescope advice",
    "sourdough will not rise", "printer prints blank pages", "learning the cello", "painting old furniture",
    "cheap trains in winter", "leaking kitchen tap", "training for a marathon", "fixing a wet cellar",
)  # fmt: skip
PEOPLE = (
    "Ann Hill", "Ben Stone", "Eva Wood", "Finn Lake", "Ida Field", "Jack Ford", "Kim West", "Leo Lane", "Mia Frost",
    "Olga Snow", "Paul Fox", "Rosa Wolf", "Sam Bird", "Tina Baker",
)  # fmt: skip
TRADES = (
    "nurse", "welder", "data analyst", "pastry chef", "gardener", "bus driver", "electrician", "history teacher",
    "sound engineer", "night porter", "tax clerk", "roofer", "translator", "lab assistant",
)  # fmt: skip
FIRST = ("Blue", "North", "Quick", "Green", "Silver", "Open", "Bright", "River", "Stone", "Clear", "High", "True")
SECOND = ("Harbor", "Trail", "Market", "Point", "Lantern", "Field", "Bridge", "Corner", "Nest", "Compass", "Gate")


@dataclass(frozen=True)
class Field:
    """One thing to fill in. `labels` are its names on different sites; `phrase` puts its value into the task."""

    key: str
    labels: tuple[str, ...]
    operation: str  # TYPE, SELECT or CLICK (a switch, which has no value)
    values: tuple[str, ...]
    phrase: str


@dataclass(frozen=True)
class Kind:
    """One kind of site. `verb` opens the task; `entries` are the titles of a list beside the form."""

    name: str
    verb: str
    button: tuple[str, ...]
    fields: tuple[Field, ...]
    menu: tuple[str, ...]
    entry: str
    entries: tuple[str, ...]
    deed: tuple[str, ...]  # what can be done with an entry; the first is what a task asks for


KINDS = (
    Kind(
        "flights",
        "Search flights",
        ("Search flights", "Find flights"),
        (
            Field("from", ("From", "Flights from", "From city"), "TYPE", CITIES, "from {}"),
            Field("to", ("To", "Flights to", "To city"), "TYPE", CITIES, "to {}"),
            Field("depart", ("Departing", "Departing on"), "TYPE", DATES, "departing on {}"),
            Field("cabin", ("Cabin", "Cabin class"), "SELECT", ("Economy", "Business", "First"), "in {} cabin"),
            Field("adults", ("Adults", "Number of adults"), "SELECT", ("1", "2", "3", "4", "5"), "with {} adults"),
            Field("direct", ("Direct only", "Only direct flights"), "CLICK", (), "direct only"),
        ),
        ("Flights", "Hotels", "Check in", "My trips", "Flight status", "Baggage", "Help"),
        "Offers to",
        CITIES,
        ("View offers", "Share"),
    ),
    Kind(
        "hotel",
        "Find a hotel room",
        ("Find a room", "Search hotel"),
        (
            Field("city", ("Hotel city", "City or hotel"), "TYPE", CITIES, "in the city {}"),
            Field("arrive", ("Check-in date", "Check-in"), "TYPE", DATES, "with check-in {}"),
            Field("leave", ("Check-out date", "Check-out"), "TYPE", DATES, "and check-out {}"),
            Field("guests", ("Guests", "Number of guests"), "SELECT", ("1", "2", "3", "4", "6"), "for {} guests"),
            Field("bed", ("Bed", "Bed type"), "SELECT", ("Single", "Double", "Queen", "King"), "with a {} bed"),
            Field("pets", ("Pets allowed", "Pets"), "CLICK", (), "pets allowed"),
        ),
        ("Hotels", "Rooms", "Deals", "Gift cards", "Rewards", "Contact", "Sign in"),
        "Stay in",
        CITIES,
        ("See rooms", "Save"),
    ),
    Kind(
        "shop",
        "Buy a",
        ("Apply", "Show items"),
        (
            Field("search", ("Search the shop", "Buy"), "TYPE", GOODS, "{}"),
            Field("colour", ("Colour",), "SELECT", ("Red", "Blue", "Green", "Black", "White", "Grey"), "in colour {}"),
            Field("size", ("Size", "Item size"), "SELECT", ("Small", "Medium", "Large", "Extra Large"), "in size {}"),
            Field("sort", ("Sort by",), "SELECT", ("Lowest price", "Newest", "Best rated"), "and sort by {}"),
            Field("stock", ("In stock", "Only in stock"), "CLICK", (), "only in stock"),
        ),
        ("Home", "New in", "Sale", "Stores", "Orders", "Gift cards", "Basket"),
        "Item:",
        GOODS,
        ("Add to basket", "Wish list"),
    ),
    Kind(
        "forum",
        "Post a topic",
        ("Post topic", "Publish topic"),
        (
            Field("title", ("Topic title", "Title"), "TYPE", TOPICS, "with the title {}"),
            Field("board", ("Board", "Topic board"), "SELECT", ("Hardware", "Garden", "Kitchen"), "on the {} board"),
            Field("tag", ("Tag", "Tag (optional)"), "SELECT", ("Question", "Advice", "Story"), "with the tag {}"),
            Field("notify", ("Notify me of replies", "Notify me"), "CLICK", (), "and notify me"),
        ),
        ("Boards", "Recent", "Members", "Rules", "My posts", "Messages", "Sign out"),
        "Thread:",
        TOPICS,
        ("Reply", "Follow"),
    ),
    Kind(
        "settings",
        "Change and save the settings",
        ("Save settings", "Save changes"),
        (
            Field("display", ("Display name", "Name"), "TYPE", PEOPLE, "display name {}"),
            Field("language", ("Language",), "SELECT", ("English", "Spanish", "Hindi", "French"), "language {}"),
            Field("zone", ("Time zone", "Zone"), "SELECT", ("UTC", "Central", "Pacific", "Eastern"), "time zone {}"),
            Field("theme", ("Theme", "Colour theme"), "SELECT", ("Light", "Dark", "System"), "theme {}"),
            Field("mail", ("Weekly mail", "Send weekly mail"), "CLICK", (), "with weekly mail"),
        ),
        ("Profile", "Privacy", "Billing", "Devices", "Team", "Security", "Log out"),
        "Member",
        PEOPLE,
        ("Invite", "Remove"),
    ),
    Kind(
        "jobs",
        "Find jobs",
        ("Find jobs", "Search jobs"),
        (
            Field("trade", ("Job title", "Jobs as"), "TYPE", TRADES, "as {}"),
            Field("near", ("Near", "Jobs near"), "TYPE", CITIES, "near {}"),
            Field("hours", ("Hours", "Working hours"), "SELECT", ("Full time", "Part time", "Weekends"), "hours {}"),
            Field("posted", ("Posted", "Posted within"), "SELECT", ("Today", "This week", "This month"), "posted {}"),
            Field("remote", ("Remote", "Remote jobs only"), "CLICK", (), "remote"),
        ),
        ("Jobs", "Companies", "Salaries", "Upload CV", "Alerts", "Saved", "Employers"),
        "Job as",
        TRADES,
        ("Apply", "Save"),
    ),
)
