"""What the engine answers: alfworld 0.3.3's sentences (alfworld/data/alfred.twl2), as AgentInstruct's rows show them.

`You arrive at loc N. ` is left out, as AgentBench.old's process_ob does (src/tasks/alfworld/utils.py).
"""

from __future__ import annotations

NOTHING = "Nothing happens."


def listing(names: list[str], article: str = "a ") -> str:
    """`a mug 2, a mug 1, and a pen 1`; `nothing` for an empty list. The article is always "a", as in `a egg 1`."""
    names = [article + name for name in names]
    if len(names) < 2:
        return names[0] if names else "nothing"
    return f"{', '.join(names[:-1])}, and {names[-1]}"


def intro(room: str, task: str) -> str:
    """The first observation; AgentBench.old leaves the welcome line out."""
    return f"{room}\n{task}"


def room(receptacles: list[str]) -> str:
    """Seen from where no receptacle is."""
    return f"You are in the middle of a room. Looking quickly around you, you see {listing(receptacles)}."


def facing(receptacles: list[str], floor: list[str]) -> str:
    """Seen from where a receptacle is."""
    return f"You are facing the {listing(receptacles, '')}. Next to it, you see {listing(floor)}."


def receptacle(name: str, openable: bool, opened: bool, things: list[str]) -> str:
    """A receptacle and what can be seen in or on it."""
    if not openable:
        return f"On the {name}, you see {listing(things)}."
    return f"The {name} is open. In it, you see {listing(things)}." if opened else f"The {name} is closed."


def thing(name: str, inside: list[str] | None, clean: bool, hot: bool, cool: bool, is_sliced: bool) -> str:
    """A thing in the hand. `inside`: what lies in it, None for what can hold nothing."""
    if inside is not None:
        return f"This is a normal {name}. In it, you see {listing(inside)}."
    warmth = "hot" if hot else "cool" if cool else ""
    if is_sliced and (clean or warmth):
        return f"This is a {' and '.join(word for word in (warmth, 'clean' if clean else '') if word)} sliced {name}."
    if clean and warmth:
        return f"This is a {warmth} and clean {name}."
    if hot or clean or cool:
        return f"This is a {'hot' if hot else 'clean' if clean else 'cold'} {name}."
    return f"This is a sliced {name}." if is_sliced else f"There's nothing special about {name}."


def inventory(things: list[str]) -> str:
    """What the player carries."""
    return f"You are carrying: {listing(things)}." if things else "You are not carrying anything."


def opens(name: str, inside: str) -> str:
    """`inside` is the sentence of `receptacle`."""
    return f"You open the {name}. {inside}"


def closes(name: str) -> str:
    return f"You close the {name}."


def takes(name: str, place: str) -> str:
    return f"You pick up the {name} from the {place}."


def puts(name: str, place: str) -> str:
    return f"You put the {name} in/on the {place}."


def cleans(name: str, place: str) -> str:
    return f"You clean the {name} using the {place}."


def heats(name: str, place: str) -> str:
    return f"You heat the {name} using the {place}."


def cools(name: str, place: str) -> str:
    return f"You cool the {name} using the {place}."


def slices(name: str, knife: str) -> str:
    return f"You sliced the {name} with the {knife}."


def turns_on(name: str) -> str:
    # Also the second time: the grammar asks for `isToggled`, which once true stays true.
    return f"You turn on the {name}."
