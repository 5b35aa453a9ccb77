"""An ALFWorld game written by hand, in parts that tests change."""

from __future__ import annotations

from agenttuning.environments.alfworld.generator import grammar_for, own

# A kitchen of our own: the drawers share a place, the mug lies on the table and on the shelf, the player faces nothing.
FACTS = """
(atLocation agent1 loc_bar_0)
(receptacleType Table_bar_1 DiningTableType) (receptacleAtLocation Table_bar_1 loc_bar_1)
(receptacleType Shelf_bar_1 ShelfType) (receptacleAtLocation Shelf_bar_1 loc_bar_2)
(receptacleType Drawer_bar_1 DrawerType) (receptacleAtLocation Drawer_bar_1 loc_bar_3) (openable Drawer_bar_1)
(receptacleType Drawer_bar_2 DrawerType) (receptacleAtLocation Drawer_bar_2 loc_bar_3) (openable Drawer_bar_2)
(opened Drawer_bar_2)
(receptacleType Microwave_bar_1 MicrowaveType) (receptacleAtLocation Microwave_bar_1 loc_bar_4)
(openable Microwave_bar_1)
(receptacleType Fridge_bar_1 FridgeType) (receptacleAtLocation Fridge_bar_1 loc_bar_5) (openable Fridge_bar_1)
(receptacleType Sink_bar_1_bar_SinkBasin SinkBasinType) (receptacleAtLocation Sink_bar_1_bar_SinkBasin loc_bar_6)
(canContain DiningTableType MugType) (canContain ShelfType MugType) (canContain DrawerType KnifeType)
(canContain DiningTableType KnifeType) (canContain DiningTableType EggType) (canContain MicrowaveType EggType)
(objectType Mug_bar_1 MugType) (pickupable Mug_bar_1) (isReceptacleObject Mug_bar_1) (heatable Mug_bar_1)
(inReceptacle Mug_bar_1 Table_bar_1) (inReceptacle Mug_bar_1 Shelf_bar_1) (objectAtLocation Mug_bar_1 loc_bar_1)
(objectType Egg_bar_1 EggType) (pickupable Egg_bar_1) (heatable Egg_bar_1) (coolable Egg_bar_1)
(cleanable Egg_bar_1) (sliceable Egg_bar_1) (inReceptacle Egg_bar_1 Table_bar_1)
(objectAtLocation Egg_bar_1 loc_bar_1)
(objectType Knife_bar_1 KnifeType) (pickupable Knife_bar_1) (inReceptacle Knife_bar_1 Drawer_bar_1)
(objectType Window_bar_1 WindowType) (inReceptacle Window_bar_1 Table_bar_1)
(objectType DeskLamp_bar_1 DeskLampType) (toggleable DeskLamp_bar_1) (inReceptacle DeskLamp_bar_1 Drawer_bar_1)
"""
OBJECTS = """agent1 - agent  Table_bar_1 Shelf_bar_1 Drawer_bar_1 Drawer_bar_2 Microwave_bar_1 Fridge_bar_1
Sink_bar_1_bar_SinkBasin - receptacle  Mug_bar_1 Egg_bar_1 Knife_bar_1 Window_bar_1 DeskLamp_bar_1 - object
loc_bar_0 loc_bar_1 loc_bar_2 loc_bar_3 loc_bar_4 loc_bar_5 loc_bar_6 - location
DiningTableType ShelfType DrawerType MicrowaveType FridgeType SinkBasinType - rtype
MugType EggType KnifeType ButterKnifeType WindowType DeskLampType - otype"""
GOAL = """(and (exists (?r - receptacle) (exists (?o - object) (and (isHot ?o) (heatable ?o)
(objectType ?o EggType) (receptacleType ?r DiningTableType) (inReceptacle ?o ?r)))))"""


def content(facts: str = FACTS, goal: str = GOAL, task: str = "Your task is to: put a hot egg in table.") -> dict:
    problem = f"(define (problem p) (:domain alfred) (:objects {OBJECTS}) (:init {facts}) (:goal {goal}))"
    return {"pddl_domain": own("domain.txt"), "pddl_problem": problem, "grammar": grammar_for(task)}


# Commands from the start to the goal, and what the game answers; None: not admissible.
ANSWERS = [
    ("look", "You are in the middle of a room. Looking quickly around you, you see nothing."),
    ("inventory", "You are not carrying anything."),
    ("take mug 1 from table 1", None),  # not there
    ("go to table 1", "On the table 1, you see a egg 1, a mug 1, and a window 1."),
    ("go to table 1", None),  # where one is
    ("examine egg 1", None),  # not in the hand
    ("take window 1 from table 1", None),
    ("take mug 1 from table 1", "You pick up the mug 1 from the table 1."),
    ("look", "You are facing the table 1. Next to it, you see nothing."),
    ("inventory", "You are carrying: a mug 1."),
    ("examine mug 1", "This is a normal mug 1. In it, you see nothing."),
    ("take egg 1 from table 1", None),  # the hand is full
    ("go to shelf 1", "On the shelf 1, you see a mug 1."),  # it was in two places at once
    ("put mug 1 in/on shelf 1", "You put the mug 1 in/on the shelf 1."),
    ("go to drawer 2", "The drawer 2 is closed."),  # ids in order have falling numbers: Drawer_bar_1 is drawer 2
    ("take knife 1 from drawer 2", None),  # closed
    ("use desklamp 1", "You turn on the desklamp 1."),  # closed as well, but so are the rules
    ("go to drawer 1", None),  # the same place
    ("examine drawer 1", "The drawer 1 is open. In it, you see nothing."),
    ("open drawer 2", "You open the drawer 2. The drawer 2 is open. In it, you see a desklamp 1, and a knife 1."),
    ("open drawer 2", None),
    ("take desklamp 1 from drawer 2", None),
    ("use desklamp 1", "You turn on the desklamp 1."),
    ("take knife 1 from drawer 2", "You pick up the knife 1 from the drawer 2."),
    ("put knife 1 in/on drawer 1", "You put the knife 1 in/on the drawer 1."),
    ("look", "You are facing the drawer 2, and drawer 1. Next to it, you see a knife 1."),  # TextWorld's oddity
    ("take knife 1 from drawer 1", "You pick up the knife 1 from the drawer 1."),
    ("close drawer 1", "You close the drawer 1."),
    ("go to table 1", "On the table 1, you see a egg 1, and a window 1."),
    ("slice egg 1 with knife 1", "You sliced the egg 1 with the knife 1."),
    ("put knife 1 in/on table 1", "You put the knife 1 in/on the table 1."),
    ("take egg 1 from table 1", "You pick up the egg 1 from the table 1."),
    ("examine egg 1", "This is a sliced egg 1."),
    ("go to sinkbasin 1", "On the sinkbasin 1, you see nothing."),
    ("put egg 1 in/on sinkbasin 1", None),  # the table of what holds what has no eggs there
    ("clean egg 1 with sinkbasin 1", "You clean the egg 1 using the sinkbasin 1."),
    ("examine egg 1", "This is a clean sliced egg 1."),
    ("go to microwave 1", "The microwave 1 is closed."),
    ("heat egg 1 with microwave 1", "You heat the egg 1 using the microwave 1."),
    ("examine egg 1", "This is a hot and clean sliced egg 1."),
    ("go to fridge 1", "The fridge 1 is closed."),
    ("cool egg 1 with fridge 1", "You cool the egg 1 using the fridge 1."),
    ("examine egg 1", "This is a cool and clean sliced egg 1."),
    ("go to microwave 1", "The microwave 1 is closed."),
    ("heat egg 1 with microwave 1", "You heat the egg 1 using the microwave 1."),
    ("go to table 1", "On the table 1, you see a knife 1, and a window 1."),
    ("put egg 1 in/on table 1", "You put the egg 1 in/on the table 1."),
]
