"""One episode: a question over a graph, tools that make variables, and a variable as the answer.

An action is the call, as the model wrote it after `Action:` (`get_relations(Ada Lovelace)`), or `Final Answer: #2`. The
functions named in a line are tried in their order until one can be executed, at most one a turn (AgentBench.old,
task.py). Observations hold the word "Observation:" themselves; error texts go without, as in the original.
"""

from __future__ import annotations

import re

from agenttuning.environments import Move, Step
from agenttuning.environments.kg import tools
from agenttuning.environments.kg.gold import Plan, spoken
from agenttuning.environments.kg.ontology import Ontology
from agenttuning.environments.kg.tools import ToolError, Tools, Value

BAD_VARIABLE = "Invalid variable id! Need to recheck the action."
ANSWER = re.compile(r"Final Answer: #(\d+)")
MAX_DIGITS = 9  # of a variable's number; no episode makes more variables


class Environment:
    """Plays one item over a graph; nothing is shared with another episode but the graph, which is only read.

    item: question, entities {label: id}, answer [{answer_argument}], and actions, the gold calls, for the oracle.
    """

    def __init__(self, item: dict, graph, ontology: Ontology) -> None:
        self.item, self.graph, self.ontology = item, graph, ontology
        self.entities: dict[str, str] = item["entities"]
        self.gold = {str(answer["answer_argument"]) for answer in item["answer"]}

    def reset(self) -> str:
        """The question and the labels of its entities, as the original shows them."""
        self.tools = Tools(self.graph, self.ontology)
        self.predicted: set[str] | None = None
        self.texts: list[str] | None = None  # the arguments of the last call that could be read
        self.made: set[tuple] = set()
        self.failed: set[str] = set()
        return f"{self.item['question']}\nEntities: [{', '.join(self.entities)}]"

    def step(self, action: str) -> Step:
        """A call or a final answer. Raises what a graph out of order raises, never for the model's text."""
        final = ANSWER.fullmatch(action)
        if final is not None:
            return self._answer(final[1])
        observation, error = tools.NOT_EXECUTED, None
        tried: dict[str, tuple[str, list[str] | None]] = {}
        for name in tools.names(action):
            if name in tried and name in tools.ARITY:
                # The same arguments are read for it as before, so it fails as before: a graph is not asked again.
                observation, self.texts = tried[name]
                continue
            try:
                return self._call(name, action)
            except ToolError as failure:
                observation, error = str(failure), "function_call"
                tried[name] = observation, self.texts
        self.failed.add(action)
        return Step(observation, valid=False, error=error)

    def _answer(self, number: str) -> Step:
        if len(number) > MAX_DIGITS or int(number) >= len(self.tools.variables):
            return Step(BAD_VARIABLE, valid=False)
        try:
            self.predicted = set(self.tools.members(self.tools.variables[int(number)]))
        except ToolError:
            self.predicted = set()  # the original's episode crashes here and drops out of its score
        return Step("", done=True)

    def _call(self, name: str, line: str) -> Step:
        texts = tools.arguments(name, line) if name in tools.ARITY else None
        if texts is None:
            # The original then names the arguments of the last call that it could read, if there was one.
            raise ToolError(tools.not_executable(name, self.texts) if self.texts else tools.syntax_error(name))
        self.texts = texts
        try:
            values = [self._value(text) for text in texts]
            observation = self.tools.call(name, values)
        except ToolError as error:
            raise ToolError(tools.not_executable(name, texts)) from error
        call = (name, *values)
        repeated = call in self.made
        self.made.add(call)
        return Step(observation, error="function_repetition" if repeated else None)

    def _value(self, text: str) -> Value:
        bare = text.replace("variable ", "").replace("Variable ", "")
        if not bare.startswith("#"):
            return self.entities.get(bare, text)
        try:
            return self.tools.variables[int(bare[1 : MAX_DIGITS + 1])] if len(bare) <= MAX_DIGITS + 1 else _none()
        except (ValueError, IndexError) as error:
            raise ToolError("no such variable") from error

    def score(self) -> float:
        """F1 of the predicted set against the gold set; 0 before an answer is given."""
        return self.metrics()["f1"]

    def metrics(self) -> dict[str, float]:
        """f1, exact_match and executability (the answer has members), each in [0, 1] (task.py, metrics)."""
        predicted = self.predicted or set()
        hits = len(predicted & self.gold)
        return {
            "f1": 2 * hits / (len(predicted) + len(self.gold)) if hits else 0.0,
            "exact_match": float(predicted == self.gold),
            "executability": float(bool(predicted)),
        }

    def oracle(self) -> Move:
        """The next gold call that is not done yet, then the answer. Raises ValueError for calls that are none."""
        return Plan(self.item["actions"]).move(self.tools, self.entities, self.failed)

    def actions(self) -> list[str]:
        """Calls that can be executed now, and an answer for every variable."""
        named = {id_: spoken(label, id_) for label, id_ in self.entities.items()}
        shown = {variable.program: f"#{place}" for place, variable in enumerate(self.tools.variables)}
        calls = [f"get_relations({text})" for text in named.values()]
        for place, variable in enumerate(self.tools.variables):
            calls += [f"count(#{place})", f"Final Answer: #{place}"]
            if variable.type != tools.NUMBER:
                calls.append(f"get_relations(#{place})")
        for start, relations in self.tools.relations.items():
            text = named.get(start, start) if isinstance(start, str) else shown[start]
            known = (relation for relation in relations if relation in self.ontology.ranges)
            calls += [f"get_neighbors({text}, {relation})" for relation in known]
        for start, attributes in self.tools.attributes.items():
            calls += [f"argmax({shown[start]}, {attribute})" for attribute in attributes]
        return calls

    def close(self) -> None:
        """Nothing is held."""


def _none() -> Value:
    raise ValueError("too many digits")
