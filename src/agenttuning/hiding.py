"""What is said of an address: without its query. That of a store is signed: a key to read or to write there."""

import logging
import re

QUERY = re.compile(r"(https?://[^\s?'\"<>]+)\?[^\s'\"<>]*")


def without_queries(text: str) -> str:
    """The text with `?...` in place of the query of each address."""
    return QUERY.sub(r"\1?...", text)


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind where it says nothing. The Hub client's errors hold addresses,
    and on later lines what the server answered, which can be what was sent to it.
    """
    lines = without_queries(str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class _WithoutQueries(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_queries(record.getMessage()), ()
        return True


_filter = _WithoutQueries()


def in_logs() -> None:
    """huggingface_hub logs the address of each request that it repeats: leave the queries out, in this process."""
    logging.getLogger("huggingface_hub.utils._http").addFilter(_filter)  # once, however often it is called
