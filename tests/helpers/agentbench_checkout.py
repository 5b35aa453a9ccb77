"""A checkout of AgentBench in our own words, shaped as the real one at its first commit, and the prompts it holds."""

from __future__ import annotations

import json
from pathlib import Path

from agenttuning.protocols import checkout

OS = '''
ONE_SHOT = [{"role": "user", "content": "count them"}, {"role": "agent", "content": "Act: bash"},
            {"role": "user", "content": "out"}, {"role": "agent", "content": "Act: finish"}]
def answer(session, config):
    session.inject({"role": "user", "content": """Rules.\\n\\n"""})
    if not config:
        session.history[-1]["content"] += "Plain: " + config.description
    else:
        session.history[-1]["content"] += "First: " + ONE_SHOT[0]["content"]
        session.history.extend(ONE_SHOT[1:])
        session.inject({"role": "user", "content": "Next one: " + config.description})
    result = session.run()
    session.inject({"role": "user", "content": ("Output: " + result) if result else "Nothing."})
'''
DB = """
big_prompt = "SQL rules."
def process(session, entry):
    session.inject({"role": "user", "content": big_prompt})
    session.inject({"role": "agent", "content": "Fine."})
    session.inject({"role": "user", "content": entry["description"]})
"""
KG = """
INSTRUCTIONS = "Tools."
ONE_SHOT = ["Q: a", "Action: f(a)", "seen", "Final Answer: #0"]
def predict(session, question):
    session.inject({"role": "user", "content": INSTRUCTIONS})
    session.inject({"role": "agent", "content": "Understood."})
    for place, shot in enumerate(ONE_SHOT):
        session.inject({"role": "user" if place % 2 == 0 else "agent", "content": shot})
    session.inject({"role": "user", "content": "Another: " + question + "?"})
"""
WEBSHOP = """
prompt: str = "Shop."
def predict(session, seen):
    session.inject({"role": "user", "content": prompt})
    session.inject({"role": "agent", "content": "Fine."})
    session.inject({'role': 'user', 'content': 'page'})
    session.inject({'role': 'agent', 'content': 'Action: \\nsearch[a]'})
    session.inject({"role": "user", "content": f"Observation:\\n{seen}"})
"""
ALFWORLD = """
raise SystemExit("this file was run")
class ALFWorld:
    def get_task_instruction(self):
        return "House."
    def alfworld_run(self, session, env):
        session.inject({"role": "user", "content": self.get_task_instruction()})
        session.inject({"role": "agent", "content": "Fine."})
        history = self.get_prompt(name)
        history[0] = "Here is one example.\\n" + history[0]
        init_prompt = "Here is your task. " + ob + self.get_available_actions(info)
"""
FILES = {"os": OS, "db": DB, "kg": KG, "webshop": WEBSHOP, "alfworld": ALFWORLD}
# The messages before the observation, and what opens the observation's own.
WANTED = {
    "os": (["Rules.\n\nFirst: count them", "Act: bash", "out", "Act: finish"], "Next one: "),
    "db": (["SQL rules.", "Fine."], ""),
    "kg": (["Tools.", "Understood.", "Q: a", "Action: f(a)", "seen", "Final Answer: #0"], "Another: "),
    "webshop": (["Shop.", "Fine.", "page", "Action: \nsearch[a]"], ""),
    "alfworld": (["House.", "Fine.", "Here is one example.\nheat room\n", "ACTION: heat\n"], "Here is your task. "),
    "mind2web": (["page 1", "Answer: B."], ""),
}


def write(folder: Path) -> Path:
    """Write it into a folder, and give the folder back."""
    for task, text in FILES.items():
        file = folder / checkout.SOURCES[task][0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    shown = {kind: [f"{kind} room\n", f"ACTION: {kind}\n"] for kind in checkout.DEMONSTRATIONS.values()}
    file = folder / checkout.SOURCES["alfworld"][1]
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(shown))
    file = folder / checkout.SOURCES["mind2web"][0]
    file.parent.mkdir(parents=True)
    turns = [("user", "page 1"), ("agent", "Answer: B."), ("user", "")]
    file.write_text(json.dumps([{"role": role, "content": text} for role, text in turns]))
    return folder
