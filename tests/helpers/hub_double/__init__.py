"""A Hub on this machine: real HTTP on the loopback, with what a push, a download and their faults need.

It follows what huggingface_hub, transformers and datasets send, and refuses what the Hub refuses: a commit of a file
that never arrived, or on top of another commit than the newest; a card whose header is no YAML; a reader that may not.
Large files go to a store on another port, which takes no token, as the Hub's is another host.

    with hub_double() as hub:        # hub.url is what HF_ENDPOINT should hold
        hub.fail = first(2, "/commit/", 503)
"""

from helpers.hub_double.client import without_waiting
from helpers.hub_double.faults import Fault, first, later
from helpers.hub_double.server import hub_double
from helpers.hub_double.state import READER, STRANGER, TOKEN, Hub, git_oid

__all__ = ["READER", "STRANGER", "TOKEN", "Fault", "Hub", "first", "git_oid", "hub_double", "later", "without_waiting"]
