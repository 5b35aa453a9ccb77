"""The tools of each split, as JSON schemas in the form that transformers' chat templates take.

Names and parameters are those of AgentBench FC, the function-calling version of the same five environments
(github.com/THUDM/AgentBench, configs/tasks/*.yaml and knowledgegraph/const.py, October 2025), so that a model trained
on the export meets them again there. Two differences: `finish_action` has no parameter (FC's `thought` is the content
of the message here, as for every other call), and the descriptions are our own words. As in FC, the final answer of kg
is text, not a call.
"""

from __future__ import annotations


def _tool(name: str, description: str, /, **parameters: str) -> dict:
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


def _commit() -> dict:
    tool = _tool("commit_final_answer", "Give the final answer to the question and end the task.", answers="")
    tool["function"]["parameters"]["properties"]["answers"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": "The values of the answer, in order. Anything where the task only changes the database.",
    }
    return tool


_VARIABLE = "An entity, or a variable such as #0 that an earlier call returned."

TOOLS: dict[str, list[dict]] = {
    "os": [
        _tool("bash_action", "Run a bash script and return its output, cut where it is long.", script="The script."),
        _tool("answer_action", "Answer the question and end the task.", answer="The answer."),
        _tool("finish_action", "End a task that needs no answer."),
    ],
    "db": [
        _tool(
            "execute_sql",
            "Run one SQL statement on the MySQL database and return the raw response.",
            query="One statement.",
        ),
        _commit(),
    ],
    "kg": [
        _tool("get_relations", "List the relations that start from a variable.", variable=_VARIABLE),
        _tool(
            "get_neighbors",
            "Return, as a new variable, the entities that a relation connects to a variable.",
            variable=_VARIABLE,
            relation="One of the relations that get_relations listed.",
        ),
        _tool(
            "intersection",
            "Return, as a new variable, what two variables of the same type share.",
            variable1=_VARIABLE,
            variable2=_VARIABLE,
        ),
        _tool("get_attributes", "List the numerical attributes of a variable.", variable=_VARIABLE),
        _tool(
            "argmax",
            "Return, as a new variable, the entity with the largest value of an attribute.",
            variable=_VARIABLE,
            attribute="One of the attributes that get_attributes listed.",
        ),
        _tool(
            "argmin",
            "Return, as a new variable, the entity with the smallest value of an attribute.",
            variable=_VARIABLE,
            attribute="One of the attributes that get_attributes listed.",
        ),
        _tool("count", "Return the number of entities of a variable.", variable=_VARIABLE),
    ],
    "webshop": [
        _tool("search_action", "Search the shop, where the page has a search bar.", keywords="The keywords."),
        _tool("click_action", "Click a button or link of the page.", value="Its text."),
    ],
    "alfworld": [
        _tool("take_action", "Do one thing in the household and return what happens.", action="E.g. go to shelf 1"),
    ],
}

# Calls that end an episode: no environment replies, so the next human turn, if any, is a new task.
ENDING = ("answer_action", "finish_action", "commit_final_answer")

PARAMETERS = {
    tool["function"]["name"]: tuple(tool["function"]["parameters"]["properties"])
    for tools in TOOLS.values()
    for tool in tools
}
