"""What a conversation must look like before anything is tokenized: (system)? (user assistant)+, all of it text."""

from agenttuning.errors import UserError

ROLES = ("system", "user", "assistant")


class RowError(UserError):
    """One conversation is malformed. The data room catches it and quarantines the row; anywhere else it reaches the
    user.
    """


class MaskError(UserError):
    """Token ids and supervised spans disagree with the conversation they were made from: a fault that must stop the
    run.
    """


def clean_text(value: object, what: str) -> str:
    """Return `value` when it is text that UTF-8 can hold, else raise RowError naming `what`."""
    if not isinstance(value, str):
        raise RowError(f"{what} is {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RowError(f"{what} holds a lone surrogate at character {error.start}, which is not text") from None
    return value


def check_turns(messages: object, ends_with: str = "assistant") -> list[dict]:
    """Check one conversation and return it as a list; keys other than role, content and loss (or None values) are
    ignored.

    `ends_with` is "assistant" for training rows and "user" for a prompt. Raises RowError for a wrong type, an unknown
    role, an order other than (system)? (user assistant)+, an assistant turn of white space only in a training row, or a
    `loss` that is not a bool. In a prompt it is allowed: a model may have said nothing, and its episode goes on. So is
    an empty user turn, since an environment may print nothing; `data.convert` refuses it in training rows.
    """
    if not isinstance(messages, list | tuple) or not messages:
        raise RowError("the conversation is empty or not a list of turns")
    for turn, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RowError(f"turn {turn} is {type(message).__name__}, not a mapping with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in ROLES:
            raise RowError(f"turn {turn} has the unknown role {role!r}")
        content = clean_text(message.get("content"), f"the content of turn {turn} ({role})")
        if role == "assistant" and ends_with == "assistant" and not content.strip():
            raise RowError(f"turn {turn} (assistant) is empty")
        if not isinstance(message.get("loss"), bool | None):
            raise RowError(f"the loss of turn {turn} is {type(message['loss']).__name__}, not true, false or null")
    first = 1 if messages[0]["role"] == "system" else 0
    for turn, message in enumerate(messages[first:], first):
        wanted = ("user", "assistant")[(turn - first) % 2]
        if message["role"] != wanted:
            raise RowError(f"roles do not alternate: turn {turn} is {message['role']} where {wanted} was due")
    if len(messages) == first or messages[-1]["role"] != ends_with:
        raise RowError(f"the conversation does not end with a turn of the {ends_with}")
    return list(messages)
