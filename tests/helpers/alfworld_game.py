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
MugType EggType KnifeType WindowType DeskLampType - otype"""
GOAL = """(and (exists (?r - receptacle) (exists (?o - object) (and (isHot ?o) (heatable ?o)
(objectType ?o EggType) (receptacleType ?r DiningTableType) (inReceptacle ?o ?r)))))"""


def content(facts: str = FACTS, goal: str = GOAL, task: str = "Your task is to: put a hot egg in table.") -> dict:
    problem = f"(define (problem p) (:domain alfred) (:objects {OBJECTS}) (:init {facts}) (:goal {goal}))"
    return {"pddl_domain": own("domain.txt"), "pddl_problem": problem, "grammar": grammar_for(task)}
