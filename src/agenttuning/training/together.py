"""What several processes decide together, so that none waits for another that has left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agenttuning.errors import UserError

if TYPE_CHECKING:
    from trl import SFTConfig


def on_main(settings: SFTConfig, action: Callable[[], Any]) -> Any:
    """What `action` returns, run by the main process alone; what it raises, all processes raise, so that none waits."""
    from accelerate.utils import broadcast_object_list

    outcome: list[Any] = [None, None]
    if settings.process_index == 0:
        try:
            outcome[0] = action()
        except UserError as error:
            outcome[1] = error
    if settings.world_size > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def part(settings: SFTConfig) -> None:
    """End what joins the processes, once each has done its work; nothing may be decided together after it.

    Left to the exit of the interpreter, the threads of gloo's group now and then abort a process that has finished
    ("terminate called without an active exception"), and the launcher calls the whole run failed.
    """
    import torch.distributed

    if settings.world_size > 1 and torch.distributed.is_initialized():
        torch.distributed.barrier()  # the main process may still be writing, and it serves the others' store
        torch.distributed.destroy_process_group()
