"""The Llama-2 chat format, turn by turn, as text.

Source: `chat_completion` in Meta's llama repository. Each (user, assistant) pair is encoded on its own as `<s> +
enc("[INST] {user} [/INST] {answer} ") + </s>`, both texts stripped; a system prompt becomes a <<SYS>> block at the head
of the first user turn. `templates/llama2.jinja` renders the same text for servers; this module is what training and
evaluation use. Bracket markers inside content ("[INST]") are ordinary text in this format, as they are in Meta's: only
`<s>`, `</s>` and `<unk>` are control tokens, and content can never produce those (see tokenizer.py).
"""

from dataclasses import dataclass
from pathlib import Path

from agenttuning.chat.turns import check_turns

TEMPLATE = Path(__file__).parent / "templates" / "llama2.jinja"


@dataclass(frozen=True, slots=True)
class Pair:
    """One exchange: `prompt` ends with [/INST]; `answer` is stripped, or None where the model is to answer. `turn` is
    the index of the answering message in the list the caller gave; `loss` is its flag (true only if literally true).
    """

    prompt: str
    answer: str | None
    turn: int
    loss: bool

    @property
    def text(self) -> str:
        return self.prompt if self.answer is None else f"{self.prompt} {self.answer} "


def pair_up(messages: list[dict], system_prompt: str | None = None, ends_with: str = "assistant") -> list[Pair]:
    """Split a conversation into pairs. A system turn of its own wins over `system_prompt`. May raise RowError."""
    messages = check_turns(messages, ends_with)
    first = 1 if messages[0]["role"] == "system" else 0
    system = messages[0]["content"] if first else system_prompt
    pairs = []
    for turn in range(first, len(messages), 2):
        user = messages[turn]["content"]
        if turn == first and system is not None:
            user = f"<<SYS>>\n{system}\n<</SYS>>\n\n{user}"
        answer = messages[turn + 1] if turn + 1 < len(messages) else None
        prompt = f"[INST] {user.strip()} [/INST]"
        if answer is None:
            pairs.append(Pair(prompt, None, turn + 1, False))
        else:
            pairs.append(Pair(prompt, answer["content"].strip(), turn + 1, answer.get("loss") is True))
    return pairs
