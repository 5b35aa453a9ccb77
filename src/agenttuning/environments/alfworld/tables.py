"""What the generator's rooms are made of. The names are ALFWorld's; the tables are a choice of ours from its world."""

from __future__ import annotations

# Of each room: what it can hold, as (type, fewest, most).
ROOMS: dict[str, tuple[tuple[str, int, int], ...]] = {
    "kitchen": (
        *(("Cabinet", 2, 8), ("CoffeeMachine", 1, 1), ("CounterTop", 1, 3), ("DiningTable", 0, 2), ("Drawer", 1, 5)),
        *(("Fridge", 1, 1), ("GarbageCan", 1, 1), ("Microwave", 1, 1), ("Shelf", 0, 3), ("SinkBasin", 1, 1)),
        *(("StoveBurner", 2, 4), ("Toaster", 1, 1)),
    ),
    "livingroom": (
        *(("ArmChair", 1, 2), ("Cabinet", 0, 4), ("CoffeeTable", 1, 2), ("Drawer", 0, 4), ("Dresser", 0, 1)),
        *(
            ("GarbageCan", 1, 1),
            ("Safe", 0, 1),
            ("Shelf", 0, 4),
            ("SideTable", 1, 2),
            ("Sofa", 1, 1),
            ("TVStand", 0, 1),
        ),
    ),
    "bedroom": (
        *(("Bed", 1, 1), ("Desk", 1, 2), ("Drawer", 1, 6), ("Dresser", 0, 1), ("GarbageCan", 1, 1)),
        *(("LaundryHamper", 0, 1), ("Safe", 0, 1), ("Shelf", 0, 5), ("SideTable", 1, 2)),
    ),
    "bathroom": (
        *(("BathtubBasin", 0, 1), ("Cabinet", 1, 4), ("CounterTop", 1, 1), ("Drawer", 0, 3), ("GarbageCan", 1, 1)),
        *(("HandTowelHolder", 1, 2), ("Shelf", 0, 3), ("SinkBasin", 1, 2), ("Toilet", 1, 1)),
        *(("ToiletPaperHanger", 1, 1), ("TowelHolder", 1, 1)),
    ),
}
OPENABLE = ("Cabinet", "Drawer", "Fridge", "Microwave", "Safe")
BASINS = ("SinkBasin", "BathtubBasin")  # parts of a sink and a bathtub, which their ids say

_TABLE = (
    "AlarmClock Apple Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup DishSponge Egg Fork "
    "Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug Newspaper Pan Pen Pencil PepperShaker Plate "
    "Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle Statue TissueBox ToiletPaper "
    "Tomato Vase Watch WateringCan WineBottle"
)
_SEAT = "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl"
_DESK = (
    "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup KeyChain Laptop Mug Newspaper Pen Pencil Plate "
    "RemoteControl SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"
)
# Which things may be put where.
HOLDS: dict[str, tuple[str, ...]] = {
    place: tuple(things.split())
    for place, things in {
        "ArmChair": _SEAT,
        "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
        "Bed": "Book CellPhone Laptop Newspaper Pillow",
        "Cabinet": "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper Pan "
        "PepperShaker Plate Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Vase WineBottle",
        "CoffeeMachine": "Mug",
        "CoffeeTable": _TABLE,
        "CounterTop": _TABLE,
        "Desk": _DESK,
        "DiningTable": _TABLE,
        "Drawer": "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife "
        "Ladle Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon "
        "SprayBottle TissueBox ToiletPaper Watch",
        "Dresser": _DESK,
        "Fridge": "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
        "GarbageCan": "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato SoapBar "
        "SoapBottle SprayBottle TissueBox ToiletPaper Tomato WineBottle",
        "HandTowelHolder": "HandTowel",
        "LaundryHamper": "Cloth",
        "Microwave": "Apple Bowl Bread Cup Egg Mug Plate Potato Tomato",
        "Safe": "CD CellPhone CreditCard KeyChain Statue Vase Watch",
        "Shelf": "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle HandTowel "
        "Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker SoapBar SoapBottle "
        "SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle",
        "SideTable": _TABLE,
        "SinkBasin": "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork HandTowel Kettle Knife Ladle Lettuce Mug "
        "Pan Plate Pot Potato SoapBar Spatula Spoon Tomato",
        "Sofa": _SEAT,
        "StoveBurner": "Kettle Pan Pot",
        "TVStand": "TissueBox",
        "Toaster": "",
        "Toilet": "Candle Cloth DishSponge HandTowel Newspaper SoapBar SoapBottle SprayBottle TissueBox ToiletPaper",
        "ToiletPaperHanger": "ToiletPaper",
        "TowelHolder": "Towel",
    }.items()
}
# Which things a room has.
THINGS: dict[str, tuple[str, ...]] = {
    room: tuple(things.split())
    for room, things in {
        "kitchen": "Apple Bowl Bread ButterKnife Cup DishSponge Egg Fork Glassbottle Kettle Knife Ladle Lettuce Mug "
        "Pan PepperShaker Plate Pot Potato SaltShaker SoapBottle Spatula Spoon Tomato Vase WineBottle",
        "livingroom": "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pillow Plate "
        "RemoteControl Statue TissueBox Vase Watch WateringCan",
        "bedroom": "AlarmClock Book Bowl CD CellPhone Cloth CreditCard KeyChain Laptop Mug Newspaper Pen Pencil Pillow "
        "Statue TissueBox Vase Watch",
        "bathroom": "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Towel",
    }.items()
}
# Traits of things, by their predicates.
TRAITS: dict[str, tuple[str, ...]] = {
    trait: tuple(things.split())
    for trait, things in {
        "cleanable": "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate "
        "Pot Potato SoapBar Spatula Spoon Tomato",
        "heatable": "Apple Bread Cup Egg Mug Plate Potato Tomato",
        "coolable": "Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
        "sliceable": "Apple Bread Egg Lettuce Potato Tomato",
        "isReceptacleObject": "Bowl Box Cup Mug Pan Plate Pot",
        "toggleable": "DeskLamp FloorLamp",
    }.items()
}
LAMPS = TRAITS["toggleable"]
LAMP_PLACES = {"DeskLamp": ("SideTable", "Desk", "Dresser", "CoffeeTable"), "FloorLamp": ("SideTable", "Sofa", "Bed")}
FIXED = ("HousePlant", "Window", "Painting")  # seen and never taken

# The kinds are the keys of AgentBench's split lists (data/alfworld/std.json); rooms as ALFRED's goals have them.
KINDS: dict[str, tuple[str, ...]] = {
    "pick_and_place": ("kitchen", "livingroom", "bedroom", "bathroom"),
    "pick_clean_then_place": ("kitchen", "bathroom"),
    "pick_heat_then_place": ("kitchen",),
    "pick_cool_then_place": ("kitchen",),
    "look_at_obj": ("livingroom", "bedroom"),
    "pick_two_obj": ("kitchen", "livingroom", "bedroom", "bathroom"),
}
# How a task is worded (alfworld/gen/goal_library.py): `obj`, and `recep` or the lamp.
TASKS: dict[str, tuple[str, str]] = {
    "pick_and_place": ("put a {obj} in {recep}", "put some {obj} on {recep}"),
    "pick_clean_then_place": ("put a clean {obj} in {recep}", "clean some {obj} and put it in {recep}"),
    "pick_heat_then_place": ("put a hot {obj} in {recep}", "heat some {obj} and put it in {recep}"),
    "pick_cool_then_place": ("put a cool {obj} in {recep}", "cool some {obj} and put it in {recep}"),
    "look_at_obj": ("look at {obj} under the {recep}", "examine the {obj} with the {recep}"),
    "pick_two_obj": ("put two {obj} in {recep}", "find two {obj} and put them in {recep}"),
}
